"""Rank: the score store to reranked/, one bucket of queries per task."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from tart_ray.config import OutputConfig
from tart_ray.engine.stages import run_stage
from tart_ray.runs.run import Record, Run
from tart_ray.scores.plan import Plan, output_schema, scores_schema
from tart_ray.scores.prepare import unit_name
from tart_ray.tables.hive import partitions
from tart_ray.tables.parquet import read_parquet
from tart_ray.tables.ranking import rank

RANKED = "rank"


def rank_queries(run: Run, plan: Plan, output: OutputConfig, scored: dict[str, list[str]]) -> dict[str, Record]:
    """Rank every query over all its chunks.

    Args:
        scored: for each bucket of queries, its chunks that have scores. All candidates of a query are in one bucket.
    """
    work = functools.partial(_rank_bucket, run, plan, output, scored)
    return run_stage(run, RANKED, list(scored), work)


def ranked_files(run: Run, identity: Mapping[str, Any]) -> dict[str, list[str]]:
    """The files of a finished run's ``reranked/``: URLs by partition, as in ``language=en/part=1``; "" without any.

    They follow from the run's identity and its commits: no listing decides what there is.

    Raises:
        StorageError: a commit is not there.
    """
    found: dict[str, list[str]] = {}
    buckets = [unit_name(bucket) for bucket in range(identity["plan"]["query_buckets"])]
    for unit, record in run.records(RANKED, buckets).items():
        for folder in record["partitions"]:
            parts = filter(None, ["reranked", *folder.split("/"), f"{unit}.parquet"])
            found.setdefault(folder, []).append(run.url(*parts))
    return found


def _rank_bucket(run: Run, plan: Plan, output: OutputConfig, scored: dict[str, list[str]], unit: str) -> Record:
    files = run.storage.read_many([run.url("scores", f"{chunk}.parquet") for chunk in scored[unit]])
    tables = [read_parquet(file) for file in files]
    scores = pa.concat_tables([scores_schema(plan).empty_table(), *tables])
    ranked = rank(scores, output.top_k).select(output_schema(plan).names)
    written = []
    for folder, part in partitions(ranked, output.partition_by):
        if len(part):
            run.write_table(part, "reranked", *folder, f"{unit}.parquet")
            written.append("/".join(folder))
    return {"rows": len(scores), "written": len(ranked), "partitions": written}
