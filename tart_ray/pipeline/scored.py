"""A finished jobs.rerank whose scores another job reads, and the plan by which its input is prepared again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tart_ray.command_line import ConfigurationError
from tart_ray.config import RerankConfig, StorageConfig
from tart_ray.data.run import MANIFEST, Run, differences
from tart_ray.data.storage import Storage
from tart_ray.pipeline.plan import Plan, input_identity, make_plan
from tart_ray.pipeline.score import SCORES


@dataclass(frozen=True)
class Scored:
    """The run whose scores are read, and the plan by which its input is prepared again."""

    run: Run
    config: RerankConfig
    plan: Plan
    identity: Mapping[str, Any]


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
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{place}: {MANIFEST} is none of jobs.rerank") from None
    if job != "rerank":
        raise ConfigurationError(f"{place}: got a run of jobs.{job}, expected jobs.rerank")
    if not run.is_complete():
        raise ConfigurationError(f"{place}: has no _SUCCESS: finish it first")
    expected = {f"{chunk}.parquet" for chunk, record in run.committed(SCORES).items() if record["rows"]}
    missing = sorted(expected - set(run.storage.names(run.url("scores"))))
    if missing:
        raise ConfigurationError(
            f"{place}: {len(missing)} of {len(expected)} files are gone from scores/, such as {missing[0]}"
        )
    return manifest


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
    plan = make_plan(storage, scoring)
    now = json.loads(json.dumps(input_identity(plan, scoring)))
    changes = differences({name: who.get(name) for name in now}, now)
    if changes:
        raise ConfigurationError(
            f"input.run {run.path}: its input has changed since it was scored, so texts and scores would not belong "
            "together; score it again. Differences:\n" + "\n".join(f"  {change}" for change in changes[:20])
        )
    return Scored(run, scoring, plan, who)
