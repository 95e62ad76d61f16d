"""What the input is: its files, format, columns and size, found out before any work; and how it is cut into splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tart_ray.data import text_files
from tart_ray.data.schema import (
    CANDIDATES_COLUMN,
    FIELDS,
    FIELDS_OF_A_CANDIDATE,
    IDS,
    QRELS_FIELDS,
    RESERVED,
    Role,
    leaves,
    map_types,
)
from tart_ray.data.storage import FileInfo, Storage, explained

Format = Literal["parquet", "jsonl", "tsv", "trec"]
Shape = Literal["pairs", "lists"]

SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".tsv": "tsv",
    ".trec": "trec",
    ".run": "trec",
}
OPTIONAL = frozenset({"title", "instruction", "score"})
SAMPLED_FILES = 16
SAMPLE_BYTES = 1 << 18
SPLIT_BYTES = 32 << 20  # of one split, more where there would be over MAX_SPLITS
MAX_SPLITS = 4_096


class InputError(ValueError):
    """Input that cannot be read as configured; the message says what was got, expected and available."""


@dataclass(frozen=True)
class Split:
    """A part of one file that one task reads: row groups ``[start, end)`` of Parquet, or bytes of text."""

    index: int
    file: FileInfo
    start: int
    end: int


@dataclass(frozen=True)
class Source:
    """One input: candidates, queries or a corpus.

    ``columns``: our name → their name, of the columns that are there. ``extras``: the other columns, carried through.
    ``rows``: pairs, queries or documents; exact for Parquet pairs, else estimated from a sample.
    """

    role: Role
    url: str
    format: Format
    shape: Shape
    files: tuple[FileInfo, ...]
    columns: Mapping[str, str]
    extras: pa.Schema
    rows: int
    nbytes: int
    splits: tuple[Split, ...] = field(repr=False)

    def origin(self, split: int) -> str:
        """The URL of the file that a split is part of."""
        return self.splits[split].file.url


def inspect_source(storage: Storage, url: str, role: Role, columns: Mapping[str, str] | None = None) -> Source:
    """Look at the files without reading the data: listing, Parquet footers, the head of some text files.

    Args:
        columns: our name → their name, where they differ.

    Raises:
        StorageError: nothing is there.
        InputError: an unknown or mixed format, a missing column, or a column of the wrong type.
    """
    files = storage.files(url)
    kind = _format_of(storage, files) if role != "qrels" else _format_of_qrels(storage, files)
    if kind == "trec" and role not in ("candidates", "qrels"):
        raise InputError(f"{url}: got a TREC run, expected {role} as JSONL, TSV or Parquet")
    if kind == "tsv" and role == "candidates":
        raise InputError(f"{url}: got TSV, expected candidates as Parquet, JSONL or a TREC run (.trec, .run)")
    if kind == "parquet":
        return _inspect_parquet(storage, url, role, files, columns or {})
    return _inspect_text(storage, url, role, kind, files, columns or {})


def _format_of_qrels(storage: Storage, files: list[FileInfo]) -> Format:
    """Their text files go by any name, and TREC's and BEIR's lines tell themselves apart: both are "trec"."""
    found: dict[Format, str] = {}
    for file in files:
        kind = _format_by_name(file.url) or _content_of(storage, file)
        found.setdefault(kind if kind in ("parquet", "jsonl") else "trec", file.url)
    if len(found) > 1:
        raise InputError(f"files of several formats: {found}; expected one format, name one of them by a glob")
    return next(iter(found))


def _format_of(storage: Storage, files: list[FileInfo]) -> Format:
    found: dict[Format, str] = {}
    for file in files:
        kind = _format_by_name(file.url) or _content_of(storage, file)
        if kind is None:
            raise InputError(
                f"{file.url}: unknown format; expected a name ending in {', '.join(SUFFIXES)}, "
                f"the text ones also with {', '.join(text_files.COMPRESSIONS)}"
            )
        found.setdefault(kind, file.url)
    if len(found) > 1:
        raise InputError(f"files of several formats: {found}; expected one format, name one of them by a glob")
    return next(iter(found))


def _format_by_name(url: str) -> Format | None:
    name = url.rsplit("/", 1)[-1].lower()
    for suffix in text_files.COMPRESSIONS:
        name = name.removesuffix(suffix)
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def _content_of(storage: Storage, file: FileInfo) -> Format | None:
    head = storage.read(file.url, 0, min(file.size, 4096)).removeprefix(text_files.BYTE_ORDER_MARK)
    line = head.split(b"\n", 1)[0]
    if head.startswith(b"PAR1"):
        return "parquet"
    if line.lstrip().startswith(b"{"):
        return "jsonl"
    if len(line.split()) == 6 and line.split()[1] in (b"Q0", b"q0", b"0"):
        return "trec"
    return None


def _inspect_parquet(
    storage: Storage, url: str, role: Role, files: list[FileInfo], columns: Mapping[str, str]
) -> Source:
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(lambda file: read_footer(storage, file), files))
    schema = _unify(files, footers)
    of_paths = {key for file in files for key, _ in file.keys} - {*schema.names}
    schema = pa.schema([*schema, *((key, pa.large_string()) for key in sorted(of_paths))])
    shape: Shape = "pairs"
    names = set(schema.names)
    inner: pa.Schema | None = None
    if role == "candidates" and columns.get(CANDIDATES_COLUMN, CANDIDATES_COLUMN) in names:
        shape = "lists"
        inner = _candidate_struct(url, schema.field(columns.get(CANDIDATES_COLUMN, CANDIDATES_COLUMN)).type)
    mapped = _map_columns(url, role, shape, names, columns)
    for ours, theirs in mapped.items():
        if ours != CANDIDATES_COLUMN:
            _check_type(url, role, ours, theirs, schema.field(theirs).type)
    extras = pa.schema([f for f in schema if role == "candidates" and f.name not in mapped.values()])
    if inner is not None:
        of_a_candidate = _map_candidate(url, set(inner.names), columns)
        for ours, theirs in of_a_candidate.items():
            _check_type(url, role, ours, f"{mapped[CANDIDATES_COLUMN]}.{theirs}", inner.field(theirs).type)
        names |= {f"{mapped[CANDIDATES_COLUMN]}.{name}" for name in inner.names}
        mapped |= of_a_candidate
    rows = sum(footer.num_rows for footer in footers)
    if shape == "lists":
        rows = _count_candidates(footers, mapped[CANDIDATES_COLUMN])
    nbytes = sum(footer.row_group(i).total_byte_size for footer in footers for i in range(footer.num_row_groups))
    _check_needed(url, role, mapped, names)
    return Source(
        role, url, "parquet", shape, tuple(files), mapped, _checked_extras(url, extras), rows, nbytes,
        tuple(_parquet_splits(files, footers, nbytes)),
    )  # fmt: skip


def _inspect_text(
    storage: Storage, url: str, role: Role, kind: Format, files: list[FileInfo], columns: Mapping[str, str]
) -> Source:
    step = max(len(files) // SAMPLED_FILES, 1)
    sampled = [(f, line) for f in files[::step][:SAMPLED_FILES] for line in text_files.head(storage, f, SAMPLE_BYTES)]
    lines = [line for _, line in sampled]
    parsed = [(file, _parse_or_none(kind, role, line)) for file, line in sampled]
    records = [dict(file.keys) | record for file, record in parsed if record is not None]
    if not records:
        first = [line[:200] for line in lines[:1]]
        raise InputError(f"{url}: none of the first {len(lines)} lines can be read as {kind}; first: {first}")
    nbytes = sum(file.size * text_files.expansion(file.url) for file in files)
    rows = nbytes * len(lines) // max(sum(len(line) + 1 for line in lines), 1)
    shape: Shape = "pairs"
    names = {name for record in records for name in record}
    if role == "candidates" and columns.get(CANDIDATES_COLUMN, CANDIDATES_COLUMN) in names:
        shape = "lists"
        lists = [record.get(columns.get(CANDIDATES_COLUMN, CANDIDATES_COLUMN)) for record in records]
        items = [item for items in lists if isinstance(items, list) for item in items if isinstance(item, dict)]
        rows = rows * len(items) // len(records)
        inner = {name for item in items for name in item}
    mapped = _map_columns(url, role, shape, names, columns)
    others = sorted(names - set(mapped.values())) if role == "candidates" else []
    if shape == "lists":
        names |= {f"{mapped[CANDIDATES_COLUMN]}.{name}" for name in inner}
        mapped |= _map_candidate(url, inner, columns)
    _check_needed(url, role, mapped, names)
    if kind == "jsonl":  # a row beyond the sample may be the first to have one
        absent = {field.name for field in FIELDS[role]} - {*mapped} - {*mapped.values()}
        mapped |= {name: name for name in sorted(OPTIONAL & absent)}
    extras = pa.schema([(name, _json_type(record.get(name) for record in records)) for name in others])
    size = _split_bytes(nbytes)
    splits = [part for file in files for part in text_files.ranges(file, size)]
    return Source(
        role, url, kind, shape, tuple(files), mapped, _checked_extras(url, extras), max(rows, 1), nbytes,
        tuple(Split(index, *part) for index, part in enumerate(splits)),
    )  # fmt: skip


def _map_columns(url: str, role: Role, shape: Shape, names: set[str], columns: Mapping[str, str]) -> dict[str, str]:
    mapped = {}
    known = [field.name for field in FIELDS[role]] + ([CANDIDATES_COLUMN] if shape == "lists" else [])
    known = [name for name in known if shape == "pairs" or name not in FIELDS_OF_A_CANDIDATE]
    claimed = {columns[name] for name in known if name in columns}
    for ours in known:
        theirs = columns.get(ours)
        if theirs is not None and theirs not in names:
            raise InputError(f"{url}: input.columns says {ours}: {theirs}, available: {sorted(names)}")
        aliases = next((f.aliases for f in FIELDS[role] if f.name == ours), ())
        found = theirs or next((name for name in (ours, *aliases) if name in names - claimed), None)
        if found is not None:
            mapped[ours] = found
    return mapped


def _map_candidate(url: str, names: set[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Our name → their name, of the fields of the objects in a list of candidates."""
    missing = {ours: columns[ours] for ours in FIELDS_OF_A_CANDIDATE if ours in columns and columns[ours] not in names}
    if missing:
        raise InputError(f"{url}: input.columns says {missing}, available in each candidate: {sorted(names)}")
    named = {ours: columns[ours] for ours in FIELDS_OF_A_CANDIDATE if ours in columns}
    own = (name for name in FIELDS_OF_A_CANDIDATE if name in names - {*named.values()} and name not in named)
    return named | {name: name for name in own}


