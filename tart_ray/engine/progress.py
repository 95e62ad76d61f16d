"""Progress that a person can follow in a terminal and in a job's log: one line every ten seconds."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts units and pairs of one stage; a thread writes the lines, so that a slow unit is no silence."""

    def __init__(self, stage: str, units: int, done: int, pairs: int | None = None) -> None:
        self._stage, self._units, self._done, self._resumed = stage, units, done, done
        self._pairs_total, self._pairs = pairs, 0
        self._noun = "parts" if pairs is None else "chunks"
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if kind is None:
            log.info("%s", self.line())

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self._started

    def step(self, pairs: int = 0) -> None:
        """One unit is done."""
        self._done += 1
        self._pairs += pairs

    def line(self) -> str:
        """Done and total units, pairs per second, time left."""
        parts = [f"{self._stage}: {self._done}/{self._units} {self._noun}"]
        if self._resumed:
            parts.append(f"{self._resumed} of them from an earlier run")
        if self._pairs_total is not None:
            parts.append(f"{self._pairs:,} pairs, {self._pairs / max(self.seconds, 1e-9):,.0f} pairs/s")
        fresh = self._done - self._resumed
        if self._done == self._units:
            parts.append(f"done in {duration(self.seconds)}")
        elif fresh:
            parts.append(f"ETA {duration(self.seconds / fresh * (self._units - self._done))}")
        return " · ".join(parts)

    def _report(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN_LINES):
            log.info("%s", self.line())


def duration(seconds: float) -> str:
    """``1h02m``, ``3m20s`` or ``4.2s``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
