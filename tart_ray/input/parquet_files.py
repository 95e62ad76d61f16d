"""Parquet files: their footers, the schema that several have together, and their row groups."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.parquet import FileMetaData

from tart_ray.errors import InputError
from tart_ray.storage import FileInfo, Storage, explained
from tart_ray.tables.schemas import leaves, map_types

TOO_LARGE = "chunked array outputs"  # in what pyarrow (26) says of nested columns beyond 2 GiB
BEYOND = "cannot be read here, though it need not be damaged"
UNKNOWN_TYPES = b"-RROW:schema"  # stands for the key that pyarrow looks for Arrow's types under
BEYOND_READER = re.compile(f"encrypt|decrypt|(?<!Exceeded )size limit|MaxMessageSize|{TOO_LARGE}", re.IGNORECASE)


class DamageError(ValueError):
    """A part of a file that cannot be read; the message says why."""


def read_footer(storage: Storage, file: FileInfo) -> FileMetaData:
    """The metadata of a Parquet file.

    Raises:
        InputError: it is not a complete Parquet file, or the reader knows no way to read it.
    """
    with explained("read", file.url):
        try:
            with storage.open(file, block_size=1 << 16) as handle:
                try:
                    return pq.read_metadata(handle)
                except pa.ArrowNotImplementedError:
                    return _without_arrow_schema(handle)
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):
                raise
            damage = error
    if isinstance(damage, pa.ArrowNotImplementedError) or is_beyond_reader(damage):
        raise InputError(f"{file.url}: {BEYOND}: {damage}; write it in another way") from damage
    raise InputError(f"{file.url}: not a complete Parquet file ({damage}); remove it or write it again") from damage


def _without_arrow_schema(handle: IO[bytes]) -> FileMetaData:
    """The metadata of a file whose writer noted Arrow types that are not known here: with the types of Parquet alone.

    Raises:
        pa.ArrowException: that was not it.
    """
    end = handle.seek(-8, os.SEEK_END)
    tail = handle.read(8)
    size = int.from_bytes(tail[:4], "little")
    handle.seek(end - size)
    footer = handle.read(size).replace(b"ARROW:schema", UNKNOWN_TYPES)
    return pq.read_metadata(io.BytesIO(b"PAR1" + footer + tail))


def wide_integers(footers: Iterable[FileMetaData]) -> list[str]:
    """Columns of integers of 128 bits, which Arrow (26) does not have: Parquet sees bytes, polars notes the type."""
    wide = pa.binary(16)
    odd = (footer for footer in footers if UNKNOWN_TYPES in (footer.metadata or {}))
    return sorted({f.name for footer in odd for f in footer.schema.to_arrow_schema() if wide in leaves(f.type)})


def is_beyond_reader(error: Exception) -> bool:
    """Whether an error of the Parquet reader is that it knows no way to read a file that may be as it should be.

    What it says of an unknown encoding is no evidence: damaged pages name such ones, too.
    """
    return isinstance(error, pa.ArrowCapacityError) or BEYOND_READER.search(str(error)) is not None


def check_codecs(files: Sequence[FileInfo], footers: Sequence[FileMetaData], wanted: Collection[str]) -> None:
    """Refuse what is compressed in a way that cannot be undone here.

    Args:
        wanted: the columns that are read.

    Raises:
        InputError: it is.
    """
    for file, footer in zip(files, footers, strict=True):
        for i in range(footer.num_columns if footer.num_row_groups else 0):
            column = footer.row_group(0).column(i)
            codec, name = column.compression, column.path_in_schema.partition(".")[0]
            if name in wanted and not _is_available(codec):
                raise InputError(
                    f"{file.url}: column {name!r} is compressed by {codec}, which is not available here; write the "
                    "file again with zstd, or leave the column out by input.drop_columns"
                )


def _is_available(codec: str) -> bool:
    try:
        return codec == "UNCOMPRESSED" or bool(pa.Codec.is_available(codec.lower().removesuffix("_raw")))
    except ValueError:  # LZO
        return False


def is_damage(error: Exception) -> bool:
    """Whether the Parquet reader raised the error, not the filesystem below it."""
    of_arrow = isinstance(error, pa.ArrowException) and not isinstance(error, MemoryError)
    return of_arrow or (type(error) is OSError and error.errno is None)


def schemas_of(files: Sequence[FileInfo], footers: Sequence[FileMetaData], dropped: Collection[str]) -> list[pa.Schema]:
    """The columns of each file, without what differs between writers and changes no value, and without those dropped.

    Raises:
        InputError: a file has a column twice, or one that cannot be read.
    """
    schemas = []
    for file, footer in zip(files, footers, strict=True):
        schema = footer.schema.to_arrow_schema()
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise InputError(f"{file.url}: duplicate columns {twice}; expected each once")
        schema = pa.schema([field for field in schema if field.name not in dropped])
        _check_lists(file, schema)
        schemas.append(_plain(schema))
    return schemas


def unify(files: Sequence[FileInfo], schemas: Sequence[pa.Schema]) -> tuple[pa.Schema, list[str]]:
    """One schema for all files, and what to tell of it: columns may be missing in some files, types are widened.

    Numbers widen to larger ones. Types that have nothing in common become text, nested values as JSON.

    Raises:
        InputError: a type has nothing in common with another and is no text.
    """
    kinds: dict[str, dict[pa.DataType, FileInfo]] = {}
    for file, schema in zip(files, schemas, strict=True):
        for field in schema:
            kinds.setdefault(field.name, {}).setdefault(field.type, file)
    fields, notes = [], []
    for name, files_by_type in kinds.items():
        kind = _common(files_by_type)
        if kind is None:
            where = ", ".join(f"{kind} in {file.url.rsplit('/', 1)[-1]}" for kind, file in files_by_type.items())
            for odd, file in files_by_type.items():
                if any(pa.types.is_binary(leaf) or _is_fixed(leaf) for leaf in leaves(odd)):
                    raise InputError(
                        f"{file.url}: column {name!r}: got {where}, which have no type in common; leave it out by "
                        "input.drop_columns, or cast it to one type"
                    )
            kind = pa.large_string()
            notes.append(f"column {name!r} is carried as text: {where}")
        fields.append(pa.field(name, kind))
    return pa.schema(fields), notes


def _is_fixed(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_binary(kind) or pa.types.is_large_binary(kind))


def _common(kinds: Iterable[pa.DataType]) -> pa.DataType | None:
    """The type that values of all these types can be cast to; None where there is none."""
    try:
        whole = pa.unify_schemas([pa.schema([("", kind)]) for kind in kinds], promote_options="permissive")
        for kind in kinds:
            pa.nulls(0, kind).cast(whole.field(0).type)
    except pa.ArrowException:
        return None
    return whole.field(0).type


def _check_lists(file: FileInfo, schema: pa.Schema) -> None:
    """Refuse list views, which pyarrow (26) casts to lists that are not valid."""
    for column in schema:
        if any(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind) for kind in leaves(column.type)):
            raise InputError(
                f"{file.url}: column {column.name!r}: got {column.type}, expected lists; cast its list views, or leave "
                "it out by input.drop_columns"
            )


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema without what differs between writers and changes no value: encodings, nullability, metadata."""
    return pa.schema([(field.name, map_types(field.type, _without_view)) for field in schema])


