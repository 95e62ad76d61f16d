"""What the input is: its files, format, columns and size, found out before any work; and how it is cut into splits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa
from pyarrow.parquet import FileMetaData

from tart_ray.errors import InputError
from tart_ray.input import cascade, json_lines, text_files
from tart_ray.input.columns import (
    Naming,
    Shape,
    as_candidate,
    candidate_struct,
    candidates_column,
    check_dropped,
    check_needed,
    check_type,
    map_candidate,
    map_columns,
    other_columns,
    with_keys,
    without_nulls,
)
from tart_ray.input.listing import list_files, look_at
from tart_ray.input.parquet_files import check_codecs, count_candidates, read_footer, schemas_of, unify, wide_integers
from tart_ray.storage import FileInfo, Storage
from tart_ray.tables.schemas import CANDIDATES_COLUMN, FIELDS, FIELDS_OF_A_CANDIDATE, Role

__all__ = ["InputError", "Source", "Split", "inspect_source", "notes_of"]

Format = Literal["parquet", "jsonl", "tsv", "trec"]

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
MAX_FIELDS = 1_000  # that become columns


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

    ``columns``: our name → their name, of the columns that are there. ``extras``: the other columns, carried through;
    ``carried``: their name there → their name in the files; of text files both are those that a sample shows, until
    `as_read` says which there are. ``dropped``: their names of columns that are left out.
    ``is_cascade``: whether it is the output of an earlier run.
    ``rows``: pairs, queries or documents; exact for Parquet pairs, else estimated from a sample.
    ``skipped``: how many entries of its directory are not read. ``notes``: what was left out or changed, in words, for
    the plan, the log and the report. ``allows_empty_documents``: whether a document may be blank, title and text.
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
    carried: Mapping[str, str] = field(default_factory=dict)
    skipped: int = 0
    notes: tuple[str, ...] = ()
    allows_empty_documents: bool = False
    is_cascade: bool = False
    dropped: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # of all columns that were found

    def origin(self, split: int) -> str:
        """The URL of the file that a split is part of."""
        return self.splits[split].file.url

    @property
    def columns_of_a_row(self) -> dict[str, str]:
        """Our name → their name, of what stands beside a list of candidates, or in a pair."""
        inside = FIELDS_OF_A_CANDIDATE if self.shape == "lists" else ()
        return {name: theirs for name, theirs in self.columns.items() if name not in inside}

    @property
    def has_objects(self) -> bool:
        """Whether other columns are carried as objects until all have been read: see `tart_ray.input.json_lines`."""
        return self.role == "candidates" and (self.format == "jsonl" or bool(self.format != "parquet" and self.extras))

    def as_read(self, kinds: Iterable[json_lines.Kinds]) -> Source:
        """The source with the columns that it has, now that every split has been read.

        Args:
            kinds: of the values in each split, as `json_lines.kinds_of` tells.

        Raises:
            InputError: there are too many to be columns.
        """
        if not self.has_objects:
            return self
        found = json_lines.merge(kinds)
        sampled = [*self.carried.values()]
        names = [*sampled, *(name for name in found if name not in sampled)]
        carried, notes = other_columns(self.url, names, self.columns_of_a_row, self.carried)
        if len(carried) > MAX_FIELDS:
            raise InputError(
                f"{self.url}: got {len(carried):,} fields beside the known ones, such as {[*carried][:5]}, expected "
                f"{MAX_FIELDS:,} at most: each becomes a column. Put them into one field, as an object"
            )
        extras = pa.schema([(name, json_lines.type_of(found.get(theirs, ()))) for name, theirs in carried.items()])
        return replace(self, extras=extras, carried=carried, notes=(*self.notes, *notes))


def inspect_source(
    storage: Storage,
    url: str,
    role: Role,
    columns: Naming | Mapping[str, str] | None = None,
    files: Sequence[str] | None = None,
    drop: Sequence[str] = (),
) -> Source:
    """Look at the files without reading the data: listing, Parquet footers, the head of some text files.

    Args:
        columns: our name → their name, where they differ; these must be there, unless a `Naming` says otherwise.
        files: URLs of all files, where they are known; else a listing of ``url`` tells them.
        drop: their names of columns that are left out.

    Raises:
        StorageError: nothing is there.
        InputError: an unknown or mixed format, a missing column, or a column of the wrong type.
    """
    naming = columns if isinstance(columns, Naming) else Naming(named=columns or {})
    if role == "candidates" and files is None:
        cascade.check_run(storage, url)
    listing = list_files(storage, url) if files is None else look_at(storage, files)
    infos = [*listing.files]
    kind = _format_of(storage, infos) if role != "qrels" else _format_of_qrels(storage, infos)
    if kind == "trec" and role not in ("candidates", "qrels"):
        raise InputError(f"{url}: got a TREC run, expected {role} as JSONL, TSV or Parquet")
    if kind == "tsv" and role == "candidates":
        raise InputError(f"{url}: got TSV, expected candidates as Parquet, JSONL or a TREC run (.trec, .run)")
    if kind == "parquet":
        source = _inspect_parquet(storage, url, role, infos, naming, drop)
    else:
        source = _inspect_text(storage, url, role, kind, infos, naming, drop)
    skipped = sum(found.count for found in listing.skipped)
    return replace(source, skipped=skipped, notes=(*listing.notes, *source.notes))


def notes_of(sources: Mapping[str, Source]) -> dict[str, list[str]]:
    """What was left out or changed of each source, of those where anything was."""
    return {name: [*source.notes] for name, source in sources.items() if source.notes}


def _format_of_qrels(storage: Storage, files: list[FileInfo]) -> Format:
    """Their text files go by any name, and TREC's and BEIR's lines tell themselves apart: both are "trec"."""
    found: dict[Format, str] = {}
    for file in files:
        kind = format_by_name(file.url) or format_by_content(storage, file)
        found.setdefault(kind if kind in ("parquet", "jsonl") else "trec", file.url)
    if len(found) > 1:
        raise InputError(f"files of several formats: {found}; expected one format, name one of them by a glob")
    return next(iter(found))


def _format_of(storage: Storage, files: list[FileInfo]) -> Format:
    found: dict[Format, str] = {}
    for file in files:
        kind = format_by_name(file.url) or format_by_content(storage, file)
        if kind is None:
            raise InputError(
                f"{file.url}: unknown format; expected a name ending in {', '.join(SUFFIXES)}, "
                f"the text ones also with {', '.join(text_files.COMPRESSIONS)}"
            )
        found.setdefault(kind, file.url)
    if len(found) > 1:
        raise InputError(f"files of several formats: {found}; expected one format, name one of them by a glob")
    return next(iter(found))


def format_by_name(url: str) -> Format | None:
    """The format that a file's name says it has."""
    name = text_files.plain_name(url.rsplit("/", 1)[-1].lower())
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def format_by_content(storage: Storage, file: FileInfo) -> Format | None:
    """The format that a file's first line looks like."""
    head = storage.read_part(file, 0, min(file.size, 4096)).removeprefix(text_files.BYTE_ORDER_MARK)
    line = head.split(b"\n", 1)[0]
    if head.startswith(b"PAR1"):
        return "parquet"
    if line.lstrip().startswith(b"{"):
        return "jsonl"
    if len(line.split()) == 6 and line.split()[1] in (b"Q0", b"q0", b"0"):
        return "trec"
    return None


