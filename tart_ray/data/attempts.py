"""Attempts at a unit of work, written down where the death of a process cannot take them.

Ray repeats without end what kills its process, and nothing is left to say which row it was, except what was written
before. So an attempt is one small object that says which rows are at work. Who lives on removes it, whether the work
went well or raised; one that is found is that of a process that died, or that works on it elsewhere.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tart_ray.data.run import WORK, Run
from tart_ray.data.storage import StorageError, is_missing


class PoisonUnitError(RuntimeError):
    """A unit of work takes its processes down again and again."""


@dataclass(frozen=True)
class Death:
    """A process that died.

    ``session``: the start of the driver that it belonged to. ``rows``: what it was at, None for all rows of the unit.
    ``last_words``: what it said, if anything.
    """

    session: str
    rows: tuple[int, ...] | None
    last_words: str | None


@dataclass(frozen=True)
class Attempt:
    """One process at one unit of work, a context. ``deaths``: of the processes before it, under any driver."""

    run: Run
    unit: str
    url: str
    deaths: tuple[Death, ...]
    _found: tuple[str, ...]

    @classmethod
    def begin(cls, run: Run, stage: str, unit: str) -> Attempt:
        """Say that all rows of a unit are at work now."""
        folder = run.url(WORK, "attempts", f"{stage}-{unit}")
        found = {url: _read(run, url) for url in (f"{folder}/{name}" for name in run.storage.names(folder))}
        deaths = tuple(death for death in found.values() if death is not None)
        attempt = cls(run, f"{stage} {unit}", f"{folder}/{uuid.uuid4().hex}", deaths, tuple(found))
        attempt.at(None)
        return attempt

    def at(self, rows: Sequence[int] | None, last_words: str | None = None) -> None:
        """Say which rows are at work from now on, None for all."""
        said = {"session": self.run.session, "rows": rows, "last_words": last_words}
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
            PoisonUnitError: more died than `Run.max_attempts` allows.
        """
        died = sum(death.session == self.run.session for death in self.deaths)
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


def _read(run: Run, url: str) -> Death | None:
    """What an attempt says; None for one that has just ended."""
    try:
        found = json.loads(run.storage.read(url))
    except StorageError as error:
        if is_missing(error):
            return None
        raise
    return Death(found["session"], None if found["rows"] is None else tuple(found["rows"]), found["last_words"])
