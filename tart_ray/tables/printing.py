"""Values as text: where Python has no value for what Arrow holds, and in columns for people."""

from __future__ import annotations

from collections.abc import Sequence

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


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text, columns aligned."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)
