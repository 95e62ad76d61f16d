"""Columns of grades and labels: integers, however they are written."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def can_be_grades(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold grades: integers, booleans, and integers that are written as floats.

    (pandas makes floats of an integer column as soon as one value is missing.)
    """
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind))


def grades(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as int64, null for NaN.

    Raises:
        ValueError: a value is no integer of 64 bits.
    """
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
        broken = column.filter(pc.not_equal(column, pc.trunc(column)))
        if len(broken):
            raise ValueError(f"{name}: expected integers: got {broken[0]}")
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise ValueError(f"{name}: expected integers: {error}") from None
