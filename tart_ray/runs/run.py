"""One run in its output directory: a manifest first, commits as work is done, ``_SUCCESS`` last.

    manifest.json              what this run is, and its id; refused if another run is here
    _lease/                    which driver is at work; removed at the end
    _commits/<stage>/<unit>    one small object per finished unit of work, written after its files
    _work/<id>/                what stages hand to each other; removed at the end
    _FAILED                    the input or the configuration was at fault: another run may begin here
    scores/ reranked/ quarantine/ report.json report.html
    _SUCCESS                   its existence means completion

Files that a unit writes have names that depend on the unit alone, so doing a unit twice gives the same files.
Readers trust commits, not listings.

A directory can be removed, and another run begin in it, while workers of the first are still writing. So a run has an
id of its own: commits say it, and commits of another run do not count. A file is only written while the manifest is
the one that this run began with, and it is created exclusively: a write that comes late cannot replace a file of the
run that is there by then.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from tart_ray.errors import RunConflictError, RunLostError, StorageError
from tart_ray.input.quarantine import Quarantine
from tart_ray.storage import Storage, is_missing, join_url
from tart_ray.tables.parquet import parquet_bytes

log = logging.getLogger(__name__)

MANIFEST, SUCCESS, COMMITS, WORK = "manifest.json", "_SUCCESS", "_commits", "_work"
LEASE, FAILED = "_lease", "_FAILED"
RUN_ID = "run_id"  # in the manifest, in every commit, in _SUCCESS and in _FAILED
COSTLY = ("scores", f"{COMMITS}/score")  # what is in them is never removed
WRITES = 5  # tries to replace a file that changes in between

Record = dict[str, Any]
Confirm = Callable[[], None]


@dataclass(frozen=True)
class Run:
    """The output directory of one run. Pickles into every worker.

    Attributes:
        session: one start of the driver.
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
    def at(cls, storage: Storage, path: str, max_attempts: int) -> Run:
        """The run in a directory, for a driver that starts now."""
        return cls(storage, path.rstrip("/"), uuid.uuid4().hex, max_attempts)

    def url(self, *parts: str) -> str:
        """URL of a file of this run. What is under ``_work`` is in a directory that has the run's id."""
        if parts[:1] == (WORK,) and self.id is not None and self.home is None:
            parts = (WORK, self.id, *parts[1:])
        return join_url(self.path, *parts)

    def within(self, *parts: str) -> Run:
        """A directory in this one with commits and files of its own, for as long as this run is here."""
        return replace(self, path=self.url(*parts), home=self.home or self.path)

    def opened(self) -> Run:
        """The same with the id of the run that is here; without one where none is, or where it has none."""
        version = self.storage.version_at(self._manifest)
        if version is None:
            return self
        return replace(self, id=self._read_manifest().get(RUN_ID), version=version)

    def check(self, identity: Mapping[str, Any]) -> bool:
        """Whether a run of this identity is here already; False where nothing is here that must stay.

        Raises:
            RunConflictError: the directory holds another run, or files that are none.
        """
        if self.storage.exists(self.path):
            raise RunConflictError(f"output.path {self.path}: is a file, expected a directory")
        if not self.storage.exists(self._manifest):
            names = [name for name in self.storage.names(self.path) if name not in (LEASE, WORK)]  # of runs that were
            if any(self.storage.exists(self.url(name)) or self.storage.holds_files(self.url(name)) for name in names):
                raise RunConflictError(
                    f"output.path {self.path}: holds {names[:5]}, which no run of this project wrote; "
                    "expected an empty directory, or one with a manifest.json to resume"
                )
            return False
        manifest = self._read_manifest()
        changes = list(differences(manifest["identity"], json.loads(json.dumps(identity))))
        if changes and not self._may_be_replaced(manifest):
            told = "holds another run; repeat that one or choose another path"
            if all(map(_is_of_release, changes)) or any("versions: null →" in change for change in changes):
                told = (
                    f"was begun by another release (tart-ray {manifest.get('tart_ray')}); install that release to "
                    "finish this run, or choose another output.path"
                )
            raise RunConflictError(
                f"output.path {self.path}: {told}. Differences:\n" + "\n".join(f"  {line}" for line in changes[:20])
            )
        return not changes

    def begin(self, identity: Mapping[str, Any], details: Mapping[str, Any]) -> Run:
        """Write the manifest, unless it is there; the run that has begun. For the holder of the lease.

        Raises:
            RunConflictError: another run was faster.
        """
        manifest = {"identity": identity, **details, "session": self.session, "created": time.time()}
        content = json.dumps({**manifest, RUN_ID: uuid.uuid4().hex[:12]}, indent=2).encode()
        if self.storage.create(self._manifest, content):
            self.storage.remove_tree(join_url(self.path, WORK))  # of a run that was removed
        else:
            version = self.storage.version_at(self._manifest)
            if not self.check(identity):
                self._clear()
                if not self.storage.replace(self._manifest, content, version):
                    raise RunLostError(f"output.path {self.path}: another run began there at the same time")
        opened = self.opened()
        self.storage.abort_uploads(self.path)
        self.storage.remove(self.url(FAILED))
        return opened

    def confirm(self) -> None:
        """Look whether the directory still holds this run.

        Raises:
            RunLostError: it does not.
        """
        if self.id is None or (found := self.storage.version_at(self._manifest)) == self.version:
            return
        what = "was removed" if found is None else "was removed, and another run began there,"
        raise RunLostError(
            f"output.path {self.home or self.path}: {what} while this run was at work; this one has ended"
        )

    def is_complete(self) -> bool:
        """Whether the run ended well."""
        if not self.storage.exists(self.url(SUCCESS)):
            return False
        said = self.storage.read(self.url(SUCCESS))  # empty in runs of older releases
        return not said or json.loads(said)[RUN_ID] == self._known().id

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

    def commit(self, stage: str, unit: str, record: Record) -> Record:
        """Say that a unit of work is done and all its files are there."""
        run = self._known()
        run.write(json.dumps({**record, RUN_ID: run.id}).encode(), COMMITS, stage, f"{unit}.json")
        return record

    def records(self, stage: str, units: Sequence[str]) -> dict[str, Record]:
        """Records of these units, all of which are done. Reads them by name, so it misses none where a listing lags.

        Raises:
            StorageError: a unit has no commit of this run.
        """
        run = self._known()
        urls = [run.url(COMMITS, stage, f"{unit}.json") for unit in units]
        records = [json.loads(text) for text in run.storage.read_many(urls)]
        for url, record in zip(urls, records, strict=True):
            if record.pop(RUN_ID, None) != run.id:
                raise StorageError(f"{url}: is a commit of another run, which was in this directory before")
        return dict(zip(units, records, strict=True))

    def committed(self, stage: str) -> dict[str, Record]:
        """Records of the units of a stage that this run has done, as a listing shows them.

        A listing may lag. This tells which units need not be done again; what a stage wrote is told by `records`.
        """
        run = self._known()
        names = [name for name in run.storage.names(run.url(COMMITS, stage)) if name.endswith(".json")]
        contents = run.storage.read_many([run.url(COMMITS, stage, name) for name in names])
        records = {name.removesuffix(".json"): json.loads(text) for name, text in zip(names, contents, strict=True)}
        return {unit: record for unit, record in records.items() if record.pop(RUN_ID, None) == run.id}

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

    def fail(self, reason: str) -> None:
        """Say that the input or the configuration is at fault: a run of others may begin here."""
        self.write(json.dumps({RUN_ID: self.id, "reason": reason}).encode(), FAILED)

    def holds_scores(self) -> bool:
        """Whether there is something that took long to make."""
        return any(self.storage.holds_files(self.url(name)) for name in COSTLY)

    def finish(self, report: Mapping[str, Any], page: str, *, success: bool, confirm: Confirm | None = None) -> None:
        """Write the report, remove what only the stages needed, and write ``_SUCCESS`` last of all.

        Args:
            confirm: as of `write`.
        """
        self.write(json.dumps(report, indent=2).encode(), "report.json", confirm=confirm)
        self.write(page.encode(), "report.html", confirm=confirm)
        self.storage.remove_tree(self.url(WORK))
        self.storage.remove_empty(join_url(self.path, WORK))
        self.confirm()
        self.storage.remove_partials(self.path)
        self.storage.abort_uploads(self.path)
        if success:
            self.write(json.dumps({RUN_ID: self._known().id}).encode(), SUCCESS, confirm=confirm)

    @property
    def _manifest(self) -> str:
        return join_url(self.home or self.path, MANIFEST)

    def _known(self) -> Run:
        return self if self.id is not None else self.opened()

    def _read_manifest(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.storage.read(self._manifest))
            found["identity"]
        except (ValueError, KeyError, TypeError):
            raise RunConflictError(f"{self._manifest}: no manifest of this project; choose another path") from None
        return found

    def _may_be_replaced(self, manifest: Mapping[str, Any]) -> bool:
        """Whether the run of a manifest failed because of its input or configuration, with nothing worth keeping."""
        try:
            failed = json.loads(self.storage.read(self.url(FAILED)))
        except StorageError as error:
            if is_missing(error):
                return False
            raise
        return (
            failed[RUN_ID] == manifest.get(RUN_ID)
            and not self.storage.exists(self.url(SUCCESS))
            and not self.holds_scores()
        )

    def _clear(self) -> None:
        """Remove what a run left that failed; not the runs within it, which have a manifest of their own."""
        log.info(
            "%s: the run there failed because of its input or configuration before anything was scored: it makes "
            "room for this one", self.path,
        )  # fmt: skip
        names = [name for name in self.storage.names(self.path) if name != COMMITS]
        names += [f"{COMMITS}/{stage}" for stage in self.storage.names(self.url(COMMITS))]
        for name in names:
            url = join_url(self.path, name)
            if name in (MANIFEST, FAILED, LEASE, *COSTLY):  # a listing may have lagged when scores were looked for
                continue
            if self.storage.exists(url):
                self.storage.remove(url)
            elif not self.storage.exists(join_url(url, MANIFEST)):
                self.storage.remove_tree(url)


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """Where two JSON values differ, as lines ``place: old → new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{place}.{key}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, pair in enumerate(zip(old, new, strict=True)) for line in differences(*pair, f"{place}[{i}]")
        ]
    return [] if old == new else [f"{place}: {_short(old)} → {_short(new)}"]


def _is_of_release(change: str) -> bool:
    """Whether a line of `differences` is about what a release writes, not about what was asked for."""
    return bool({"versions", "format_version"} & {*change.partition(":")[0].split(".")})


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"
