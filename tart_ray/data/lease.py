"""A lease: of several drivers that want one output path, one works, and another takes over when it is dead.

A lease is a *term*, an object ``_lease/<number>.json`` that only one driver can create. Its owner writes it anew every
few seconds. Whoever finds a term that nobody released watches it: one that changes has a living owner, one that does
not change for `EXPIRE_SECONDS` has none, and the next term may be created. An owner that comes back (from a network
partition, from a suspended machine) finds the next term and stops. No clocks are compared, and nothing is asked of the
store but exclusive creation.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tart_ray.data.run import LEASE, Run, RunConflictError
from tart_ray.data.storage import StorageError, is_missing

log = logging.getLogger(__name__)

RENEW_SECONDS = 5.0
EXPIRE_SECONDS = 30.0
POLL_SECONDS = 1.0


class LeaseHeldError(RunConflictError):
    """Another driver works on this output path."""


class Lease:
    """The right to write to a run's directory, held until `release`.

    Args:
        on_loss: called from a thread of its own, with a sentence, when another driver has taken over.

    Raises:
        LeaseHeldError: another driver is alive.
        StorageError: the place cannot be written to.
    """

    def __init__(self, run: Run, on_loss: Callable[[str], None]) -> None:
        self._run, self._on_loss, self._beats = run, on_loss, 0
        term = self._newest()
        if term:
            self._wait_for_the_end_of(term)
        self._term = term + 1
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
            if self._run.is_complete():
                self._run.storage.remove_tree(self._run.url(LEASE))
            else:
                self._run.storage.write(self._url(self._term), self._content(released=True))
        except StorageError as error:  # then it expires
            log.warning("the lease could not be released: %s", error)

    def confirm(self) -> None:
        """Look whether the lease is still one's own.

        Raises:
            LeaseHeldError: another driver has taken over.
        """
        followed = self._run.storage.exists(self._url(self._term + 1))
        if followed or not self._run.storage.exists(self._url(self._term)):  # removed by one that is complete
            raise LeaseHeldError(_held(self._run.path, self._read(self._term + 1)))

    def _newest(self) -> int:
        names = [name.removesuffix(".json") for name in self._run.storage.names(self._run.url(LEASE))]
        term = max((int(name) for name in names if name.isdigit()), default=0)
        while self._run.storage.exists(self._url(term + 1)):  # a listing may lag
            term += 1
        return term

    def _wait_for_the_end_of(self, term: int) -> None:
        first = self._read(term)
        if first is None or first["released"] or _died_here(first["owner"]):
            return
        log.info("%s Watching for up to %.0f s whether it is alive", _held(self._run.path, first), EXPIRE_SECONDS)
        deadline = time.monotonic() + EXPIRE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            now = self._read(term)
            if now is None or now["released"]:
                return
            if now != first:
                raise LeaseHeldError(_held(self._run.path, first))
        log.info("it is not: taking over")

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self.confirm()
                self._beats += 1
                self._run.storage.write(self._url(self._term), self._content())
            except LeaseHeldError as error:
                self._on_loss(str(error))
                return
            except Exception as error:  # the store may come back; who took over meanwhile is found then
                log.warning("the lease could not be renewed: %s: %s", type(error).__name__, error)

    def _content(self, *, released: bool = False) -> bytes:
        owner = {"session": self._run.session, **_this_process()}
        return json.dumps({"owner": owner, "beats": self._beats, "released": released}).encode()

    def _read(self, term: int) -> dict[str, Any] | None:
        """What a term says; None where it was removed, with all others, at the end of a complete run."""
        try:
            found: dict[str, Any] = json.loads(self._run.storage.read(self._url(term)))
        except StorageError as error:
            if is_missing(error):
                return None
            raise
        return found

    def _url(self, term: int) -> str:
        return self._run.url(LEASE, f"{term:08d}.json")


def _held(path: str, lease: dict[str, Any] | None) -> str:
    who = f": process {lease['owner']['pid']} on {lease['owner']['host']}" if lease else ", or was"
    return (
        f"output.path {path}: another run is at work there{who}. "
        "Wait for its end or stop it; the same command continues what it leaves."
    )


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
