"""Mining and training: hard negatives of every block of entries, then the loop of `tart_ray.training`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tart_ray.training.examples import Query

SCHEMA = pa.schema(
    [("text", pa.string()), ("task", pa.string())]
    + [(name, pa.list_(pa.string())) for name in ("instructions", "positives", "negatives", "unfollowing")]
)
log = logging.getLogger(__name__)


def write_queries(path: Path, queries: Sequence[Query]) -> None:
    """Write Parquet."""
    rows = [{name: getattr(query, name) for name in SCHEMA.names} for query in queries]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, compression="zstd")


def read_queries(paths: Sequence[Path]) -> Iterator[Query]:
    """The queries of all files, in order."""
    for path in paths:
        for row in pq.read_table(path).to_pylist():
            yield Query(**{name: value if isinstance(value, str) else tuple(value) for name, value in row.items()})
