"""One query of a run: how its documents are ranked, labelled or mined, read from the bucket that it is in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tart_ray.errors import ConfigurationError, StorageError
from tart_ray.relabeling.stages import LABEL_PAIRS
from tart_ray.reranking.stages import RANK, ranked_files
from tart_ray.results import read_table, tables_of
from tart_ray.runs.run import Run
from tart_ray.runs.stage import Stage
from tart_ray.scores.prepare import unit_name
from tart_ray.scores.store import ScoreStore
from tart_ray.storage import is_missing
from tart_ray.tables.keys import bucket_of
from tart_ray.tables.parquet import read_parquet
from tart_ray.tables.ranking import rank

Rows = list[dict[str, Any]]
COLUMNS = ("query_id", "doc_id", "rank", "score", "margin", "first_stage_rank", "instruction", "text", "title")
NAMED = 5  # query ids that are named where one is not there


def ranking(run: Run, identity: Mapping[str, Any], query_id: str, top: int) -> Rows:
    """The best documents of a query in a run that ranks, or that scores for another.

    Raises:
        ConfigurationError: nothing is known of the query here, or not yet.
    """
    bucket = _bucket(query_id, identity["plan"]["query_buckets"])
    if _is_committed(run, RANK, bucket):
        tables = [_columns(run, url) for url in ranked_files(run, [bucket])]
    else:
        try:
            urls = ScoreStore.open(run, identity, [bucket]).files
        except StorageError as error:
            if not is_missing(error):
                raise
            raise ConfigurationError(
                f"{run.path}: --query: the bucket {bucket} of {query_id!r} is not scored yet; finish the run"
            ) from None
        tables = [_columns(run, url) for url in urls]
    table = pa.concat_tables(tables) if tables else pa.table({"query_id": pa.array([], pa.string())})
    found = _of_query(run, table, query_id)
    ranked = found.sort_by("rank") if "rank" in found.schema.names else rank(found)
    rows: Rows = ranked.slice(0, top).to_pylist()
    return rows


def labelled(run: Run, identity: Mapping[str, Any], query_id: str, top: int) -> Rows:
    """The best documents of a query in a run of relabelling, with ``label``, and ``old_label`` where it was another.

    Raises:
        ConfigurationError: nothing is known of the query here, or not yet.
    """
    bucket = _bucket(query_id, identity["scores"]["plan"]["query_buckets"])
    if not _is_committed(run, LABEL_PAIRS, bucket):
        raise ConfigurationError(f"{run.path}: --query: {query_id!r} is not labelled yet; finish the run")
    record = run.records(LABEL_PAIRS, [bucket])[bucket]
    table = run.read_table("scores", f"{bucket}.parquet", columns=[*COLUMNS[:2], *COLUMNS[3:7], "label"])
    rows: Rows = rank(_of_query(run, table, query_id), top).to_pylist()
    moved: dict[str, Any] = {}
    if record.differs:
        diff = run.read_table("diff", f"{bucket}.parquet", columns=["query_id", "doc_id", "status", "old_label"])
        moved = {row["doc_id"]: row for row in diff.filter(pc.field("query_id") == query_id).to_pylist()}
    return [row | {name: moved.get(row["doc_id"], {}).get(name) for name in ("status", "old_label")} for row in rows]


def mined(run: Run, query_id: str) -> dict[str, Rows]:
    """What mining made of a query: its rows of ``positives``, ``negatives``, ``shortfalls`` and ``left_out``.

    Raises:
        ConfigurationError: nothing is known of the query here.
    """
    found = _rows_of(run, ("positives", "negatives", "shortfalls", "left_out"), query_id)
    if not any(found.values()):
        raise ConfigurationError(f"{run.path}: got the query {query_id!r}, of which nothing was mined here")
    return found


def measured(run: Run, query_id: str) -> Rows:
    """What an evaluation measured on a query: rows of ``per_query``.

    Raises:
        ConfigurationError: it is not among the queries.
    """
    rows = _rows_of(run, ("per_query",), query_id).get("per_query", [])
    if not rows:
        raise ConfigurationError(f"{run.path}: got the query {query_id!r}, on which nothing was measured here")
    return rows


def _rows_of(run: Run, tables: Sequence[str], query_id: str) -> dict[str, Rows]:
    there = {*tables_of(run)}.intersection(tables)
    wanted = ds.field("query_id") == query_id
    try:
        return {name: read_table(run, name).to_table(filter=wanted).to_pylist() for name in there}
    except StorageError as error:
        if not is_missing(error):
            raise
        raise ConfigurationError(f"{run.path}: --query: not all queries are done yet; finish the run") from None


def _bucket(query_id: str, buckets: int) -> str:
    return unit_name(int(bucket_of(pa.array([query_id]), buckets)[0]))


def _is_committed(run: Run, stage: Stage[Any], unit: str) -> bool:
    try:
        run.records(stage, [unit])
    except StorageError as error:
        if is_missing(error):
            return False
        raise
    return True


def _columns(run: Run, url: str) -> pa.Table:
    """Of a file, those of `COLUMNS` that it has; other columns may be of other types elsewhere."""
    table = read_parquet(run.storage.read(url))
    return table.select([name for name in COLUMNS if name in table.schema.names])


def _of_query(run: Run, table: pa.Table, query_id: str) -> pa.Table:
    found = table.filter(pc.field("query_id") == query_id)
    if not len(found):
        near = pc.unique(table["query_id"])[:NAMED].to_pylist()
        raise ConfigurationError(
            f"{run.path}: got the query {query_id!r}, of which no document has a score here; queries such as {near}. "
            "--quarantine shows rows that have none"
        )
    return found
