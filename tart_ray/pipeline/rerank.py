"""jobs.rerank from its configuration to its exit code: plan, prepare, score, rank, reconcile, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tart_ray
from tart_ray.command_line import ConfigurationError, ExitCode
from tart_ray.config import RerankConfig
from tart_ray.data.attempts import PoisonUnitError
from tart_ray.data.lease import Lease
from tart_ray.data.run import Record, Run, RunConflictError
from tart_ray.data.sources import InputError
from tart_ray.data.storage import Storage, StorageError, absolute
from tart_ray.model.checkpoint import CheckpointError
from tart_ray.pipeline.cluster import chunkwise_execution, connected
from tart_ray.pipeline.plan import Plan, identity, make_plan
from tart_ray.pipeline.prepare import Prepared, prepare
from tart_ray.pipeline.rank import rank_queries
from tart_ray.pipeline.report import render
from tart_ray.pipeline.score import LoadScorer, load_scorer, score
from tart_ray.pipeline.stopping import leased, stopped_by_signals

log = logging.getLogger(__name__)

BAD_CONFIGURATION = (ConfigurationError, InputError, StorageError, CheckpointError, RunConflictError)
EXPECTED = (*BAD_CONFIGURATION, PoisonUnitError)  # in a run that has begun: what a person can do something about


RAYS_ADVICE = "\nFailed to apply UDF transform"  # how Ray Data begins what it adds to messages: settings of its own


class RunFailedError(RuntimeError):
    """A run that began and could not end, for a reason that the message gives; what is committed stays."""


class ReconciliationError(RuntimeError):
    """Rows went in that did not come out: a fault of this program, never of the input."""


def rerank(config: RerankConfig, *, load: LoadScorer = load_scorer) -> ExitCode:
    """Run the job; a rerun of the same configuration continues where an earlier one stopped.

    Ends this process, with exit code 1, on SIGTERM and SIGINT, and when another driver has taken the output path over.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError, RunConflictError: before any work.
    """
    config = with_absolute_paths(config)
    storage = Storage(config.storage.fsspec_options("s3://"))
    run = Run.at(storage, config.output.path, config.limits.max_attempts_per_chunk)
    plan = make_plan(storage, config)
    who = identity(plan, config)
    if run.check(who) and run.is_complete():
        return _nothing_to_do(run)
    with (
        connected(config.cluster),
        chunkwise_execution(),
        leased(run) as lease,
        stopped_by_signals(lease),
    ):
        run.begin(who, {"config": config.model_dump(mode="json"), "tart_ray": tart_ray.__version__})
        if run.is_complete():  # by another driver, meanwhile
            return _nothing_to_do(run)
        try:
            return execute(run, plan, config, load, lease)
        except Exception as error:
            known = [cause for cause in causes(error) if isinstance(cause, EXPECTED)]
            if not known:
                raise
            raise RunFailedError(str(known[-1]).partition(RAYS_ADVICE)[0]) from error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, in this process or in a worker, the outermost first."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


def _nothing_to_do(run: Run) -> ExitCode:
    log.info("%s is complete already: nothing to do", run.path)
    return ExitCode.DONE


def execute(run: Run, plan: Plan, config: RerankConfig, load: LoadScorer, lease: Lease) -> ExitCode:
    """All stages of a run that has begun."""
    clock = Clock()
    with clock.timed("prepare"):
        prepared = prepare(run, plan, config.input.instruction, config.output.partition_by)
    with clock.timed("score"):
        scored = score(run, plan, config, prepared.chunks, load)
    with clock.timed("rank"):
        with_scores = {
            bucket: [chunk.id for chunk in chunks if scored[chunk.id]["rows"]]
            for bucket, chunks in prepared.buckets.items()
        }
        ranked = rank_queries(run, plan, config.output, with_scores)
    counts = reconcile(prepared, scored, ranked)
    allowed = counts["quarantined"] <= config.limits.max_quarantined_fraction * counts["read"]
    report = make_report(config, plan, counts, scored, clock.seconds)
    lease.confirm()
    run.finish(report, render(report), success=allowed)
    log.info("read %(read)s = scored %(scored)s + duplicates %(duplicates)s + quarantined %(quarantined)s", counts)
    if not allowed:
        log.error(
            "%d of %d rows were quarantined, more than limits.max_quarantined_fraction %s allows: see %s; _SUCCESS is "
            "not written. Raise the limit and rerun to accept the result as it is",
            counts["quarantined"], counts["read"], config.limits.max_quarantined_fraction, run.url("quarantine"),
        )  # fmt: skip
    return ExitCode.DONE if allowed else ExitCode.TOO_MANY_QUARANTINED


def with_absolute_paths(config: RerankConfig) -> RerankConfig:
    """Local paths made absolute: workers have working directories of their own."""
    output = config.output.model_copy(update={"path": absolute(config.output.path)})
    is_directory = Path(config.model.path).expanduser().is_dir()
    model = config.model.model_copy(update={"path": absolute(config.model.path)} if is_directory else {})
    return config.model_copy(update={"output": output, "model": model})


def reconcile(prepared: Prepared, scored: Mapping[str, Record], ranked: Mapping[str, Record]) -> dict[str, int]:
    """Counts of rows, after every one of them is accounted for.

    Raises:
        ReconciliationError: read ≠ scored + duplicates + quarantined, or not every scored row was ranked.
    """
    counts = {
        "read": prepared.read,
        "scored": sum(record["rows"] for record in scored.values()),
        "duplicates": prepared.duplicates,
        "quarantined": prepared.quarantined + sum(record["quarantined"] for record in scored.values()),
    }
    if counts["read"] != counts["scored"] + counts["duplicates"] + counts["quarantined"]:
        raise ReconciliationError(f"read ≠ scored + duplicates + quarantined: {counts}")
    seen = sum(record["rows"] for record in ranked.values())
    if seen != counts["scored"]:
        raise ReconciliationError(f"ranked {seen} rows of {counts['scored']} scored ones")
    return counts | {
        "written": sum(record["written"] for record in ranked.values()),
        "chunks": len(scored),
        "truncated": sum(record["truncated"] for record in scored.values()),
        "quarantined_queries_and_documents": prepared.other_quarantined,
        "duplicate_documents_in_corpus": prepared.corpus_duplicates,
    }


def make_report(
    config: RerankConfig,
    plan: Plan,
    counts: Mapping[str, int],
    scored: Mapping[str, Record],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What ``report.json`` says."""
    tokens = sum(record["tokens"] for record in scored.values())
    padded = sum(record["padded_tokens"] for record in scored.values())
    busy = sum(record["seconds"] for record in scored.values())
    return {
        "job": "rerank",
        "tart_ray": tart_ray.__version__,
        "counts": dict(counts),
        "tokens": tokens,
        "padding": 1 - tokens / padded if padded else 0.0,
        "seconds": dict(seconds),
        "replica_seconds": busy,
        "pairs_per_replica_second": counts["scored"] / busy if busy else None,
        "files": {role: len(source.files) for role, source in plan.sources.items()},
        "config": config.model_dump(mode="json"),
    }


class Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, stage: str) -> Any:
        """Time a stage."""
        started = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - started, 3)
