"""Which pairs go through the encoder together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DEFAULT_MAX_TOKENS_PER_BATCH = {"cpu": 2_048, "cuda": 32_768}


def default_max_tokens(device_type: str) -> int:
    """Padded tokens per batch where none are given."""
    return DEFAULT_MAX_TOKENS_PER_BATCH.get(device_type, DEFAULT_MAX_TOKENS_PER_BATCH["cpu"])


def plan_batches(lengths: npt.NDArray[np.int64], max_tokens_per_batch: int) -> list[npt.NDArray[np.int64]]:
    """Group pairs of like length under a token budget, the longest first.

    The cost of a padded batch is ``longest * count``. Longest first means that the batch that needs most memory
    comes first, and that a run which starts goes on. A pair longer than the budget makes a batch of its own.

    Args:
        lengths: tokens of each pair, (n,).
        max_tokens_per_batch: padded tokens.

    Returns:
        Row positions of each batch, int64; every row is in exactly one.
    """
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        count = max(max_tokens_per_batch // longest, 1)
        batches.append(order[start : start + count])
        start += count
    return batches


def padded_tokens(lengths: npt.NDArray[np.int64], max_tokens_per_batch: int) -> int:
    """Tokens that pass through the encoder for these pairs, padding included."""
    return sum(int(lengths[batch[0]]) * len(batch) for batch in plan_batches(lengths, max_tokens_per_batch))
