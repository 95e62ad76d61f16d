"""The model that training starts from, and the checkpoint that it is saved as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import T5Config

from tart_ray.config import GeometryConfig
from tart_ray.errors import CheckpointError
from tart_ray.model.checkpoint_files import VOCAB_FILE
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.training.published import start_as_published

HEAD = {"classifier.weight", "classifier.bias"}
ROWS_MULTIPLE = 64  # embedding rows are a multiple of it, which suits matrix units

Start = tuple[EncT5ForSequenceClassification, EncT5Tokenizer]


def start_from_checkpoint(place: CheckpointPlace, *, seed: int = 0, as_published: bool = False) -> Start:
    """An EncT5 as it is, or a T5's encoder with a new row for ``<s>`` and a new head for two labels; float32.

    Args:
        seed: of the new weights.
        as_published: a T5 starts as TART-full did: the row of ``<s>`` is the T5's, the head has torch's initialisation.

    Raises:
        CheckpointChangedError: it has another fingerprint.
        CheckpointError: there is no checkpoint, or it is neither a T5 nor an EncT5 with two labels.
    """
    path = place.path
    tokenizer = EncT5Tokenizer.from_place(place)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loaded: Any = EncT5ForSequenceClassification.from_place(
            place, dtype=torch.float32, allow_missing_weights=True, output_loading_info=True
        )
        model, missing = loaded[0], {*loaded[1]["missing_keys"]}
        if missing - HEAD:
            raise CheckpointError(
                f"{path}: weights missing for {sorted(missing - HEAD)}; expected a T5 or an EncT5 checkpoint"
            )
        if model.config.num_labels != 2:
            raise CheckpointError(f"{path}: got {model.config.num_labels} labels, expected 2: irrelevant, relevant")
        rows = model.shared.num_embeddings
        if len(tokenizer) > rows:
            raise CheckpointError(f"{path}: got {rows} embedding rows, expected {len(tokenizer)} for its vocabulary")
        if missing and as_published:
            start_as_published(model)
        elif missing:
            _add_head_and_start_token(model, tokenizer)
    return model, tokenizer


def start_fresh(vocabulary: str | Path, geometry: GeometryConfig, *, mimetic: bool = True, seed: int = 0) -> Start:
    """A new model; float32.

    Args:
        vocabulary: a sentencepiece model in T5's layout, or a directory that holds ``spiece.model``.
        mimetic: see `make_mimetic`; otherwise T5's initialisation.

    Raises:
        CheckpointError: the vocabulary cannot be used.
    """
    place = Path(vocabulary)
    tokenizer = EncT5Tokenizer(place / VOCAB_FILE if place.is_dir() else place)
    rows = -(-len(tokenizer) // ROWS_MULTIPLE) * ROWS_MULTIPLE
    config = T5Config(vocab_size=rows, feed_forward_proj="gated-gelu", **geometry.model_dump())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EncT5ForSequenceClassification(config)
        if mimetic:
            make_mimetic(model)
    return model, tokenizer


@torch.no_grad()
def make_mimetic(model: EncT5ForSequenceClassification) -> None:
    """Initialise attention as a search for equal tokens, which a cross-encoder would otherwise have to learn first.

    In each head, queries and keys are the same projection with orthonormal rows, so a token attends to similar tokens,
    and the output is the negative transpose of the values (Trockman and Kolter, *Mimetic Initialization of
    Self-Attention Layers*, 2023). Half of the heads start with a bias against distance 0. It outweighs a token's
    product with itself, d_kv on average, so these heads see whether the token occurs elsewhere.
    """
    config = model.config
    for block in model.encoder.block:
        attention = block.layer[0].SelfAttention
        for head in range(config.num_heads):
            rows = slice(head * config.d_kv, (head + 1) * config.d_kv)
            nn.init.orthogonal_(attention.q.weight[rows])
            nn.init.orthogonal_(attention.v.weight[rows])
        attention.k.weight.copy_(attention.q.weight)
        attention.o.weight.copy_(-attention.v.weight.T)
    bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    bias[0, : config.num_heads // 2] = -2.0 * config.d_kv  # bucket 0 is distance 0


def save_checkpoint(
    model: EncT5ForSequenceClassification,
    tokenizer: EncT5Tokenizer,
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint in the published layout, its weights as safetensors in ``dtype``."""
    weights = {name: weight.to(dtype) for name, weight in model.state_dict().items()}
    weights.pop("encoder.embed_tokens.weight")  # is shared.weight
    before = model.config.dtype
    model.config.dtype = dtype
    model.save_pretrained(folder, state_dict=weights)
    model.config.dtype = before
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def _add_head_and_start_token(model: EncT5ForSequenceClassification, tokenizer: EncT5Tokenizer) -> None:
    nn.init.normal_(model.classifier.weight, std=model.config.d_model**-0.5)
    nn.init.zeros_(model.classifier.bias)
    pieces = model.shared.weight[: tokenizer.sentinel_end]
    model.shared.weight[tokenizer.bos_token_id] = torch.normal(pieces.mean(0), pieces.std(0))
