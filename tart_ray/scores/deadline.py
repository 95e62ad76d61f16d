"""A process that hangs in its work is ended, so that another takes its place.

What hangs cannot be asked to stop: native code keeps Python from running, a kernel never returns. So the process is
ended, and what it was at is found by the next one like what any death leaves behind.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)

STDERR = 2
SECONDS_FOR_LAST_WORDS = 60.0  # a store may be slow; then, and where native code keeps Python from running, without


class Deadline:
    """A block that ends this process with code 1 when it makes no progress for so many seconds.

    Args:
        seconds: from the start of the block, or from the last `renew`.
        last_words: writes down why; what it raises is ignored.
    """

    def __init__(self, seconds: float, last_words: Callable[[str], object]) -> None:
        self._seconds, self._last_words = seconds, last_words
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def renew(self) -> None:
        """The work goes on."""
        self._due = time.monotonic() + self._seconds
        # a thread of C, which needs no lock of Python's
        faulthandler.dump_traceback_later(self._seconds + SECONDS_FOR_LAST_WORDS, exit=True, file=STDERR)

    def __enter__(self) -> Self:
        self.renew()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        faulthandler.cancel_dump_traceback_later()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(max(self._due - time.monotonic(), 0)):
            if time.monotonic() < self._due:  # renewed
                continue
            words = f"no answer within {self._seconds:g} s"
            log.error("%s: this process hangs, and is ended for another to begin", words)
            faulthandler.dump_traceback(STDERR)
            with suppress(Exception):
                self._last_words(words)
            os._exit(1)