def _check_needed(url: str, role: Role, mapped: Mapping[str, str], names: set[str]) -> None:
    needed = {"candidates": ("query_id", "doc_id"), "queries": ("query_id", "query"), "corpus": ("doc_id", "text")}
    missing = [name for name in needed.get(role, ("query_id", "doc_id", "relevance")) if name not in mapped]
    if missing:
        advice = "name theirs in input.columns (our name: their name)"
        if role == "qrels":
            accepted = {field.name: list(field.aliases) for field in QRELS_FIELDS}
            advice = f"rename it; names that are understood: {accepted}"
        raise InputError(f"{url}: {role}: missing column {', '.join(missing)}; available: {sorted(names)}; {advice}")


def _check_type(url: str, role: Role, ours: str, theirs: str, got: pa.DataType) -> None:
    if pa.types.is_null(got):
        return
    integer = pa.types.is_integer(got)
    number = integer or pa.types.is_floating(got) or pa.types.is_decimal(got)
    text = pa.types.is_string(got) or pa.types.is_large_string(got)
    fits, expected = text, "string"
    if ours == "score":
        fits, expected = number, "a number"
    elif ours == "relevance":
        fits, expected = integer, "integer"
    elif ours in IDS:
        fits, expected = text or integer, "string or integer"
    if not fits:
        raise InputError(f"{url}: {role}: column {theirs!r}: got {got}, expected {expected}; cast it first")


