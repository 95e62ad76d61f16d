"""Rows of Parquet files under our names and types; every row that does not fit goes to quarantine with its reason."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.errors import InputError
from tart_ray.input.columns import is_id
from tart_ray.input.parquet_files import read_footer, row_group_or_reason
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.sources import Source, table_schema
from tart_ray.input.splits import Split
from tart_ray.storage import Storage
from tart_ray.tables.groups import places_in_groups
from tart_ray.tables.printing import printable
from tart_ray.tables.schemas import CANDIDATES_COLUMN, FIELDS_OF_A_CANDIDATE, Rule, leaves, map_types

ROWS_PER_TABLE = 65_536


def read_parquet_rows(storage: Storage, source: Source, split: Split, quarantine: Quarantine) -> Iterator[pa.Table]:
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
        of_file = table.column(place)
        try:
            of_directory = of_directory.cast(map_types(of_file.type, _wide))
            of_file = of_file.cast(of_directory.type)
        except pa.ArrowException:
            of_file = of_file.cast(pa.large_string())
        same = pc.is_null(of_file)
        if value is not None:
            same = pc.or_kleene(pc.equal(of_file, of_directory), same)
        quarantine.overruled += len(of_file) - int(pc.sum(same).as_py() or 0)
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
        for record in printable(decoded(without)[0]).to_pylist():
            quarantine.add("no candidates", split.file.url, record.pop("_position"), 0, record)
        parents = np.repeat(np.arange(len(table)), lengths)
        items = places_in_groups(np.append(0, np.cumsum(lengths))).astype(np.int32)
        flat = pc.list_flatten(lists)  # leaves out what lies behind a null list
        if is_id(flat.type):
            flat = pa.StructArray.from_arrays([flat], ["doc_id"])
        inside = {name: source.columns[name] for name in FIELDS_OF_A_CANDIDATE if name in source.columns}
        fields = [field.name for field in flat.type]
        columns = {name: column.take(pa.array(parents)) for name, column in columns.items()}
        columns |= {name: pc.struct_field(flat, theirs) for name, theirs in inside.items() if theirs in fields}
        rows = rows[parents]
    origin = {"_split": np.full(len(rows), split.index, np.int32), "_position": rows, "_item": items}
    schema = table_schema(source)
    if source.role == "qrels" and pa.types.is_floating(columns["relevance"].type):
        columns["relevance"] = pc.if_else(pc.is_nan(columns["relevance"]), None, columns["relevance"])
    columns |= origin
    absent = pa.nulls(len(rows))
    named = pa.table({name: columns.get(name, absent) for name in schema.names})
    return _cast(split, named, schema, quarantine)


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
    bad = printable(decoded(table.take(pa.array(list(reasons), pa.int64())))[0])
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
                problem = f"does not fit {field.type}, which all files share: {error}"
                if field.name == "relevance":
                    problem = f"is {column[0][row]}, expected an integer"
                reasons.setdefault(row, f"{field.name} {problem}")
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


def decoded(table: pa.Table) -> tuple[pa.Table, list[Rule]]:
    """The table without what cannot be read, and rules that condemn such rows: Parquet does not check its text."""
    rules = []
    for index, field in enumerate(table.schema):
        column = table.column(index)
        if _is_valid(column):
            continue
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            raw = column.cast(pa.large_binary()).to_pylist()
            repaired = [value if value is None else value.decode(errors="replace") for value in raw]
            wrong = [text is not None and text.encode() != value for value, text in zip(raw, repaired, strict=True)]
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
