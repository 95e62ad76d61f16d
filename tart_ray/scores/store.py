"""The score store: every scored pair of a run, by buckets of queries. It is built once and read by every job.

    scores/<chunk>.parquet     the pairs of a chunk that have a score
    _commits/chunk/<bucket>    which chunks a bucket of queries has
    _commits/score/<chunk>     that a chunk is scored, and how many of its pairs

Which files there are follows from the run's identity and its commits: no listing decides it. The store has no texts;
they are prepared again from the input, which gives the same chunks (`prepare_again`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from tart_ray.config import InputConfig, ModelConfig, OutputConfig, StorageConfig
from tart_ray.engine.stages import Pool, run_pool
from tart_ray.errors import ConfigurationError
from tart_ray.runs.balance import ReconciliationError
from tart_ray.runs.directory import MANIFEST, Directory
from tart_ray.runs.run import Run, differences
from tart_ray.scores.actor import ReplicaActor
from tart_ray.scores.plan import FORMAT_VERSION, Plan, make_plan
from tart_ray.scores.prepare import CUT_CHUNKS, Chunk, Prepared, prepare, read_stage, split_names, unit_names
from tart_ray.scores.releases import library_releases
from tart_ray.scores.replica import LoadScorer, load_scorer
from tart_ray.scores.scored import SCORE_CHUNKS, SCORES, Scored
from tart_ray.scores.spec import ScoringSpec
from tart_ray.storage import Storage
from tart_ray.tables.parquet import read_parquet

log = logging.getLogger(__name__)

JOBS = ("rerank", "score")  # whose runs are score stores, with other things beside


@dataclass(frozen=True)
class ScoreStore:
    """The scores of a run. Pickles into every worker.

    Attributes:
        directory: of the run.
        chunks: for each bucket of queries its chunks, and for each chunk the number of its rows that have a score. All
            candidates of a query are in one bucket.
    """

    directory: Directory
    chunks: Mapping[str, Mapping[str, int]]

    @classmethod
    def build(
        cls, directory: Directory, prepared: Prepared, spec: ScoringSpec, load: LoadScorer = load_scorer
    ) -> tuple[ScoreStore, dict[str, Scored]]:
        """Score every chunk that is not scored yet.

        Returns:
            The store, and the records of all chunks.
        """
        records = score(directory, prepared.plan, spec, prepared.chunks, load)
        return cls._of(directory, prepared.buckets, records), records

    @classmethod
    def reopen(cls, directory: Directory, prepared: Prepared) -> tuple[ScoreStore, dict[str, Scored]]:
        """What `build` returned of a finished run.

        Raises:
            StorageError: a commit is not there.
        """
        records = directory.records(SCORE_CHUNKS, [chunk.id for chunk in prepared.chunks])
        return cls._of(directory, prepared.buckets, records), records

    @classmethod
    def open(
        cls, directory: Directory, identity: Mapping[str, Any], buckets: Sequence[str] | None = None
    ) -> ScoreStore:
        """The scores of a finished run of this identity, or those of some buckets of a run.

        Raises:
            StorageError: a commit is not there.
        """
        buckets = buckets or unit_names(identity["plan"]["query_buckets"])
        cut = {bucket: record.chunks for bucket, record in directory.records(CUT_CHUNKS, buckets).items()}
        records = directory.records(SCORE_CHUNKS, [chunk.id for chunks in cut.values() for chunk in chunks])
        return cls._of(directory, cut, records)

    @classmethod
    def _of(
        cls, directory: Directory, buckets: Mapping[str, Sequence[Chunk]], records: Mapping[str, Scored]
    ) -> ScoreStore:
        return cls(
            directory,
            {bucket: {chunk.id: records[chunk.id].rows for chunk in found} for bucket, found in buckets.items()},
        )

    @property
    def rows(self) -> int:
        """Scored pairs."""
        return sum(sum(chunks.values()) for chunks in self.chunks.values())

    @property
    def files(self) -> list[str]:
        """URLs of all files; a chunk without rows has none."""
        return [url for bucket in self.chunks for url in self._files(bucket)]

    def bucket(self, bucket: str, schema: pa.Schema) -> pa.Table:
        """The scored pairs of a bucket of queries, with the columns of ``schema``."""
        files = self.directory.storage.read_many(self._files(bucket))
        tables = [read_parquet(file, schema.names).cast(schema) for file in files]
        return pa.concat_tables([schema.empty_table(), *tables])

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """These columns of all scored pairs, chunk by chunk."""
        for url in self.files:
            yield read_parquet(self.directory.storage.read(url), columns)

    def _files(self, bucket: str) -> list[str]:
        return [self.directory.url(SCORES, f"{chunk}.parquet") for chunk, rows in self.chunks[bucket].items() if rows]


def score(
    directory: Directory, plan: Plan, spec: ScoringSpec, chunks: Sequence[Chunk], load: LoadScorer = load_scorer
) -> dict[str, Scored]:
    """Score every chunk that is not committed; the records of all."""
    replicas = spec.cluster.replicas
    pool = Pool(
        actor=ReplicaActor,
        arguments=(directory, plan, spec, library_releases(spec.family), load),
        least=replicas.min,
        most=replicas.max,
        cpus=spec.cluster.cpus_per_replica,
        gpus=spec.cluster.gpus_per_replica,
    )
    return run_pool(directory, SCORE_CHUNKS, [chunk.id for chunk in chunks], pool, sum(chunk.rows for chunk in chunks))


@dataclass(frozen=True)
class StoredRun:
    """A finished run whose scores another job reads, and the plan by which its input is prepared again."""

    run: Run
    plan: Plan
    partition_by: Sequence[str]
    model: str  # the checkpoint's path
    identity: Mapping[str, Any]
    store: ScoreStore

    @property
    def warnings(self) -> list[str]:
        """Sentences of its report."""
        warnings: list[str] = json.loads(self.run.read("report.json")).get("warnings", [])
        return warnings


def prepare_again(directory: Directory, plan: Plan, partition_by: Sequence[str], store: ScoreStore) -> Prepared:
    """The input of a store's run in chunks, with its texts, as they were when they were scored.

    Args:
        partition_by: as the run was prepared with.

    Raises:
        ReconciliationError: the chunks are others.
    """
    prepared = prepare(directory, plan, partition_by)
    again = {bucket: [chunk.id for chunk in found] for bucket, found in prepared.buckets.items()}
    if again != {bucket: [*found] for bucket, found in store.chunks.items()}:
        raise ReconciliationError(f"{store.directory.path}: its input was prepared again, and gave other chunks")
    return prepared


def as_read(plan: Plan, directory: Directory) -> Plan:
    """The plan with the columns that the candidates had when a run in a directory read them."""
    records = directory.records(read_stage("candidates"), split_names(plan.candidates))
    return plan.as_read([record.fields for record in records.values()])


def open_finished(run: Run, key: str) -> tuple[dict[str, Any], ScoreStore]:
    """The manifest of a finished run, and its score store.

    Args:
        key: of the configuration, that names the run.

    Raises:
        ConfigurationError: there is no such run, it is not finished, or files of it are gone.
    """
    place = f"{key} {run.path}"
    if not run.storage.exists(run.url(MANIFEST)):
        raise ConfigurationError(f"{place}: no {MANIFEST} there; expected output.path of jobs.rerank")
    try:
        manifest: dict[str, Any] = json.loads(run.read(MANIFEST))
        job = manifest["identity"]["job"]
        manifest["config"]["model"]["path"]
        if job in JOBS:
            manifest["identity"]["plan"]["query_buckets"]
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{place}: {MANIFEST} is none of jobs.rerank") from None
    if job not in JOBS:
        raise ConfigurationError(f"{place}: got a run of jobs.{job}, expected jobs.rerank")
    if not run.is_complete():
        raise ConfigurationError(f"{place}: has no _SUCCESS: finish it first")
    store = ScoreStore.open(run, manifest["identity"])
    expected = {url.rpartition("/")[2] for url in store.files}
    unlisted = sorted(expected - set(run.storage.names(run.url(SCORES))))  # a listing may lag
    missing = [name for name in unlisted if not run.storage.exists(run.url(SCORES, name))]
    if missing:
        raise ConfigurationError(
            f"{place}: {len(missing)} of {len(expected)} files are gone from scores/, such as {missing[0]}"
        )
    return manifest, store


def find_run(storage: Storage, path: str, options: StorageConfig, max_attempts: int) -> StoredRun:
    """The finished run at a path.

    Args:
        options: of the storage, in place of the run's own, whose secrets its manifest does not tell.

    Raises:
        ConfigurationError: there is no finished run, or its input has changed since it was scored.
        StorageError, InputError: the input is not there, or not as configured.
    """
    run = Run.at(storage, path, max_attempts)
    manifest, store = open_finished(run, "input.run")
    identity, config = manifest["identity"], manifest["config"]
    try:
        given = InputConfig.model_validate(config["input"])
        model = ModelConfig.model_validate(config["model"])
        partition_by = OutputConfig.model_validate(config["output"]).partition_by
    except ValidationError as error:
        raise ConfigurationError(f"input.run {run.path}: {error}") from None
    prepared_by = identity.get("format_version")
    if prepared_by != FORMAT_VERSION:
        raise ConfigurationError(
            f"input.run {run.path}: was prepared by another release (tart-ray {manifest.get('tart_ray')}, format "
            f"{prepared_by}; this one has {FORMAT_VERSION}), so its texts could not be found again; go on with that "
            "release, or score the input again to another output.path"
        )
    plan = make_plan(storage, given, windows=model.long_documents == "maxp")
    now = json.loads(json.dumps(plan.identity))
    changes = differences({name: identity.get(name) for name in now}, now)
    if changes:
        raise ConfigurationError(
            f"input.run {run.path}: its input has changed since it was scored, so texts and scores would not belong "
            "together; score it again, or, where files were only copied or touched, give them back their modification "
            "times (cp -p, touch -d). Differences:\n" + "\n".join(f"  {change}" for change in changes[:20])
        )
    return StoredRun(run, as_read(plan, run), partition_by, model.path, identity, store)
