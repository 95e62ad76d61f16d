"""Names and Arrow types of every table that this project reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Rule = tuple[npt.NDArray[np.bool_], str]  # which rows are bad, and why


@dataclass(frozen=True)
class Field:
    """A column of the input that has a meaning here, and the names that it may go by."""

    name: str
    type: pa.DataType
    aliases: tuple[str, ...] = ()


HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"  # what a null is in a key=value directory

Role = Literal["candidates", "queries", "corpus", "qrels"]

SCORE = Field("score", pa.float64())
IDS = frozenset({"query_id", "doc_id"})  # integers in the input become their decimal text
CANDIDATE_FIELDS = (  # texts are large_string: one column of a chunk can exceed 2 GiB
    Field("query_id", pa.string(), ("query-id", "qid")),
    Field("query", pa.large_string()),
    Field("doc_id", pa.string(), ("corpus-id", "docid", "pid")),
    Field("text", pa.large_string()),
    Field("title", pa.large_string()),
    Field("instruction", pa.large_string()),
    SCORE,
)
CANDIDATES_COLUMN = "candidates"  # of lists: list<struct<doc_id, text, title?, score?>>, or a list of document ids
CANDIDATES_ALIAS = "corpus-ids"  # what MTEB calls it
FIELDS_OF_A_CANDIDATE = ("doc_id", "text", "title", "score")
QUERY_FIELDS = (
    Field("query_id", pa.string(), ("_id", "id", "query-id", "qid")),
    Field("query", pa.large_string(), ("text",)),
)
CORPUS_FIELDS = (
    Field("doc_id", pa.string(), ("_id", "id", "corpus-id", "docid", "pid")),
    Field("text", pa.large_string()),
    Field("title", pa.large_string()),
)
QRELS_FIELDS = (
    Field("query_id", pa.string(), ("query-id", "qid")),
    Field("doc_id", pa.string(), ("corpus-id", "docid", "pid")),
    Field("relevance", pa.int64(), ("label", "score")),
)
FIELDS: dict[Role, tuple[Field, ...]] = {
    "candidates": CANDIDATE_FIELDS,
    "queries": QUERY_FIELDS,
    "corpus": CORPUS_FIELDS,
    "qrels": QRELS_FIELDS,
}

# Where a row came from: the split that it was read in, its row number in a Parquet file or byte offset in a text
# file, and its place in a list of candidates (0 elsewhere). Sorted by these three, rows are in input order.
ORIGIN = pa.schema([("_split", pa.int32()), ("_position", pa.int64()), ("_item", pa.int32())])

QUARANTINE = pa.schema(
    [
        ("stage", pa.string()),  # read | join | score
        ("reason", pa.string()),
        ("source", pa.string()),  # URL of the input file
        ("position", pa.int64()),  # row of a Parquet file, byte offset of the line in a text file
        ("item", pa.int32()),  # place in the list of candidates
        ("query_id", pa.string()),
        ("doc_id", pa.string()),
        ("row", pa.large_string()),  # the row as JSON, null where it could not be decoded
        ("raw", pa.large_binary()),  # the bytes of a line that could not be decoded
    ]
)

# One scored pair. The input's other columns follow.
SCORES = pa.schema(
    [
        ("query_id", pa.string()),
        ("doc_id", pa.string()),
        ("instruction", pa.large_string()),
        ("score", pa.float32()),
        ("margin", pa.float32()),
        ("first_stage_rank", pa.int32()),
        ("first_stage_score", pa.float64()),
        ("tokens", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)
# What follows them under model.long_documents: maxp. Of the window that the score is from: its number, from 0, and the
# characters (Unicode code points) of ``text`` that it covers, from and up to.
WINDOWS = pa.schema(
    [
        ("best_window", pa.int32()),
        ("num_windows", pa.int32()),
        ("window_start", pa.int64()),
        ("window_end", pa.int64()),
    ]
)
RERANKED = (
    "query_id",
    "doc_id",
    "rank",
    "score",
    "margin",
    "first_stage_rank",
    "first_stage_score",
)
RESERVED = frozenset(  # names that the output or a chunk has a column of
    {
        *("_row", "_extras", "input_ids", "window_tokens", "window_spans"),
        *SCORES.names,
        *WINDOWS.names,
        *RERANKED,
        *(field.name for field in CANDIDATE_FIELDS),
        *ORIGIN.names,
    }
)


def map_types(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """The type with ``change`` done to every type in it that has no inner ones.

    Dictionaries become their values, and extension types, such as tensors, what they are stored as.
    """
    if pa.types.is_dictionary(kind):
        return map_types(kind.value_type, change)
    if isinstance(kind, pa.BaseExtensionType):
        return map_types(kind.storage_type, change)
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, map_types(field.type, change)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(map_types(kind.key_type, change), map_types(kind.item_type, change))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(map_types(kind.value_type, change), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(map_types(kind.value_type, change))
    return change(kind)


def leaves(kind: pa.DataType) -> list[pa.DataType]:
    """The types in a type that have no inner ones."""
    found: list[pa.DataType] = []

    def note(leaf: pa.DataType) -> pa.DataType:
        found.append(leaf)
        return leaf

    map_types(kind, note)
    return found
