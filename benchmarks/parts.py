"""A benchmark of many parts on a machine that may be gone soon: what one part has found is kept.

Each part has a time of its own; what raises in it is written down, and the next one begins. The results are written to
a file after each part, and on the last line of output as JSON.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LAST_LINES = 12  # of a traceback
GRACE = 20.0  # seconds that the last part may take too long before the process is ended


class OutOfTimeError(Exception):
    """A part's time is over."""


class Part:
    """What one part has found yet, and how long it may go on.

    Args:
        found: into which the part writes; it is in the results already.
        seconds: that it has.
        say: prints a line with the time.
    """

    def __init__(self, found: dict[str, Any], seconds: float, say: Callable[[str], None]) -> None:
        self.found = found
        self.say = say
        self._ends = time.monotonic() + seconds

    def seconds_left(self) -> float:
        return max(self._ends - time.monotonic(), 0.0)

    def check(self) -> None:
        """Raise `OutOfTimeError` if the part's time is over."""
        if self.seconds_left() <= 0:
            raise OutOfTimeError

    def attempt(self, name: str, measure: Callable[[], Any]) -> Any:
        """Keep what ``measure`` returns under ``name``, or why it has not returned; then it is None here."""
        try:
            self.check()
            self.found[name] = measure()
        except OutOfTimeError:
            self.found[name] = {"skipped": "the part's time was over"}
            self.found["status"] = "partly"
            self.say(f"  {name}: skipped, the part's time is over")
            return None
        except Exception as error:
            self.found[name] = describe(error)
            self.found["status"] = "partly"
            self.say(f"  {name}: failed, {type(error).__name__}: {str(error)[:300]}")
            return None
        self.say(f"  {name}: {shorten(self.found[name])}")
        return self.found[name]


class Runner:
    """Run parts one after the other within a time for all.

    Args:
        results: what is known already: parts that are in it are not run again.
        seconds: for all parts; a little later the process ends itself, whatever it does.
        output: the results are written there after each part.
        works: whether the device still computes; asked where a part has failed.
        restart: begins anew in another process, with the results; called when the device does not work any more.
    """

    def __init__(
        self,
        results: dict[str, Any],
        seconds: float,
        output: Path | None,
        works: Callable[[], bool] = lambda: True,
        restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.results = results
        self.parts: dict[str, Any] = results.setdefault("parts", {})
        self._output, self._works, self._restart = output, works, restart
        self._began = time.monotonic() - results.get("seconds", 0.0)
        self._seconds = seconds
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def say(self, line: str) -> None:
        print(f"[{self.elapsed():6.1f} s] {line}", flush=True)

    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def run(self, name: str, measure: Callable[[Part], None], *, most: float, least: float) -> None:
        """Run a part, unless it was run before.

        Args:
            most: seconds that it has.
            least: seconds without which it does not begin.
        """
        if name in self.parts:
            return
        left = self._seconds - self.elapsed()
        found = self.parts[name] = {"status": "ok"}
        if left < least:
            found["status"] = "skipped"
            found["why"] = f"it needs {least:.0f} s, and {max(left, 0):.0f} s are left"
            self.say(f"{name}: skipped, {found['why']}")
            return
        self.say(f"{name}: begins, with {min(most, left):.0f} s")
        started = time.monotonic()
        try:
            measure(Part(found, min(most, left), self.say))
        except OutOfTimeError:
            found["status"] = "partly"
            found["skipped"] = "the part's time was over"
        except Exception as error:
            found |= {"status": "failed", **describe(error)}
            print("\n".join(found["traceback"]), flush=True)
        found["seconds"] = time.monotonic() - started
        self.say(f"{name}: {found['status']}, {found['seconds']:.1f} s")
        self.write()
        if found["status"] != "ok" and not self._works():
            self.say("the device fails: the parts left run in a new process")
            self._restart()

    def write(self) -> None:
        self.results["seconds"] = self.elapsed()
        if self._output:
            self._output.write_text(to_json(self.results))

    def finish(self) -> None:
        """Print the results: the last line of the output."""
        self._ended.set()
        self.results["finished"] = True
        self.write()
        print(to_json(self.results), flush=True)

    def _watch(self) -> None:
        left = self._seconds + GRACE - self.elapsed()
        if self._ended.wait(max(left, 0)):
            return
        faulthandler.dump_traceback(sys.stderr)
        for found in self.parts.values():
            if "seconds" not in found and found["status"] == "ok":
                found["status"] = "cut off"
        self.results["finished"] = False
        self.write()
        print(to_json(self.results), flush=True)
        os._exit(3)


def describe(error: Exception) -> dict[str, Any]:
    """What to keep of an error: what it says, and where it was."""
    lines = "".join(traceback.format_exception(error)).rstrip().splitlines()
    return {"error": f"{type(error).__name__}: {error}"[:1_000], "traceback": lines[-LAST_LINES:]}


def shorten(value: Any) -> str:
    """A value for people: three digits are enough."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shorten(inner)}" for key, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def to_json(results: dict[str, Any]) -> str:
    """One line, also while another thread goes on writing; numbers that are none become null."""
    while True:
        try:
            return json.dumps(_plain(results), allow_nan=False)
        except RuntimeError:  # a dictionary has changed its size meanwhile
            time.sleep(0.01)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
