"""What of a pair is kept where it is too long for the model: lengths of truncated texts, and cuts between windows.

Everything here is numbers of tokens; which tokens they are, it does not know.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Truncation = Literal["longest_first", "only_document"]
LongDocuments = Literal["truncate", "maxp"]
DEFAULT_MAX_LENGTH = 512  # tokens of a pair, as TART was trained
SPECIALS_PER_PAIR = 3  # <s> A </s> B </s>
OVERLAP = 4  # consecutive windows share at least one part in so many of the text that a window holds
LEAST_ROOM = 8  # windows get at least one part in so many of max_length, or the query is too long


class QueryTooLongError(ValueError):
    """``only_document`` truncation met queries that leave too little room for a document.

    ``rows`` holds their positions in the batch.
    """

    def __init__(self, rows: list[int], max_length: int) -> None:
        self.rows = rows
        super().__init__(
            f"truncation='only_document': the instruction and query of {len(rows)} pairs (first: row {rows[0]}) "
            f"leave too little room for a document in max_length={max_length} tokens; shorten them, raise max_length "
            "or use truncation='longest_first', which cuts the query too"
        )


def fit(
    query: npt.NDArray[np.int64],
    document: npt.NDArray[np.int64],
    max_length: int,
    truncation: Truncation,
    *,
    least_room: int = 1,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lengths kept of queries and documents, int64 (n,) each, so that pairs have ``max_length`` tokens at most.

    Raises:
        QueryTooLongError: ``only_document``, and a query leaves less than ``least_room`` tokens for a document that
            does not fit.
    """
    room = max_length - SPECIALS_PER_PAIR
    if truncation == "longest_first":
        return longest_first(query, document, room)
    left = room - query
    too_long = np.flatnonzero((left < least_room) & (left < document))
    if len(too_long):
        raise QueryTooLongError(too_long.tolist(), max_length)
    return query, np.minimum(document, left)


def longest_first(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], room: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Lengths kept of both sides when they must share ``room`` tokens.

    transformers' slow tokenizers take one token at a time from the longer side, from the second where both are
    equally long. In closed form: the longer side shrinks to the shorter; if that is not enough both end at half
    of ``room``, the first with the odd token.
    """
    half_first, half_second = room - room // 2, room // 2
    kept_first = np.where(second <= half_second, np.minimum(first, room - second), np.minimum(first, half_first))
    kept_second = np.minimum(second, room - kept_first)
    fits = first + second <= room
    return np.where(fits, first, kept_first), np.where(fits, second, kept_second)


def cut_windows(
    spans: npt.NDArray[np.int64], head: int, room: int
) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cut a document into windows of ``room`` tokens, which it is longer than.

    Args:
        spans: the characters of each token, from and up to, int64 (t, 2).
        head: characters at the beginning that every window repeats.

    Returns:
        The number of tokens that are repeated; the token that the rest of each window begins with, int64 (w,); the
        characters that this rest covers, from and up to, int64 (w, 2).
    """
    repeated = int(np.searchsorted(spans[:, 1], head, side="right")) if head else 0
    if repeated > room // 2:
        repeated = 0
    size = room - repeated
    last = len(spans) - size
    steps = -(-(last - repeated) // (size - size // OVERLAP))
    begins = repeated + (last - repeated) * np.arange(steps + 1) // steps
    return repeated, begins, np.stack([spans[begins, 0], spans[begins + size - 1, 1]], axis=1)
