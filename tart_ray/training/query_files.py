"""Queries as a Parquet file: how a run keeps its examples for its workers."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from tart_ray.tables.parquet import parquet_bytes, read_parquet
from tart_ray.training.examples import Query

TEXTS = pa.list_(pa.large_string())
NUMBERS = pa.list_(pa.float64())
QUERIES = pa.schema(
    [
        ("text", pa.large_string()),
        ("task", pa.string()),
        ("positives", TEXTS),
        ("negatives", TEXTS),
        ("unfollowing", TEXTS),
        ("positive_scores", NUMBERS),
        ("negative_scores", NUMBERS),
        ("instructions", TEXTS),
    ]
)
ROWS_PER_BATCH = 4_096


def encode_queries(queries: Sequence[Query]) -> bytes:
    """The content of a Parquet file with these queries, in the schema `QUERIES`."""
    rows = [{name: getattr(query, name) for name in QUERIES.names} for query in queries]
    return parquet_bytes(pa.Table.from_pylist(rows, schema=QUERIES))


def decode_queries(data: bytes) -> list[Query]:
    """The queries of a file that `encode_queries` wrote."""
    table = read_parquet(data)
    sets: dict[tuple[str, ...], tuple[str, ...]] = {}  # queries of a task share one tuple of instructions
    queries = []
    for batch in table.to_batches(max_chunksize=ROWS_PER_BATCH):
        for row in batch.to_pylist():
            lists = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
            lists["instructions"] = sets.setdefault(lists["instructions"], lists["instructions"])
            queries.append(Query(row["text"], row["task"], **lists))
    return queries
