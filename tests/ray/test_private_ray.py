"""The Ray that a job starts for itself: nobody else reaches it, and nobody else joins it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tart_ray.engine.head import find_head
from tart_ray.errors import ConfigurationError

ADDRESS = "10.11.12.13"  # that a network of its own is given: Ray takes a machine's own address where there is one
PROGRAM = """
import json, os, sys
from pathlib import Path
import ray
import psutil  # which Ray brings along
from tart_ray.engine.cluster import connected
from tart_ray.engine.stopping import Stop

class Actor:
    def pid(self):
        return os.getpid()

with connected("local", None, Stop(ends_process=True)):
    actor = ray.remote(Actor).remote()
    ray.get([actor.pid.remote(), ray.remote(lambda: 1).remote()])
    ours = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    found = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in ours]
    told = {
        "listening": sorted([psutil.Process(c.pid).name(), c.laddr.ip] for c in found),
        "addresses": [a.address for of in psutil.net_if_addrs().values() for a in of],
        "gcs": ray.get_runtime_context().gcs_address,
        "mode": os.environ["RAY_AUTH_MODE"],
        "home": [str(path) for path in Path.home().rglob("*")],
    }
    print(json.dumps(told), flush=True)
    sys.stdin.readline()
print(json.dumps([os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN")]))
"""
NETWORK = f"ip link set lo up && ip addr add {ADDRESS}/24 dev lo && ip route add default dev lo src {ADDRESS}"


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """What a process with a Ray of its own tells, and the process; in a network of its own where that can be had."""
    home = tmp_path_factory.mktemp("home")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", PROGRAM]
    own = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", NETWORK]
    if (
        all(map(shutil.which, ("unshare", "ip")))
        and subprocess.run(own, check=False, capture_output=True).returncode == 0
    ):
        command = [*own[:-1], f'{NETWORK} && exec "$@"', "sh", *command]
    with (home.parent / f"{home.name}.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment | {"HOME": str(home)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    with process:
        assert process.stdout
        line = process.stdout.readline()
        assert line, Path(log.name).read_text()
        yield json.loads(line), process


def test_it_listens_on_the_loopback_interface_alone(private: tuple[dict[str, Any], Any]) -> None:
    told, _ = private
    if not any("." in address and not address.startswith("127.") for address in told["addresses"]):
        pytest.skip("this machine has no other interface, and a network of its own cannot be had")
    processes = {name for name, _ in told["listening"]}
    assert {"gcs_server", "raylet"} <= processes
    assert any(name.startswith("ray::") for name in processes), processes
    open_to_all = [found for found in told["listening"] if not found[1].removeprefix("::ffff:").startswith("127.")]
    assert open_to_all == []


def test_it_asks_for_a_token_that_lies_nowhere(private: tuple[dict[str, Any], Any]) -> None:
    told, _ = private
    assert told["mode"] == "token"
    assert told["home"] == []


def test_auto_does_not_join_it(private: tuple[dict[str, Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    told, _ = private
    try:
        found = find_head("auto")
    except ConfigurationError as error:  # another one of this machine, which does not answer
        found = str(error)
    assert told["gcs"] not in (found or "")


def test_the_environment_is_afterwards_what_it_was(private: tuple[dict[str, Any], subprocess.Popen[str]]) -> None:
    _, process = private
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline()) == [None, None]
    assert process.wait(60) == 0
