"""Cross-encoders of sentence-transformers: loaded as that library loads them, tokenised as it tokenises.

`CrossEncoderTokenizer` holds the model without its weights, since the library decides by the model how a pair is
written: as two texts, or as a chat with a prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tart_ray.errors import CheckpointError, ConfigurationError
from tart_ray.extras import how_to_install
from tart_ray.model.checkpoint import check_label_count, open_checkpoint
from tart_ray.model.checkpoint_files import CROSS_ENCODER_FILES
from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.template import Template

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

# of token ids: goes up when `CrossEncoderTokenizer` gives the same texts others
CROSS_ENCODER_VERSION = 1
PAIRS_PER_CALL = 256  # of the library's tokenizer, which pads them to one length
BEGINNING = 512  # characters of a document, nearly all of which have a token in them


def load_cross_encoder(
    place: CheckpointPlace, *, device: str, dtype: Any = None, check_weights: bool = False
) -> CrossEncoder:
    """A checkpoint, in evaluation mode; on the device ``meta`` without its weights.

    Args:
        check_weights: look for missing weights even if the place has a fingerprint. Whoever took that one looked.

    Raises:
        ConfigurationError: sentence-transformers is not installed.
        CheckpointError: the library cannot load it, weights are missing, or it has more than two labels.
        CheckpointChangedError: another one is there.
    """
    try:
        import accelerate  # noqa: F401 - what device_map needs
        from sentence_transformers import CrossEncoder
        from transformers.utils import logging
    except ImportError as error:
        raise ConfigurationError(missing_library(str(error.name))) from error
    logging.disable_progress_bar()
    options = {"device_map": device, **({"dtype": dtype} if dtype is not None else {})}
    with open_checkpoint(place, files=CROSS_ENCODER_FILES) as folder:
        try:
            model: CrossEncoder = CrossEncoder(str(folder), model_kwargs=options, local_files_only=True)
            check_label_count(model.num_labels, str(folder))
            if check_weights or place.fingerprint is None:
                _check_weights(model, folder)
        except CheckpointError:
            raise
        except Exception as error:  # of many kinds: damaged files, modules that do not fit together
            raise CheckpointError(
                f"{folder}: sentence-transformers cannot load this cross-encoder: {type(error).__name__}: {error}"
            ) from error
    if str(dtype) == "torch.bfloat16":
        model.set_keep_in_fp32_modules(_heads(model))
    model.eval()
    return model


def missing_library(name: str) -> str:
    """What to say where a library is not installed that these models need."""
    return how_to_install("cross-encoders", [name], needed_by="a cross-encoder other than EncT5")


def _heads(model: CrossEncoder) -> list[str]:
    """The linear layers that give the logits of a classifier: in 8 bits they would tie where the model does not."""
    from torch.nn import Linear

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear)}
    return [name for name, layer in layers.items() if layer.out_features == model.num_labels]


def _check_weights(model: CrossEncoder, folder: Path) -> None:
    """Refuse a checkpoint that lacks weights of its model: the library would draw them at random, with a warning."""
    inner = model.transformers_model
    assert inner is not None
    _, loading = type(inner).from_pretrained(
        str(folder), device_map="meta", output_loading_info=True, local_files_only=True
    )
    missing = sorted(loading["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{folder}: got no weights for {', '.join(missing[:5])}{' …' if missing[5:] else ''} of "
            f"{type(inner).__name__}: it was not trained to score pairs"
        )


class CrossEncoderTokenizer:
    """Token ids of pairs, as sentence-transformers' `CrossEncoder.predict` makes them.

    Attributes:
        model: without its weights, or with them where it scores as well.
        template: how the texts of a pair are made. A model that reads chats gets the instruction as its prompt, unless
            the template has another.
        max_length: tokens of a pair; longer ones are cut as the library cuts them.
        constants: what the library gives the model beside the tensors of a batch.

    Raises:
        CheckpointError: the model reads fewer tokens than ``max_length``.
    """

    def __init__(self, model: CrossEncoder, template: Template | None, max_length: int) -> None:
        most = model.max_seq_length
        if most is not None and max_length > most:
            raise CheckpointError(
                f"model.max_length: got {max_length}, and this checkpoint reads {most} tokens of a pair at most"
            )
        model.max_seq_length = max_length
        template = template or Template()
        if "message" in model.modalities and template.prompt is None:
            template = dataclasses.replace(template, prompt="{instruction}")
        self.model, self.template, self.max_length = model, template, max_length
        noted = getattr(model.tokenizer, "deprecation_warnings", {})
        noted["sequence-length-is-longer-than-the-specified-maximum"] = True  # transformers warns once of long texts
        features = self.features([("", "")], None)
        self.constants = {name: value for name, value in features.items() if not hasattr(value, "shape")}

    def without_tokens(self, texts: Sequence[str]) -> list[int]:
        """Positions of texts that give no token: blank ones, or such as hold only what the vocabulary leaves out."""
        distinct = dict.fromkeys(texts, False)
        beginnings = [text[:BEGINNING] for text in distinct]
        maybe = [text for text, count in zip(distinct, self._counts(beginnings), strict=True) if not count]
        distinct |= {text: not count for text, count in zip(maybe, self._counts(maybe), strict=True)}
        return [position for position, text in enumerate(texts) if distinct[text]]

    def _counts(self, texts: list[str]) -> list[int]:
        if not texts:
            return []
        encoded = self.model.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def encode_pairs(
        self, queries: Sequence[str], documents: Sequence[str], prompts: Sequence[str | None]
    ) -> EncodedPairs:
        """Ids of each pair, cut to ``max_length``.

        Args:
            queries, documents, prompts: as the template makes them.
        """
        rows_of: dict[str | None, list[int]] = {}
        for row, prompt in enumerate(prompts):
            rows_of.setdefault(prompt, []).append(row)
        order: list[int] = []
        parts: list[EncodedPairs] = []
        for prompt, rows in rows_of.items():
            rows.sort(key=lambda row: len(queries[row]) + len(documents[row]))  # a call pads to its longest pair
            for start in range(0, len(rows), PAIRS_PER_CALL):
                taken = rows[start : start + PAIRS_PER_CALL]
                parts.append(self._encode([(queries[row], documents[row]) for row in taken], prompt))
                order += taken
        return EncodedPairs.concatenate(parts).take(np.argsort(np.array(order, np.int64)))

    def _encode(self, pairs: list[tuple[str, str]], prompt: str | None) -> EncodedPairs:
        features = self.features(pairs, prompt)
        mask = features["attention_mask"].numpy().astype(bool)
        lengths = mask.sum(axis=1)
        types = features["token_type_ids"].numpy()[mask].astype(np.int8) if "token_type_ids" in features else None
        truncated = np.zeros(len(pairs), np.bool_)
        full = np.flatnonzero(lengths >= self.max_length)
        if len(full):  # maybe cut, maybe just as long
            whole = self.features([pairs[row] for row in full], prompt, {"text": {"truncation": False}})
            truncated[full] = whole["attention_mask"].numpy().sum(axis=1) > lengths[full]
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
        ids = features["input_ids"].numpy()[mask].astype(np.int32)
        return EncodedPairs(ids, offsets, truncated, types)

    def features(
        self, pairs: list[tuple[str, str]], prompt: str | None, options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What the library gives the model for these pairs, padded.

        Args:
            prompt: None takes the checkpoint's own, if it has one.
        """
        own = self.model.default_prompt_name
        if prompt is None and own is not None:
            prompt = self.model.prompts.get(own)
        features: dict[str, Any] = self.model.preprocess(pairs, prompt=prompt, processing_kwargs=options)
        return features
