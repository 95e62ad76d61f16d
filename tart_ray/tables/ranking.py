"""Ranks of documents within their query: by first-stage score, and by margin."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.tables.groups import group_starts, places_in_groups
from tart_ray.tables.masks import as_mask

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
    ranked = ordered.append_column("rank", pa.array(_places(ordered), pa.int32()))
    return ranked if top_k is None else ranked.filter(pc.less_equal(ranked["rank"], top_k))


def first_stage_ranks(rows: pa.Table, *, listed: bool) -> pa.Array:
    """Rank of each row in its query by first-stage score, highest first, ties in input order; int32, from 1.

    Null without a score, except that a list of candidates is a ranking already (``listed``).
    """
    score = rows["score"] if "score" in rows.schema.names else pa.nulls(len(rows), pa.float64())
    table = pa.table({"query_id": rows["query_id"], "score": score, "_row": pa.array(np.arange(len(rows)))})
    keys = [("query_id", "ascending"), ("score", "descending"), ("_row", "ascending")]
    order = pc.sort_indices(table, sort_keys=keys).to_numpy()  # nulls sort last
    ranks = np.empty(len(rows), dtype=np.int32)
    ranks[order] = _places(rows)
    unknown = None if listed else as_mask(pc.is_null(score))
    return pa.array(ranks, pa.int32(), mask=unknown)


def _places(rows: pa.Table) -> npt.NDArray[np.int64]:
    """Where each row stands among those of its query, from 1; rows are sorted by query."""
    return places_in_groups(group_starts(rows, "query_id")) + 1
