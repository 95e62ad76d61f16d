"""Local paths on a cluster: one place on all nodes, or refused."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.job_files import write_jsonl

from tart_ray.engine.places import prove_shared
from tart_ray.errors import ConfigurationError, ExitCode
from tart_ray.reranking.job import rerank
from tart_ray.runs.run import Run
from tart_ray.storage import Storage

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture
def other_disk(cluster: str, tmp_path: Path) -> Iterator[Path]:
    """A directory that is another one on a third node of the cluster: a file system of its own lies over it there."""
    import ray

    place = tmp_path / "disk"
    place.mkdir()
    mounting = [*UNSHARE, "sh", "-c", 'mount -t tmpfs none "$1" && shift && exec "$@"', "sh", str(place)]
    if not shutil.which("unshare") or subprocess.run([*mounting, "true"], check=False, capture_output=True).returncode:
        pytest.skip("a process cannot be given a file system of its own here")
    before = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    start = [str(Path(sys.executable).parent / "ray"), "start", f"--address={cluster}", "--block", "--num-cpus=1"]
    start += ["--object-store-memory=100000000", "--min-worker-port=0", "--max-worker-port=0"]
    with subprocess.Popen([*mounting, *start], stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 120
            while {node["NodeID"] for node in ray.nodes() if node["Alive"]} <= before:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)  # it is starting
            yield place
        finally:
            process.terminate()
            process.wait(60)
            os.killpg(process.pid, 9) if process.poll() is None else None


@pytest.mark.usefixtures("cluster")
def test_nodes_that_share_a_disk_are_told_nothing_and_nothing_is_left_behind(tmp_path: Path) -> None:
    run = Run.at(Storage({}), str(tmp_path / "run"), 3)
    (tmp_path / "file").write_text("content")
    prove_shared(run, {"input.candidates": [str(tmp_path / "file")], "model.path": ["owner/name"]})
    assert [path for path in (tmp_path / "run").rglob("*") if path.is_file()] == []


@pytest.mark.usefixtures("cluster")
def test_the_id_of_a_model_is_no_path_where_a_directory_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)  # where no worker is
    prove_shared(Run.at(Storage({}), str(tmp_path / "run"), 3), {"model.path": ["demo"]})


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("path", ["/proc/self/status", "file:///proc/self/status"])
def test_a_path_that_is_another_file_elsewhere_is_refused(path: str, tmp_path: Path) -> None:
    run = Run.at(Storage({}), str(tmp_path / "run"), 3)
    with pytest.raises(
        ConfigurationError, match=r"input.candidates: /proc/self/status: node \S+ has something else there"
    ):
        prove_shared(run, {"input.candidates": [path]})


@pytest.mark.matrix
def test_a_node_with_a_disk_of_its_own_is_refused(other_disk: Path, make_config: Any, tmp_path: Path) -> None:
    rows = [{"query_id": "q", "query": "flow", "doc_id": f"d{d}", "text": f"wing {d}"} for d in range(20)]
    write_jsonl(other_disk / "candidates.jsonl", rows)
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    shared = {"candidates": str(tmp_path / "candidates.jsonl"), "instruction": ""}
    run = other_disk / "run"
    with pytest.raises(
        ConfigurationError, match=rf"output.path: {run}: node \S+ does not see .* writes there; expected"
    ):
        rerank(make_config(input=shared, output={"path": str(run)}))
    assert not (run / "manifest.json").exists()
    own = shared | {"candidates": str(other_disk / "candidates.jsonl")}
    with pytest.raises(ConfigurationError, match=rf"input.candidates: {own['candidates']}: node \S+ has no such file"):
        rerank(make_config(input=own))
    model = shutil.copytree(make_config().model.path, other_disk / "model")
    with pytest.raises(ConfigurationError, match=rf"model.path: {model}: node \S+ has no such file"):
        rerank(make_config(input=shared, model={"path": str(model)}))
    assert rerank(make_config(input=shared)) == ExitCode.DONE
