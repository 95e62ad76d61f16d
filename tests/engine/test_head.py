"""Which cluster a job is to run on, and what is said where none answers. Starts no Ray."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tart_ray.engine import head
from tart_ray.engine.head import find_head
from tart_ray.errors import ConfigurationError


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def web() -> Iterator[str]:
    """Address of a server of web pages."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("localhost:1", "localhost:1: no Ray cluster there: .*refused"),
        ("nowhere.invalid:6379", "nowhere.invalid:6379: no Ray cluster there: "),
        ("ray://127.0.0.1:10001", "got ray://127.0.0.1:10001, .*Ray Client is not supported. .*`ray job submit`"),
        ("http://127.0.0.1:8265", "got http://127.0.0.1:8265, .*a job server's, to which `ray job submit --address`"),
        ("head", "got 'head', expected auto, local, or host:port of the head"),
        ("head:port", "got 'head:port', expected auto, local, or host:port"),
        ("head:65536", "got 'head:65536', expected auto, local, or host:port"),
        (":6379", "got ':6379', expected auto, local, or host:port"),
    ],
)
@pytest.mark.parametrize("key", ["cluster.address", "RAY_ADDRESS"])
def test_an_address_that_is_no_cluster_is_refused(
    address: str, message: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key == "RAY_ADDRESS":
        monkeypatch.setenv(key, address)
    with pytest.raises(ConfigurationError, match=f"^{key}: {message}"):
        find_head("auto" if key == "RAY_ADDRESS" else address)


def test_servers_that_are_no_head_are_refused(silent: str, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "SECONDS_TO_ANSWER", 0.5)
    with pytest.raises(ConfigurationError, match=f"{silent}: no Ray cluster answered within 0.5 s"):
        find_head(silent)
    with pytest.raises(ConfigurationError, match=f"{web}: no Ray cluster"):
        find_head(web)


def test_local_is_local_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "localhost:1")
    assert find_head("local") is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert find_head("auto") is None
