"""What mining gives: negatives and positives, and which queries went without, for which reason."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

JUDGED = "judged"  # the source of a positive that the caller gave
NO_POSITIVE = "no positive"
POSITIVE_NOT_SCORED = "no judged positive is among the scored candidates, and the policy needs its score"
NOTHING_PASSES = "no candidate passes"
QUERY_ITSELF = "the document is the query itself, by its id or its text"
ADDED = ("rank", "policy", "relevance", "positive_by")  # columns of the result; the scores' own are replaced
TOO_FEW = "fewer candidates pass than were asked for"

LEFT_OUT = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("reason", pa.string())])  # doc_id null: all
SHORTFALLS = pa.schema(
    [
        ("query_id", pa.string()),
        ("policy", pa.string()),
        ("wanted", pa.int32()),
        ("chosen", pa.int32()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True)
class Mined:
    """What was mined from one table of scores.

    Attributes:
        negatives: the columns of the scores, then ``rank`` (int32, from 1: the model's, by margin, among all
            candidates of the query) and ``policy``. Sorted by query_id, policy as given, and s from high to low.
        positives: of the same queries, the same columns but ``policy``, then ``relevance`` (int64, null where not
            known) and ``positive_by`` (`JUDGED` or the policy that made it one). Where a positive is not among the
            candidates everything but its ids is null, and text and title unless the positives bring them. Sorted by
            query_id, judged first, doc_id.
        left_out: `LEFT_OUT`, one row for each query that has no positive or no negative, with the reason; and one for
            each document that is no negative because it is the query itself (`QUERY_ITSELF`).
        shortfalls: `SHORTFALLS`, one row for each query and policy that gave less than asked for; queries without
            a positive are in left_out alone.
        counts: numbers of rows and queries, additive over tables: see `mine`.
    """

    negatives: pa.Table
    positives: pa.Table
    left_out: pa.Table
    shortfalls: pa.Table
    counts: dict[str, int]
