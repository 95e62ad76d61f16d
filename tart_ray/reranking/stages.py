"""Rank: the score store to reranked/, one bucket of queries per task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.config import OutputConfig
from tart_ray.engine.stages import run_stage
from tart_ray.errors import ConfigurationError
from tart_ray.input.sources import Source
from tart_ray.runs.balance import ReconciliationError
from tart_ray.runs.directory import Directory
from tart_ray.runs.stage import Record, Stage
from tart_ray.scores.plan import Plan, scores_schema
from tart_ray.scores.prepare import read_chunk
from tart_ray.scores.store import ScoreStore
from tart_ray.tables import texts
from tart_ray.tables.hive import partitions
from tart_ray.tables.keys import positions
from tart_ray.tables.ranking import rank
from tart_ray.tables.schemas import CANDIDATES_COLUMN, RERANKED

PAIR = ("query_id", "doc_id")


class Ranked(Record):
    """A bucket of queries that is ranked.

    Attributes:
        queries: None in runs of older releases.
        partitions: that it wrote a file to, as in ``language=en/part=1``; "" where nothing partitions the output.
    """

    rows: int
    written: int
    partitions: tuple[str, ...]
    queries: int | None = None


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


def check_included(plan: Plan, wanted: Sequence[str]) -> None:
    """Refuse texts that the output cannot have.

    Raises:
        ConfigurationError: one is named twice, or the input has no titles.
    """
    sources = [source for source in (plan.candidates, plan.corpus) if source is not None]
    available = ["query", "text", *(["title"] if any(map(_has_titles, sources)) else [])]
    if len({*wanted}) < len(wanted) or not {*wanted} <= {*available}:
        is_sampled = any(source.format == "jsonl" for source in sources)
        sampled = "; of JSON lines, columns are those in a sample of the files" if is_sampled else ""
        raise ConfigurationError(f"output.include: got {[*wanted]}, available, once each: {available}{sampled}")


def _has_titles(source: Source) -> bool:
    """Whether its files show titles: JSON lines beyond a sample may always have some."""
    theirs, listed = source.columns.get("title"), source.columns.get(CANDIDATES_COLUMN)
    return theirs is not None and not {theirs, f"{listed}.{theirs}"}.isdisjoint(source.names)


def output_schema(plan: Plan) -> pa.Schema:
    """Columns of ``reranked/``, partition columns included, included texts not."""
    ranked = scores_schema(plan).append(pa.field("rank", pa.int32()))
    return pa.schema([ranked.field(name) for name in (*RERANKED, "instruction", *plan.candidates.extras.names)])


def _rank_bucket(run: Directory, plan: Plan, output: OutputConfig, store: ScoreStore, bucket: str) -> Ranked:
    scores = store.bucket(bucket, scores_schema(plan))
    ranked = rank(scores, output.top_k).select(output_schema(plan).names)
    if output.include and len(ranked):
        ranked = _with_texts(run, ranked, output.include, store.chunks[bucket])
    written = []
    for folder, part in partitions(ranked, output.partition_by):
        if len(part):
            run.write_table(texts.plain(part), *_path(folder, bucket))
            written.append("/".join(folder))
    queries = pc.count_distinct(scores["query_id"]).as_py()
    return Ranked(rows=len(scores), written=len(ranked), partitions=tuple(written), queries=queries)


def _with_texts(run: Directory, ranked: pa.Table, names: Sequence[str], chunks: Iterable[str]) -> pa.Table:
    """The rows with these columns of their chunks; those of documents as `texts.share` makes them.

    Raises:
        ReconciliationError: a pair that has a score is in no chunk.
    """
    prepared = pa.concat_tables([read_chunk(run, chunk).select([*PAIR, *names]) for chunk in chunks])
    at = positions(ranked, prepared, PAIR)
    if (at < 0).any():
        raise ReconciliationError(f"{run.path}: {(at < 0).sum()} of {len(ranked)} ranked pairs are in no chunk")
    found = prepared.select(list(names)).unify_dictionaries().take(pa.array(at))
    for name in names:
        ranked = ranked.append_column(name, found[name])
    return ranked


def _path(folder: Iterable[str], bucket: str) -> tuple[Any, ...]:
    return ("reranked", *folder, f"{bucket}.parquet")
