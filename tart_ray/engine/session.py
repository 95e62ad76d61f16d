"""What all jobs share: how a run is begun or continued, how it ends, and what a user is told."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tart_ray
from tart_ray.config import Section
from tart_ray.engine.cluster import Room, chunkwise_execution, connected
from tart_ray.engine.places import Reads, prove_shared
from tart_ray.engine.stopping import leased, stoppable, stopped_by_signals
from tart_ray.errors import (
    CONTINUE,
    ELSEWHERE,
    MEND,
    MEND_ELSEWHERE,
    RESTORE,
    STAYS,
    CheckpointChangedError,
    CheckpointError,
    ConfigurationError,
    ExitCode,
    InputChangedError,
    InputError,
    InputFailedError,
    InputWasChangedError,
    OtherReleaseError,
    PoisonUnitError,
    RunConflictError,
    RunFailedError,
    RunLostError,
    StorageError,
    TartRayError,
)
from tart_ray.runs.lease import Lease
from tart_ray.runs.report import render
from tart_ray.runs.run import Run

log = logging.getLogger(__name__)

# in a run that has begun: what a person can do something about
EXPECTED = (
    ConfigurationError,
    InputError,
    StorageError,
    CheckpointError,
    RunConflictError,
    PoisonUnitError,
    OtherReleaseError,
)
RAYS_ADVICE = "\nFailed to apply UDF transform"  # how Ray Data begins what it adds to messages: settings of its own


class ReconciliationError(RuntimeError):
    """Rows went in that did not come out: a fault of this program, never of the input."""


def exit_code_of(work: Callable[[], ExitCode]) -> ExitCode:
    """Do the work of a job; what it raises becomes an exit code and a message on stderr."""
    try:
        return work()
    except TartRayError as error:
        kind = "configuration error" if error.exit_code == ExitCode.BAD_CONFIGURATION else "the job failed"
        print(f"{kind}: {error}", *([error.advice] if error.advice else []), sep="\n", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except Exception:
        log.exception("the job failed; %s", CONTINUE)
        return ExitCode.FAILED


def execute_run(
    run: Run,
    identity: Mapping[str, Any],
    config: Section,
    address: str,
    room: Room | None,
    reads: Reads,
    execute: Callable[[Run, Lease], ExitCode],
    *,
    ends_process: bool,
) -> ExitCode:
    """Begin the run or continue it, under its lease and on the cluster; one that is complete is left alone.

    Args:
        identity: what must be equal for a rerun to continue the run.
        config: goes into the manifest.
        address: of the cluster, which must have the room.
        reads: files of the input and of the model; local ones must be the same on all nodes.
        execute: all stages of a run that has begun, which it is given.
        ends_process: of a command: what ends the work from outside ends this process.

    Raises:
        RunConflictError, ConfigurationError, StorageError: before any work.
        RunFailedError: the run began and could not end.
    """
    if run.check(identity) and run.is_complete():
        return nothing_to_do(run)
    with at_work(run, address, room, reads, ends_process=ends_process) as lease:
        return continue_run(run, identity, config, lambda begun: execute(begun, lease))


@contextmanager
def at_work(place: Run, address: str, room: Room | None, reads: Reads, *, ends_process: bool) -> Iterator[Lease]:
    """On the cluster, with the lease of a directory, until the block ends or the work is ended from outside."""
    with (
        stoppable(ends_process=ends_process) as stop,
        connected(address, room, stop),
        chunkwise_execution(),
        leased(place, stop) as lease,
        stopped_by_signals(stop),
    ):
        prove_shared(place, reads)
        yield lease


def continue_run(
    run: Run,
    identity: Mapping[str, Any],
    config: Section,
    execute: Callable[[Run], ExitCode],
    *,
    mend: str | None = None,
) -> ExitCode:
    """Begin the run or continue it, unless it is complete; for who is `at_work`.

    Args:
        execute: all stages of a run that has begun, which it is given.
        mend: what to do where the input is at fault, if that is another thing than for most jobs.

    Raises:
        RunConflictError: another run is there.
        RunFailedError: the run began and could not end.
    """
    run = run.begin(identity, {"config": config.model_dump(mode="json"), "tart_ray": tart_ray.__version__})
    if run.is_complete():  # by another driver, meanwhile
        return nothing_to_do(run)
    try:
        return execute(run)
    except Exception as error:
        failure = _explained(run, error)
        if failure is None:
            raise
        if isinstance(failure, InputFailedError):
            keep = RESTORE if isinstance(failure, InputWasChangedError) else MEND_ELSEWHERE
            failure.advice = mend or (keep if run.holds_scores() else MEND)
            run.fail(str(failure))
        raise failure from error


def _explained(run: Run, error: Exception) -> RunFailedError | None:
    """What a person is told of an error of a run that has begun; None if it is no error that a person can mend."""
    try:
        run.confirm()
    except RunLostError as lost:  # then whatever failed did so because of that
        return RunFailedError(str(lost), ELSEWHERE)
    except StorageError:  # what failed first is what is told
        pass
    if isinstance(error, RunFailedError):
        return error
    known = [cause for cause in causes(error) if isinstance(cause, EXPECTED)]
    if not known:
        return None
    cause, message = known[-1], str(known[-1]).partition(RAYS_ADVICE)[0]
    if isinstance(cause, (CheckpointChangedError, OtherReleaseError)):  # their messages say what to do
        return RunFailedError(message, STAYS)
    if isinstance(cause, InputChangedError):
        return InputWasChangedError(message)
    return InputFailedError(message) if isinstance(cause, (InputError, CheckpointError)) else RunFailedError(message)


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
    held: str | None = None,
    table: Sequence[Sequence[str]] = (),
    picture: str = "",
) -> ExitCode:
    """Write the report, and ``_SUCCESS`` unless more rows were quarantined or more labels changed than allowed.

    Args:
        report: its ``counts`` have ``read`` and ``quarantined``; its ``warnings``, if any, are sentences.
        summary: how the counts reconcile, in a sentence.
        figures: a section of the page.
        allowed_bad: limits.max_quarantined_fraction.
        held: why too many labels changed, if they did.
        table, picture: results to show on the page: cells, the header first, and SVG.
    """
    counts = report["counts"]
    allowed = bool(counts["quarantined"] <= allowed_bad * counts["read"])
    page = render(report, summary, figures, table, picture)
    for warning in report.get("warnings", ()):
        log.warning("%s", warning)
    run.finish(report, page, success=allowed and not held, confirm=lease.confirm)
    log.info("%s", summary)
    if not allowed:
        log.error(
            "%d of %d rows were quarantined, more than limits.max_quarantined_fraction %s allows: see %s; _SUCCESS is "
            "not written. Raise the limit and rerun to accept the result as it is",
            counts["quarantined"], counts["read"], allowed_bad, run.url("quarantine"),
        )  # fmt: skip
        return ExitCode.TOO_MANY_QUARANTINED
    if held:
        log.error("%s; _SUCCESS is not written. Raise the limit and rerun to accept the result as it is", held)
        return ExitCode.TOO_MANY_CHANGED
    return ExitCode.DONE


def tell(notes: Mapping[str, Sequence[str]]) -> None:
    """Log what was left out or changed of each input."""
    for name, found in notes.items():
        for note in found:
            log.info("%s: %s", name, note)


def as_figures(notes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The same for the page of a report."""
    return {f"{name}: {note}": "" for name, found in notes.items() for note in found}


def nothing_to_do(run: Run) -> ExitCode:
    """Say so."""
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
