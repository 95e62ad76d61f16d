"""Attempts at a unit of work, written down where the death of a process cannot take them.

Ray repeats without end what kills its process, and nothing is left to say which row it was, except what was written
before. So an attempt is one small object that says which rows are at work. Who lives on removes it, whether the work
went well or raised; one that is found is that of a process that died, or that works on it elsewhere.

A death says something about the rows only if nothing else explains it: processes of an earlier driver may have been
killed together with it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

from tart_ray.errors import PoisonUnitError, StorageError
from tart_ray.runs.directory import WORK, Directory
from tart_ray.storage import is_missing

OTHER_DRIVER = "it belonged to another start of the driver, and may have been killed with it"
LOST_NODE = "its node was lost"
OUT_OF_MEMORY = "Ray's memory monitor ended it"


@dataclass(frozen=True)
class Process:
    """A process by the ids that the engine has for its node and for itself."""

    node: str
    worker: str


Excuse = Callable[[Process], str | None]


@dataclass(frozen=True)
class Death:
    """A process that died.

    ``session``: the start of the driver that it belonged to. ``rows``: what it was at, None for all rows of the unit.
    ``last_words``: what it said, if anything. ``excuse``: why its death says nothing about its rows; None if it may.
    """

    session: str
    rows: tuple[int, ...] | None
    last_words: str | None
    excuse: str | None = None


@dataclass(frozen=True)
class Attempt:
    """One process at one unit of work, a context. ``deaths``: of the processes before it, under any driver."""

    run: Directory
    unit: str
    url: str
    deaths: tuple[Death, ...]
    process: Process | None
    _found: tuple[str, ...]

    @classmethod
    def begin(
        cls, run: Directory, stage: str, unit: str, *, process: Process | None = None, excuse: Excuse = lambda _: None
    ) -> Attempt:
        """Say that all rows of a unit are at work now.

        Args:
            process: this one, where the engine has names for it.
            excuse: why the death of another one says nothing about its rows; None if it may.

        Raises:
            RunLostError: the directory does not hold this run any more.
        """
        run.confirm()
        folder = run.url(WORK, "attempts", f"{stage}-{unit}")
        found = {url: _read(run, url, excuse) for url in (f"{folder}/{name}" for name in run.storage.names(folder))}
        deaths = tuple(death for death in found.values() if death is not None)
        attempt = cls(run, f"{stage} {unit}", f"{folder}/{uuid.uuid4().hex}", deaths, process, tuple(found))
        attempt.at(None)
        return attempt

    @property
    def evidence(self) -> tuple[Death, ...]:
        """Deaths that nothing but the rows may explain."""
        return tuple(death for death in self.deaths if death.excuse is None)

    @property
    def killed_for_memory(self) -> int:
        """Processes that ended because their node ran out of memory."""
        return sum(death.excuse == OUT_OF_MEMORY for death in self.deaths)

    def at(self, rows: Sequence[int] | None, last_words: str | None = None) -> None:
        """Say which rows are at work from now on, None for all."""
        process = asdict(self.process) if self.process else None
        said = {"session": self.run.session, "rows": rows, "last_words": last_words, "process": process}
        self.run.storage.write(self.url, json.dumps(said).encode())

    def add_last_words(self, words: str) -> None:
        """Say something to whoever finds this attempt, of a process that is about to die."""
        said = json.loads(self.run.storage.read(self.url))
        self.run.storage.write(self.url, json.dumps({**said, "last_words": words}).encode())

    def check(self, *, tries: int = 1) -> None:
        """Refuse a unit that cannot be taken apart, after too many deaths under this driver; a rerun begins anew.

        Args:
            tries: processes that make one attempt, where several do the same.

        Raises:
            PoisonUnitError: more died than `Directory.max_attempts` allows.
        """
        died = len(self.evidence) + self.killed_for_memory
        if died >= self.run.max_attempts * tries:
            raise PoisonUnitError(
                f"{self.unit}: {died} processes died on it (limits.max_attempts_per_chunk: {self.run.max_attempts}), "
                "of lack of memory or in native code; the logs of Ray's workers say more. A rerun resumes with it"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.run.storage.remove(self.url, *self._found)
            return
        given_up = issubclass(kind, PoisonUnitError)  # and told: the next run may find more memory
        with suppress(StorageError):  # the error is what matters
            self.run.storage.remove(self.url, *(self._found if given_up else ()))


def _read(run: Directory, url: str, excuse: Excuse) -> Death | None:
    """What an attempt says; None for one that has just ended."""
    try:
        found = json.loads(run.storage.read(url))
    except StorageError as error:
        if is_missing(error):
            return None
        raise
    process = found.get("process")
    excused = OTHER_DRIVER if found["session"] != run.session else excuse(Process(**process)) if process else None
    rows = None if found["rows"] is None else tuple(found["rows"])
    return Death(found["session"], rows, found["last_words"], excused)
