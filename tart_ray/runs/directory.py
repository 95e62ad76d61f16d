"""A directory that stages write to: files, commits, quarantine. See `tart_ray.runs.run` for how it is laid out.

A directory can be removed, and another run begin in it, while workers of the first are still writing. So a run has an
id of its own: commits say it, and commits of another run do not count. A file is only written while the manifest is
the one that this run began with, and it is created exclusively: a write that comes late cannot replace a file of the
run that is there by then.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa

from tart_ray.errors import RunConflictError, RunLostError, StorageError
from tart_ray.input.quarantine import Quarantine
from tart_ray.runs.stage import R, Record, Stage
from tart_ray.storage import Storage, is_missing, join_url
from tart_ray.tables.parquet import parquet_bytes, read_parquet

MANIFEST, COMMITS, WORK, LEASE, SUCCESS = "manifest.json", "_commits", "_work", "_lease", "_SUCCESS"
RUN_ID = "run_id"  # in the manifest, in every commit, in _SUCCESS and in _FAILED
WRITES = 5  # tries to replace a file that changes in between
SEGMENTS = "_segments"  # the folder beside the commits of a stage; see `tart_ray.runs.segments`
SEGMENT_UNITS = 1_000  # in a segment
SEGMENTS_AT_ONCE = 32  # that are read together

Confirm = Callable[[], None]


@dataclass(frozen=True)
class Directory:
    """The output directory of a run, or one within it. Pickles into every worker.

    Attributes:
        session: one start of the driver.
        max_attempts: processes that may die on a unit of work.
        id: of the run in the directory, and the ``version`` of its manifest; None before it has begun or was opened.
        home: the directory of the manifest, where it is not ``path``.
    """

    storage: Storage
    path: str
    session: str
    max_attempts: int
    id: str | None = None
    version: str | None = None
    home: str | None = None

    @classmethod
    def at(cls, storage: Storage, path: str, max_attempts: int) -> Self:
        """A directory, for a driver that starts now."""
        return cls(storage, path.rstrip("/"), uuid.uuid4().hex, max_attempts)

    def url(self, *parts: str) -> str:
        """URL of a file of this run. What is under ``_work`` is in a directory that has the run's id."""
        if parts[:1] == (WORK,) and self.id is not None and self.home is None:
            parts = (WORK, self.id, *parts[1:])
        return join_url(self.path, *parts)

    def sub(self, *parts: str) -> Directory:
        """A directory in this one with commits and files of its own, for as long as this run is here."""
        home = self.home or self.path
        return Directory(self.storage, self.url(*parts), self.session, self.max_attempts, self.id, self.version, home)

    def opened(self) -> Self:
        """The same with the id of the run that is here; without one where none is, or where it has none."""
        version = self.storage.version_at(self.manifest_url)
        if version is None:
            return self
        return replace(self, id=self.read_manifest().get(RUN_ID), version=version)

    def confirm(self) -> None:
        """Look whether the directory still holds this run.

        Raises:
            RunLostError: it does not.
        """
        if self.id is None or (found := self.storage.version_at(self.manifest_url)) == self.version:
            return
        what = "was removed" if found is None else "was removed, and another run began there,"
        raise RunLostError(
            f"output.path {self.home or self.path}: {what} while this run was at work; this one has ended"
        )

    def read(self, *parts: str) -> bytes:
        """The content of a file.

        Raises:
            StorageError: it is not there.
        """
        return self.storage.read(self.url(*parts))

    def read_table(self, *parts: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The table that a Parquet file holds, or these columns of it.

        Raises:
            StorageError: it is not there.
        """
        return read_parquet(self.read(*parts), columns)

    def write(self, data: bytes | memoryview, *parts: str, confirm: Confirm | None = None) -> None:
        """Write a file of this run; one that an attempt left behind, or another run, is replaced.

        Args:
            confirm: of a driver: raises where it has lost its lease.

        Raises:
            RunLostError: the directory does not hold this run any more.
        """
        url = self.url(*parts)
        checks = (self.confirm, *([confirm] if confirm else []))
        for _ in range(WRITES):
            for check in checks:
                check()
            if self.storage.create(url, data):
                return
            version = self.storage.version_at(url)
            for check in checks:  # or what is there may be a file of the run that is here now
                check()
            if self.storage.replace(url, data, version):
                return
        raise StorageError(f"{url}: was changed {WRITES} times by others while it was written; stop them")

    def write_table(self, table: pa.Table, *parts: str) -> None:
        """Write a table as one Parquet file."""
        self.write(parquet_bytes(table), *parts)

    def write_quarantine(self, quarantine: Quarantine, stage: str, unit: str) -> int:
        """Write a unit's bad rows, if any, and return their number."""
        name = f"{stage}-{unit}.parquet"
        if quarantine.rows:
            self.write_table(quarantine.table(), "quarantine", name)
        elif self.storage.exists(self.url("quarantine", name)):  # of an attempt that died before its commit
            self.confirm()
            self.storage.remove(self.url("quarantine", name))
        return len(quarantine)

    def commit(self, stage: Stage[R], unit: str, record: R) -> R:
        """Say that a unit of work is done and all its files are there."""
        run = self.known()
        run.write(run._commit_of(record), COMMITS, stage.name, f"{unit}.json")
        return record

    def commit_first(self, stage: Stage[R], unit: str, record: R) -> R:
        """Say something that several processes may say at once: the record of whoever was first."""
        run = self.known()
        run.confirm()
        url = run.url(COMMITS, stage.name, f"{unit}.json")
        if run.storage.create(url, run._commit_of(record)):
            return record
        if (first := run.record(stage, unit)) is not None:
            return first
        run.commit(stage, unit, record)  # in place of one that a run left that was here before
        return run.record(stage, unit) or record

    def record(self, stage: Stage[R], unit: str) -> R | None:
        """The record of one unit; None if it is not done."""
        run = self.known()
        try:
            commit = json.loads(run.read(COMMITS, stage.name, f"{unit}.json"))
        except StorageError as error:
            if is_missing(error):
                return None
            raise
        return stage.parse(commit) if commit.pop(RUN_ID, None) == run.id else None

    def _commit_of(self, record: Record) -> bytes:
        return json.dumps(record.model_dump(mode="json", by_alias=True) | {RUN_ID: self.id}).encode()

    def records(self, stage: Stage[R], units: Sequence[str]) -> dict[str, R]:
        """Records of these units, all of which are done. It misses none where a listing lags: what no segment has is
        read by name.

        Raises:
            StorageError: a unit has no commit of this run.
        """
        run = self.known()
        found = run._indexed(stage) if len(units) > SEGMENT_UNITS else {}
        rest = [unit for unit in units if unit not in found]
        urls = [run.url(COMMITS, stage.name, f"{unit}.json") for unit in rest]
        for unit, url, text in zip(rest, urls, run.storage.read_many(urls), strict=True):
            commit = json.loads(text)
            if commit.pop(RUN_ID, None) != run.id:
                raise StorageError(f"{url}: is a commit of another run, which was in this directory before")
            found[unit] = stage.parse(commit)
        return {unit: found[unit] for unit in units}

    def committed(self, stage: Stage[R], units: Collection[str] | None = None) -> dict[str, R]:
        """Records of the units of a stage that this run has done, as segments and a listing show them.

        A listing may lag. This tells which units need not be done again; what a stage wrote is told by `records`.

        Args:
            units: all of the stage, where they are known: saves requests.
        """
        run = self.known()
        found = run._indexed(stage) if units is None or len(units) > SEGMENT_UNITS else {}
        if units is not None and found.keys() >= {*units}:
            return found
        names = [name for name in run.storage.names(run.url(COMMITS, stage.name)) if name.endswith(".json")]
        rest = [unit for name in names if (unit := name.removesuffix(".json")) not in found]
        contents = run.storage.read_many([run.url(COMMITS, stage.name, f"{unit}.json") for unit in rest])
        commits = dict(zip(rest, map(json.loads, contents), strict=True))
        return found | {
            unit: stage.parse(commit) for unit, commit in commits.items() if commit.pop(RUN_ID, None) == run.id
        }

    def segments(self, stage: Stage[R]) -> list[tuple[int, str]]:
        """Number and URL of each segment that this run has of a stage, as a listing shows them."""
        run = self.known()
        folder, end = run.url(COMMITS, stage.name, SEGMENTS), f"-{run.id}.json"
        names = [name for name in run.storage.names(folder) if name.endswith(end)]
        return [(int(name.removesuffix(end)), join_url(folder, name)) for name in names]

    def write_segment(self, stage: Stage[R], number: int, records: Mapping[str, R], confirm: Confirm) -> None:
        """Write what the commits of these units say into one object, unless it is there.

        Args:
            records: of units that are committed.
            confirm: raises where this driver has lost its lease.
        """
        run = self.known()
        commits = {unit: record.model_dump(mode="json", by_alias=True) for unit, record in records.items()}
        run.confirm()
        confirm()
        url = run.url(COMMITS, stage.name, SEGMENTS, f"{number:06d}-{run.id}.json")
        run.storage.create(url, json.dumps(commits).encode())

    def _indexed(self, stage: Stage[R]) -> dict[str, R]:
        """What the segments of a stage say; units that no segment has may be done all the same."""
        urls = [url for _, url in self.segments(stage)]
        found: dict[str, R] = {}
        for start in range(0, len(urls), SEGMENTS_AT_ONCE):
            for text in self.storage.read_many(urls[start : start + SEGMENTS_AT_ONCE]):
                found.update((unit, stage.parse(commit)) for unit, commit in json.loads(text).items())
        return found

    def is_complete(self) -> bool:
        """Whether the run that is here ended well."""
        if not self.storage.exists(self.url(SUCCESS)):
            return False
        said = self.storage.read(self.url(SUCCESS))  # empty in runs of older releases
        return not said or json.loads(said)[RUN_ID] == self.known().id

    def known(self) -> Self:
        """The same with the id of its run."""
        return self if self.id is not None else self.opened()

    @property
    def manifest_url(self) -> str:
        """Where the manifest of the run is."""
        return join_url(self.home or self.path, MANIFEST)

    def read_manifest(self) -> dict[str, Any]:
        """The manifest of the run.

        Raises:
            RunConflictError: it is none of this project.
        """
        try:
            found: dict[str, Any] = json.loads(self.storage.read(self.manifest_url))
            found["identity"]
        except (ValueError, KeyError, TypeError):
            raise RunConflictError(f"{self.manifest_url}: no manifest of this project; choose another path") from None
        return found