def _candidate_struct(url: str, got: pa.DataType) -> pa.Schema:
    is_list = pa.types.is_list(got) or pa.types.is_large_list(got)
    if not is_list or not pa.types.is_struct(got.value_type):
        raise InputError(
            f"{url}: column {CANDIDATES_COLUMN!r}: got {got}, expected list<struct<doc_id, text, title?, score?>>"
        )
    return pa.schema(list(got.value_type))


def _checked_extras(url: str, extras: pa.Schema) -> pa.Schema:
    clash = sorted(set(extras.names) & RESERVED)
    if clash:
        raise InputError(f"{url}: columns {clash} have a name that the output uses; rename them")
    return pa.schema([(field.name, map_types(field.type, _without_null)) for field in extras])


def _parse_or_none(kind: Format, role: Role, line: bytes) -> dict[str, Any] | None:
    try:
        return text_files.parse_line(kind, role, line)
    except text_files.BadLineError:
        return None


def _json_type(values: Iterable[Any]) -> pa.DataType:
    """Type of a JSON column from sampled values: nested or mixed values are carried as JSON text."""
    kinds = {type(value) for value in values if value is not None}
    simple = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    if len(kinds) == 1 and (kind := kinds.pop()) in simple:
        return simple[kind]
    return pa.float64() if kinds == {int, float} else pa.large_string()


