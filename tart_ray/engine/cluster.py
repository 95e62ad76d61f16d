"""Joining or starting a Ray cluster, and how Ray Data is set up for it."""

from __future__ import annotations

import logging
import os
import pwd
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray._private.worker
from ray.data import DataContext
from ray.exceptions import AuthenticationError

from tart_ray.config import ClusterConfig
from tart_ray.engine.head import find_head, watched
from tart_ray.engine.private_ray import private_ray
from tart_ray.engine.stopping import Stop
from tart_ray.errors import ConfigurationError

log = logging.getLogger(__name__)

MUTED = {
    "ray.data": logging.WARNING,
    "ray.data._internal.progress": logging.ERROR,  # it warns that bars are off, as they are
    "ray.data.exceptions": logging.CRITICAL,  # what is raised is told by who catches it
    "ray.data._internal.execution.streaming_executor_state": logging.CRITICAL,
}


@dataclass(frozen=True)
class Room:
    """What a cluster must have: ``who`` needs so many CPUs and GPUs, and ``advice`` where they cannot come.

    ``state_api``: whether the job asks Ray's dashboard what its actors do.
    """

    who: str
    cpus: float
    gpus: float
    advice: str
    state_api: bool = False


@contextmanager
def connected(address: str, room: Room | None, stop: Stop) -> Iterator[None]:
    """A connection to the cluster at an address; one that was open already stays open.

    Args:
        room: what it must have.
        stop: ends the work if the cluster is lost during the block.

    Raises:
        RayStartError: Ray did not start on this machine.
        ConfigurationError: no such cluster; or Ray was started on this machine, which has too few CPUs or GPUs.
    """
    with _connection(address, state_api=room is not None and room.state_api) as is_private:
        if room:
            _check_room(room, can_grow=not is_private)
        gcs = ray.get_runtime_context().gcs_address
        whose = "the Ray of this job" if is_private else f"the Ray cluster at {gcs}"

        def end(how: str) -> None:
            stop.lose_cluster(f"{whose} was lost: {how}")

        with watched(gcs, _node().raylet_socket_name, end) as watch:
            try:
                yield
            except Exception:
                if how := watch.loss():
                    end(how)
                raise


@contextmanager
def _connection(address: str, *, state_api: bool) -> Iterator[bool]:
    """Be connected; whether to a Ray that was started for it on this machine."""
    if ray.is_initialized():
        _tell("this process is connected to already")
        yield False
        return
    head = find_head(address)
    if head is None:
        with private_ray(state_api=state_api):
            there = _there()
            log.info("started Ray on this machine, for this job alone: %g CPUs, %g GPUs", there["CPU"], there["GPU"])
            yield True
        return
    try:
        ray.init(address=head, logging_level=logging.WARNING)
    except (AuthenticationError, ConnectionError, RuntimeError, ValueError) as error:
        told = " ".join(str(error.__cause__ or error).split())
        raise ConfigurationError(f"cluster.address: {head}: cannot be joined from this machine: {told}") from error
    try:
        _tell("this job has joined; cluster.address: local would start one for it alone")
        yield False
    finally:
        ray.shutdown()


def _node() -> Any:
    """What Ray knows of this machine's part of the cluster."""
    return ray._private.worker._global_node


def _tell(why: str) -> None:
    """Say which cluster the job runs on, and whose it is."""
    there, nodes = _there(), sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    owner = Path(_node().get_session_dir_path()).stat().st_uid
    whose = "" if owner == os.getuid() else f" of user {_name_of(owner)}"
    log.info(
        "the Ray cluster%s at %s, which %s: %d nodes, %g CPUs, %g GPUs",
        whose, ray.get_runtime_context().gcs_address, why, nodes, there["CPU"], there["GPU"],
    )  # fmt: skip


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # in a container
        return str(uid)


def _there() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return {name: found.get(name, 0) for name in ("CPU", "GPU")}


def room_for_replicas(config: ClusterConfig) -> Room:
    """Of the fewest replicas, and of the tasks of other stages."""
    return Room(
        f"{config.replicas.min} replicas (cluster.replicas.min)",
        max(config.replicas.min * config.cpus_per_replica, 1),
        config.replicas.min * config.gpus_per_replica,
        "cluster.gpus_per_replica: 0 scores on CPUs; cluster.cpus_per_replica may be 0.5",
    )


def _check_room(room: Room, *, can_grow: bool) -> None:
    """Ray waits without end for what a cluster cannot offer: say so."""
    cpus, gpus = _there().values()
    if cpus >= room.cpus and gpus >= room.gpus:
        return
    problem = f"{room.who}: expected {room.cpus:g} CPUs and {room.gpus:g} GPUs at least, got {cpus:g} and {gpus:g}"
    if not can_grow:
        raise ConfigurationError(f"{problem}. {room.advice}")
    log.warning("%s: waiting for the cluster to grow", problem)


@contextmanager
def chunkwise_execution() -> Iterator[None]:
    """Ray Data set up for rows that are units of work: one row is one block from end to end."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of fields that copying touches
        context = DataContext.get_current().copy()
    context.target_max_block_size = 1  # a block for each row, handed on as soon as it is made
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
    with _muted(), DataContext.current(context):
        yield


@contextmanager
def _muted() -> Iterator[None]:
    """Ray Data's loggers without what says nothing to a user, during the block."""
    before = {name: logging.getLogger(name).level for name in MUTED}
    for name, level in MUTED.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
