"""Ray on this machine, for one process alone.

It listens on the loopback interface only, and takes orders from those who know its token, whom nobody tells it: other
users of the machine reach the interface, too.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray._raylet
from ray._private import ray_constants

from tart_ray.errors import RayStartError

AUTH_MODE, AUTH_TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
ADVICE = "ray._private.authentication.authentication_token_setup"  # a logger, which tells how to do without a token
TRIES = 3  # Ray gives its processes 30 s, which on a busy machine may be too few

log = logging.getLogger(__name__)

_raylet: Any = ray._raylet


@contextmanager
def private_ray(*, state_api: bool = False) -> Iterator[None]:
    """Start Ray, and end it with the block.

    Args:
        state_api: start its dashboard, too, which answers what actors do.

    Raises:
        RayStartError: it did not start.
    """
    with _token():
        _start(state_api)
        try:
            yield
        finally:
            ray.shutdown()


def _start(state_api: bool) -> None:
    for left in reversed(range(TRIES)):
        others = _children()
        try:
            with _on_loopback():
                ray.init(address="local", include_dashboard=state_api, logging_level=logging.WARNING)
            return
        except Exception as error:  # Ray has no class for it
            told = " ".join(str(error).split())
            for process in _children() - others:  # which Ray leaves behind
                process.kill()
            if not left:
                raise RayStartError(f"Ray did not start on this machine, which may be too busy: {told}") from error
            log.warning("Ray did not start, and is started again: %s", told)


def _children() -> set[Any]:
    import psutil  # type: ignore[import-untyped]  # which Ray brings along

    return {*psutil.Process().children(recursive=True)}


@contextmanager
def _token() -> Iterator[None]:
    """A token in the environment, which the processes of Ray inherit; where RAY_AUTH_MODE is set, the user decides."""
    if AUTH_MODE in os.environ:
        yield
        return
    before = os.environ.get(AUTH_TOKEN)
    os.environ[AUTH_TOKEN] = secrets.token_hex(32)  # where there is one and no mode, Ray sets the mode
    _raylet.AuthenticationTokenLoader.instance().reset_cache()
    advice = logging.getLogger(ADVICE)
    level = advice.level
    advice.setLevel(logging.ERROR)
    try:
        yield
    finally:
        advice.setLevel(level)
        os.environ.pop(AUTH_MODE, None)
        os.environ.pop(AUTH_TOKEN)
        if before is not None:
            os.environ[AUTH_TOKEN] = before
        _raylet.Config.initialize("")  # reads the mode anew
        _raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """While Ray starts: as on systems where it makes no clusters, the loopback address is the machine's.

    Given 127.0.0.1 as an argument, Ray takes an address that other machines reach; the environment variable for this is
    read when Ray is imported.
    """
    can_have_nodes = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = can_have_nodes
