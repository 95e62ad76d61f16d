"""A session: one driver at work, from taking the lease of a directory to the report of a run.

with at_work(run, needs, ends_process=…) as session, session.begun(run, identity, config) as run:
    if run.is_complete():
        return nothing_to_do(run)
    with session.timed("read"):
        …
    return session.finish(run, Outcome(…))
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tart_ray.engine.cluster import Room, chunkwise_execution, connected
from tart_ray.engine.outcome import Config, Outcome, conclude
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
from tart_ray.runs.directory import Directory
from tart_ray.runs.lease import Lease
from tart_ray.runs.run import Run
from tart_ray.version import __version__

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


@dataclass(frozen=True)
class Needs:
    """What a job needs of its cluster.

    Attributes:
        address: of the cluster.
        room: that it must have.
        reads: files of the input and of the model; local ones must be the same on all nodes.
    """

    address: str
    room: Room | None
    reads: Reads


@contextmanager
def at_work(directory: Directory, needs: Needs, *, ends_process: bool) -> Iterator[Session]:
    """On the cluster, with the lease of a directory, until the block ends or the work is ended from outside.

    Args:
        ends_process: of a command: what ends the work from outside ends this process.

    Raises:
        RunConflictError, ConfigurationError, StorageError: before any work.
        RunFailedError: the lease or the cluster was lost.
    """
    with (
        stoppable(ends_process=ends_process) as stop,
        connected(needs.address, needs.room, stop),
        chunkwise_execution(),
        leased(directory, stop) as lease,
        stopped_by_signals(stop),
    ):
        prove_shared(directory, needs.reads)
        yield Session(lease)


class Session:
    """A driver that has the lease of a directory and a cluster to work on.

    Attributes:
        lease: of the directory.
        seconds: spent in each part of the work.
    """

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.began = time.time()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Time a part of the work."""
        started = time.monotonic()
        yield
        self.seconds[part] = round(time.monotonic() - started, 3)

    @contextmanager
    def begun(self, run: Run, identity: Mapping[str, Any], config: Config, *, mend: str | None = None) -> Iterator[Run]:
        """The run, begun or continued; errors of the block that a person can do something about say what.

        Args:
            identity: what must be equal for a rerun to continue the run.
            config: goes into the manifest.
            mend: what to do where the input is at fault, if that is another thing than for most jobs.

        Raises:
            RunConflictError: another run is there.
            RunFailedError: the run began and could not end.
        """
        run = run.begin(identity, {"config": config.model_dump(mode="json"), "tart_ray": __version__})
        try:
            yield run
        except Exception as error:
            failure = _explained(run, error)
            if failure is None:
                raise
            if isinstance(failure, InputFailedError):
                keep = RESTORE if isinstance(failure, InputWasChangedError) else MEND_ELSEWHERE
                failure.advice = mend or (keep if run.holds_scores() else MEND)
                run.fail(str(failure))
            raise failure from error

    def finish(self, run: Run, outcome: Outcome) -> ExitCode:
        """Write the report, and ``_SUCCESS`` unless more rows were quarantined or more labels changed than allowed."""
        counts, allowed_bad = outcome.counts, outcome.config.limits.max_quarantined_fraction
        allowed = bool(counts["quarantined"] <= allowed_bad * counts["read"])
        report, page = conclude(run, outcome, self.seconds, self.began)
        run.finish(report, page, success=allowed and not outcome.held, confirm=self.lease.confirm)
        log.info("%s", outcome.summary)
        if not allowed:
            log.error(
                "%d of %d rows were quarantined, more than limits.max_quarantined_fraction %s allows: see %s; _SUCCESS "
                "is not written. Raise the limit and rerun to accept the result as it is",
                counts["quarantined"], counts["read"], allowed_bad, run.url("quarantine"),
            )  # fmt: skip
            return ExitCode.TOO_MANY_QUARANTINED
        if outcome.held:
            log.error(
                "%s; _SUCCESS is not written. Raise the limit and rerun to accept the result as it is", outcome.held
            )
            return ExitCode.TOO_MANY_CHANGED
        return ExitCode.DONE


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


def tell(notes: Mapping[str, Sequence[str]]) -> None:
    """Log what was left out or changed of each input."""
    for name, found in notes.items():
        for note in found:
            log.info("%s: %s", name, note)


def nothing_to_do(run: Run) -> ExitCode:
    """Say so."""
    log.info("%s is complete already: nothing to do", run.path)
    return ExitCode.DONE
