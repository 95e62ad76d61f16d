"""A look at text files: the first lines of some of them show what may be in all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tart_ray.errors import InputError
from tart_ray.input import json_lines, text_files
from tart_ray.input.columns import (
    Naming,
    Shape,
    as_candidate,
    candidates_column,
    check_needed,
    map_candidate,
    map_columns,
    other_columns,
    with_keys,
)
from tart_ray.input.formats import Format
from tart_ray.input.inspection import Inspection, choose_columns
from tart_ray.input.splits import split_text
from tart_ray.storage import FileInfo, Storage
from tart_ray.tables.schemas import CANDIDATES_COLUMN, FIELDS, Role

OPTIONAL = frozenset({"title", "instruction", "score"})
SAMPLED_FILES = 16
SAMPLE_BYTES = 1 << 18


def inspect_text(
    storage: Storage,
    url: str,
    role: Role,
    kind: Format,
    files: Sequence[FileInfo],
    naming: Naming,
    drop: Sequence[str],
) -> Inspection:
    """What a sample shows. Its number of rows is an estimate.

    Raises:
        InputError: none of the sampled lines can be read, or a column is missing.
    """
    step = max(len(files) // SAMPLED_FILES, 1)
    sample = [(f, line) for f in files[::step][:SAMPLED_FILES] for line in text_files.head(storage, f, SAMPLE_BYTES)]
    lines = [line for _, line in sample]
    parsed = [(file, _parse_or_none(kind, role, line)) for file, line in sample]
    records = [with_keys(record, file.keys)[0] for file, record in parsed if record is not None]
    if not records:
        what = "qrels" if role == "qrels" else kind
        raise InputError(
            f"{url}: none of the first {len(lines)} lines can be read as {what}: {_why(kind, role, lines)}"
        )
    nbytes = sum(file.size * text_files.expansion(file.url) for file in files)
    rows = nbytes * len(lines) // max(sum(len(line) + 1 for line in lines), 1)
    names = {name for record in records for name in record} | {key for file in files for key, _ in file.keys}
    inner: set[str] | None = None
    if (listed := candidates_column(role, names, naming.choose(role, names))) is not None:
        candidates = _candidates_of(records, listed)
        rows = rows * len(candidates) // len(records)
        inner = {name for candidate in candidates for name in candidate}
    choice = choose_columns(url, role, names, naming.choose(role, names, inner), drop, naming)
    names -= {*choice.dropped}
    shape: Shape = "pairs" if inner is None else "lists"
    columns = map_columns(url, role, shape, names, choice.columns, naming)
    carried, notes = other_columns(url, sorted(names), columns, choice.columns) if role == "candidates" else ({}, [])
    if inner is not None:
        names |= {f"{columns[CANDIDATES_COLUMN]}.{name}" for name in inner}
        columns |= map_candidate(url, inner, choice.columns, naming)
    check_needed(url, role, columns, names, naming)
    if kind == "jsonl":  # a row beyond the sample may be the first to have one
        absent = {field.name for field in FIELDS[role]} - {*columns, *columns.values(), *choice.dropped, *names}
        columns |= {name: name for name in sorted(OPTIONAL & absent)}
    kinds = json_lines.kinds_of({theirs: record.get(theirs) for theirs in carried.values()} for record in records)
    return Inspection(
        shape=shape,
        columns=columns,
        extras=pa.schema([(name, json_lines.type_of(kinds[theirs])) for name, theirs in carried.items()]),
        rows=max(rows, 1),
        nbytes=nbytes,
        splits=tuple(split_text(files, nbytes)),
        carried=carried,
        notes=(*choice.notes, *notes),
        is_cascade=choice.is_cascade,
        dropped=choice.dropped,
        names=tuple(sorted(names)),
    )


def _candidates_of(records: Sequence[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """The candidates in the lists of some records."""
    lists = [items for items in (record.get(column) for record in records) if isinstance(items, list)]
    candidates = [as_candidate(item) for items in lists for item in items]
    return [candidate for candidate in candidates if isinstance(candidate, dict)]


def _why(kind: Format, role: Role, lines: list[bytes]) -> str:
    """Why none of these lines can be read: the reason of the first that is no header."""
    if not lines:
        return "there are none"
    first = lines[1] if role == "qrels" and len(lines) > 1 and text_files.is_header_of_qrels(lines[0]) else lines[0]
    shown = first[:200].decode(errors="replace")
    start = first.lstrip()
    if kind == "jsonl" and start.startswith(b"["):
        return (
            f"it is a JSON array, expected one object a line: `jq -c '.[]'` makes lines of it; the first line: {shown}"
        )
    if kind == "jsonl" and start.rstrip() == b"{":
        return (
            f"its objects span lines, expected one object a line: `jq -c .` makes lines of it; the first line: {shown}"
        )
    try:
        text_files.parse_line(kind, role, first)
    except text_files.BadLineError as error:
        return f"{str(error).removeprefix('undecodable line: ')}; in the line: {shown}"
    raise AssertionError("a line that can be read")


def _parse_or_none(kind: Format, role: Role, line: bytes) -> dict[str, Any] | None:
    try:
        return text_files.parse_line(kind, role, line)
    except text_files.BadLineError:
        return None
