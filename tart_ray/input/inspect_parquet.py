"""A look at Parquet files: their footers say what is in them, to the row."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from pyarrow.parquet import FileMetaData

from tart_ray.input.columns import (
    Naming,
    candidate_struct,
    candidates_column,
    check_needed,
    check_type,
    map_candidate,
    map_columns,
    other_columns,
    without_nulls,
)
from tart_ray.input.inspection import Choice, Inspection, choose_columns
from tart_ray.input.parquet_files import check_codecs, count_candidates, read_footer, schemas_of, unify, wide_integers
from tart_ray.input.splits import split_parquet
from tart_ray.storage import FileInfo, Storage
from tart_ray.tables.schemas import CANDIDATES_COLUMN, Role


def inspect_parquet(
    storage: Storage, url: str, role: Role, files: Sequence[FileInfo], naming: Naming, drop: Sequence[str]
) -> Inspection:
    """What the footers show.

    Raises:
        InputError: a footer cannot be read, a column is missing or of the wrong type, or files have no type in common.
    """
    with ThreadPoolExecutor(16) as pool:
        footers = list(pool.map(lambda file: read_footer(storage, file), files))
    path_keys = sorted({key for file in files for key, _ in file.keys})
    choice = _choose(url, role, footers, path_keys, naming, drop)
    wide = [name for name in wide_integers(footers) if name not in choice.dropped]
    dropped = (*choice.dropped, *wide)
    schemas = schemas_of(files, footers, dropped)
    schema, notes = unify(files, schemas)
    notes += [f"column {name!r} is left out: integers of 128 bits are not supported" for name in wide]
    schema, of_keys = _with_path_keys(schema, files, path_keys, dropped)
    notes += of_keys
    names = set(schema.names)
    listed = candidates_column(role, names, choice.columns)
    columns = map_columns(url, role, "pairs" if listed is None else "lists", names, choice.columns, naming)
    _check_types(url, role, files, schemas, schema, columns)
    carried: dict[str, str] = {}
    if role == "candidates":
        carried, of_names = other_columns(url, schema.names, columns, choice.columns)
        notes += of_names
    extras = without_nulls(schema.field(theirs).with_name(name) for name, theirs in carried.items())
    rows = sum(footer.num_rows for footer in footers)
    if listed is not None:
        inner = candidate_struct(url, listed, schema.field(listed).type)
        of_a_candidate = map_candidate(url, set(inner.names), choice.columns, naming)
        for ours, theirs in of_a_candidate.items():
            check_type(url, role, ours, f"{columns[CANDIDATES_COLUMN]}.{theirs}", inner.field(theirs).type)
        names |= {f"{columns[CANDIDATES_COLUMN]}.{name}" for name in inner.names}
        columns |= of_a_candidate
        rows = count_candidates(footers, columns[CANDIDATES_COLUMN])
    check_needed(url, role, columns, names, naming)
    check_codecs(files, footers, {*columns.values(), *carried.values()})
    nbytes = sum(footer.row_group(i).total_byte_size for footer in footers for i in range(footer.num_row_groups))
    return Inspection(
        shape="pairs" if listed is None else "lists",
        columns=columns,
        extras=extras,
        rows=rows,
        nbytes=nbytes,
        splits=tuple(split_parquet(files, footers, nbytes)),
        carried=carried,
        notes=(*choice.notes, *notes),
        is_cascade=choice.is_cascade,
        dropped=dropped,
        names=tuple(sorted(names)),
    )


def _choose(
    url: str,
    role: Role,
    footers: Iterable[FileMetaData],
    path_keys: Collection[str],
    naming: Naming,
    drop: Sequence[str],
) -> Choice:
    """Which columns are used: found out before their types are unified, as those left out need not fit together."""
    schemas = [footer.schema.to_arrow_schema() for footer in footers]
    names = {*path_keys, *(name for schema in schemas for name in schema.names)}
    listed = candidates_column(role, names, naming.choose(role, names))
    if listed is None:
        return choose_columns(url, role, names, naming.choose(role, names), drop, naming)
    lists = (schema.field(listed) for schema in schemas if listed in schema.names)
    structs = [candidate_struct(url, field.name, field.type) for field in lists if not pa.types.is_null(field.type)]
    inside = {name for struct in structs for name in struct.names}
    return choose_columns(url, role, names, naming.choose(role, names, inside), drop, naming)


def _with_path_keys(
    schema: pa.Schema, files: Iterable[FileInfo], path_keys: Sequence[str], dropped: Collection[str]
) -> tuple[pa.Schema, list[str]]:
    """The schema with the columns of ``key=value`` directories, and what to tell of it.

    They are text. One that the files have, too, is of their type where the directories' values are.
    """
    notes = []
    for key in {*path_keys} & {*schema.names}:
        kind = schema.field(key).type
        if not _holds(kind, {value for file in files for name, value in file.keys if name == key}):
            notes.append(f"column {key!r} is carried as text: what its directories say is no {kind}")
            schema = schema.set(schema.get_field_index(key), pa.field(key, pa.large_string()))
    further = [key for key in path_keys if key not in {*schema.names, *dropped}]
    return pa.schema([*schema, *((key, pa.large_string()) for key in further)]), notes


def _holds(kind: pa.DataType, values: set[str | None]) -> bool:
    """Whether texts can be values of a type."""
    try:
        pa.array([*values], pa.large_string()).cast(kind)
    except pa.ArrowException:
        return False
    return True


def _check_types(
    url: str,
    role: Role,
    files: Sequence[FileInfo],
    schemas: Sequence[pa.Schema],
    whole: pa.Schema,
    columns: Mapping[str, str],
) -> None:
    """Refuse a column with a meaning that is of the wrong type, in a file or in all together."""
    for ours, theirs in columns.items():
        if ours == CANDIDATES_COLUMN:
            continue
        for file, schema in zip(files, schemas, strict=True):
            if theirs in schema.names:
                check_type(file.url, role, ours, theirs, schema.field(theirs).type)
        check_type(url, role, ours, theirs, whole.field(theirs).type)
