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


@dataclass(frozen=True)
class Scored:
    """The run whose scores are read, and the plan by which its input is prepared again."""

    run: Run
    config: RerankConfig
    plan: Plan
    identity: Mapping[str, Any]


def find_run(storage: Storage, path: str, options: StorageConfig, max_attempts: int) -> Scored:
    """The finished run at a path.

    Args:
        options: of the storage, in place of the run's own, whose secrets its manifest does not tell.

    Raises:
        ConfigurationError: there is no finished run, or its input has changed since it was scored.
        StorageError, InputError, CheckpointError: the input or the model is not there, or not as configured.
    """
    run = Run.at(storage, path, max_attempts)
    if not storage.exists(run.url(MANIFEST)):
        raise ConfigurationError(f"input.run {run.path}: no {MANIFEST} there; expected output.path of jobs.rerank")
    try:
        manifest = json.loads(storage.read(run.url(MANIFEST)))
        who = manifest["identity"]
        if who["job"] != "rerank":
            raise ConfigurationError(f"input.run {run.path}: got a run of jobs.{who['job']}, expected jobs.rerank")
        found = {**manifest["config"], "storage": options.model_dump()}
        scoring = RerankConfig.model_validate(found)
    except (ConfigurationError, ValidationError) as error:
        raise ConfigurationError(f"input.run {run.path}: {error}") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"input.run {run.path}: {MANIFEST} is none of jobs.rerank") from None
    if not run.is_complete():
        raise ConfigurationError(f"input.run {run.path}: has no _SUCCESS: finish it first")
    plan = make_plan(storage, scoring)
    now = json.loads(json.dumps(input_identity(plan, scoring)))
    changes = differences({name: who.get(name) for name in now}, now)
    if changes:
        raise ConfigurationError(
            f"input.run {run.path}: its input has changed since it was scored, so texts and scores would not belong "
            "together; score it again. Differences:\n" + "\n".join(f"  {change}" for change in changes[:20])
        )
    return Scored(run, scoring, plan, who)
