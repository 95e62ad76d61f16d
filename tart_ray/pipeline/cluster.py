"""Joining or starting a Ray cluster, and how Ray Data is set up for it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault(
    "RAY_AUTH_MODE", "disabled"
)  # unset, a local init can leave a token that makes heads refuse clients

import ray
from ray.data import DataContext

from tart_ray.command_line import ConfigurationError
from tart_ray.config import ClusterConfig

log = logging.getLogger(__name__)


@contextmanager
def connected(config: ClusterConfig, *, replicas: bool = True) -> Iterator[None]:
    """A connection to the cluster that the configuration names; one that was open already stays open.

    Args:
        replicas: it must have room for them.

    Raises:
        ConfigurationError: Ray was started on this machine, which has too few CPUs or GPUs for the replicas.
    """
    opened = not ray.is_initialized()
    started = opened and _connect(config.address)
    try:
        if replicas:
            _check_room(config, can_grow=not started)
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


def _check_room(config: ClusterConfig, *, can_grow: bool) -> None:
    """Ray waits without end for what a cluster cannot offer: say so."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus = config.replicas.min * config.cpus_per_replica + 1
    gpus = config.replicas.min * config.gpus_per_replica
    if there.get("CPU", 0) >= cpus and there.get("GPU", 0) >= gpus:
        return
    problem = (
        f"{config.replicas.min} replicas (cluster.replicas.min) and a task that feeds them need {cpus:g} CPUs and "
        f"{gpus:g} GPUs; got {there.get('CPU', 0):g} and {there.get('GPU', 0):g}"
    )
    if can_grow:
        log.warning("%s: waiting for the cluster to grow", problem)
        return
    raise ConfigurationError(
        f"{problem}. cluster.gpus_per_replica: 0 scores on CPUs; cluster.cpus_per_replica may be 0.5"
    )


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
    with DataContext.current(context):
        yield
