"""Rows of text files, each value of its type; every line that does not hold one goes to quarantine with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from tart_ray.input import json_lines, text_files
from tart_ray.input.columns import as_candidate, with_keys
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.sources import Source, table_schema
from tart_ray.input.splits import Split
from tart_ray.storage import Storage
from tart_ray.tables.schemas import CANDIDATES_COLUMN, FIELDS, FIELDS_OF_A_CANDIDATE, IDS

ROWS_PER_TABLE = 65_536


def read_text_rows(storage: Storage, source: Source, split: Split, quarantine: Quarantine) -> Iterator[pa.Table]:
    schema = table_schema(source)
    rows: list[dict[str, Any]] = []
    for offset, line in text_files.lines(storage, split.file, split.start, split.end):
        if source.role == "qrels" and offset == 0 and text_files.is_header_of_qrels(line):
            continue
        try:
            record = text_files.parse_line(source.format, source.role, line)
        except text_files.BadLineError as error:
            quarantine.add(str(error), split.file.url, offset, 0, raw=line)
            continue
        record, overruled = with_keys(record, split.file.keys)
        quarantine.overruled += overruled
        extras = _extras(source, record)
        objects = None
        for item, pair in enumerate(_records(source, record)):
            place = {"_split": split.index, "_position": offset, "_item": item}
            try:
                objects = objects or (json_lines.dumps(extras) if extras else None)
                rows.append(_typed(source, pair) | {json_lines.EXTRAS: objects} | place)
            except ValueError as error:
                quarantine.add(str(error), split.file.url, offset, item, {**pair, **extras})
        if len(rows) >= ROWS_PER_TABLE:
            yield pa.Table.from_pylist(rows, schema=schema)
            rows = []
    yield pa.Table.from_pylist(rows, schema=schema)


def _records(source: Source, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Our columns of the pairs in one record; what is no list of objects or ids stays under ``candidates``."""
    named = _renamed(record, source.columns_of_a_row)
    if source.shape == "pairs":
        yield named
        return
    inside = {name: source.columns[name] for name in FIELDS_OF_A_CANDIDATE if name in source.columns}
    candidates = named.pop(CANDIDATES_COLUMN, None)
    if not isinstance(candidates, list) or not candidates:
        yield named | {CANDIDATES_COLUMN: candidates}
        return
    for candidate in map(as_candidate, candidates):
        if isinstance(candidate, dict):
            yield named | _renamed(candidate, inside)
        else:
            yield named | {CANDIDATES_COLUMN: [candidate]}


def _renamed(record: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    return {name: record[theirs] for name, theirs in columns.items() if theirs in record}


def _extras(source: Source, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that have no meaning here."""
    if not source.has_objects:
        return {}
    known = {*source.columns_of_a_row.values(), *source.dropped}
    return {name: value for name, value in record.items() if name not in known}


def _grade(value: int | float) -> int:
    if value != int(value) or not -(2**63) <= value < 2**63:
        raise ValueError(f"relevance: got {value}, expected an integer of 64 bits")
    return int(value)


# what a JSON value may be, what becomes of it, and how it is called
TEXT: tuple[tuple[type, ...], Callable[[Any], Any], str] = ((str,), str, "string")
_KINDS: dict[str, tuple[tuple[type, ...], Callable[[Any], Any], str]] = {
    "score": ((int, float), float, "number"),
    "relevance": ((int, float), _grade, "integer"),
    **dict.fromkeys(IDS, ((str, int), str, "string or integer")),
}


def _typed(source: Source, record: Mapping[str, Any]) -> dict[str, Any]:
    """The record's columns that we know, each of its type.

    Raises:
        ValueError: a value is of another type; the message is the reason.
    """
    if source.shape == "lists" and CANDIDATES_COLUMN in record:
        listed = record[CANDIDATES_COLUMN]
        if listed is None or listed == []:
            raise ValueError("no candidates")
        got = f"a list with {type(listed[0]).__name__}" if isinstance(listed, list) else type(listed).__name__
        raise ValueError(f"candidates: got {got}, expected a list of objects or of ids")
    row: dict[str, Any] = {}
    for field in FIELDS[source.role]:
        value = record.get(field.name)
        if value is None or field.name not in source.columns:
            continue
        kinds, become, expected = _KINDS.get(field.name, TEXT)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise ValueError(f"{field.name}: got {type(value).__name__}, expected {expected}")
        row[field.name] = become(value)
    return row
