"""Fixtures: the shared data, a small checkpoint made on the spot, a real S3 server, a Ray cluster of two nodes."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads gain small models nothing, and wait on a busy machine
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, Path(__file__).parents[:2]))  # for processes that tests start
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["AWS_REQUEST_CHECKSUM_CALCULATION"] = "when_required"  # newer checksums are refused by some stores
os.environ["AWS_RESPONSE_CHECKSUM_VALIDATION"] = "when_required"

from support.job_files import WORDS
from support.places import Place
from support.s3_server import S3Server, serve

from tart_ray.storage import Storage

settings.register_profile("fuzz", max_examples=5_000, deadline=None)  # `make fuzz`

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Under pytest-xdist, each worker's Ray notes its address and keeps its sockets in a folder of its own."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = tempfile.mkdtemp(prefix="ray-", dir=os.environ.get("RAY_TMPDIR"))  # short: it holds sockets
        os.environ["RAY_TMPDIR"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that start Ray first, large ones before small ones: a worker that gets a long one late ends late."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        first = ["faults", "ray"]
        place = {name: index for index, name in enumerate(first)}
        sizes = {item.path: item.path.stat().st_size for item in items}
        items.sort(key=lambda item: (place.get(item.path.parent.name, len(first)), -sizes[item.path]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files to one worker, whose tests share fixtures; so do the files of faults: their undisturbed runs."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.partition("::")[0])
            return str(path.parent if path.parent.name == "faults" else path)

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The golden pairs, T5's vocabulary, a checkpoint in the published layout, and Cranfield."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED.parent.name}/{SHARED.name} is not beside the project")
    return SHARED


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """A few hundred made-up sentences."""
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 30))) + f" {i}." for i in range(400)]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, sentences: list[str]) -> Path:
    """A small random EncT5 with a vocabulary of its own, in the published layout."""
    import torch
    from sentencepiece import SentencePieceTrainer
    from transformers import T5Config

    from tart_ray import EncT5ForSequenceClassification, EncT5Tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_prefix=str(folder / "vocabulary"), vocab_size=80, minloglevel=2, **ids
    )
    tokenizer = EncT5Tokenizer(folder / "vocabulary.model")
    config = T5Config(
        vocab_size=256, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = EncT5ForSequenceClassification(config)
        torch.nn.init.normal_(model.classifier.weight)  # margins that differ well beyond rounding
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server."""
    with serve(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def local(tmp_path: Path) -> Place:
    return Place(Storage(), str(tmp_path))


@pytest.fixture(scope="session")
def bucket(s3: Any) -> str:
    return s3.new_bucket()


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "local":
        return request.getfixturevalue("local")
    config = request.getfixturevalue("s3").config
    return Place(Storage(config), f"s3://{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}")


@pytest.fixture
def tree(place: Any) -> Any:
    for name in ["b.x", "a.x", "c.y", "d/e.x", "d/f/g.x", "_h.x", ".i.x", "_j/k.x", "d/_l/m.x", "d/.n/o.x"]:
        place.put(name, name)
    place.put("empty.x", b"")
    return place


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes; this process is connected to it."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "object_store_memory": 200 << 20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    nodes.add_node(num_cpus=2, object_store_memory=200 << 20)
    nodes.wait_for_nodes()
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="session")
def cluster(nodes: Any) -> str:
    """Address of a cluster of two nodes; this process is connected to it."""
    address: str = nodes.address
    return address


@pytest.fixture
def make_config(tiny_checkpoint: Path, tmp_path: Path) -> Any:
    """Configurations of small jobs on CPUs, with sections of one's own on top."""

    from tart_ray.config import RerankConfig

    def make(**sections: Any) -> Any:
        base: dict[str, Any] = {
            "model": {"path": str(tiny_checkpoint), "max_length": 64},
            "input": {"candidates": str(tmp_path / "candidates")},
            "output": {"path": str(tmp_path / "run")},
            "cluster": {"gpus_per_replica": 0, "replicas": {"min": 1, "max": 2}},
        }
        for name, section in sections.items():
            base[name] = base.get(name, {}) | section
        return RerankConfig.model_validate(base)

    return make


@pytest.fixture
def environment(s3: S3Server, tmp_path: Path) -> dict[str, str]:
    """Of a process that finds the S3 server and a model cache of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **s3.environment, "TART_RAY_CACHE": str(tmp_path / "cache"), "PATH": path}


@pytest.fixture
def head(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """Address of the job server of a head that `ray start` started."""
    import signal
    import subprocess

    from support.s3_server import free_ports, wait_until_open

    ray = str(Path(sys.executable).parent / "ray")
    port, dashboard, client, agent, agent_grpc = free_ports(5)
    options = [
        "--head",
        "--block",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
    ]
    options += [
        f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={agent_grpc}",
        "--min-worker-port=0",  # any: two heads of this machine would try the same ones
        "--max-worker-port=0",
        "--num-cpus=2",
        "--object-store-memory=200000000",
        "--node-ip-address=127.0.0.1",
        "--disable-usage-stats",
    ]
    with (tmp_path / "head.log").open("wb") as log:
        process = subprocess.Popen(
            [ray, "start", *options], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until_open(dashboard)
        wait_for_agent(f"http://127.0.0.1:{dashboard}")
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the head and all that it started
        process.wait()


def wait_for_agent(address: str) -> None:
    """Until the head takes a job: its agent registers some time after the port opens."""
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + 60
    while True:
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")
            return
        except (RuntimeError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # between polls of a server that is starting


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that this machine has."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)
