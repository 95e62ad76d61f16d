"""What all jobs share: how a run is begun or continued, how it ends, and what a user is told."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tart_ray
from tart_ray.command_line import ConfigurationError, ExitCode
from tart_ray.config import ClusterConfig, Section
from tart_ray.data.attempts import PoisonUnitError
from tart_ray.data.lease import Lease
from tart_ray.data.run import MANIFEST, Run, RunConflictError
from tart_ray.data.sources import InputError
from tart_ray.data.storage import StorageError
from tart_ray.model.checkpoint import CheckpointError
from tart_ray.pipeline.cluster import chunkwise_execution, connected
from tart_ray.pipeline.report import render
from tart_ray.pipeline.stopping import leased, stopped_by_signals

log = logging.getLogger(__name__)

BAD_CONFIGURATION = (ConfigurationError, InputError, StorageError, CheckpointError, RunConflictError)
EXPECTED = (*BAD_CONFIGURATION, PoisonUnitError)  # in a run that has begun: what a person can do something about
CONTINUE = "run the same command again to continue where it stopped"
MEND = "what is done stays; mend the input or the configuration, and give another output.path"
RAYS_ADVICE = "\nFailed to apply UDF transform"  # how Ray Data begins what it adds to messages: settings of its own


class RunFailedError(RuntimeError):
    """A run that began and could not end, for a reason that the message gives; what is committed stays.

    ``advice``: what to do about it.
    """

    def __init__(self, message: str, advice: str = CONTINUE) -> None:
        super().__init__(message)
        self.advice = advice


class ReconciliationError(RuntimeError):
    """Rows went in that did not come out: a fault of this program, never of the input."""


def exit_code_of(work: Callable[[], ExitCode]) -> ExitCode:
    """Do the work of a job; what it raises becomes an exit code and a message on stderr."""
    try:
        return work()
    except BAD_CONFIGURATION as error:
        print(f"configuration error: {error}", file=sys.stderr)  # noqa: T201
        return ExitCode.BAD_CONFIGURATION
    except RunFailedError as error:
        print(f"the job failed: {error}\n{error.advice}", file=sys.stderr)  # noqa: T201
        return ExitCode.FAILED
    except Exception:
        log.exception("the job failed; %s", CONTINUE)
        return ExitCode.FAILED


def execute_run(
    run: Run,
    identity: Mapping[str, Any],
    config: Section,
    cluster: ClusterConfig,
    execute: Callable[[Lease], ExitCode],
    *,
    replicas: bool = True,
) -> ExitCode:
    """Begin the run or continue it, under its lease and on the cluster; one that is complete is left alone.

    Args:
        identity: what must be equal for a rerun to continue the run.
        config: goes into the manifest.
        replicas: the cluster must have room for them.
        execute: all stages of a run that has begun.

    Raises:
        RunConflictError, ConfigurationError, StorageError: before any work.
        RunFailedError: the run began and could not end.
    """
    if run.check(identity) and run.is_complete():
        return _nothing_to_do(run)
    with (
        connected(cluster, replicas=replicas),
        chunkwise_execution(),
        leased(run) as lease,
        stopped_by_signals(),
    ):
        run.begin(identity, {"config": config.model_dump(mode="json"), "tart_ray": tart_ray.__version__})
        if run.is_complete():  # by another driver, meanwhile
            return _nothing_to_do(run)
        try:
            return execute(lease)
        except Exception as error:
            known = [cause for cause in causes(error) if isinstance(cause, EXPECTED)]
            if not known:
                raise
            advice = MEND if isinstance(known[-1], InputError) else CONTINUE
            raise RunFailedError(str(known[-1]).partition(RAYS_ADVICE)[0], advice) from error


def manifest_of_scores(run: Run, key: str) -> dict[str, Any]:
    """The manifest of a finished run of jobs.rerank, whose scores are to be used.

    Args:
        key: of the configuration, that names the run.

    Raises:
        ConfigurationError: there is no such run, or it is not finished.
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
    expected = {f"{chunk}.parquet" for chunk, record in run.committed("score").items() if record["rows"]}
    missing = sorted(expected - set(run.storage.names(run.url("scores"))))
    if missing:
        raise ConfigurationError(
            f"{place}: {len(missing)} of {len(expected)} files are gone from scores/, such as {missing[0]}"
        )
    return manifest


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, in this process or in a worker, the outermost first."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


def finish(
    run: Run,
    lease: Lease,
    report: Mapping[str, Any],
    summary: str,
    figures: Mapping[str, Any],
    *,
    allowed_bad: float,
    table: Sequence[Sequence[str]] = (),
    picture: str = "",
) -> ExitCode:
    """Write the report, and ``_SUCCESS`` unless more rows were quarantined than allowed.

    Args:
        report: its ``counts`` have ``read`` and ``quarantined``.
        summary: how the counts reconcile, in a sentence.
        figures: a section of the page.
        allowed_bad: limits.max_quarantined_fraction.
        table, picture: results to show on the page: cells, the header first, and SVG.
    """
    counts = report["counts"]
    allowed = bool(counts["quarantined"] <= allowed_bad * counts["read"])
    lease.confirm()
    run.finish(report, render(report, summary, figures, table, picture), success=allowed)
    log.info("%s", summary)
    if not allowed:
        log.error(
            "%d of %d rows were quarantined, more than limits.max_quarantined_fraction %s allows: see %s; _SUCCESS is "
            "not written. Raise the limit and rerun to accept the result as it is",
            counts["quarantined"], counts["read"], allowed_bad, run.url("quarantine"),
        )  # fmt: skip
    return ExitCode.DONE if allowed else ExitCode.TOO_MANY_QUARANTINED


def _nothing_to_do(run: Run) -> ExitCode:
    log.info("%s is complete already: nothing to do", run.path)
    return ExitCode.DONE


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
