"""A finished jobs.rerank whose scores another job reads, and the plan by which its input is prepared again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from tart_ray.config import RerankConfig, StorageConfig
from tart_ray.errors import ConfigurationError
from tart_ray.runs.run import MANIFEST, Run, differences
from tart_ray.scores.plan import FORMAT_VERSION, Plan, input_identity, make_plan
from tart_ray.scores.prepare import CHUNKS, read_stage, unit_name
from tart_ray.scores.score import SCORES
from tart_ray.storage import Storage
from tart_ray.tables.parquet import read_parquet


@dataclass(frozen=True)
class Scored:
    """The run whose scores are read, and the plan by which its input is prepared again."""

    run: Run
    config: RerankConfig
    plan: Plan
    identity: Mapping[str, Any]

    def as_read(self) -> Scored:
        """The same, once the run has read its candidates: its plan has the columns that they were found to have."""
        units = [unit_name(split.index) for split in self.plan.candidates.splits]
        return replace(self, plan=self.plan.as_read(self.run.records(read_stage("candidates"), units)))


@dataclass(frozen=True)
class ScoreStore:
    """The scores of a finished run. Pickles into every worker.

    ``chunks``: rows of each chunk; one without rows has no file.
    """

    run: Run
    chunks: Mapping[str, int]

    @classmethod
    def of(cls, run: Run, identity: Mapping[str, Any]) -> ScoreStore:
        """The scores of a finished run of this identity.

        Raises:
            StorageError: a commit is not there.
        """
        found = scored_chunks(run, identity).values()
        return cls(run, {chunk: rows for chunks in found for chunk, rows in chunks.items()})

    @property
    def rows(self) -> int:
        """Scored pairs."""
        return sum(self.chunks.values())

    def tables(self, columns: list[str]) -> Iterator[pa.Table]:
        """These columns, chunk by chunk."""
        for chunk in (chunk for chunk, rows in self.chunks.items() if rows):
            file = self.run.storage.read(self.run.url("scores", f"{chunk}.parquet"))
            yield read_parquet(file, columns)


def manifest_of_scores(run: Run, key: str) -> dict[str, Any]:
    """The manifest of a finished run of jobs.rerank, whose scores are to be used.

    Args:
        key: of the configuration, that names the run.

    Raises:
        ConfigurationError: there is no such run, it is not finished, or files of it are gone.
    """
    place = f"{key} {run.path}"
    if not run.storage.exists(run.url(MANIFEST)):
        raise ConfigurationError(f"{place}: no {MANIFEST} there; expected output.path of jobs.rerank")
    try:
        manifest: dict[str, Any] = json.loads(run.storage.read(run.url(MANIFEST)))
        job = manifest["identity"]["job"]
        manifest["config"]["model"]["path"]
        if job == "rerank":
            manifest["identity"]["plan"]["query_buckets"]
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{place}: {MANIFEST} is none of jobs.rerank") from None
    if job != "rerank":
        raise ConfigurationError(f"{place}: got a run of jobs.{job}, expected jobs.rerank")
    if not run.is_complete():
        raise ConfigurationError(f"{place}: has no _SUCCESS: finish it first")
    chunks = ScoreStore.of(run, manifest["identity"]).chunks
    expected = {f"{chunk}.parquet" for chunk, rows in chunks.items() if rows}
    unlisted = sorted(expected - set(run.storage.names(run.url("scores"))))  # a listing may lag
    missing = [name for name in unlisted if not run.storage.exists(run.url("scores", name))]
    if missing:
        raise ConfigurationError(
            f"{place}: {len(missing)} of {len(expected)} files are gone from scores/, such as {missing[0]}"
        )
    return manifest


def scored_chunks(run: Run, identity: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The chunks of a finished jobs.rerank by bucket of queries, and of each the number of rows in its scores.

    All names follow from the run's identity and its commits: no listing decides what there is.

    Raises:
        StorageError: a commit is not there.
    """
    cut = run.records(CHUNKS, [unit_name(bucket) for bucket in range(identity["plan"]["query_buckets"])])
    names = {bucket: [chunk for chunk, _ in record["chunks"]] for bucket, record in cut.items()}
    scores = run.records(SCORES, [chunk for chunks in names.values() for chunk in chunks])
    return {bucket: {chunk: scores[chunk]["rows"] for chunk in chunks} for bucket, chunks in names.items()}


def find_run(storage: Storage, path: str, options: StorageConfig, max_attempts: int) -> Scored:
    """The finished run at a path.

    Args:
        options: of the storage, in place of the run's own, whose secrets its manifest does not tell.

    Raises:
        ConfigurationError: there is no finished run, or its input has changed since it was scored.
        StorageError, InputError, CheckpointError: the input or the model is not there, or not as configured.
    """
    run = Run.at(storage, path, max_attempts)
    manifest = manifest_of_scores(run, "input.run")
    who = manifest["identity"]
    try:
        scoring = RerankConfig.model_validate({**manifest["config"], "storage": options.model_dump()})
    except ValidationError as error:
        raise ConfigurationError(f"input.run {run.path}: {error}") from None
    prepared_by = who.get("format_version")
    if prepared_by != FORMAT_VERSION:
        raise ConfigurationError(
            f"input.run {run.path}: was prepared by another release (tart-ray {manifest.get('tart_ray')}, format "
            f"{prepared_by}; this one has {FORMAT_VERSION}), so its texts could not be found again; go on with that "
            "release, or score the input again to another output.path"
        )
    plan = make_plan(storage, scoring)
    now = json.loads(json.dumps(input_identity(plan, scoring)))
    changes = differences({name: who.get(name) for name in now}, now)
    if changes:
        raise ConfigurationError(
            f"input.run {run.path}: its input has changed since it was scored, so texts and scores would not belong "
            "together; score it again, or, where files were only copied or touched, give them back their modification "
            "times (cp -p, touch -d). Differences:\n" + "\n".join(f"  {change}" for change in changes[:20])
        )
    return Scored(run, scoring, plan, who).as_read()
