"""Runs over one corpus that follow each other under one path, and a small pointer to the one that counts.

    runs/<id>/       a run as any other: manifest.json, …, _SUCCESS
    current.json     which run is current; one PUT, after all else
    _lease/          which driver is at work on any of them

Readers begin with ``current.json``. An id is made of the run's identity and of the run it builds upon, so that the same
command finds its own interrupted run again, and no other.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tart_ray.data.run import LEASE, MANIFEST, Run, RunConflictError
from tart_ray.data.storage import Storage, join_url

RUNS, CURRENT = "runs", "current.json"
BASE = "base"  # of an identity: the run that was current when this one began


@dataclass(frozen=True)
class Current:
    """What ``current.json`` says.

    Attributes:
        run: id of the current run.
        left: ids of runs that a person switched away from: the same command does not bring them back.
    """

    run: str
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Versions:
    """The runs under one path."""

    place: Run  # as the holder of the lease; no run itself

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
        names = [name for name in self.storage.names(self.path) if name not in (RUNS, CURRENT, LEASE)]
        urls = [join_url(self.path, name) for name in names]
        if any(self.storage.exists(url) or self.storage.holds_files(url) for url in urls):
            raise RunConflictError(
                f"output.path {self.path}: holds {names[:5]}, which jobs.relabel does not write; expected an empty "
                f"directory, or one with {RUNS}/ and {CURRENT}"
            )

    def current(self) -> Current | None:
        """The run that counts; None before the first one is done."""
        url = self.place.url(CURRENT)
        if not self.storage.exists(url):
            return None
        try:
            found = json.loads(self.storage.read(url))
            return Current(found["run"], tuple(found["left"]))
        except (ValueError, KeyError, TypeError):
            raise RunConflictError(f"{url}: names no run of jobs.relabel; choose another path") from None

    def switch(self, run: str, left: tuple[str, ...] = ()) -> None:
        """Make a run the current one."""
        said = {"run": run, "path": f"{RUNS}/{run}", "left": left, "switched": time.time()}
        self.storage.write(self.place.url(CURRENT), json.dumps(said, indent=2).encode())

    def ids(self, since: str | None = None) -> list[str]:
        """Of all runs that have begun, finished or not, in the order of their numbers, from that of a run on."""
        names = [name for name in self.storage.names(self.place.url(RUNS)) if name >= _number(since)]
        return [name for name in names if self.storage.exists(self.place.url(RUNS, name, MANIFEST))]

    def run(self, id_: str) -> Run:
        """The run with an id."""
        return Run(self.storage, self.place.url(RUNS, id_), self.place.session, self.place.max_attempts)

    def manifest(self, id_: str) -> dict[str, Any]:
        """Of a run that has begun."""
        found: dict[str, Any] = json.loads(self.storage.read(self.run(id_).url(MANIFEST)))
        return found

    def is_at(self, id_: str, identity: Mapping[str, Any]) -> bool:
        """Whether a run is complete and has this identity, whatever it builds upon."""
        found = {name: value for name, value in self.manifest(id_)["identity"].items() if name != BASE}
        return found == json.loads(json.dumps(identity)) and self.run(id_).is_complete()


def id_of(identity: Mapping[str, Any], base: str | None) -> str:
    """The id of a run that builds upon another: its number, and a hash of what it is."""
    said = json.dumps({**identity, BASE: base}, sort_keys=True).encode()
    return f"{int(_number(base)) + 1:05d}-{hashlib.blake2b(said, digest_size=6).hexdigest()}"


def _number(id_: str | None) -> str:
    return "00000" if id_ is None else id_.split("-")[0]
