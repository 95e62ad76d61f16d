"""Positives of queries, from judgements or from labels, and what query ids share that are one query."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.mining.mined import LEFT_OUT
from tart_ray.tables.grades import can_be_grades, grades
from tart_ray.tables.schemas import SCORES


def positives_from_qrels(qrels: pa.Table, min_relevance: int = 1) -> pa.Table:
    """The judged pairs (query_id, doc_id, relevance integer) whose relevance is at least ``min_relevance``.

    A document that was judged lower is a candidate like any other.
    """
    require_columns(qrels, "qrels", ("query_id", "doc_id", "relevance"))
    if not pa.types.is_integer(qrels.schema.field("relevance").type):
        raise ValueError(f"relevance of the qrels is {qrels.schema.field('relevance').type}, expected an integer")
    return qrels.filter(pc.greater_equal(qrels["relevance"], min_relevance))


def judgements_from_labels(pairs: pa.Table, column: str) -> pa.Table:
    """The pairs whose ``column`` is not null, as judgements: ``query_id, doc_id, relevance``.

    Args:
        column: of integers, booleans, or integers that are written as floats; NaN counts as null.

    Raises:
        ValueError: the column is missing, of another type, or holds a number that is no integer of 64 bits.
    """
    require_columns(pairs, "candidates", ("query_id", "doc_id", column))
    kind = pairs.schema.field(column).type
    if not can_be_grades(kind) or column in SCORES.names:
        raise ValueError(f"{column} of the candidates is {kind}, expected an integer or a boolean")
    relevance = grades(f"{column} of the candidates", pairs[column])
    judged = pairs.select(["query_id", "doc_id"]).append_column("relevance", relevance)
    return judged.filter(pc.is_valid(relevance))


def shared_keys(pairs: pa.Table, column: str) -> pa.Table:
    """For each query id what it shares with the others that are the same query: ``query_id, key`` (strings).

    The smallest value of ``column`` in its rows; where all are null, a key of its own.
    """
    values = pairs.select(["query_id"]).append_column("key", pairs[column].cast(pa.large_string()))
    smallest = values.group_by("query_id").aggregate([("key", "min")])
    nothing, end = pa.scalar("", pa.large_string()), pa.scalar("\0", pa.large_string())
    alone = pc.binary_join_element_wise(nothing, smallest["query_id"].cast(pa.large_string()), end)
    return pa.table({"query_id": smallest["query_id"], "key": pc.coalesce(smallest["key_min"], alone)})


def without_candidates(positives: pa.Table, scored_query_ids: pa.ChunkedArray) -> pa.Table:
    """`LEFT_OUT` rows for the queries that have positives but not one scored candidate, which `mine` never sees."""
    queries = pc.unique(positives["query_id"].cast(pa.string()))
    unseen = queries.filter(pc.invert(pc.is_in(queries, value_set=pc.unique(scored_query_ids).cast(pa.string()))))
    unseen = unseen.take(pc.sort_indices(unseen))
    reasons = pa.array(["no scored candidate"] * len(unseen), pa.string())
    return pa.table([unseen, pa.nulls(len(unseen), pa.string()), reasons], schema=LEFT_OUT)


def require_columns(table: pa.Table, what: str, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in table.schema.names]
    if missing:
        raise ValueError(f"the {what} have columns {table.schema.names}, and {', '.join(missing)} is missing")
    for name in ("query_id", "doc_id"):
        if table[name].null_count:
            raise ValueError(f"{name} of the {what} is null in {table[name].null_count} rows, expected none")
