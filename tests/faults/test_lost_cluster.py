"""A cluster that a job has joined, and that goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.drivers import Jobs, puts
from support.faulty_s3 import hold
from support.functions import calling
from support.job_files import WORDS, write_jsonl
from support.s3_jobs import ROOT, command
from support.s3_server import free_ports, wait_until_open

from tart_ray.errors import CONTINUE, ExitCode

RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture
def started() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A cluster that `ray start` started on this machine: the process, and the port of its head."""
    (port,) = free_ports(1)
    options = ["--head", "--block", f"--port={port}", "--include-dashboard=false", "--num-cpus=2"]
    options += ["--object-store-memory=200000000", "--disable-usage-stats"]
    options += ["--min-worker-port=0", "--max-worker-port=0"]
    with subprocess.Popen([RAY, "start", *options], stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            wait_until_open(port)
            yield process, port
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.matrix
@pytest.mark.parametrize("lost", ["gcs_server", "raylet", "all"])
def test_a_job_whose_cluster_goes_away_ends_with_a_sentence(
    lost: str, started: tuple[subprocess.Popen[bytes], int], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    cluster, port = started
    rows = [
        {"query_id": f"q{q}", "query": WORDS[q % 18], "doc_id": f"d{d}", "text": f"{WORDS[d % 18]} {d} " * 30}
        for q in range(60)
        for d in range(400)
    ]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    config: dict[str, Any] = {
        "model": {"path": str(tiny_checkpoint)},
        "input": {"candidates": str(tmp_path / "candidates.jsonl"), "instruction": ""},
        "output": {"path": str(tmp_path / "run")},
        "cluster": {"address": f"127.0.0.1:{port}", "gpus_per_replica": 0, "replicas": {"max": 1}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config))
    log = tmp_path / "log"
    with (
        log.open("wb") as said,
        subprocess.Popen(command(str(tmp_path / "job.yaml")), cwd=ROOT, stdout=said, stderr=said) as driver,
    ):
        deadline = time.monotonic() + 240
        while not [*(tmp_path / "run" / "_commits").glob("score/*")]:
            assert driver.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)  # it is starting
        for pid in children(cluster.pid, lost):  # `ray stop` would end the clusters of other tests, too
            os.kill(pid, signal.SIGTERM if lost == "all" else signal.SIGKILL)
        code = driver.wait(120)
    told = log.read_text()
    assert code == ExitCode.FAILED, told
    assert f":{port}, which this job has joined" in told
    assert "the job failed: the Ray cluster at " in told
    assert "run the same command again to continue" in told.splitlines()[-1], told
    assert "Traceback" not in told


@pytest.mark.matrix
@pytest.mark.skipif(os.getpid() == 1, reason="Ray ends children of process 1 whose raylet is lost: docs/python.md")
@pytest.mark.parametrize("thread", ["main", "another"])
@pytest.mark.parametrize("lost", ["gcs_server", "raylet", "all"])
def test_a_function_whose_cluster_goes_away_raises_and_its_process_goes_on_with_the_run(
    lost: str, thread: str, started: tuple[subprocess.Popen[bytes], int], jobs: Jobs, undisturbed_job: Any,
    assert_same: Any, tmp_path: Path,
) -> None:  # fmt: skip
    cluster, port = started
    run, go_on, reached = f"function-{lost}-{thread}", threading.Event(), threading.Event()
    server = jobs.proxy.server
    store = {"endpoint_url": server.endpoint_url, "key": server.key, "secret": server.secret}
    config = jobs.config_of(run) | {"storage": store}
    joins = {**config["cluster"], "address": f"127.0.0.1:{port}"}
    jobs.proxy.on(puts(f"/{run}/_commits/score/"), hold(go_on, reached), times=1)
    with calling(thread, tmp_path, jobs.environment) as caller:
        caller.call(config | {"cluster": joins})
        assert reached.wait(120), caller.log.read_text()
        for pid in children(cluster.pid, lost):
            os.kill(pid, signal.SIGKILL)
        failed = caller.outcome()
        go_on.set()
        assert failed["error"] == "RunFailedError", failed
        assert failed["message"].startswith(f"the Ray cluster at 127.0.0.1:{port} was lost: "), failed
        assert failed["advice"] == CONTINUE
        caller.call(config)
        assert caller.outcome()["counts"]["scored"] == len(undisturbed_job)
    assert_same(jobs.rows(run), undisturbed_job)


def children(pid: int, name: str) -> list[int]:
    """Children of a process by the name of their program, or all of them."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    chosen = [int(child) for child in found if name in ("all", Path(f"/proc/{child}/comm").read_text().strip())]
    assert chosen, (name, found)
    return chosen
