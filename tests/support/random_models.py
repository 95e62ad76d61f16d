"""Random EncT5 models, and pairs of random tokens for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import T5Config

from tart_ray import EncT5ForSequenceClassification
from tart_ray.model.encoded import EncodedPairs

TINY = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 3, "num_heads": 2}
VOCABULARY = 128

LENGTHS = [3, 90, 17, 17, 1, 90, 128, 17, 200, 5]


def make_model(*, seed: int = 0, **options: Any) -> EncT5ForSequenceClassification:
    config = T5Config(**{"vocab_size": VOCABULARY, "feed_forward_proj": "gated-gelu", **TINY, **options})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EncT5ForSequenceClassification(config).eval()
        for name, weight in model.named_parameters():
            if "layer_norm" in name:
                torch.nn.init.uniform_(weight, 0.5, 1.5)  # they are all 1 otherwise
        torch.nn.init.normal_(model.classifier.weight, std=config.d_model**-0.5)
        torch.nn.init.normal_(model.classifier.bias)
    return model


def make_pairs(lengths: list[int]) -> EncodedPairs:
    draw = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return EncodedPairs(draw.integers(3, VOCABULARY, offsets[-1], np.int32), offsets, np.zeros(len(lengths), bool))


def all_rows(pairs: EncodedPairs) -> npt.NDArray[np.int64]:
    return np.arange(len(pairs))
