"""Splits of the input to tables of good rows; every other row goes to quarantine with its reason.

A good row of candidates has a query id and a document id; texts may be missing where they are joined later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.errors import InputError
from tart_ray.input import json_lines, text_files
from tart_ray.input.columns import as_candidate, is_id, with_keys
from tart_ray.input.parquet_files import read_footer, row_group_or_reason
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.sources import Source, Split
from tart_ray.storage import Storage
from tart_ray.tables import texts
from tart_ray.tables.printing import printable
from tart_ray.tables.schemas import (
    CANDIDATES_COLUMN,
    FIELDS,
    FIELDS_OF_A_CANDIDATE,
    IDS,
    ORIGIN,
    leaves,
    map_types,
)

ROWS_PER_TABLE = 65_536


def read_split(storage: Storage, source: Source, split: Split, quarantine: Quarantine) -> Iterator[pa.Table]:
    """Tables of the good rows of one split: the columns of `table_schema`, in input order."""
    tables = _read_parquet if source.format == "parquet" else _read_text
    for found in tables(storage, source, split, quarantine):
        table, undecodable = _decoded(_without_odd_scores(found))
        yield quarantine.sift(source, table, [*undecodable, *_rules(source, table)])


def table_schema(source: Source) -> pa.Schema:
    """Columns that reading this source gives: origin, our columns that it has, its other columns or objects of them."""
    ours = [(f.name, f.type) for f in FIELDS[source.role] if f.name in source.columns]
    objects = pa.schema([(json_lines.EXTRAS, pa.large_string())])
    return pa.schema([*ORIGIN, *pa.schema(ours), *(objects if source.has_objects else source.extras)])


def _decoded(table: pa.Table) -> tuple[pa.Table, list[tuple[npt.NDArray[np.bool_], str]]]:
    """The table without what cannot be read, and rules that condemn such rows: Parquet does not check its text."""
    rules = []
    for index, field in enumerate(table.schema):
        column = table.column(index)
        if _is_valid(column):
            continue
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            found = column.cast(pa.large_binary()).to_pylist()
            repaired = [value if value is None else value.decode(errors="replace") for value in found]
            wrong = [text is not None and text.encode() != value for value, text in zip(found, repaired, strict=True)]
            rules.append((np.array(wrong), f"{field.name} is not UTF-8"))
            column = pa.array(repaired, field.type)
        else:
            wrong = [not _is_valid(column.take(pa.array([row]))) for row in range(len(column))]
            rules.append((np.array(wrong), f"{field.name} holds a value that is no valid {field.type}"))
            column = column.take(pa.array(np.arange(len(column)), mask=np.array(wrong)))
        table = table.set_column(index, field, column)
    return table, rules


def _is_valid(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _rules(source: Source, table: pa.Table) -> Iterator[tuple[npt.NDArray[np.bool_], str]]:
    """What makes a row bad, in the order in which the first reason is told."""
    ids = {"queries": ("query_id",), "corpus": ("doc_id",)}.get(source.role, ("query_id", "doc_id"))
    names = table.schema.names
    for name in ids:
        yield _mask(pc.is_null(table[name])), f"{name} is null"
        yield _mask(pc.equal(table[name], "")), f"{name} is empty"
    if "relevance" in names and source.role == "qrels":
        yield _mask(pc.is_null(table["relevance"])), "relevance is null"
    if "query" in names:
        yield _mask(pc.is_null(table["query"])), "query is null"
        yield _mask(_is_blank(table["query"])), "query is empty"
    if "text" in names and source.role == "candidates":
        yield from document_rules(table, source)


def document_rules(table: pa.Table, candidates: Source) -> Iterator[tuple[npt.NDArray[np.bool_], str]]:
    """A document is its title and text; the text may be blank where there is a title, but not null."""
    yield _mask(pc.is_null(table["text"])), "text is null"
    if candidates.allows_empty_documents:
        return
    blank = _mask(_is_blank(table["text"]))
    if "title" in table.schema.names:
        blank &= _mask(pc.or_kleene(pc.is_null(table["title"]), _is_blank(table["title"])))
    yield blank, "empty document"


def _without_odd_scores(table: pa.Table) -> pa.Table:
    """The table with null for scores that are NaN or infinite: what writes them has no score to tell."""
    if "score" not in table.schema.names:
        return table
    place = table.schema.get_field_index("score")
    scores = pc.if_else(pc.is_finite(table["score"]), table["score"], pa.scalar(None, pa.float64()))
    return table.set_column(place, table.schema.field(place), scores)


def _is_blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return texts.each_value(column, lambda found: pc.equal(pc.binary_length(pc.utf8_trim_whitespace(found)), 0))


def _mask(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), dtype=bool)


def _read_parquet(storage: Storage, source: Source, split: Split, quarantine: Quarantine) -> Iterator[pa.Table]:
    footer = read_footer(storage, split.file)
    used = sorted({*source.columns.values(), *source.carried.values()})
    ends = np.cumsum([0, *(footer.row_group(group).num_rows for group in range(footer.num_row_groups))])
    for group in range(split.start, split.end):
        rows = np.arange(ends[group], ends[group + 1])
        table = row_group_or_reason(storage, split.file, footer, group, used)
        if isinstance(table, str):
            for position in rows.tolist():
                quarantine.add(table, split.file.url, position, 0)
            continue
        table = _with_keys(table, split, quarantine)
        for start in range(0, len(table), ROWS_PER_TABLE):
            part = table.slice(start, ROWS_PER_TABLE)
            yield _named(source, split, part, rows[start : start + ROWS_PER_TABLE], quarantine)


def _with_keys(table: pa.Table, split: Split, quarantine: Quarantine) -> pa.Table:
    """The table with the values of its ``key=value`` directories: where its own differ, the directory's are taken."""
    for key, value in split.file.keys:
        of_directory = pa.scalar(value, pa.large_string())
        if key not in table.schema.names:
            table = table.append_column(key, pa.repeat(of_directory, len(table)))
            continue
        place = table.schema.get_field_index(key)
        own = table.column(place)
        try:
            of_directory = of_directory.cast(map_types(own.type, _wide))
            own = own.cast(of_directory.type)
        except pa.ArrowException:
            own = own.cast(pa.large_string())
        same = pc.is_null(own) if value is None else pc.or_kleene(pc.equal(own, of_directory), pc.is_null(own))
        quarantine.overruled += len(own) - int(pc.sum(same).as_py() or 0)
        table = table.set_column(place, key, pa.repeat(of_directory, len(table)))
    return table


