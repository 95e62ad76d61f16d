"""Replicas and nodes that die while they score."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.deadly import Gate
from support.job_files import read_output, report_of, write_jsonl

from tart_ray.command_line import ExitCode
from tart_ray.pipeline.rerank import rerank
from tart_ray.pipeline.score import load_scorer


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


@pytest.mark.matrix
def test_a_node_lost_while_it_scores_and_another_added(
    nodes: Any, gate: Gate, pairs: Any, undisturbed: Any, assert_same: Any, tmp_path: Path, make_config: Any
) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", pairs)
    (lost,) = nodes.worker_nodes
    config = make_config(cluster={"replicas": {"min": 3, "max": 3}})  # 4 CPUs on two nodes: some are on each
    with gate.closed_during(lambda: rerank(config, load=gate.load())):
        gate.waiting(node=lost.node_id)
        nodes.remove_node(lost, allow_graceful=False)
        nodes.add_node(num_cpus=2, object_store_memory=200 << 20)
    assert_same(read_output(tmp_path / "run"), undisturbed)
    assert report_of(tmp_path / "run")["counts"]["scored"] == len(pairs)
