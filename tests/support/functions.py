"""Jobs as functions, in a process of their own that tells what became of each call and lives on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.s3_jobs import ROOT

PROGRAM = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
import tart_ray

outcomes, sys.stdout = sys.stdout, sys.stderr  # Ray prints, too

def rerank(config):
    try:
        return {"counts": {**tart_ray.rerank(config).counts}}
    except tart_ray.errors.TartRayError as error:
        return {"error": type(error).__name__, "message": str(error), "advice": error.advice}

for line in sys.stdin:
    if sys.argv[1] == "main":
        said = rerank(json.loads(line))
    else:
        with ThreadPoolExecutor(1) as pool:
            said = pool.submit(rerank, json.loads(line)).result()
    print(json.dumps(said), file=outcomes, flush=True)
"""


@dataclass(frozen=True)
class Caller:
    """The process; what else it says is in ``log``."""

    process: subprocess.Popen[str]
    log: Path

    def call(self, config: Mapping[str, Any]) -> None:
        """Let it call `tart_ray.rerank`."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(config) + "\n")
        self.process.stdin.flush()

    def outcome(self) -> dict[str, Any]:
        """What became of the last call, once it ends: ``counts``, or ``error``, ``message`` and ``advice``."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the process ended: {self.process.wait(60)}\n{self.log.read_text()}"
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def calling(thread: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Caller]:
    """A process that calls in its main thread, or in another, and is ended with the block."""
    log = folder / f"calls-in-{thread}.log"
    with (
        log.open("w") as said,
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, thread], cwd=ROOT, env=dict(environment), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
        ) as process,
    ):  # fmt: skip
        try:
            yield Caller(process, log)
        finally:
            process.kill()
