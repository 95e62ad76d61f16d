"""The tables of a run that has ended, for who reads them in Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from tart_ray.errors import InputError
from tart_ray.input.listing import list_files
from tart_ray.locations import is_local
from tart_ray.mining.stages import MINE
from tart_ray.relabeling.stages import LABEL_PAIRS
from tart_ray.reranking.stages import ranked_files
from tart_ray.runs.directory import MANIFEST
from tart_ray.runs.run import Run
from tart_ray.scores.prepare import unit_names
from tart_ray.scores.store import ScoreStore

TABLES = (
    "reranked", "scores", "labels", "diff", "negatives", "positives", "shortfalls", "left_out", "per_query",
    "quarantine",
)  # fmt: skip

MINED = ("negatives", "positives", "shortfalls", "left_out")


def tables_of(run: Run) -> list[str]:
    """The tables that a run has rows of."""
    return [name for name in TABLES if run.storage.holds_files(run.url(name))]


def read_table(run: Run, table: str) -> ds.Dataset:
    """A table of a run; columns that partition it are text.

    What was scored, ranked, mined and found to differ is told by commits, all else by a listing.

    Raises:
        InputError: the run has no such table.
    """
    if table not in TABLES or not run.storage.holds_files(run.url(table)):
        raise InputError(f"{run.path}: got {table!r}, available: {tables_of(run)}")
    identity = json.loads(run.read(MANIFEST))["identity"]
    urls = _files(run, identity, table)
    filesystem, base = run.storage.resolve(run.url(table))
    local = is_local(run.path)
    keys = identity["output"]["partition_by"] if table == "reranked" else identity.get("partition_by") or ()
    return ds.dataset(
        [run.storage.resolve(url)[1] for url in urls],
        format="parquet",
        filesystem=LocalFileSystem() if local else PyFileSystem(FSSpecHandler(filesystem)),
        partitioning=ds.partitioning(pa.schema([(key, pa.string()) for key in keys]), flavor="hive") if keys else None,
        partition_base_dir=base,
    )


def _files(run: Run, identity: Mapping[str, Any], table: str) -> list[str]:
    if identity["job"] == "rerank" and table == "reranked":
        return ranked_files(run, _buckets(identity))
    if identity["job"] in ("rerank", "score") and table == "scores":
        return ScoreStore.open(run, identity).files
    if identity["job"] == "mine_negatives" and table in MINED:
        return [run.url(table, f"{unit}.parquet") for unit in run.records(MINE, _buckets(identity["scored"]))]
    if identity["job"] == "relabel" and table in ("scores", "diff"):
        labelled = run.records(LABEL_PAIRS, _buckets(identity["scores"]))
        written = [unit for unit, record in labelled.items() if table == "scores" or record.differs]
        return [run.url(table, f"{unit}.parquet") for unit in written]
    return [file.url for file in list_files(run.storage, run.url(table)).files]


def _buckets(identity: Mapping[str, Any]) -> list[str]:
    return unit_names(identity["plan"]["query_buckets"])
