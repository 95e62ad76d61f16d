"""Hive partitions: ``key=value`` directories, as pyarrow, DuckDB and Spark read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.tables.printing import in_utc, printable
from tart_ray.tables.schemas import HIVE_NULL, Rule

MAX_NAME_BYTES = 255  # of a directory on a local disk


def partitions(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """The directories of each partition, and its rows without the partition columns, in their order.

    Values are percent-encoded, so that any text can be one, but for those that `partition_rules` condemns.
    """
    if not columns:
        yield (), table
        return
    keys = table.select(columns).append_column("_row", pa.array(range(len(table)), pa.int64()))
    grouped = keys.group_by(list(columns), use_threads=False).aggregate([("_row", "list")])
    for group in printable(grouped.sort_by([(name, "ascending") for name in columns])).to_pylist():
        path = tuple(_directory(name, group[name]) for name in columns)
        yield path, table.take(pa.array(group["_row_list"], pa.int64())).drop_columns(list(columns))


def partition_rules(table: pa.Table, columns: Sequence[str]) -> Iterator[Rule]:
    """Which rows have a value that no directory can stand for: it could not be written, or not be read back."""
    for name in columns:
        keys = pc.dictionary_encode(table[name].combine_chunks(), null_encoding="encode")
        reasons = list(_reasons(name, keys.dictionary))
        for reason in dict.fromkeys(filter(None, reasons)):
            yield np.array([other == reason for other in reasons])[keys.indices.to_numpy()], reason


def _reasons(name: str, values: pa.Array) -> Iterator[str | None]:
    """Why a directory cannot stand for each value; None where it can."""
    is_moment = pa.types.is_temporal(values.type)
    for text, value in zip(printable(pa.table({name: values}))[name].to_pylist(), values, strict=True):
        if len(_directory(name, text)) > MAX_NAME_BYTES:
            yield f"{name}: its partition's directory would have a name of more than {MAX_NAME_BYTES} bytes"
        elif text == HIVE_NULL:
            yield f"{name}: the text {HIVE_NULL} stands for null in the name of a partition's directory"
        elif text == "":
            yield f"{name}: an empty text is no name for a partition's directory, Spark refuses to read one"
        elif is_moment and text and not _is_read_back(text, value):
            yield f"{name}: {text} is too far from today to be read back from the name of a partition's directory"
        else:
            yield None


def _is_read_back(text: str, value: pa.Scalar) -> bool:
    kind = in_utc(value.type)
    try:
        return bool(pa.scalar(text).cast(kind) == value.cast(kind))
    except pa.ArrowInvalid:
        return False


def _directory(name: str, value: object) -> str:
    text = HIVE_NULL if value is None else quote(_text(value), safe="")
    return f"{quote(name, safe='')}={text}"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def is_hidden_partition(name: str) -> bool:
    """Whether readers such as pyarrow skip the directories of a column."""
    return name.startswith(("_", "."))


def partitionable(schema: pa.Schema) -> list[str]:
    """Columns whose values can name a directory that is read: text, integers, booleans, dates and timestamps."""
    is_text = (pa.types.is_string, pa.types.is_large_string)
    kinds = (*is_text, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date, pa.types.is_timestamp)
    named = [field.name for field in schema if any(is_kind(field.type) for is_kind in kinds)]
    return [name for name in named if not is_hidden_partition(name)]
