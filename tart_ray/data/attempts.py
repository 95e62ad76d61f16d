"""Attempts at a unit of work, written down where the death of a process cannot take them.

A row can kill the process that scores it: in native code, for lack of memory. Nothing is left to say which row it was,
except what was written before. So an attempt is one small object that says which rows are at work. It is removed when
the work went well; one that is found is that of a process that died.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from tart_ray.data.run import WORK, Run


@dataclass(frozen=True)
class Death:
    """A process that died: the rows that it was at (None: all rows of the unit), and what it said last, if anything."""

    rows: tuple[int, ...] | None
    last_words: str | None


@dataclass(frozen=True)
class Attempt:
    """One process at one unit of work. ``deaths``: of the processes before it, in whatever run of the driver."""

    run: Run
    url: str
    deaths: tuple[Death, ...]
    _found: tuple[str, ...]

    @classmethod
    def begin(cls, run: Run, stage: str, unit: str) -> Attempt:
        """Say that all rows of a unit are at work now."""
        folder = run.url(WORK, "attempts", f"{stage}-{unit}")
        found = tuple(f"{folder}/{name}" for name in run.storage.names(folder))
        deaths = tuple(_read(content) for content in run.storage.read_many(found))
        attempt = cls(run, f"{folder}/{uuid.uuid4().hex}", deaths, found)
        attempt.at(None)
        return attempt

    def at(self, rows: Sequence[int] | None, last_words: str | None = None) -> None:
        """Say which rows are at work from now on, None for all."""
        self.run.storage.write(self.url, json.dumps({"rows": rows, "last_words": last_words}).encode())

    def end(self) -> None:
        """The work went well: this attempt and those before it are forgotten."""
        self.run.storage.remove(self.url, *self._found)


def _read(content: bytes) -> Death:
    found = json.loads(content)
    return Death(None if found["rows"] is None else tuple(found["rows"]), found["last_words"])
