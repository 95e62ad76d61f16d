"""Drivers of jobs as processes of their own, behind a proxy that knows every request they and their workers make."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import yaml
from pyarrow.fs import FSSpecHandler, PyFileSystem

from support.faulty_s3 import Action, Proxy, Request, call
from support.s3_jobs import ROOT, command, small_job

QUERIES, DOCUMENTS, CHUNKS = 12, 200, 6  # of every job: chunks hold about 512 pairs
IN_FLIGHT = 3  # chunks of one replica: at work, waiting for it, written and not committed

Predicate = Callable[[Request], bool]


class Jobs:
    """One input and model in a bucket, and runs over it by output path."""

    job = "rerank"

    def __init__(self, proxy: Proxy, folder: Path, checkpoint: Path, environment: dict[str, str]) -> None:
        self.proxy, self.folder = proxy, folder
        self.environment = environment | proxy.server.environment
        self.bucket = proxy.store.new_bucket()
        self.config = small_job(proxy.store, self.bucket, checkpoint, QUERIES, DOCUMENTS)
        self.config["cluster"]["address"] = "local"
        self.config["output"]["partition_by"] = ["query_id"]
        self.starts = 0

    def config_of(self, run: str) -> dict[str, Any]:
        """The configuration of a run."""
        return self.config | {"output": self.config["output"] | {"path": f"s3://{self.bucket}/{run}/"}}

    def start(self, run: str, *options: str) -> subprocess.Popen[bytes]:
        """A driver; what it says goes to ``log``."""
        self.starts += 1
        config = self.config_of(run)
        (self.folder / "job.yaml").write_text(yaml.safe_dump(config))
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command(str(self.folder / "job.yaml"), *options, job=self.job),
                env=self.environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def finish(self, run: str, *options: str) -> int:
        """A driver that is let be: its exit code."""
        with self.start(run, *options) as driver:
            return driver.wait(300)

    def fail_at(self, run: str, at: Predicate, action: Action) -> int:
        """A driver whose first request of a kind meets an action: its exit code."""
        rule = self.proxy.on(at, action, times=1)
        try:
            return self.finish(run)
        finally:
            rule.remove()

    def kill(self, run: str, at: Predicate, *, before: bool, machine: bool = False) -> bool:
        """A driver that is killed when a request comes, before or after the store does it; False if none came.

        Its workers go on for a moment, unless the whole ``machine`` dies with it.
        """
        started: list[subprocess.Popen[bytes]] = []

        def kill() -> None:
            driver = started[0]
            others = [pid for pid in processes() if machine and session_of(pid) == driver.pid]
            for pid in [driver.pid, *others]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            driver.wait()

        rule = self.proxy.on(lambda request: bool(started) and at(request), call(kill, before=before), times=1)
        with self.start(run) as driver:
            started.append(driver)
            code = driver.wait(300)
        rule.remove()
        assert code in (0, -signal.SIGKILL), self.said
        return code != 0

    @property
    def log(self) -> Path:
        return self.folder / f"driver-{self.starts}.log"

    @property
    def said(self) -> str:
        """By the last driver."""
        return self.log.read_text()

    def exists(self, name: str) -> bool:
        return bool(self.proxy.store.filesystem().exists(f"{self.bucket}/{name}"))

    def rows(self, run: str) -> list[dict[str, Any]]:
        """The rows of reranked/."""
        filesystem = PyFileSystem(FSSpecHandler(self.proxy.store.filesystem()))
        folder = f"{self.bucket}/{run}/reranked"
        partitioning = ds.partitioning(flavor="hive")
        rows: list[dict[str, Any]] = (
            ds.dataset(folder, filesystem=filesystem, partitioning=partitioning).to_table().to_pylist()
        )
        return rows

    def starts_of_chunks(self, run: str) -> Counter[str]:
        """How often each chunk began to be scored."""
        attempt = re.compile(rf"{self.bucket}/{run}/_work/\w+/attempts/score-([\d-]+)/(\w+)")
        found = {match.groups() for request in self.proxy.requests if (match := is_put(request, attempt))}
        return Counter(chunk for chunk, _ in found)


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def session_of(pid: int) -> int | None:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return None


def is_put(request: Request, pattern: re.Pattern[str]) -> re.Match[str] | None:
    return pattern.fullmatch(request.key) if request.method == "PUT" else None


def puts(pattern: str) -> Predicate:
    """PUTs of a key that has this in it."""
    return lambda request: request.method == "PUT" and re.search(pattern, request.key) is not None


def changes(run: str) -> Predicate:
    """Requests that change something in a run's directory."""
    return lambda request: (
        (request.method in ("PUT", "DELETE") and f"/{run}/" in request.key)
        or (request.method == "POST" and "delete" in request.parameters)
    )
