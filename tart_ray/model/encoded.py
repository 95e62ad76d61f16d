"""Token ids of pairs of texts, flat and unpadded, as scoring takes them: one row a pair, or one row a window of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class EncodedPairs:
    """Token ids of n pairs, unpadded: pair ``i`` is ``input_ids[offsets[i]:offsets[i + 1]]``.

    ``input_ids``: int32, one flat array. ``offsets``: int64, (n + 1,). ``truncated``: bool, (n,).
    ``token_types``: int8, flat as the ids are, for models that tell a pair's texts apart by them.
    """

    input_ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]
    token_types: npt.NDArray[np.int8] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each pair, special tokens included, int64 (n,)."""
        return np.diff(self.offsets)

    def row(self, i: int) -> npt.NDArray[np.int32]:
        """The ids of pair ``i``."""
        return self.input_ids[self.offsets[i] : self.offsets[i + 1]]

    def take(self, rows: npt.NDArray[np.int64]) -> EncodedPairs:
        """The pairs at these positions, in this order."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])])

        def taken(flat: npt.NDArray[Any]) -> npt.NDArray[Any]:
            parts = [flat[start:end] for start, end in zip(self.offsets[rows], self.offsets[rows + 1], strict=True)]
            return np.concatenate([flat[:0], *parts])

        types = None if self.token_types is None else taken(self.token_types)
        return EncodedPairs(taken(self.input_ids), offsets, self.truncated[rows], types)

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedPairs]) -> EncodedPairs:
        """The pairs of all parts, one after the other."""
        offsets = np.concatenate([[0], *(part.lengths for part in parts)]).cumsum()
        ids = [np.empty(0, np.int32), *(part.input_ids for part in parts)]
        truncated = [np.empty(0, np.bool_), *(part.truncated for part in parts)]
        types = [part.token_types for part in parts if part.token_types is not None]  # all have them, or none
        return cls(np.concatenate(ids), offsets, np.concatenate(truncated), np.concatenate(types) if types else None)


@dataclass(frozen=True)
class BestWindows:
    """The best window of each of n pairs.

    ``index``: its number, from 0, int64 (n,). ``count``: windows of the pair, int64 (n,). ``start``, ``end``: what it
    covers of the document, ``document[start:end]``, in characters (Unicode code points), int64 (n,).
    """

    index: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]


@dataclass(frozen=True)
class EncodedWindows:
    """Token ids of n pairs, each in one window or several: those of pair ``i`` are rows ``starts[i]:starts[i + 1]``.

    ``rows``: the windows, what a model is given, (w,). ``starts``: int64, (n + 1,). ``spans``: the characters of the
    document that a window covers, from and up to, int64 (w, 2); zeros where pairs were cut instead.
    """

    rows: EncodedPairs
    starts: npt.NDArray[np.int64]
    spans: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each pair in all its windows, int64 (n,)."""
        return np.diff(self.rows.offsets[self.starts])

    @property
    def truncated(self) -> npt.NDArray[np.bool_]:
        """Whether tokens of the pair are in none of its windows, bool (n,)."""
        return self.rows.truncated[self.starts[:-1]]

    @classmethod
    def of_pairs(cls, pairs: EncodedPairs) -> EncodedWindows:
        """Each pair, cut or not, as one window."""
        return cls(pairs, np.arange(len(pairs) + 1), np.zeros((len(pairs), 2), np.int64))

    def take(self, pairs: npt.NDArray[np.int64]) -> EncodedWindows:
        """The pairs at these positions, in this order."""
        counts = np.diff(self.starts)[pairs]
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(starts[-1]) + np.repeat(self.starts[pairs] - starts[:-1], counts)
        return EncodedWindows(self.rows.take(rows), starts, self.spans[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedWindows]) -> EncodedWindows:
        """The pairs of all parts, one after the other."""
        counts = [np.zeros(1, np.int64), *(np.diff(part.starts) for part in parts)]
        spans = [np.zeros((0, 2), np.int64), *(part.spans for part in parts)]
        rows = EncodedPairs.concatenate([part.rows for part in parts])
        return cls(rows, np.concatenate(counts).cumsum(), np.concatenate(spans))

    def counted_from(self, begins: Sequence[int]) -> EncodedWindows:
        """The same windows, whose spans count characters from these of their documents on; 0 for those before."""
        spans = self.spans - np.repeat(np.array(begins, np.int64), np.diff(self.starts))[:, None]
        return EncodedWindows(self.rows, self.starts, np.maximum(spans, 0))

    def best(self, margin: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """The row of each pair's best window, int64 (n,): the highest margin, the first of equal ones.

        A window whose margin is NaN or infinite is taken before all others, so that it is not hidden.
        """
        key = np.where(np.isfinite(margin), margin, np.inf)
        highest = np.maximum.reduceat(key, self.starts[:-1]) if len(self) else key
        candidates = np.flatnonzero(key == np.repeat(highest, np.diff(self.starts)))
        return candidates[np.searchsorted(candidates, self.starts[:-1])]

    def describe(self, rows: npt.NDArray[np.int64]) -> BestWindows:
        """What there is to say of one window of each pair, given by its row, int64 (n,)."""
        start, end = self.spans[rows].T
        return BestWindows(rows - self.starts[:-1], np.diff(self.starts), start, end)
