"""Models of T5's geometries with random weights, and the FLOPs that they need; tokenizers like BERT's."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, T5Config

from tart_ray.model.enct5 import EncT5ForSequenceClassification

GEOMETRIES = {
    "tiny": {"num_layers": 2, "d_model": 64, "num_heads": 4, "d_kv": 16, "d_ff": 128},
    "small": {"num_layers": 8, "d_model": 512, "num_heads": 6, "d_kv": 64, "d_ff": 1024},
    "base": {"num_layers": 12, "d_model": 768, "num_heads": 12, "d_kv": 64, "d_ff": 2048},
    "xl": {"num_layers": 24, "d_model": 2048, "num_heads": 32, "d_kv": 64, "d_ff": 5120},
}
VOCABULARY = 32_128


def make_random_model(geometry: str, device: str, **options: int) -> EncT5ForSequenceClassification:
    """A model in float32, made on the device: the same weights each time.

    Args:
        options: of the configuration, in place of the geometry's.
    """
    config = T5Config(**GEOMETRIES[geometry] | options, vocab_size=VOCABULARY, feed_forward_proj="gated-gelu")
    torch.manual_seed(0)
    with torch.device(device):
        model = EncT5ForSequenceClassification(config).eval()
    nn.init.normal_(model.classifier.weight, std=config.d_model**-0.5)
    # transformers begins with gains of 1 and hardly any position bias: drift would not show them left out
    nn.init.normal_(model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
    for name, gain in model.named_parameters():
        if name.endswith("layer_norm.weight"):
            nn.init.uniform_(gain, 0.5, 1.5)
    return model


def needed_flops(config: T5Config, lengths: np.ndarray) -> float:
    """Of the products of all layers but the last, padding left out: projections, and attention with itself.

    A multiplication with its addition are two. A token takes two for each weight of the projections, and
    ``4 * heads * d_kv`` for each token of its pair: the forward third of the formula in appendix B of PaLM
    (Chowdhery et al., 2022, arXiv 2204.02311), ``6 N + 12 L H Q T`` for a token, with T5's gated feed-forward in N and
    without embeddings. The last layer is left out, because position 0 alone is needed of it.
    """
    inner = config.num_heads * config.d_kv
    by_token = 2 * (4 * config.d_model * inner + 3 * config.d_model * config.d_ff)
    return float((config.num_layers - 1) * (by_token * lengths.sum() + 4 * inner * (lengths**2).sum()))


def make_word_pieces(texts: Iterable[str], *, vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer like BERT's, learned from texts: lower-case word pieces, ``[CLS] A [SEP] B [SEP]`` with token types.

    Args:
        vocab_size: at most.
        max_length: that the tokenizer names, tokens.
    """
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    tokenizer = Tokenizer(models.WordPiece(unk_token=special["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=[*special.values()])
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **special,
    )
