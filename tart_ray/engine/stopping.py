"""What a driver does when it is told to stop: let go, at once.

A run is whole whenever it is killed, so there is nothing to finish: files and commits that workers are writing appear
as a whole or not at all. Unwinding through Ray would take longer than the 3 seconds that `ray job stop` grants.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import FrameType

from tart_ray.errors import CONTINUE, ExitCode, RunFailedError
from tart_ray.runs.directory import LEASE, Directory
from tart_ray.runs.lease import Lease

log = logging.getLogger(__name__)

SECONDS_TO_RELEASE = 1.5

_held: ContextVar[Lease | None] = ContextVar("lease", default=None)


class Stop:
    """Ends the work of the thread that made it, when another thread finds that it cannot go on.

    A command's process is ended at once, with its lease released so that a rerun can begin. Of a function, the caller
    gets an error: at once in the main thread, which a signal wakes from whatever it waits for; in another thread when
    it next runs Python, and Ray Data looks for results every few milliseconds. That has to be soon: a minute after its
    cluster is gone Ray ends the whole process.

    Args:
        ends_process: whether this is a command.

    Attributes:
        lease: that is released when the process is ended.
    """

    def __init__(self, *, ends_process: bool) -> None:
        self.ends_process = ends_process
        self._thread = threading.get_ident()
        self._is_main = threading.current_thread() is threading.main_thread()
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._is_over = False
        self.lease: Lease | None = None

    def lose_lease(self, message: str) -> None:
        """End the work: the lease is another driver's."""
        self._end(message, _end)

    def lose_cluster(self, message: str) -> None:
        """End the work: the cluster is gone."""
        self._end(message, lambda message: self.let_go(f"the job failed: {message}; {CONTINUE}"))

    def _end(self, message: str, end: Callable[[str], None]) -> None:
        if self.ends_process:
            end(message)
        with self._lock:
            if self._is_over or self._reason is not None:
                return
            self._reason = message
            if self._is_main:
                signal.pthread_kill(self._thread, signal.SIGINT)  # it may wait for a lock
            else:
                _raise_in(self._thread, KeyboardInterrupt)

    def let_go(self, message: str) -> None:
        """End this process, with its lease released so that a rerun can begin at once."""
        log.error("%s", message)  # before all else: Ray, too, ends processes whose cluster is gone
        if self.lease is not None:
            release = threading.Thread(target=self.lease.release, daemon=True)
            release.start()
            release.join(SECONDS_TO_RELEASE)
        _exit()

    def close(self) -> str | None:
        """Nothing is ended from now on; why the work was, if it was."""
        with self._lock:
            self._is_over = True
        return self._reason

    def outlast_interrupt(self) -> None:
        """Let nothing arrive later of what `close` came too late for."""
        with suppress(KeyboardInterrupt):
            if self._is_main:
                time.sleep(SECONDS_TO_RELEASE)
            else:
                _raise_in(self._thread, None)


@contextmanager
def stoppable(*, ends_process: bool) -> Iterator[Stop]:
    """Work that other threads can end.

    Raises:
        RunFailedError: one did, and this is no command.
    """
    stop = Stop(ends_process=ends_process)
    try:
        yield stop
    except BaseException as error:
        if (reason := stop.close()) is None:
            raise
        raise RunFailedError(reason) from (None if isinstance(error, KeyboardInterrupt) else error)
    if (reason := stop.close()) is not None:
        stop.outlast_interrupt()
        raise RunFailedError(reason)


@contextmanager
def leased(run: Directory, stop: Stop) -> Iterator[Lease]:
    """The lease of a run's directory, while the block runs.

    Raises:
        LeaseHeldError: another driver is alive.
        StorageError: the store cannot tell two drivers apart.
    """
    lease = Lease(run, stop.lose_lease)
    stop.lease = lease
    token = _held.set(lease)
    try:
        run.storage.prove_creation(run.url(LEASE))
        yield lease
    finally:
        _held.reset(token)
        stop.lease = None
        lease.release()


def held_lease() -> Lease | None:
    """The lease in whose block of `leased` this is called; it is of the output path, above all runs within it."""
    return _held.get()


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """Of a command: end this process on SIGTERM or SIGINT, with its lease released so that a rerun can begin at once.

    To be entered after Ray was started, which sets handlers of its own.
    """

    def end(number: int, _: FrameType | None) -> None:
        stop.let_go(f"stopped by {signal.Signals(number).name}; run the same command again to continue")

    if not stop.ends_process or threading.current_thread() is not threading.main_thread():  # where Python allows none
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise in another thread when it next runs Python; None takes back what was not raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)


def _end(message: str) -> None:
    log.error("%s", message)
    _exit()


def _exit() -> None:
    logging.shutdown()
    os._exit(ExitCode.FAILED)
