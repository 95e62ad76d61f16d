"""JSON lines: what a line holds, and the columns that its fields become.

Nobody declares the type of a JSON field, and a sample tells only what is in the sample. So the fields that have no
meaning here travel as they are, as one object per row in the column `EXTRAS`, until every row has been read. Only then
does each become a column, of a type that holds all of its values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
import pyarrow as pa

EXTRAS = "_extras"  # the column of objects, in what is read from text files
NOT_A_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b')  # strings are matched to skip them
MANY_DIGITS = re.compile(rb"\d{19}")
LARGEST_EXACT = 2**53  # integers up to it are exact in a double

# Kinds of values that a field was seen to have
BOOLEAN, INTEGER, LONG, HUGE, FLOAT, TEXT, NESTED = "boolean", "integer", "long", "huge", "float", "text", "nested"
Kinds = Mapping[str, Iterable[str]]  # of each field


def parse(line: bytes) -> Any:
    """The value of one line, strictly JSON but for ``NaN``, ``Infinity`` and ``-Infinity``, which are null.

    Integers have any number of digits. Of a key that is given twice the last value counts.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        strict = NOT_A_NUMBER.sub(lambda match: match[0] if match[0].startswith(b'"') else b"null", line)
        if strict == line:
            raise
        line, value = strict, orjson.loads(strict)
    if MANY_DIGITS.search(line):  # orjson makes floats of integers beyond 64 bits
        try:
            value = json.loads(line)
        except RecursionError:
            raise ValueError("nested too deeply") from None
    return value


def dumps(value: Any) -> str:
    """JSON text.

    Raises:
        ValueError: it is nested deeper than can be written.
    """
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        if "64-bit" not in str(error):
            raise ValueError(str(error)) from error
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def kind_of(value: Any) -> str:
    """The kind of a value that is not null."""
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) <= LARGEST_EXACT:
            return INTEGER
        return LONG if -(2**63) <= value < 2**63 else HUGE
    return {bool: BOOLEAN, float: FLOAT, str: TEXT}.get(type(value), NESTED)


def kinds_of(objects: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Every field, and the kinds of its values; none where they are all null."""
    kinds_by_name: dict[str, set[str]] = {}
    for fields in objects:
        for name, value in fields.items():
            kinds = kinds_by_name.setdefault(name, set())
            if value is not None:
                kinds.add(kind_of(value))
    return {name: sorted(kinds_by_name[name]) for name in sorted(kinds_by_name)}


def merge(several: Iterable[Kinds]) -> dict[str, list[str]]:
    """The kinds of fields that were seen in several places."""
    kinds_by_name: dict[str, set[str]] = {}
    for kinds in several:
        for name, of_field in kinds.items():
            kinds_by_name.setdefault(name, set()).update(of_field)
    return {name: sorted(kinds_by_name[name]) for name in sorted(kinds_by_name)}


def type_of(several: Iterable[str]) -> pa.DataType:
    """The narrowest type that changes no value of these kinds: boolean, int64, double or text."""
    kinds = {*several}
    if kinds == {BOOLEAN}:
        return pa.bool_()
    if kinds and kinds <= {INTEGER, LONG}:
        return pa.int64()
    if kinds and kinds <= {INTEGER, FLOAT}:
        return pa.float64()
    return pa.large_string()


def expand(table: pa.Table, schema: pa.Schema, fields_of: Mapping[str, str]) -> pa.Table:
    """The table with the fields of `EXTRAS` as columns of ``schema``, whose types `type_of` made of all their kinds.

    ``fields_of`` says which column is which field. In a column of text strings stay as they are, and all other values
    are JSON.
    """
    if EXTRAS not in table.schema.names:
        return table
    objects = objects_of(table)
    table = table.drop_columns([EXTRAS])
    for field in schema:
        values = [fields.get(fields_of[field.name]) for fields in objects]
        if pa.types.is_large_string(field.type):
            values = [value if value is None or isinstance(value, str) else dumps(value) for value in values]
        elif pa.types.is_floating(field.type):
            values = [None if value is None else float(value) for value in values]
        table = table.append_column(field, pa.array(values, field.type))
    return table


def objects_of(table: pa.Table) -> list[dict[str, Any]]:
    """The fields of each row, out of the column `EXTRAS`, which is null where there are none."""
    return [parse(text.encode()) if text else {} for text in table[EXTRAS].to_pylist()]


def changes(sampled: pa.Schema, read: pa.Schema) -> list[str]:
    """What became of the columns that a sample showed: ``name: what``, of those that are new or of another type."""
    types = {field.name: field.type for field in sampled}
    return [
        f"{field.name}: {types[field.name]} in the sample, {field.type} as read"
        if field.name in types
        else f"{field.name}: not in the sample, {field.type} as read"
        for field in read
        if types.get(field.name) != field.type
    ]