def _inspect_parquet(
    storage: Storage, url: str, role: Role, files: list[FileInfo], naming: Naming, drop: Sequence[str]
) -> Source:
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(lambda file: read_footer(storage, file), files))
    of_paths = sorted({key for file in files for key, _ in file.keys})
    there = {*of_paths, *(name for footer in footers for name in _arrow_schema(footer).names)}
    listed = candidates_column(role, there, naming.choose(role, there))
    fields = [own.field(listed) for own in map(_arrow_schema, footers) if listed in own.names] if listed else []
    fields = [found for found in fields if not pa.types.is_null(found.type)]
    inside = {name for found in fields for name in candidate_struct(url, found.name, found.type).names}
    wanted = _choose(url, role, there, naming.choose(role, there, inside if listed else None), drop, naming)
    columns, drop = wanted.columns, wanted.drop
    wide = [name for name in wide_integers(footers) if name not in drop]
    drop = (*drop, *wide)
    schemas = schemas_of(files, footers, drop)
    schema, notes = unify(files, schemas)
    notes += [f"column {name!r} is left out: integers of 128 bits are not supported" for name in wide]
    for key in {*of_paths} & {*schema.names}:
        if not _holds(schema.field(key).type, {value for file in files for name, value in file.keys if name == key}):
            notes.append(f"column {key!r} is carried as text: what its directories say is no {schema.field(key).type}")
            schema = schema.set(schema.get_field_index(key), pa.field(key, pa.large_string()))
    of_paths = [key for key in of_paths if key not in {*schema.names, *drop}]
    schema = pa.schema([*schema, *((key, pa.large_string()) for key in of_paths)])
    shape: Shape = "pairs"
    names = set(schema.names)
    inner: pa.Schema | None = None
    if (listed := candidates_column(role, names, columns)) is not None:
        shape = "lists"
        inner = candidate_struct(url, listed, schema.field(listed).type)
    mapped = map_columns(url, role, shape, names, columns, naming)
    for ours, theirs in mapped.items():
        if ours == CANDIDATES_COLUMN:
            continue
        for file, own in zip(files, schemas, strict=True):
            if theirs in own.names:
                check_type(file.url, role, ours, theirs, own.field(theirs).type)
        check_type(url, role, ours, theirs, schema.field(theirs).type)
    carried: dict[str, str] = {}
    if role == "candidates":
        carried, told = other_columns(url, schema.names, mapped, columns)
        notes += told
    extras = without_nulls(schema.field(theirs).with_name(name) for name, theirs in carried.items())
    if inner is not None:
        of_a_candidate = map_candidate(url, set(inner.names), columns, naming)
        for ours, theirs in of_a_candidate.items():
            check_type(url, role, ours, f"{mapped[CANDIDATES_COLUMN]}.{theirs}", inner.field(theirs).type)
        names |= {f"{mapped[CANDIDATES_COLUMN]}.{name}" for name in inner.names}
        mapped |= of_a_candidate
    rows = sum(footer.num_rows for footer in footers)
    if shape == "lists":
        rows = count_candidates(footers, mapped[CANDIDATES_COLUMN])
    nbytes = sum(footer.row_group(i).total_byte_size for footer in footers for i in range(footer.num_row_groups))
    check_needed(url, role, mapped, names, naming)
    check_codecs(files, footers, {*mapped.values(), *carried.values()})
    return Source(
        role, url, "parquet", shape, tuple(files), mapped, extras, rows, nbytes,
        tuple(_parquet_splits(files, footers, nbytes)), carried,
        notes=(*wanted.notes, *notes), is_cascade=wanted.is_cascade, dropped=tuple(drop), names=tuple(sorted(names)),
    )  # fmt: skip


