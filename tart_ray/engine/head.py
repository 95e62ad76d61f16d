"""Which Ray cluster a job is to run on, whether its head answers, and what is said when it stops answering.

Ray itself waits for a head for a minute and a half and then ends the process from C++, without a sentence. So a head is
asked before it is joined, and watched while a job depends on it.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped]
import ray
import ray._private.services
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.grpc_utils import init_grpc_channel
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from tart_ray.errors import ConfigurationError

_services: Any = ray._private.services
_messages: Any = gcs_service_pb2
_stubs: Any = gcs_service_pb2_grpc

AUTO, LOCAL = "auto", "local"
RAY_ADDRESS = "RAY_ADDRESS"  # `ray job submit` sets it for what it runs
SECONDS_TO_ANSWER = 5.0
SECONDS_REFUSED = 10.0  # while nothing listens where the head was
SECONDS_SILENT = 45.0  # a head on a busy machine may be slow; Ray itself gives up after 60
SECONDS_BETWEEN_LOOKS = 1.0


def find_head(address: str) -> str | None:
    """``host:port`` of the head of the cluster to join; None to start Ray on this machine.

    ``auto`` takes the cluster that the environment names, then one that `ray start` started on this machine. A Ray that
    belongs to another driver (`ray.init()`) ends with that driver: it is never joined.

    Raises:
        ConfigurationError: no such cluster, or nobody answers there.
    """
    key, named = "cluster.address", address
    if address == AUTO and os.environ.get(RAY_ADDRESS):
        key, named = RAY_ADDRESS, os.environ[RAY_ADDRESS]
    if named == LOCAL:
        return None
    if named == AUTO:
        found = _started_here()
        if found is None:
            return None
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)  # as Ray does for a cluster that it finds
        key, named = f"cluster.address: {AUTO}, found a cluster that `ray start` started", found
    return _checked(key, named)


def _started_here() -> str | None:
    """The cluster of this machine that `ray start` noted down, if it still runs; `ray.init()` notes nothing."""
    _services.find_gcs_addresses.cache_clear()
    noted: str | None = _services.find_bootstrap_address(None)
    return noted if noted in _services.find_gcs_addresses() else None


def _checked(key: str, address: str) -> str:
    if address.startswith("ray://"):
        raise ConfigurationError(
            f"{key}: got {address}, expected host:port of the head: Ray Client is not supported. Send the job to the "
            "cluster with `ray job submit`, or start it on one of the cluster's machines"
        )
    if "://" in address:
        raise ConfigurationError(
            f"{key}: got {address}, expected host:port of the head; a URL like this is a job server's, to which "
            "`ray job submit --address` sends jobs"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigurationError(
            f"{key}: got {address!r}, expected {AUTO}, {LOCAL}, or host:port of the head of a Ray cluster (its port is "
            "6379 unless `ray start --port` says otherwise)"
        )
    try:
        version = _ask(address)
    except grpc.RpcError as error:
        raise ConfigurationError(f"{key}: {address}: {_why(error)}") from error
    if version != ray.__version__:
        raise ConfigurationError(f"{key}: {address}: runs Ray {version}, this process Ray {ray.__version__}")
    return address


def _why(error: grpc.RpcError) -> str:
    if error.code() == grpc.StatusCode.UNAUTHENTICATED:
        return (
            "the cluster asks for its token and did not get it: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH"
        )
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no Ray cluster answered within {SECONDS_TO_ANSWER:g} s; is that the address of a head, and open?"
    return f"no Ray cluster there: {' '.join(str(error.details()).split())}"


def _ask(address: str) -> str:
    """The version of Ray that the head at an address runs.

    Raises:
        grpc.RpcError: no head answered.
    """
    with init_grpc_channel(address) as channel:
        service = _stubs.NodeInfoGcsServiceStub(channel)
        answer = service.CheckAlive(_messages.CheckAliveRequest(), timeout=SECONDS_TO_ANSWER)
    return str(answer.ray_version)


class Watch:
    """Looks whether a cluster that this process is connected to is still there.

    Args:
        address: ``host:port`` of its head.
        raylet: path of the socket of this machine's raylet, through which a driver does everything.
    """

    def __init__(self, address: str, raylet: str) -> None:
        self.address = address
        self._raylet = socket.socket(socket.AF_UNIX)
        self._raylet.connect(raylet)  # nothing is said on it: it closes when the raylet ends
        self._ended, self._end = socket.socketpair()

    def loss(self) -> str | None:
        """How the cluster was lost; None if it is there, as far as one look can tell."""
        if self._raylet in self._readable(0):
            return "Ray ended on this machine (`ray stop`, lack of memory, or its head went away)"
        try:
            _ask(self.address)
        except grpc.RpcError as error:
            return f"its head does not answer ({' '.join(str(error.details()).split())})"
        return None

    def wait(self) -> str | None:
        """How the cluster was lost, once that is certain; None after `close`."""
        answered = time.monotonic()
        while not (readable := self._readable(SECONDS_BETWEEN_LOOKS)):
            try:
                _ask(self.address)
                answered = time.monotonic()
            except grpc.RpcError as error:
                is_silent = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                if time.monotonic() - answered > (SECONDS_SILENT if is_silent else SECONDS_REFUSED):
                    return self.loss()
        return None if self._ended in readable else self.loss()

    def close(self) -> None:
        """Ends `wait`."""
        self._end.close()

    def disconnect(self) -> None:
        """Let the connection go, after `close` and the end of `wait`."""
        self._raylet.close()
        self._ended.close()

    def _readable(self, seconds: float) -> list[socket.socket]:
        return select.select([self._raylet, self._ended], [], [], seconds)[0]


@contextmanager
def watched(address: str, raylet: str, on_loss: Callable[[str], object]) -> Iterator[Watch]:
    """Watch a cluster during the block; ``on_loss`` is called in another thread, with how it was lost."""
    watch = Watch(address, raylet)

    def look_out() -> None:
        if how := watch.wait():
            on_loss(how)

    thread = threading.Thread(target=look_out, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.close()
        thread.join()
        watch.disconnect()
