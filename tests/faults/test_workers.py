"""Replicas and nodes that die while they score."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from support.deadly import Gate
from support.job_files import read_output, report_of, write_jsonl
from support.s3_jobs import ROOT

from tart_ray.engine.deaths import excuse, this_process
from tart_ray.errors import ExitCode
from tart_ray.reranking.job import rerank
from tart_ray.runs.attempts import LOST_NODE, OUT_OF_MEMORY, Process
from tart_ray.scores.replica import load_scorer


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.mark.usefixtures("cluster")
def test_the_pool_grows_to_its_most_while_chunks_wait(gate: Gate, pairs: Any, tmp_path: Path, make_config: Any) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", pairs)
    config = make_config(cluster={"replicas": {"min": 1, "max": 2}})
    with gate.closed_during(lambda: rerank(config, load=gate.load())):
        assert len(gate.waiting(2)) == 2


@pytest.mark.matrix
@pytest.mark.usefixtures("cluster")
def test_no_more_replicas_start_than_chunks_wait(pairs: Any, tmp_path: Path, make_config: Any) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", pairs[:500])  # one chunk
    (tmp_path / "loaded").mkdir()
    config = make_config(cluster={"replicas": {"min": 2, "max": 2}})
    assert rerank(config, load=partial(load_noted, tmp_path / "loaded")) == ExitCode.DONE
    assert len([*(tmp_path / "loaded").iterdir()]) == 1


def load_noted(folder: Path, config: Any) -> Any:
    (folder / str(os.getpid())).touch()
    return load_scorer(config)


@pytest.mark.parametrize("family", ["enct5", pytest.param("cross-encoder", marks=pytest.mark.matrix)], indirect=True)
@pytest.mark.parametrize("killed", [pytest.param(1, marks=pytest.mark.matrix), 2])
@pytest.mark.usefixtures("cluster")
def test_replicas_killed_while_they_score(
    killed: int, gate: Gate, pairs: Any, undisturbed: Any, assert_same: Any, tmp_path: Path, make_config: Any
) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", pairs)

    config = make_config(cluster={"replicas": {"min": 2, "max": 2}})
    with gate.closed_during(lambda: rerank(config, load=gate.load())):
        for pid in gate.waiting(2)[:killed]:
            os.kill(pid, signal.SIGKILL)
    assert_same(read_output(tmp_path / "run"), undisturbed)
    assert report_of(tmp_path / "run")["counts"]["scored"] == len(pairs)


@pytest.mark.usefixtures("cluster")
def test_of_the_chunks_that_a_killed_replica_had_been_given_only_those_not_committed_are_scored_again(
    gate: Gate, tmp_path: Path, make_config: Any
) -> None:
    rows = [
        {"query_id": f"q{query}", "query": "wing", "doc_id": f"d{document}", "text": f"flow {document}"}
        for query in range(16)
        for document in range(600)
    ]
    write_jsonl(tmp_path / "candidates" / "a.jsonl", rows)
    config = make_config(cluster={"replicas": {"min": 1, "max": 1}})
    with gate.closed_during(lambda: rerank(config, load=gate.load(after=2))):
        (killed,) = gate.waiting(1)  # with the third of the four chunks that it was given
        os.kill(killed, signal.SIGKILL)
    run = tmp_path / "run"
    replicas = [json.loads(path.read_text())["replica"] for path in sorted((run / "_commits" / "score").iterdir())]
    assert len(replicas) == 16
    by_killed = [replica.endswith(f":{killed}") for replica in replicas]
    assert by_killed[0]
    assert sum(by_killed) <= 2  # the second may have been on its way to its commit
    assert report_of(run)["counts"]["scored"] == len(rows) == len(read_output(run))


@pytest.mark.matrix
def test_a_node_lost_while_it_scores_and_another_added(
    nodes: Any, gate: Gate, pairs: Any, undisturbed: Any, assert_same: Any, tmp_path: Path, make_config: Any
) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", pairs)
    (lost,) = nodes.worker_nodes
    on_it, on_head = (process_on(node.node_id) for node in (lost, nodes.head_node))
    assert (excuse(on_it), excuse(on_head)) == (None, None)
    config = make_config(cluster={"replicas": {"min": 3, "max": 3}})  # 4 CPUs on two nodes: some are on each
    with gate.closed_during(lambda: rerank(config, load=gate.load())):
        gate.waiting(node=lost.node_id)
        nodes.remove_node(lost, allow_graceful=False)
        nodes.add_node(num_cpus=2, object_store_memory=200 << 20)
    assert_same(read_output(tmp_path / "run"), undisturbed)
    assert report_of(tmp_path / "run")["counts"]["scored"] == len(pairs)
    assert (excuse(on_it), excuse(on_head)) == (LOST_NODE, None)


def process_on(node: str) -> Process:
    """A worker of Ray on a node, by its names."""
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    found: Process = ray.get(ray.remote(this_process).options(scheduling_strategy=where, num_cpus=0).remote())
    return found


OUT_OF_MEMORY_ON_PURPOSE = """
import os, ray, signal, sys, time
from tart_ray.engine.deaths import excuse, this_process

settings = {"memory_usage_threshold": 0.01, "memory_monitor_refresh_ms": 4000}
options = {"num_cpus": 1, "object_store_memory": 100 << 20, "log_to_driver": False, "include_dashboard": False}
ray.init(address="local", _system_config=settings, **options)

@ray.remote(max_restarts=0)
class Actor:
    def name(self): return this_process()
    def wait(self): time.sleep(600)
    def die(self): os.kill(os.getpid(), signal.SIGKILL)

def excuse_after(method):
    while True:  # the monitor may be faster than the actor
        actor, process = Actor.remote(), None
        try:
            process = ray.get(actor.name.remote())
            ray.get(getattr(actor, method).remote())
        except ray.exceptions.OutOfMemoryError:
            if process and method == "wait":
                return excuse(process)
        except ray.exceptions.ActorDiedError:
            return excuse(process)

print("excuses", excuse_after("wait"), excuse_after("die"), sep=" | ")
"""


@pytest.mark.matrix
def test_a_process_that_rays_monitor_ends_for_lack_of_memory_is_told_from_one_that_dies() -> None:
    command = [sys.executable, "-c", OUT_OF_MEMORY_ON_PURPOSE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    excuses = [line for line in done.stdout.splitlines() if line.startswith("excuses")]  # Ray prints there, too
    assert excuses == [f"excuses | {OUT_OF_MEMORY} | None"], done.stderr
