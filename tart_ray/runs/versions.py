"""Runs over one corpus that follow each other under one path, and a small pointer to the one that counts.

    runs/<id>/                a run as any other: manifest.json, …, _SUCCESS
    current/<number>.json     which run became current: one object for each move of the pointer, the highest counts
    current.json              a copy of that one, for readers
    _lease/                   which driver is at work on any of them

The pointer only moves forward: a move creates, exclusively, the number after the one that its driver found when it
began. A driver that was suspended while others moved the pointer finds its number taken, and moves nothing.
``current.json`` is written afterwards, and only over the content that it was meant to replace; a copy that a killed
driver left out of date is mended by the next command.

An id is a number, one more than the highest ever used here, and a hash of the run's identity and of the run that it
builds upon, by which the same command finds its own interrupted run again, and no other.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tart_ray.errors import RunConflictError, StorageError
from tart_ray.runs.directory import LEASE, MANIFEST, WORK, WRITES, Directory
from tart_ray.runs.run import Run
from tart_ray.storage import Storage, is_missing, join_url

RUNS, CURRENT, MOVES = "runs", "current.json", "current"
BASE = "base"  # of an identity: the run that was current when this one began


@dataclass(frozen=True)
class Current:
    """What the pointer says.

    Attributes:
        run: id of the current run.
        left: ids of runs that a person switched away from: the same command does not bring them back.
        number: of the move that made it current; 0 where an older release wrote ``current.json`` alone.
    """

    run: str
    left: tuple[str, ...] = ()
    number: int = 0


@dataclass(frozen=True)
class Versions:
    """The runs under one path."""

    place: Directory  # of the lease and the pointer

    @property
    def path(self) -> str:
        """Of all of them."""
        return self.place.path

    @property
    def storage(self) -> Storage:
        """Where they are."""
        return self.place.storage

    def check(self) -> None:
        """Look whether runs can be here.

        Raises:
            RunConflictError: something else is.
        """
        if self.storage.exists(self.path):
            raise RunConflictError(f"output.path {self.path}: is a file, expected a directory")
        names = [name for name in self.storage.names(self.path) if name not in (RUNS, CURRENT, MOVES, LEASE, WORK)]
        urls = [join_url(self.path, name) for name in names]
        if any(self.storage.exists(url) or self.storage.holds_files(url) for url in urls):
            raise RunConflictError(
                f"output.path {self.path}: holds {names[:5]}, which jobs.relabel does not write; expected an empty "
                f"directory, or one with {RUNS}/ and {CURRENT}"
            )

    def current(self) -> Current | None:
        """The run that counts; None before the first one is done."""
        number = self._newest()
        url = self._move(number) if number else self.place.url(CURRENT)
        try:
            found = json.loads(self.storage.read(url))
            return Current(found["run"], tuple(found["left"]), number)
        except StorageError as error:
            if not number and is_missing(error):
                return None
            raise
        except (ValueError, KeyError, TypeError):
            raise RunConflictError(f"{url}: names no run of jobs.relabel; choose another path") from None

    def switch(self, run: str, before: Current | None, left: tuple[str, ...] = ()) -> None:
        """Make a run the current one, unless another became current since.

        Args:
            before: what was current when the caller, who has had the lease since, began.

        Raises:
            RunConflictError: another run became current.
        """
        number = before.number + 1 if before else 1
        now = time.time()
        said: dict[str, Any] = {"run": run, "path": f"{RUNS}/{run}", "left": left, "number": number, "switched": now}
        said["switched_at"] = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
        if not self.storage.create(self._move(number), json.dumps(said, indent=2).encode()):
            found = self.current()
            if found is None or found.run != run:  # else a driver that was thought dead moved it, at the same run
                raise RunConflictError(
                    f"{self.path}: run {found and found.run} became current while run {run} was at work"
                )
        self.mend()

    def mend(self) -> None:
        """Let ``current.json`` say what the newest move says; nothing is written where it does."""
        url = self.place.url(CURRENT)
        for _ in range(WRITES):
            number = self._newest()
            if not number:
                return
            wanted = self.storage.read(self._move(number))
            version = self.storage.version_at(url)
            if version is not None and self.storage.read(url) == wanted:
                return
            if number == self._newest():  # or the copy would be older than what is there
                self.storage.replace(url, wanted, version)

    def ids(self, since: str | None = None) -> list[str]:
        """Of all runs that have begun, finished or not, in the order of their numbers, from that of a run on."""
        names = [name for name in self.names() if name >= number_of(since)]
        return [name for name in names if self.storage.exists(self.place.url(RUNS, name, MANIFEST))]

    def names(self) -> list[str]:
        """Of all that is there of runs, in the order of their numbers, what is left of removed ones included."""
        return self.storage.names(self.place.url(RUNS))

    def id_of(self, identity: Mapping[str, Any], base: str | None) -> str:
        """The id of the run of an identity that builds upon another: of one that has begun, or else a new one."""
        key = hashlib.blake2b(json.dumps({**identity, BASE: base}, sort_keys=True).encode(), digest_size=6).hexdigest()
        names = self.names()
        begun = [name for name in names if name.endswith(f"-{key}")]
        if begun:
            return begun[-1]
        current = self.current()
        used = [*names, *([current.run, *current.left] if current else [])]  # some may have been removed by hand
        return f"{max((int(number_of(name)) for name in used), default=0) + 1:05d}-{key}"

    def run(self, id_: str) -> Run:
        """The run with an id."""
        return Run(self.storage, self.place.url(RUNS, id_), self.place.session, self.place.max_attempts)

    def is_at(self, id_: str, identity: Mapping[str, Any]) -> bool:
        """Whether a run is complete and has this identity, whatever it builds upon."""
        found = {name: value for name, value in self.run(id_).read_manifest()["identity"].items() if name != BASE}
        return found == json.loads(json.dumps(identity)) and self.run(id_).is_complete()

    def _newest(self) -> int:
        """The number of the last move of the pointer; 0 before the first."""
        names = [name.removesuffix(".json") for name in self.storage.names(self.place.url(MOVES))]
        number = max((int(name) for name in names if name.isdigit()), default=0)
        while self.storage.exists(self._move(number + 1)):  # a listing may lag
            number += 1
        return number

    def _move(self, number: int) -> str:
        return self.place.url(MOVES, f"{number:08d}.json")


def is_id(name: str) -> bool:
    """Whether a name can be the id of a run, as `Versions.id_of` makes them."""
    return re.fullmatch(r"\d{5,}-[0-9a-f]{12}", name) is not None


def number_of(id_: str | None) -> str:
    """The number in the id of a run, as text of the same length for all; zeros for no run."""
    return "00000" if id_ is None else id_.split("-")[0]
