"""A process that hangs is ended, also where native code keeps Python from running."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tart_ray.runs.attempts import Attempt
from tart_ray.runs.run import Run
from tart_ray.scores.deadline import Deadline
from tart_ray.storage import Storage

HANGS = {
    "in Python": "threading.Event().wait()",
    "in native code that holds the lock": "ctypes.PyDLL(None).pause()",
}
PROGRAM = """
import ctypes, sys, threading
from tart_ray.runs.attempts import Attempt
from tart_ray.runs.run import Run
from tart_ray.storage import Storage
from tart_ray.scores import deadline

deadline.SECONDS_FOR_LAST_WORDS = 1
run = Run(Storage({{}}), sys.argv[1], "session", 3)
attempt = Attempt.begin(run, "score", "0")
attempt.at([4])
with deadline.Deadline(0.5, attempt.add_last_words):
    {hang}
"""


@pytest.mark.parametrize("where", HANGS)
def test_a_process_that_hangs_is_ended_and_says_so_if_it_can(where: str, tmp_path: Path) -> None:
    program = PROGRAM.format(hang=HANGS[where])
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 1
    assert "most recent call first" in ended.stderr  # where it was
    (death,) = Attempt.begin(Run(Storage({}), str(tmp_path), "other", 3), "score", "0").deaths
    assert death.rows == (4,)
    assert death.last_words == ("no answer within 0.5 s" if where == "in Python" else None)


def test_work_that_goes_on_is_let_be() -> None:
    said: list[str] = []
    with Deadline(5, said.append) as deadline:
        for _ in range(3):
            deadline.renew()
            time.sleep(0.01)  # work
    assert said == []
