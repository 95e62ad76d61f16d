"""Tasks of Ray that an actor starts ahead of the time when it needs what they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")


def start(work: Callable[[str], T], unit: str, *, memory: int) -> Callable[[], T]:
    """Begin with a unit in a process beside this one, on its node if there is room; what is returned waits for it.

    The task takes no CPU of the cluster's: those that the actors leave may be none.

    Args:
        work: done again where its process dies.
        memory: bytes that it needs.
    """
    task = ray.remote(_do).options(
        num_cpus=0,
        memory=memory,
        max_retries=-1,
        scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True),
    )
    reference = task.remote(work, unit)

    def result() -> T:
        found: T = ray.get(reference)
        return found

    return result


def _do(work: Callable[[str], Any], unit: str) -> Any:
    return work(unit)