def _without_view(kind: pa.DataType) -> pa.DataType:
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def count_candidates(footers: list[FileMetaData], column: str) -> int:
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


def _row_group(storage: Storage, file: FileInfo, footer: FileMetaData, group: int, columns: Sequence[str]) -> pa.Table:
    """One row group, of it the columns that are there.

    Raises:
        DamageError: it cannot be read.
    """
    with explained("read", file.url):
        try:
            # pre_buffer fetches a row group in a few large ranges, which a cache could only copy
            with storage.open(file, cache_type="none") as handle:
                opened = pq.ParquetFile(handle, metadata=footer, pre_buffer=True, page_checksum_verification=True)
                return _checked(_read_in_parts(opened, group, columns), footer.row_group(group).num_rows)
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):
                raise
            damage = error
    if is_beyond_reader(damage):
        raise InputError(f"{file.url}: row group {group} {BEYOND}: {damage}; write it in another way") from damage
    raise DamageError(f"row group {group} cannot be read: {damage}") from damage


def _read_in_parts(file: pq.ParquetFile, group: int, columns: Sequence[str]) -> pa.Table:
    """One row group; by fewer and fewer rows at a time where a nested column of it exceeds 2 GiB."""
    rows = file.metadata.row_group(group).num_rows
    try:
        return file.read_row_group(group, columns)
    except pa.ArrowNotImplementedError as error:
        if TOO_LARGE not in str(error) or rows == 1:
            raise
    while True:
        rows = -(-rows // 8)
        try:
            return pa.Table.from_batches(list(file.iter_batches(rows, row_groups=[group], columns=columns)))
        except pa.ArrowNotImplementedError as error:
            if TOO_LARGE not in str(error) or rows == 1:
                raise


def row_group_or_reason(
    storage: Storage, file: FileInfo, footer: FileMetaData, group: int, columns: Sequence[str]
) -> pa.Table | str:
    """One row group, or why it cannot be read."""
    try:
        return _row_group(storage, file, footer, group, columns)
    except DamageError:  # or what the network cut short
        try:
            return _row_group(storage, file, footer, group, columns)
        except DamageError as error:
            return str(error)


def _checked(table: pa.Table, rows: int) -> pa.Table:
    """The table, after what the Parquet reader leaves unchecked.

    Raises:
        pa.ArrowInvalid: it has another number of rows than the footer says, or its arrays do not fit together.
    """
    if len(table) != rows:
        raise pa.ArrowInvalid(f"got {len(table)} rows, expected {rows}")
    table.validate()
    for column in table.columns:
        for array in (inner for chunk in column.chunks for inner in _arrays(chunk)):
            if pa.types.is_dictionary(array.type):
                least, most = pc.min_max(array.indices).as_py().values()
                if least is not None and not 0 <= least <= most < len(array.dictionary):
                    raise pa.ArrowInvalid(f"indices from {least} to {most} into {len(array.dictionary)} values")
    return table


def _arrays(array: pa.Array) -> Iterator[pa.Array]:
    """The array and all arrays in it."""
    yield array
    inner = []
    if pa.types.is_struct(array.type):
        inner = [array.field(i) for i in range(array.type.num_fields)]
    elif pa.types.is_map(array.type):
        inner = [array.keys, array.items]
    elif hasattr(array, "values"):  # lists of every kind
        inner = [array.values]
    for child in inner:
        yield from _arrays(child)
