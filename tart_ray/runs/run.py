"""One run in its output directory: a manifest first, commits as work is done, ``_SUCCESS`` last.

    manifest.json              what this run is, and its id; refused if another run is here
    _lease/                    which driver is at work; removed at the end
    _commits/<stage>/<unit>    one small object per finished unit of work, written after its files; what many of them
                               say is in segments as well: see `tart_ray.runs.segments`
    _work/<id>/                what stages hand to each other; removed at the end
    _FAILED                    the input or the configuration was at fault: another run may begin here
    scores/ reranked/ quarantine/ report.json report.html
    _SUCCESS                   its existence means completion

Files that a unit writes have names that depend on the unit alone, so doing a unit twice gives the same files.
Readers trust commits, not listings.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tart_ray.errors import RunConflictError, RunLostError, StorageError
from tart_ray.runs.directory import COMMITS, LEASE, MANIFEST, RUN_ID, SUCCESS, WORK, Confirm, Directory
from tart_ray.storage import is_missing, join_url

log = logging.getLogger(__name__)

FAILED = "_FAILED"
COSTLY = ("scores", f"{COMMITS}/score")  # what is in them is never removed


@dataclass(frozen=True)
class Run(Directory):
    """A directory with an identity, that of all that is in it, and an end."""

    def check(self, identity: Mapping[str, Any]) -> bool:
        """Whether a run of this identity is here already; False where nothing is here that must stay.

        Raises:
            RunConflictError: the directory holds another run, or files that are none.
        """
        if self.storage.exists(self.path):
            raise RunConflictError(f"output.path {self.path}: is a file, expected a directory")
        if not self.storage.exists(self.manifest_url):
            names = [name for name in self.storage.names(self.path) if name not in (LEASE, WORK)]  # of runs that were
            if any(self.storage.exists(self.url(name)) or self.storage.holds_files(self.url(name)) for name in names):
                raise RunConflictError(
                    f"output.path {self.path}: holds {names[:5]}, which no run of this project wrote; "
                    "expected an empty directory, or one with a manifest.json to resume"
                )
            return False
        manifest = self.read_manifest()
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

    def begin(self, identity: Mapping[str, Any], details: Mapping[str, Any]) -> Self:
        """Write the manifest, unless it is there; the run that has begun. For the holder of the lease.

        Raises:
            RunConflictError: another run was faster.
        """
        manifest = {"identity": identity, **details, "session": self.session, "created": time.time()}
        content = json.dumps({**manifest, RUN_ID: uuid.uuid4().hex[:12]}, indent=2).encode()
        if self.storage.create(self.manifest_url, content):
            self.storage.remove_tree(join_url(self.path, WORK))  # of a run that was removed
        else:
            version = self.storage.version_at(self.manifest_url)
            if not self.check(identity):
                self._clear()
                if not self.storage.replace(self.manifest_url, content, version):
                    raise RunLostError(f"output.path {self.path}: another run began there at the same time")
        opened = self.opened()
        self.storage.abort_uploads(self.path)
        self.storage.remove(self.url(FAILED))
        return opened

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
            self.write(json.dumps({RUN_ID: self.known().id}).encode(), SUCCESS, confirm=confirm)

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
