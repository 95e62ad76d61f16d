"""Values as text, where Python has no value for what Arrow holds."""

from __future__ import annotations

import pyarrow as pa

from tart_ray.tables.schemas import map_types


def printable(table: pa.Table) -> pa.Table:
    """The table with dates and times as text, also inside of other values: Arrow holds ones that Python cannot."""
    for change in (in_utc, _as_text):  # a time zone need not be known here
        table = table.cast(pa.schema([(f.name, map_types(f.type, change)) for f in table.schema]))
    return table


def in_utc(kind: pa.DataType) -> pa.DataType:
    """The type for the same moments without their time zone."""
    return pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz else kind


def _as_text(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_temporal(kind) else kind
