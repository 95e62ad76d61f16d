"""Tables as the bytes of one Parquet file, and back."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_parquet(file: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table that a Parquet file holds, or these columns of it, in this order."""
    table = pq.read_table(io.BytesIO(file), columns=columns and list(columns))
    return table if columns is None else table.select(columns)