def _named(
    source: Source, split: Split, table: pa.Table, rows: npt.NDArray[np.int64], quarantine: Quarantine
) -> pa.Table:
    """A Parquet table under our names and types; lists are taken apart."""
    table = _readable(source, split, table)
    items = np.zeros(len(table), dtype=np.int32)
    of_a_row = dict(source.carried) | {
        name: theirs
        for name, theirs in source.columns.items()
        if source.shape == "pairs" or name not in (*FIELDS_OF_A_CANDIDATE, CANDIDATES_COLUMN)
    }
    columns = {name: table[theirs] for name, theirs in of_a_row.items() if theirs in table.schema.names}
    if source.shape == "lists":
        lists = _lists(table, source.columns[CANDIDATES_COLUMN])
        lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), np.int64)
        empty = np.flatnonzero(lengths == 0)
        without = pa.table({**columns, "_position": rows}).take(pa.array(empty))
        for record in printable(_decoded(without)[0]).to_pylist():
            quarantine.add("no candidates", split.file.url, record.pop("_position"), 0, record)
        parents = np.repeat(np.arange(len(table)), lengths)
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        items = (np.arange(len(parents)) - starts).astype(np.int32)
        flat = pc.list_flatten(lists)  # leaves out what lies behind a null list
        if is_id(flat.type):
            flat = pa.StructArray.from_arrays([flat], ["doc_id"])
        inside = {name: source.columns[name] for name in FIELDS_OF_A_CANDIDATE if name in source.columns}
        here = [field.name for field in flat.type]
        columns = {name: column.take(pa.array(parents)) for name, column in columns.items()}
        columns |= {name: pc.struct_field(flat, theirs) for name, theirs in inside.items() if theirs in here}
        rows = rows[parents]
    origin = {"_split": np.full(len(rows), split.index, np.int32), "_position": rows, "_item": items}
    schema = table_schema(source)
    if source.role == "qrels" and pa.types.is_floating(columns["relevance"].type):
        columns["relevance"] = pc.if_else(pc.is_nan(columns["relevance"]), None, columns["relevance"])
    found = pa.table({**origin, **columns})
    for name in schema.names:
        if name not in found.schema.names:
            found = found.append_column(name, pa.nulls(len(rows)))
    return _cast(split, found.select(schema.names), schema, quarantine)


