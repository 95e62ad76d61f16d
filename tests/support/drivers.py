"""Drivers of jobs as processes of their own, behind a proxy that knows every request they and their workers make."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import yaml
from pyarrow.fs import FSSpecHandler, PyFileSystem

from support.faulty_s3 import Proxy, Request, call
from support.s3_jobs import ROOT, command, small_job

Predicate = Callable[[Request], bool]


class Jobs:
    """One input and model in a bucket, and runs over it by output path."""

    def __init__(self, proxy: Proxy, folder: Path, checkpoint: Path, environment: dict[str, str]) -> None:
        self.proxy, self.folder = proxy, folder
        self.environment = environment | proxy.server.environment
        self.bucket = proxy.store.new_bucket()
        self.config = small_job(proxy.store, self.bucket, checkpoint, queries=12, documents=200)
        self.config["cluster"]["address"] = "local"
        self.config["output"]["partition_by"] = ["query_id"]
        self.starts = 0

    def start(self, run: str, *options: str) -> subprocess.Popen[bytes]:
        """A driver; what it says goes to ``log``."""
        self.starts += 1
        config = self.config | {"output": self.config["output"] | {"path": f"s3://{self.bucket}/{run}/"}}
        (self.folder / "job.yaml").write_text(yaml.safe_dump(config))
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command(str(self.folder / "job.yaml"), *options),
                env=self.environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def finish(self, run: str, *options: str) -> int:
        """A driver that is let be: its exit code."""
        with self.start(run, *options) as driver:
            return driver.wait(300)

    def kill(self, run: str, at: Predicate, *, before: bool) -> bool:
        """A driver that is killed when a request comes, before or after the store does it; False if none came."""
        started: list[subprocess.Popen[bytes]] = []

        def kill() -> None:
            os.kill(started[0].pid, signal.SIGKILL)
            started[0].wait()

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
        attempt = re.compile(rf"{self.bucket}/{run}/_work/attempts/score-([\d-]+)/(\w+)")
        found = {match.groups() for request in self.proxy.requests if (match := is_put(request, attempt))}
        return Counter(chunk for chunk, _ in found)


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
