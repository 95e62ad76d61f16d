"""Tasks of Ray that an actor starts ahead of the time when it needs what they make."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tart_ray.engine.deaths import living_nodes

T = TypeVar("T")


def start(work: Callable[[str], T], unit: str, *, memory: int) -> Callable[[], T]:
    """Begin with a unit in a process beside this one, on its node if there is room; what is returned waits for it.

    The task takes no CPU of the cluster's: those that the actors leave may be none.

    Args:
        work: done again where its process dies.
        memory: bytes that it needs, which a node must have.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    task = _task().options(num_cpus=0, memory=memory, max_retries=-1, scheduling_strategy=here)
    reference = task.remote(work, unit)

    def result() -> T:
        found: T = ray.get(reference)
        return found

    return result


def at_most(memory: int) -> int:
    """So many bytes, or what the largest node has for tasks: Ray waits without end for more."""
    return min(memory, int(max(node["Resources"].get("memory", 0) for node in living_nodes())))


@functools.cache
def _task() -> Any:
    """Made once in a process: each one that is made is told to the whole cluster."""
    return ray.remote(_do)


def _do(work: Callable[[str], Any], unit: str) -> Any:
    return work(unit)
