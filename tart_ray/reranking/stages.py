"""Rank: the score store to reranked/, one bucket of queries per task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from tart_ray.config import OutputConfig
from tart_ray.engine.stages import run_stage
from tart_ray.runs.directory import Directory
from tart_ray.runs.stage import Record, Stage
from tart_ray.scores.plan import Plan, scores_schema
from tart_ray.scores.store import ScoreStore
from tart_ray.tables.hive import partitions
from tart_ray.tables.ranking import rank
from tart_ray.tables.schemas import RERANKED


class Ranked(Record):
    """A bucket of queries that is ranked.

    Attributes:
        partitions: that it wrote a file to, as in ``language=en/part=1``; "" where nothing partitions the output.
    """

    rows: int
    written: int
    partitions: tuple[str, ...]


RANK = Stage("rank", Ranked)


def rank_queries(run: Directory, plan: Plan, output: OutputConfig, store: ScoreStore) -> dict[str, Ranked]:
    """Rank every query over all its chunks."""
    return run_stage(run, RANK, list(store.chunks), lambda bucket: _rank_bucket(run, plan, output, store, bucket))


def ranked_files(run: Directory, buckets: Sequence[str]) -> list[str]:
    """URLs of the files of ``reranked/`` that hold buckets of queries: their commits tell them, not a listing.

    Raises:
        StorageError: a commit is not there.
    """
    records = run.records(RANK, buckets)
    return [
        run.url(*_path(folder.split("/") if folder else (), bucket))
        for bucket, record in records.items()
        for folder in record.partitions
    ]


def output_schema(plan: Plan) -> pa.Schema:
    """Columns of ``reranked/``, partition columns included."""
    ranked = scores_schema(plan).append(pa.field("rank", pa.int32()))
    return pa.schema([ranked.field(name) for name in (*RERANKED, "instruction", *plan.candidates.extras.names)])


def _rank_bucket(run: Directory, plan: Plan, output: OutputConfig, store: ScoreStore, bucket: str) -> Ranked:
    scores = store.bucket(bucket, scores_schema(plan))
    ranked = rank(scores, output.top_k).select(output_schema(plan).names)
    written = []
    for folder, part in partitions(ranked, output.partition_by):
        if len(part):
            run.write_table(part, *_path(folder, bucket))
            written.append("/".join(folder))
    return Ranked(rows=len(scores), written=len(ranked), partitions=tuple(written))


def _path(folder: Iterable[str], bucket: str) -> tuple[Any, ...]:
    return ("reranked", *folder, f"{bucket}.parquet")
