"""Joining or starting a Ray cluster, and how Ray Data is set up for it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault(
    "RAY_AUTH_MODE", "disabled"
)  # unset, a local init can leave a token that makes heads refuse clients

import ray
from ray.data import DataContext

from tart_ray.config import ClusterConfig

log = logging.getLogger(__name__)


@contextmanager
def connected(config: ClusterConfig) -> Iterator[None]:
    """A connection to the cluster that the configuration names; one that was open already stays open."""
    if ray.is_initialized():
        yield
        return
    address = None if config.address == "auto" else config.address
    ray.init(address=address, logging_level=logging.WARNING, log_to_driver=True, include_dashboard=None)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def chunkwise_execution() -> Iterator[None]:
    """Ray Data set up for rows that are units of work: one row is one block from end to end."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that bars are off, as they are
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of fields that copying touches
        context = DataContext.get_current().copy()
    context.target_max_block_size = None
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []  # they take a chunk that runs for minutes for a fault
    context.execution_no_progress_timeout_s = -1  # waiting for spot capacity is no failure
    with DataContext.current(context):
        yield