def json_value(value: Any, kind: pa.DataType) -> Any:
    """A JSON value as a column of the type that `inspect_source` gave it.

    Raises:
        ValueError: it is of another type.
    """
    if value is None:
        return None
    if pa.types.is_large_string(kind):
        try:
            return value if isinstance(value, str) else orjson.dumps(value).decode()
        except TypeError as error:  # nested deeper than can be written
            raise ValueError(str(error)) from error
    expected: tuple[Any, ...] = {pa.bool_(): (bool,), pa.int64(): (int,), pa.float64(): (int, float)}[kind]
    if not isinstance(value, expected) or (isinstance(value, bool) and expected != (bool,)):
        raise ValueError(f"got {type(value).__name__} {value!r}, expected {kind}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"got {value}, which does not fit {kind}")
    return float(value) if kind == pa.float64() else value  # Arrow refuses integers that a double would round


def read_footer(storage: Storage, file: FileInfo) -> pq.FileMetaData:
    """The metadata of a Parquet file.

    Raises:
        InputError: it is not a complete Parquet file.
    """
    filesystem, path = storage.resolve(file.url)
    with explained("read", file.url):
        try:
            with filesystem.open(path, "rb", block_size=1 << 16) as handle:
                return pq.read_metadata(handle)
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):
                raise
            damage = error
    raise InputError(f"{file.url}: not a complete Parquet file ({damage}); remove it or write it again") from damage


def is_damage(error: Exception) -> bool:
    """Whether the Parquet reader raised the error, not the filesystem below it."""
    of_arrow = isinstance(error, pa.ArrowException) and not isinstance(error, MemoryError)
    return of_arrow or (type(error) is OSError and error.errno is None)


def _unify(files: list[FileInfo], footers: list[pq.FileMetaData]) -> pa.Schema:
    """One schema for all files: types are promoted, columns may be missing in some files."""
    whole = pa.schema([])
    schemas = []
    for file, footer in zip(files, footers, strict=True):
        try:
            found = footer.schema.to_arrow_schema()
            _check_lists(file, found)
            schemas.append(_plain(found))
            whole = pa.unify_schemas([whole, schemas[-1]], promote_options="permissive")
        except pa.ArrowException as error:
            raise InputError(
                f"{file.url}: its columns do not fit those of {files[0].url} and the files between: {error}; "
                "cast them to one type"
            ) from error
    for file, schema in zip(files, schemas, strict=True):
        for column in schema:
            _check_cast(file, column, whole.field(column.name).type)
    return whole


def _check_lists(file: FileInfo, schema: pa.Schema) -> None:
    """Refuse list views, which pyarrow (26) casts to lists that are not valid."""
    for column in schema:
        if any(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind) for kind in leaves(column.type)):
            raise InputError(
                f"{file.url}: column {column.name!r}: got {column.type}, expected lists; cast its list views"
            )


def _check_cast(file: FileInfo, column: pa.Field, target: pa.DataType) -> None:
    try:
        pa.nulls(0, column.type).cast(target)
    except pa.ArrowException as error:
        raise InputError(
            f"{file.url}: column {column.name!r}: got {column.type}, which cannot become {target}, "
            f"the type of all files together ({error}); cast it to one type"
        ) from error


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema without what differs between writers and changes no value: encodings, nullability, metadata."""
    return pa.schema([(field.name, map_types(field.type, _without_view)) for field in schema])


def _without_view(kind: pa.DataType) -> pa.DataType:
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _without_null(kind: pa.DataType) -> pa.DataType:
    """What is null in every file: as text, since readers trip over the type null, and pyarrow (26) itself in take()."""
    return pa.string() if pa.types.is_null(kind) else kind


def _count_candidates(footers: list[pq.FileMetaData], column: str) -> int:
    """Values of the lists' first leaf; an empty or null list counts as one."""
    total = 0
    for footer in footers:
        paths = [footer.schema.column(i).path for i in range(footer.num_columns)]
        leaf = next((i for i, path in enumerate(paths) if path.startswith(f"{column}.")), None)
        if leaf is None:  # a file without the column, or one where it is always null
            total += footer.num_rows
            continue
        total += sum(footer.row_group(group).column(leaf).num_values for group in range(footer.num_row_groups))
    return total


def _parquet_splits(files: list[FileInfo], footers: list[pq.FileMetaData], nbytes: int) -> Iterable[Split]:
    size = _split_bytes(nbytes)
    index = 0
    for file, footer in zip(files, footers, strict=True):
        start, held = 0, 0
        for group in range(footer.num_row_groups):
            held += footer.row_group(group).total_byte_size
            if held >= size or group + 1 == footer.num_row_groups:
                yield Split(index, file, start, group + 1)
                index, start, held = index + 1, group + 1, 0


def _split_bytes(nbytes: int) -> int:
    return max(SPLIT_BYTES, math.ceil(nbytes / MAX_SPLITS))