def _readable(source: Source, split: Split, table: pa.Table) -> pa.Table:
    """The table without encodings, with offsets of 64 bits, since a column may exceed 2 GiB when it is decoded.

    And without values that have a part of type null, of which pyarrow (26) makes invalid arrays later.
    """
    used = {*source.columns.values(), *source.carried.values()}
    table = table.select([name for name in table.schema.names if name in used])
    names = {theirs: name for name, theirs in source.carried.items()}
    for index, field in enumerate(table.schema):
        kind = map_types(field.type, _wide)
        target = source.extras.field(names[field.name]).type if field.name in names else kind
        if pa.null() in leaves(field.type):
            kind = target
        try:
            column = table.column(index)
            if pa.types.is_nested(kind) and pa.types.is_large_string(target):
                column, kind = _as_json(column.cast(kind)), target
            table = table.set_column(index, field.name, column.cast(kind))
        except pa.ArrowInvalid as error:
            raise InputError(f"{split.file.url}: column {field.name!r} does not fit {kind}: {error}") from error
    return table


def _as_json(column: pa.ChunkedArray) -> pa.Array:
    """Nested values as JSON text."""
    values = printable(pa.table({"": column}))[""].to_pylist()
    as_json = [None if value is None else orjson.dumps(value, default=str).decode() for value in values]
    return pa.array(as_json, pa.large_string())


def _wide(kind: pa.DataType) -> pa.DataType:
    if kind in (pa.string(), pa.string_view(), pa.null()):
        return pa.large_string()
    return pa.large_binary() if kind in (pa.binary(), pa.binary_view()) else kind


def _cast(split: Split, table: pa.Table, schema: pa.Schema, quarantine: Quarantine) -> pa.Table:
    """The table in the types of all files together; rows with a value that these cannot hold go to quarantine."""
    try:
        return table.cast(schema)
    except pa.ArrowInvalid:
        reasons = _misfits(table, schema)
    bad = printable(_decoded(table.take(pa.array(list(reasons), pa.int64())))[0])
    for reason, record in zip(reasons.values(), bad.drop_columns("_split").to_pylist(), strict=True):
        quarantine.add(reason, split.file.url, record.pop("_position"), record.pop("_item"), record)
    kept = np.ones(len(table), dtype=bool)
    kept[list(reasons)] = False
    return table.filter(pa.array(kept)).cast(schema)


def _misfits(table: pa.Table, schema: pa.Schema) -> dict[int, str]:
    """Rows with a value that its column's type cannot hold, and why, in order."""
    reasons: dict[int, str] = {}
    for field in schema:
        column, one = table.select([field.name]), pa.schema([field])
        if _misfit(column, one) is None:
            continue
        for row in range(len(table)):
            error = _misfit(column.slice(row, 1), one)
            if error is not None:
                told = f"does not fit {field.type}, which all files share: {error}"
                if field.name == "relevance":
                    told = f"is {column[0][row]}, expected an integer"
                reasons.setdefault(row, f"{field.name} {told}")
    return dict(sorted(reasons.items()))


def _misfit(table: pa.Table, schema: pa.Schema) -> str | None:
    try:
        table.cast(schema)
    except pa.ArrowInvalid as error:
        return str(error)
    return None


def _lists(table: pa.Table, name: str) -> pa.Array:
    """The lists of candidates; null in a file that has no such column, or only nulls in it."""
    if name in table.schema.names and not pa.types.is_large_string(table.schema.field(name).type):
        return table[name].combine_chunks()
    return pa.nulls(len(table), pa.list_(pa.struct([])))


def _read_text(storage: Storage, source: Source, split: Split, quarantine: Quarantine) -> Iterator[pa.Table]:
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
        for item, found in enumerate(_records(source, record)):
            place = {"_split": split.index, "_position": offset, "_item": item}
            try:
                objects = objects or (json_lines.dumps(extras) if extras else None)
                rows.append(_typed(source, found) | {json_lines.EXTRAS: objects} | place)
            except ValueError as error:
                quarantine.add(str(error), split.file.url, offset, item, {**found, **extras})
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
