"""Rank scored documents within their query."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

RANKING_VERSION = 1  # of ranks: goes up when the same scores are ranked in another order
ORDER = (
    ("query_id", "ascending"),
    ("margin", "descending"),
    ("first_stage_rank", "ascending"),
    ("doc_id", "ascending"),
)


def rank(scores: pa.Table, top_k: int | None = None) -> pa.Table:
    """Rows sorted by query and rank, with ``rank`` (int32, from 1) as their last column.

    The margin decides, not the probability, which ties where the margin does not; equal margins are ordered by the
    first stage's rank, rows without one last, then by doc_id. Every row of a query must be in ``scores``.

    Args:
        top_k: documents kept per query; None keeps all.
    """
    # nulls sort last, which is pyarrow's default
    ordered = scores.take(pc.sort_indices(scores, sort_keys=list(ORDER)))
    runs = pc.run_end_encode(ordered["query_id"].combine_chunks()) if len(ordered) else None
    ends = np.array([], np.int64) if runs is None else runs.run_ends.to_numpy().astype(np.int64)
    lengths = np.diff(ends, prepend=0)
    positions = np.arange(len(ordered)) - np.repeat(ends - lengths, lengths)
    ranked = ordered.append_column("rank", pa.array(positions + 1, pa.int32()))
    return ranked if top_k is None else ranked.filter(pc.less_equal(ranked["rank"], top_k))
