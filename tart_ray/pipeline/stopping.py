"""What a driver does when it is told to stop: let go, at once.

A run is whole whenever it is killed, so there is nothing to finish: files and commits that workers are writing appear
as a whole or not at all. Unwinding through Ray would take longer than the 3 seconds that `ray job stop` grants.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tart_ray.data.lease import Lease
from tart_ray.data.run import LEASE, Run
from tart_ray.errors import ExitCode

log = logging.getLogger(__name__)

SECONDS_TO_RELEASE = 1.5
_held: list[Lease] = []  # of this process, which may run one job within another


@contextmanager
def leased(run: Run) -> Iterator[Lease]:
    """The lease of a run's directory, while the block runs.

    Raises:
        LeaseHeldError: another driver is alive.
        StorageError: the store cannot tell two drivers apart.
    """
    lease = Lease(run, _end)
    _held.append(lease)
    try:
        run.storage.prove_creation(run.url(LEASE))
        yield lease
    finally:
        _held.remove(lease)
        lease.release()


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """End this process on SIGTERM or SIGINT, with its leases released so that a rerun can begin at once.

    To be entered after Ray was started, which sets handlers of its own.
    """

    def stop(number: int, _: FrameType | None) -> None:
        let_go(f"stopped by {signal.Signals(number).name}; run the same command again to continue")

    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def let_go(message: str) -> None:
    """End this process, with its leases released so that a rerun can begin at once."""
    releases = [threading.Thread(target=lease.release, daemon=True) for lease in _held]
    deadline = time.monotonic() + SECONDS_TO_RELEASE
    for release in releases:
        release.start()
    for release in releases:
        release.join(max(deadline - time.monotonic(), 0))
    _end(message)


def _end(message: str) -> None:
    log.error("%s", message)
    logging.shutdown()
    os._exit(ExitCode.FAILED)
