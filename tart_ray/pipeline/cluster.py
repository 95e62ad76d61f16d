"""Joining or starting a Ray cluster, and how Ray Data is set up for it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

os.environ.setdefault(
    "RAY_AUTH_MODE", "disabled"
)  # unset, a local init can leave a token that makes heads refuse clients

import ray
from ray.data import DataContext

from tart_ray.command_line import ConfigurationError
from tart_ray.config import ClusterConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Room:
    """What a cluster must have: ``who`` needs so many CPUs and GPUs, and ``advice`` where they cannot come."""

    who: str
    cpus: float
    gpus: float
    advice: str


@contextmanager
def connected(address: str, room: Room | None) -> Iterator[None]:
    """A connection to the cluster at an address; one that was open already stays open.

    Args:
        room: what it must have.

    Raises:
        ConfigurationError: Ray was started on this machine, which has too few CPUs or GPUs.
    """
    opened = not ray.is_initialized()
    started = opened and _connect(address)
    try:
        if room:
            _check_room(room, can_grow=not started)
        yield
    finally:
        if opened:
            ray.shutdown()


def _connect(address: str) -> bool:
    """Join the cluster; whether Ray had to be started on this machine for it."""
    quiet: dict[str, Any] = {"logging_level": logging.WARNING}
    if address != "local":
        try:
            ray.init(address=address, **quiet)
            return False
        except ConnectionError:
            if address != "auto":
                raise
    ray.init(address="local", include_dashboard=False, **quiet)
    return True


def room_for_replicas(config: ClusterConfig) -> Room:
    """Of the fewest replicas, and of what feeds them."""
    return Room(
        f"{config.replicas.min} replicas (cluster.replicas.min) and a task that feeds them",
        config.replicas.min * config.cpus_per_replica + 1,
        config.replicas.min * config.gpus_per_replica,
        "cluster.gpus_per_replica: 0 scores on CPUs; cluster.cpus_per_replica may be 0.5",
    )


def _check_room(room: Room, *, can_grow: bool) -> None:
    """Ray waits without end for what a cluster cannot offer: say so."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = there.get("CPU", 0), there.get("GPU", 0)
    if cpus >= room.cpus and gpus >= room.gpus:
        return
    problem = f"{room.who} need {room.cpus:g} CPUs and {room.gpus:g} GPUs; got {cpus:g} and {gpus:g}"
    if not can_grow:
        raise ConfigurationError(f"{problem}. {room.advice}")
    log.warning("%s: waiting for the cluster to grow", problem)


@contextmanager
def chunkwise_execution() -> Iterator[None]:
    """Ray Data set up for rows that are units of work: one row is one block from end to end."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that bars are off, as they are
    for name in ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what is raised is told by who catches it
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of fields that copying touches
        context = DataContext.get_current().copy()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []  # they take a chunk that runs for minutes for a fault
    context.raise_original_map_exception = True  # Ray's own wrapper keeps nothing of it but text
    context.execution_no_progress_timeout_s = -1  # waiting for spot capacity is no failure
    context.max_consecutive_actor_init_deaths = -1  # nor is a node lost while it loads the model; replicas count deaths
    # A pool grows to its most as soon as a replica is at work: it holds one chunk, Ray's mark of 1.75 is out of reach.
    # It shrinks when no chunk is left, and not before: a loaded model is worth keeping.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1e-6
    context.autoscaling_config.actor_pool_util_downscaling_threshold = -1.0
    with DataContext.current(context):
        yield
