"""What goes wrong, as one tree: the exit code of each kind, and what to do about it.

    TartRayError                     1   a job that ends early; what is committed stays
    ├── ConfigurationError           2   to be changed before any work can begin
    ├── InputError                   2   input that cannot be read as configured
    ├── StorageError                 2   a place that cannot be used
    │   └── InputChangedError        2   a file is not the one that was listed
    ├── LocationError                2   a path or URL that cannot be used
    ├── CheckpointError              2   a checkpoint that cannot be found or used
    │   └── CheckpointChangedError   2   it is not the one that was fingerprinted
    ├── RunConflictError             2   the output path holds something else
    │   ├── LeaseHeldError           2   another driver works there
    │   └── RunLostError             2   it was taken away while this run was at work
    ├── CalibrationError             1   labels that no calibration can be fitted to
    ├── TrainingError                1   training cannot go on
    ├── OtherReleaseError            1   a node has another release of a library
    ├── PoisonUnitError              1   work that takes its processes down again and again
    ├── RayStartError                1   Ray did not start
    └── RunFailedError               1   a run that began and could not end, whatever the cause
        └── InputFailedError         1   because of its input or configuration
            └── InputWasChangedError 1   which is not that with which it began

A message says what was got, what was expected, what is available. Those with exit code 2 are raised before any work;
where a run that has begun meets one, `RunFailedError` is raised from it.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """How a job ended."""

    DONE = 0
    FAILED = 1  # a rerun of the same command resumes
    BAD_CONFIGURATION = 2  # nothing was done
    TOO_MANY_QUARANTINED = 3  # finished, but over limits.max_quarantined_fraction
    TOO_MANY_CHANGED = 4  # finished, but over limits.max_changed_fraction: a person decides


CONTINUE = "run the same command again to continue where it stopped"
MEND = "mend the input or the configuration, and run it again; the same output.path will do"
MEND_ELSEWHERE = "what is done stays; mend the input or the configuration, and give another output.path"
RESTORE = (
    "what is done stays; put the input back as it was and run the same command again to continue, or give another "
    "output.path to begin anew"
)
STAYS = "what is done stays"
ELSEWHERE = "what runs there now goes on; give another output.path to begin this run again"


class TartRayError(Exception):
    """What a person can do something about.

    Attributes:
        exit_code: of a job that ends with it.
        advice: what to do, where the message does not say it.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    advice: str | None = None


class ConfigurationError(TartRayError, ValueError):
    """Something that the user must change before any work can start."""

    exit_code = ExitCode.BAD_CONFIGURATION


class InputError(TartRayError, ValueError):
    """Input that cannot be read as configured; the message says what was got, expected and available."""

    exit_code = ExitCode.BAD_CONFIGURATION


class StorageError(TartRayError):
    """A place that cannot be used; the message says which, why, and what to do."""

    exit_code = ExitCode.BAD_CONFIGURATION


class InputChangedError(StorageError):
    """A file of the input is not the one that was listed; the message says what was, and what is there."""


class LocationError(TartRayError, ValueError):
    """A path or URL that cannot be used; the message shows it without credentials and says what is supported."""

    exit_code = ExitCode.BAD_CONFIGURATION


class CheckpointError(TartRayError, ValueError):
    """The checkpoint cannot be found or used; the message says what was looked for and what is there."""

    exit_code = ExitCode.BAD_CONFIGURATION


class CheckpointChangedError(CheckpointError):
    """Another checkpoint is there than the one that was fingerprinted."""


class RunConflictError(TartRayError, ValueError):
    """The output path holds something else; the message shows the difference."""

    exit_code = ExitCode.BAD_CONFIGURATION


class LeaseHeldError(RunConflictError):
    """Another driver works on this output path."""


class RunLostError(RunConflictError):
    """The directory was removed, or another run began in it, while this one was at work."""


class CalibrationError(TartRayError, ValueError):
    """Labels that no calibration can be fitted to; the message says what was got and what is needed."""


class TrainingError(TartRayError, RuntimeError):
    """Training cannot go on; the message says why, and what to change."""


class OtherReleaseError(TartRayError, RuntimeError):
    """A node has another release of a library than the one that the run began with."""


class PoisonUnitError(TartRayError, RuntimeError):
    """A unit of work takes its processes down again and again."""


class RayStartError(TartRayError, RuntimeError):
    """Ray did not start, for a reason that the message gives."""

    advice = CONTINUE


class RunFailedError(TartRayError, RuntimeError):
    """A run that began and could not end, for a reason that the message gives; what is committed stays."""

    def __init__(self, message: str, advice: str = CONTINUE) -> None:
        super().__init__(message)
        self.advice = advice


class InputFailedError(RunFailedError):
    """A run that began and could not end because of its input or its configuration, which have to be mended."""


class InputWasChangedError(InputFailedError):
    """The input is not that with which the run began."""
