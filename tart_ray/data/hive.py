"""Hive partitions: ``key=value`` directories, as pyarrow, DuckDB and Spark read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote

import pyarrow as pa

from tart_ray.data.quarantine import printable
from tart_ray.data.schema import HIVE_NULL


def partitions(table: pa.Table, columns: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pa.Table]]:
    """The directories of each partition, and its rows without the partition columns, in their order.

    Values are percent-encoded, so that any text can be one.
    """
    if not columns:
        yield (), table
        return
    keys = table.select(columns).append_column("_row", pa.array(range(len(table)), pa.int64()))
    grouped = keys.group_by(list(columns), use_threads=False).aggregate([("_row", "list")])
    for group in printable(grouped.sort_by([(name, "ascending") for name in columns])).to_pylist():
        path = tuple(
            f"{quote(name, safe='')}={HIVE_NULL if group[name] is None else quote(_text(group[name]), safe='')}"
            for name in columns
        )
        yield path, table.take(pa.array(group["_row_list"], pa.int64())).drop_columns(list(columns))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def partitionable(schema: pa.Schema) -> list[str]:
    """Columns whose values can name a directory: text, integers, booleans, dates and timestamps."""
    is_text = (pa.types.is_string, pa.types.is_large_string)
    kinds = (*is_text, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date, pa.types.is_timestamp)
    return [field.name for field in schema if any(is_kind(field.type) for is_kind in kinds)]
