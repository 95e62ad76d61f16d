"""What reading any collection needs: tables of queries and documents, their good rows, the first of each id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.input import text_files
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import Source
from tart_ray.storage import FileInfo, Storage
from tart_ray.tables.groups import first_rows, in_input_order
from tart_ray.tables.masks import as_mask

QUERIES = pa.schema([("query_id", pa.string()), ("query", pa.large_string())])
JUDGEMENTS = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("relevance", pa.int32())])
DOCUMENTS = pa.schema([("doc_id", pa.string()), ("title", pa.large_string()), ("text", pa.large_string())])

T = TypeVar("T")


@dataclass
class Read:
    """Good rows of a source, and how many rows it has in all, those in quarantine included."""

    table: pa.Table
    rows: int


def read_source(storage: Storage, source: Source, quarantine: Quarantine) -> Read:
    """Good rows of all splits, with the columns of `tart_ray.tables.schemas.ORIGIN`."""
    before = len(quarantine)
    table = pa.concat_tables(
        [table for split in source.splits for table in read_split(storage, source, split, quarantine)]
    )
    return Read(table, len(table) + len(quarantine) - before)


def first_of_each(read: Read, source: Source, quarantine: Quarantine, keys: Sequence[str], value: str) -> Read:
    """The first row of each ``keys``; a later one that has another ``value`` goes to quarantine."""
    ordered = in_input_order(read.table)
    first = first_rows(ordered, *keys)
    key_of_all, key_of_first = (
        pc.binary_join_element_wise(*(part[name].cast(pa.string()) for name in keys), "\0") for part in (ordered, first)
    )
    at = pc.index_in(key_of_all, value_set=key_of_first.combine_chunks())
    differs = as_mask(pc.not_equal(ordered[value], first[value].take(at)))
    reason = f"another {value} than an earlier row of this {' and '.join(keys)}"
    kept = quarantine.sift(source, ordered, [(differs, reason)])
    return Read(first_rows(kept, *keys).select([*keys, value]), read.rows)


def read_objects(
    storage: Storage,
    files: Sequence[FileInfo],
    quarantine: Quarantine,
    parse: Callable[[dict[str, Any]], tuple[str, T]],
    repeated: str,
) -> tuple[dict[str, T], int]:
    """What the objects of JSON lines say, by their ids, and how many lines there are.

    Args:
        parse: makes the id and the value of an object; a ValueError's message is the reason for quarantine.
        repeated: the reason for quarantine of an id that came before.
    """
    before = len(quarantine)
    values: dict[str, T] = {}
    for file in files:
        for offset, line in text_files.lines(storage, file, 0, file.size):
            try:
                fields = text_files.parse_line("jsonl", "queries", line)
            except text_files.BadLineError as error:
                quarantine.add(str(error), file.url, offset, 0, raw=line)
                continue
            try:
                id_, value = parse(fields)
                if id_ in values:
                    raise ValueError(repeated)
            except ValueError as error:
                quarantine.add(str(error), file.url, offset, 0, fields)
            else:
                values[id_] = value
    return values, len(values) + len(quarantine) - before
