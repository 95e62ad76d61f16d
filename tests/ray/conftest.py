"""A real Ray cluster of two nodes on this machine, and a small job to run on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from tart_ray.config import RerankConfig


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Address of a cluster of two nodes; this process is connected to it."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])  # workers find what tests send them
    head = {"num_cpus": 2, "object_store_memory": 200 << 20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    nodes.add_node(num_cpus=2, object_store_memory=200 << 20)
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes.address
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def make_config(tiny_checkpoint: Path, tmp_path: Path) -> Any:
    """Configurations of small jobs on CPUs, with sections of one's own on top."""

    def make(**sections: Any) -> RerankConfig:
        base: dict[str, Any] = {
            "model": {"path": str(tiny_checkpoint), "max_length": 64},
            "input": {"candidates": str(tmp_path / "candidates")},
            "output": {"path": str(tmp_path / "run")},
            "cluster": {"gpus_per_replica": 0, "replicas": {"min": 1, "max": 2}},
        }
        for name, section in sections.items():
            base[name] = base.get(name, {}) | section
        return RerankConfig.model_validate(base)

    return make
