"""The pairs of a step as tensors: cut into batches that fit into memory, and made ahead of time by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from tart_ray.config import TrainingConfig
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.training.sampling import Group

AHEAD = 2  # results that are computed in advance

Ints = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True)
class Microbatch:
    """n pairs that go through the model at once.

    Attributes:
        ids: token ids, int64 (n, length), padded on the right.
        mask: int64 (n, length), 1 for tokens and 0 for padding.
        first: bool (n,), the positives, each of which begins a group.
        scores: float32 (n,), a teacher's margins; zeros for losses that use none.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    first: torch.Tensor
    scores: torch.Tensor


def make_batches(
    groups: Sequence[Group], tokenizer: EncT5Tokenizer, config: TrainingConfig, max_length: int
) -> list[Microbatch]:
    """All pairs of the groups, on the CPU.

    Args:
        groups: at least one.
        max_length: of a pair in tokens; longer pairs are cut.
    """
    pairs = tokenizer.encode_pairs(
        [text for group in groups for text in group.queries],
        [text for group in groups for text in group.documents],
        max_length=max_length,
    )
    sizes = np.array([len(group) for group in groups])
    first = np.zeros(len(pairs), bool)
    first[np.cumsum(sizes) - sizes] = [group.has_positive for group in groups]
    scores = np.zeros(len(pairs), np.float32)
    if config.distils:
        scores[:] = [score for group in groups for score in group.scores]
    units = np.ones(len(pairs), np.int64) if config.loss == "cross_entropy" else sizes
    batches = []
    for rows in plan_microbatches(pairs.lengths, units, config.max_tokens_per_batch):
        lengths = pairs.lengths[rows]
        ids = np.full((len(rows), int(lengths.max())), tokenizer.pad_token_id, np.int64)
        for padded, row in zip(ids, rows.tolist(), strict=True):
            tokens = pairs.row(row)
            padded[: len(tokens)] = tokens
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        arrays = (ids, mask.astype(np.int64), first[rows], scores[rows])
        batches.append(Microbatch(*map(torch.from_numpy, arrays)))
    return batches


def plan_microbatches(lengths: Ints, sizes: Ints, max_tokens: int) -> list[Ints]:
    """Cut a step's pairs into batches of similar lengths within a token budget, without splitting units.

    Args:
        lengths: tokens of each pair, int64 (n,).
        sizes: pairs of each unit that must stay whole, int64 (units,); the pairs of a unit are consecutive.
        max_tokens: padded tokens of a batch. A unit with more is a batch of its own.

    Returns:
        The positions of the pairs of each batch, int64; every pair is in one batch. The longest pairs come first.
    """
    ends = np.cumsum(sizes)
    starts = ends - sizes
    longest = np.maximum.reduceat(lengths, starts)
    batches: list[Ints] = []
    units: list[Ints] = []
    width = rows = 0
    for unit in np.argsort(-longest, kind="stable"):
        if units and (rows + int(sizes[unit])) * width > max_tokens:
            batches.append(np.concatenate(units))
            units, rows = [], 0
        if not units:
            width = int(longest[unit])
        units.append(np.arange(starts[unit], ends[unit]))
        rows += int(sizes[unit])
    batches.append(np.concatenate(units))
    return batches


def in_advance(make: Callable[[int], T], steps: Iterable[int]) -> Iterator[T]:
    """``make(step)`` of each step, in order; a thread computes the next ones while the caller uses one."""
    with ThreadPoolExecutor(1) as executor:
        waiting: deque[Future[T]] = deque()
        for step in steps:
            waiting.append(executor.submit(make, step))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
