"""Which pairs go through the encoder together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DEFAULT_MAX_TOKENS_PER_BATCH = {"cpu": 2_048, "cuda": 32_768}
HALVINGS = 4


def default_max_tokens(device_type: str) -> int:
    """Padded tokens per batch where none are given."""
    return DEFAULT_MAX_TOKENS_PER_BATCH.get(device_type, DEFAULT_MAX_TOKENS_PER_BATCH["cpu"])


def fitting_max_tokens(most: int, free_bytes: int, bytes_per_token: int) -> int:
    """``most``, or a half, a quarter … of it: what half of the free memory holds, tokens."""
    while most > 1 and most * bytes_per_token > free_bytes // 2:
        most //= 2
    return most


def bucket_of(tokens: int, max_tokens: int, multiple: int) -> int:
    """The number of tokens (or pairs) a batch is filled up to: ``max_tokens``, its half … or its sixteenth, rounded up.

    Few sizes, since a compiled encoder is compiled for each.

    Raises:
        ValueError: the batch has more tokens than ``max_tokens``.
    """
    if tokens > max_tokens:
        raise ValueError(f"got a batch of {tokens} tokens, expected at most {max_tokens}")
    sizes = [-(-max_tokens // (multiple << halved)) * multiple for halved in range(HALVINGS, -1, -1)]
    return next(size for size in sizes if size >= tokens)


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
