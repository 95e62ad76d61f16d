"""A lease: of several drivers that want one output path, one works, and another takes over when it is dead.

    _lease/<number>.json           a *term*, which only one driver can create, with a nonce; says in the end "released"
    _lease/<number>-<nonce>.json   beats of its owner, written anew every few seconds

Whoever finds a term that nobody released watches its beats: one whose beats change has a living owner, one whose beats
do not change for `EXPIRE_SECONDS` has none, and the next term may be created. An owner that comes back (from a network
partition, from a suspended machine) finds the next term and stops. No clocks are compared, and nothing is asked of the
store but exclusive creation.

If the directory is removed and another run begins in it, that run's first term has the number of the one that was
removed, and another nonce. The nonce is in the name of the beats, so an owner that writes late neither creates a term
again nor touches one of another owner; it looks at its own term before each beat, and stops if that is gone or has
another nonce.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tart_ray.errors import LeaseHeldError, RunConflictError, RunLostError, StorageError
from tart_ray.runs.directory import LEASE, Directory
from tart_ray.storage import is_missing

log = logging.getLogger(__name__)

RENEW_SECONDS = 5.0
EXPIRE_SECONDS = 30.0
POLL_SECONDS = 1.0


class Lease:
    """The right to write to a run's directory, held until `release`.

    Args:
        on_loss: called from a thread of its own, with a sentence, when another driver has taken over, or the directory
            was removed.

    Raises:
        LeaseHeldError: another driver is alive.
        StorageError: the place cannot be written to.
    """

    def __init__(self, run: Directory, on_loss: Callable[[str], None]) -> None:
        self._run, self._on_loss, self._beats = run, on_loss, 0
        term = _newest(run)
        if term:
            self._wait_for_the_end_of(term)
        self._term, self._nonce = term + 1, uuid.uuid4().hex
        if not run.storage.create(self._url(self._term), self._content()):
            raise LeaseHeldError(_held(run.path, self._read(self._term)))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let others begin at once. Of a complete run nothing is left behind: there is nothing to begin."""
        self._ended.set()
        self._thread.join(RENEW_SECONDS)
        try:
            if self._thread.is_alive():
                raise StorageError(f"{self._url(self._term)}: its store does not answer")
            version = self._run.storage.version_at(self._url(self._term))
            self.confirm()
            if self._run.is_complete():
                self._run.storage.remove_tree(self._run.url(LEASE))
            else:
                self._run.storage.replace(self._url(self._term), self._content(released=True), version)
                self._run.storage.remove(self._beats_url(self._term, self._nonce))
        except RunConflictError:  # then there is nothing to release
            self._run.storage.remove(self._beats_url(self._term, self._nonce))
        except StorageError as error:  # then it expires
            log.warning("the lease could not be released: %s", error)

    def confirm(self) -> None:
        """Look whether the lease is still one's own.

        Raises:
            LeaseHeldError: another driver has taken over.
            RunLostError: the directory was removed.
        """
        if self._run.storage.exists(self._url(self._term + 1)):
            raise LeaseHeldError(_held(self._run.path, self._read(self._term + 1)))
        found = self._read(self._term)
        if found is None:
            raise RunLostError(
                f"output.path {self._run.path}: another driver completed the run there, or somebody removed it, while "
                "this one was at work; this one has ended"
            )
        if found.get("nonce") != self._nonce:
            raise RunLostError(
                f"output.path {self._run.path}: was removed while this run was at work there, and holds another run"
                f"{_who(found)}; this one has ended: give it another output.path"
            )

    def _wait_for_the_end_of(self, term: int) -> None:
        first = self._read(term)
        if first is None or first["released"] or _died_here(first["owner"]):
            return
        log.info("%s Watching for up to %.0f s whether it is alive", _held(self._run.path, first), EXPIRE_SECONDS)
        beats = self._read_beats(term, first)
        deadline = time.monotonic() + EXPIRE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            now = self._read(term)
            if now is None or now["released"]:
                return
            if now != first or self._read_beats(term, first) != beats:
                raise LeaseHeldError(_held(self._run.path, first))
        log.info("it is not: taking over")

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self.confirm()
                self._beats += 1
                said = json.dumps({"beats": self._beats}).encode()
                self._run.storage.write(self._beats_url(self._term, self._nonce), said)
            except RunConflictError as error:
                self._on_loss(str(error))
                return
            except Exception as error:  # the store may come back; who took over meanwhile is found then
                log.warning("the lease could not be renewed: %s: %s", type(error).__name__, error)

    def _content(self, *, released: bool = False) -> bytes:
        owner = {"session": self._run.session, **_this_process()}
        return json.dumps({"owner": owner, "nonce": self._nonce, "released": released}).encode()

    def _read(self, term: int) -> dict[str, Any] | None:
        """What a term says; None where it was removed, with all others, at the end of a complete run."""
        return _read(self._run, self._url(term))

    def _read_beats(self, term: int, content: dict[str, Any]) -> dict[str, Any] | None:
        """What the owner of a term said last; None before its first beat."""
        nonce = content.get("nonce")
        return None if nonce is None else _read(self._run, self._beats_url(term, nonce))

    def _url(self, term: int) -> str:
        return _term_url(self._run, term)

    def _beats_url(self, term: int, nonce: str) -> str:
        return self._run.url(LEASE, f"{term:08d}-{nonce}.json")