def _inspect_text(
    storage: Storage,
    url: str,
    role: Role,
    kind: Format,
    files: list[FileInfo],
    naming: Naming,
    drop: Sequence[str],
) -> Source:
    step = max(len(files) // SAMPLED_FILES, 1)
    sampled = [(f, line) for f in files[::step][:SAMPLED_FILES] for line in text_files.head(storage, f, SAMPLE_BYTES)]
    lines = [line for _, line in sampled]
    parsed = [(file, _parse_or_none(kind, role, line)) for file, line in sampled]
    records = [with_keys(record, file.keys)[0] for file, record in parsed if record is not None]
    if not records:
        what = "qrels" if role == "qrels" else kind
        raise InputError(
            f"{url}: none of the first {len(lines)} lines can be read as {what}: {_why(kind, role, lines)}"
        )
    nbytes = sum(file.size * text_files.expansion(file.url) for file in files)
    rows = nbytes * len(lines) // max(sum(len(line) + 1 for line in lines), 1)
    shape: Shape = "pairs"
    names = {name for record in records for name in record} | {key for file in files for key, _ in file.keys}
    inner: set[str] | None = None
    if (listed := candidates_column(role, names, naming.choose(role, names))) is not None:
        shape = "lists"
        lists = [items for items in (record.get(listed) for record in records) if isinstance(items, list)]
        items = [as_candidate(item) for items in lists for item in items if isinstance(as_candidate(item), dict)]
        rows = rows * len(items) // len(records)
        inner = {name for item in items for name in item}
    wanted = _choose(url, role, names, naming.choose(role, names, inner), drop, naming)
    columns, drop = wanted.columns, wanted.drop
    names -= {*drop}
    mapped = map_columns(url, role, shape, names, columns, naming)
    carried, notes = other_columns(url, sorted(names), mapped, columns) if role == "candidates" else ({}, [])
    if inner is not None:
        names |= {f"{mapped[CANDIDATES_COLUMN]}.{name}" for name in inner}
        mapped |= map_candidate(url, inner, columns, naming)
    check_needed(url, role, mapped, names, naming)
    if kind == "jsonl":  # a row beyond the sample may be the first to have one
        absent = {field.name for field in FIELDS[role]} - {*mapped} - {*mapped.values()} - {*drop} - {*names}
        mapped |= {name: name for name in sorted(OPTIONAL & absent)}
    kinds = json_lines.kinds_of({theirs: record.get(theirs) for theirs in carried.values()} for record in records)
    extras = pa.schema([(name, json_lines.type_of(kinds[theirs])) for name, theirs in carried.items()])
    size = _split_bytes(nbytes)
    splits = [part for file in files for part in text_files.ranges(file, size)]
    return Source(
        role, url, kind, shape, tuple(files), mapped, extras, max(rows, 1), nbytes,
        tuple(Split(index, *part) for index, part in enumerate(splits)), carried,
        notes=(*wanted.notes, *notes), is_cascade=wanted.is_cascade, dropped=tuple(drop), names=tuple(sorted(names)),
    )  # fmt: skip


def _holds(kind: pa.DataType, values: set[str | None]) -> bool:
    """Whether the values of directories can be of the type that the files say the column has."""
    try:
        pa.array([*values], pa.large_string()).cast(kind)
    except pa.ArrowException:
        return False
    return True


@dataclass(frozen=True)
class _Chosen:
    """What is done with the columns of an input: our name → their name, those left out, and what to tell."""

    columns: Mapping[str, str]
    drop: tuple[str, ...]
    notes: tuple[str, ...] = ()
    is_cascade: bool = False


def _choose(
    url: str, role: Role, names: set[str], columns: Mapping[str, str], drop: Sequence[str], naming: Naming
) -> _Chosen:
    """What is configured, checked; the output of an earlier run is a first stage, with its margin as the score."""
    if role != "candidates":
        return _Chosen(columns, tuple(drop))
    shape: Shape = "pairs" if candidates_column(role, names, columns) is None else "lists"
    check_dropped(url, drop, names, map_columns(url, role, shape, names, columns, naming), columns)
    if not cascade.is_output(names) or cascade.FIRST_STAGE in drop or "score" in columns:
        return _Chosen(columns, tuple(drop))
    replaced = sorted((cascade.REPLACED & names) - {*drop} - {*columns.values()})
    note = f"the output of an earlier run: its margin is the score of the first stage; left out: {', '.join(replaced)}"
    return _Chosen({**columns, "score": cascade.FIRST_STAGE}, (*drop, *replaced), (note,), is_cascade=True)


def _arrow_schema(footer: FileMetaData) -> pa.Schema:
    return footer.schema.to_arrow_schema()


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


def _parquet_splits(files: list[FileInfo], footers: list[FileMetaData], nbytes: int) -> Iterable[Split]:
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
