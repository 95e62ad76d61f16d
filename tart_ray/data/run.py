"""One run in its output directory: a manifest first, commits as work is done, ``_SUCCESS`` last.

    manifest.json              what this run is; refused if another run is here
    _lease/                    which driver is at work; removed at the end
    _commits/<stage>/<unit>    one small object per finished unit of work, written after its files
    _work/                     what stages hand to each other; removed at the end
    scores/ reranked/ quarantine/ report.json report.html
    _SUCCESS                   its existence means completion

Files that a unit writes have names that depend on the unit alone, so doing a unit twice gives the same files.
Readers trust commits, not listings.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tart_ray.data.quarantine import Quarantine, parquet_bytes
from tart_ray.data.storage import Storage, join_url

MANIFEST, SUCCESS, COMMITS, WORK = "manifest.json", "_SUCCESS", "_commits", "_work"
LEASE = "_lease"

Record = dict[str, Any]


class RunConflictError(ValueError):
    """The output path holds something else; the message shows the difference."""


@dataclass(frozen=True)
class Run:
    """The output directory of one run. Pickles into every worker."""

    storage: Storage
    path: str
    session: str  # one start of the driver
    max_attempts: int

    @classmethod
    def at(cls, storage: Storage, path: str, max_attempts: int) -> Run:
        """The run in a directory, opened by a driver that starts now."""
        return cls(storage, path.rstrip("/"), uuid.uuid4().hex, max_attempts)

    def url(self, *parts: str) -> str:
        """URL of a file of this run."""
        return join_url(self.path, *parts)

    def check(self, identity: Mapping[str, Any]) -> bool:
        """Whether a run of this identity is here already; False where nothing is here.

        Raises:
            RunConflictError: the directory holds another run, or files that are none.
        """
        if self.storage.exists(self.path):
            raise RunConflictError(f"output.path {self.path}: is a file, expected a directory")
        if not self.storage.exists(self.url(MANIFEST)):
            names = [name for name in self.storage.names(self.path) if name != LEASE]  # of a run that begins
            if any(self.storage.exists(self.url(name)) or self.storage.holds_files(self.url(name)) for name in names):
                raise RunConflictError(
                    f"output.path {self.path}: holds {names[:5]}, which no run of this project wrote; "
                    "expected an empty directory, or one with a manifest.json to resume"
                )
            return False
        try:
            manifest = json.loads(self.storage.read(self.url(MANIFEST)))
            found = manifest["identity"]
        except (ValueError, KeyError, TypeError):
            raise RunConflictError(f"{self.url(MANIFEST)}: no manifest of this project; choose another path") from None
        changes = list(differences(found, json.loads(json.dumps(identity))))
        if changes:
            told = "holds another run; repeat that one or choose another path"
            if all(map(_is_of_release, changes)) or any("versions: null →" in change for change in changes):
                told = (
                    f"was begun by another release (tart-ray {manifest.get('tart_ray')}); install that release to "
                    "finish this run, or choose another output.path"
                )
            raise RunConflictError(
                f"output.path {self.path}: {told}. Differences:\n" + "\n".join(f"  {line}" for line in changes[:20])
            )
        return True

    def begin(self, identity: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        """Write the manifest, unless it is there.

        Raises:
            RunConflictError: another run was faster.
        """
        manifest = {"identity": identity, **details, "session": self.session, "created": time.time()}
        if not self.storage.create(self.url(MANIFEST), json.dumps(manifest, indent=2).encode()):
            self.check(identity)

    def is_complete(self) -> bool:
        """Whether the run ended well."""
        return self.storage.exists(self.url(SUCCESS))

    def commit(self, stage: str, unit: str, record: Record) -> Record:
        """Say that a unit of work is done and all its files are there."""
        self.storage.write(self.url(COMMITS, stage, f"{unit}.json"), json.dumps(record).encode())
        return record

    def records(self, stage: str, units: Sequence[str]) -> dict[str, Record]:
        """Records of these units, all of which are done. Reads them by name, so it misses none where a listing lags.

        Raises:
            StorageError: a unit has no commit.
        """
        contents = self.storage.read_many([self.url(COMMITS, stage, f"{unit}.json") for unit in units])
        return {unit: json.loads(text) for unit, text in zip(units, contents, strict=True)}

    def committed(self, stage: str) -> dict[str, Record]:
        """Records of the units of a stage that a listing shows as done.

        A listing may lag. This tells which units need not be done again; what a stage wrote is told by `records`.
        """
        names = [name for name in self.storage.names(self.url(COMMITS, stage)) if name.endswith(".json")]
        contents = self.storage.read_many([self.url(COMMITS, stage, name) for name in names])
        return {name.removesuffix(".json"): json.loads(text) for name, text in zip(names, contents, strict=True)}

    def write_table(self, table: pa.Table, *parts: str) -> None:
        """Write a table as one Parquet file."""
        self.storage.write(self.url(*parts), parquet_bytes(table))

    def write_quarantine(self, quarantine: Quarantine, stage: str, unit: str) -> int:
        """Write a unit's bad rows, if any, and return their number."""
        name = f"{stage}-{unit}.parquet"
        if quarantine.rows:
            self.write_table(quarantine.table(), "quarantine", name)
        elif self.storage.exists(self.url("quarantine", name)):  # of an attempt that died before its commit
            self.storage.remove_tree(self.url("quarantine", name))
        return len(quarantine)

    def finish(self, report: Mapping[str, Any], page: str, *, success: bool) -> None:
        """Write the report, remove what only the stages needed, and write ``_SUCCESS`` last of all."""
        self.storage.write(self.url("report.json"), json.dumps(report, indent=2).encode())
        self.storage.write(self.url("report.html"), page.encode())
        self.storage.remove_tree(self.url(WORK))
        self.storage.remove_partials(self.path)
        if success:
            self.storage.write(self.url(SUCCESS), b"")


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