@dataclass(frozen=True)
class Holder:
    """Who has the lease of a directory, or had it last.

    Attributes:
        host, pid: of its process.
        silent: seconds since it last wrote to its lease, by the clock of this machine and that of the store.
        has_ended: whether it released the lease, or was a process of this machine that is gone.
    """

    host: str
    pid: int
    silent: float
    has_ended: bool

    @property
    def is_at_work(self) -> bool:
        """Whether another driver would be refused, as far as the two clocks agree."""
        return not self.has_ended and self.silent <= EXPIRE_SECONDS


def holder_of(run: Directory) -> Holder | None:
    """Who has the lease of a directory, without waiting for a beat; None where nobody took it, or the run is done."""
    number = _newest(run)
    term = _read(run, _term_url(run, number)) if number else None
    if term is None:
        return None
    beats = run.url(LEASE, f"{number:08d}-{term.get('nonce')}.json")
    written = [at for url in (_term_url(run, number), beats) if (at := run.storage.modified(url)) is not None]
    silent = max(time.time() - max(written, default=0.0), 0.0)
    owner = term["owner"]
    return Holder(owner["host"], owner["pid"], silent, bool(term["released"]) or _died_here(owner))


def confirm_driver(run: Directory) -> None:
    """Look whether the driver of a worker still has the lease of its run's directory.

    Raises:
        RunConflictError: another driver has taken over, or the directory holds another run.
    """
    run.confirm()
    found = _read(run, _term_url(run, _newest(run)))
    if found is None or found["owner"]["session"] != run.session:
        raise LeaseHeldError(_held(run.path, found))


def _newest(run: Directory) -> int:
    """The number of the last term; 0 where there is none."""
    names = [name.removesuffix(".json") for name in run.storage.names(run.url(LEASE))]
    term = max((int(name) for name in names if name.isdigit()), default=0)
    while run.storage.exists(_term_url(run, term + 1)):  # a listing may lag
        term += 1
    return term


def _term_url(run: Directory, term: int) -> str:
    return run.url(LEASE, f"{term:08d}.json")


def _read(run: Directory, url: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(run.storage.read(url))
    except StorageError as error:
        if is_missing(error):
            return None
        raise
    return found


def _held(path: str, lease: dict[str, Any] | None) -> str:
    return (
        f"output.path {path}: another run is at work there{_who(lease) or ', or was'}. "
        "Wait for its end or stop it; the same command continues what it leaves."
    )


def _who(lease: dict[str, Any] | None) -> str:
    return f": process {lease['owner']['pid']} on {lease['owner']['host']}" if lease else ""


def _this_process() -> dict[str, Any]:
    """What tells this process from every other one; ``space``: within which process ids are unique."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "space": _space(), "started": _started(pid)}


def _died_here(owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this machine that is gone; False where that cannot be told."""
    if _space() is None or owner["space"] != _space():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    started = _started(owner["pid"])
    return started is not None and started != owner["started"]  # another process has its number, or it is a zombie


def _space() -> str | None:
    """This start of this machine and the namespace of its process ids: containers have their own."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:  # not Linux
        return None


def _started(pid: int) -> str | None:
    """When a process of this machine started, in ticks since the machine did; None where it cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "ended" if fields[0] == "Z" else fields[19]
