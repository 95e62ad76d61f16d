"""jobs.rerank from S3 to S3: Cranfield on two nodes against the reference path, `ray job submit`, a killed driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import pytest
import yaml
from ray.job_submission import JobSubmissionClient
from support.job_files import WORDS
from support.s3_jobs import ROOT, command, put, reranked, small_job
from support.s3_server import S3Server, free_ports, wait_until_open

from tart_ray import Scorer
from tart_ray.data.storage import Storage
from tart_ray.scoring.reference import ReferenceEncoder

CRANFIELD = {"candidates": "bm25.trec", "queries": "queries.jsonl", "corpus": "corpus.jsonl"}
INSTRUCTION = "Retrieve a scientific paper abstract that answers this question"


def test_cranfield_on_two_nodes_equals_the_reference(
    s3: S3Server, shared_data: Path, cluster: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    bucket = s3.new_bucket()
    for file in (shared_data / "tart-tiny").iterdir():
        put(s3, f"{bucket}/model/{file.name}", file.read_bytes())
    for name in CRANFIELD.values():
        put(s3, f"{bucket}/cranfield/{name}", (shared_data / "cranfield" / name).read_bytes())
    config = {
        "model": {"path": f"s3://{bucket}/model", "max_length": 96},
        "input": {key: f"s3://{bucket}/cranfield/{name}" for key, name in CRANFIELD.items()}
        | {"instruction": INSTRUCTION},
        "output": {"path": f"s3://{bucket}/run"},
        "cluster": {"address": cluster, "gpus_per_replica": 0, "replicas": {"min": 2, "max": 2}},
        "storage": {"endpoint_url": s3.endpoint_url, "key": s3.key, "secret": s3.secret},
    }
    (tmp_path / "rerank.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        command(str(tmp_path / "rerank.yaml")), env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = reranked(s3, bucket)
    assert len(rows) == 22_500
    assert len({(row["query_id"], row["doc_id"]) for row in rows}) == 22_500

    queries = {str(row["_id"]): row["text"] for row in read_jsonl(shared_data / "cranfield" / "queries.jsonl")}
    corpus = {row["_id"]: row for row in read_jsonl(shared_data / "cranfield" / "corpus.jsonl")}
    texts = [f"{corpus[row['doc_id']]['title']} {corpus[row['doc_id']]['text']}".strip() for row in rows]
    scorer = Scorer.from_pretrained(shared_data / "tart-tiny", device="cpu", max_length=96)
    reference = Scorer(scorer.model, scorer.tokenizer, max_length=96, encoder=ReferenceEncoder(scorer.model))
    expected = reference.score([queries[row["query_id"]] for row in rows], texts, INSTRUCTION)
    np.testing.assert_allclose([row["margin"] for row in rows], expected.margin, atol=1e-5)
    np.testing.assert_allclose([row["score"] for row in rows], expected.score, atol=1e-5)

    s3.filesystem().get(f"{bucket}/run/reranked/", str(tmp_path / "reranked/"), recursive=True)
    assert duckdb.sql(
        f"select count(*), count(distinct query_id), max(rank) from read_parquet('{tmp_path}/reranked/*.parquet')"
    ).fetchall() == [(22_500, 225, 100)]
    written = b"".join(
        s3.filesystem().cat(f"{bucket}/run/{name}") for name in ("manifest.json", "report.json", "report.html")
    )
    assert s3.secret.encode() not in written
    assert s3.secret not in done.stderr + done.stdout


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_a_killed_driver_loses_nothing_and_a_rerun_scores_only_the_rest(
    s3: S3Server, tiny_checkpoint: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    bucket = s3.new_bucket()
    config = small_job(s3, bucket, tiny_checkpoint, queries=100, documents=400) | {
        "storage": {"endpoint_url": s3.endpoint_url}
    }
    config["cluster"]["address"] = "local"
    (tmp_path / "rerank.yaml").write_text(yaml.safe_dump(config))
    storage = Storage(s3.storage_options)
    commits = f"s3://{bucket}/run/_commits/score"
    run = command(str(tmp_path / "rerank.yaml"))
    with subprocess.Popen(run, env=environment, cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True) as driver:
        assert driver.stderr is not None
        drain = threading.Thread(target=driver.stderr.read, daemon=True)
        drain.start()
        while len(storage.names(commits)) < 2:
            assert driver.poll() is None, "the driver ended before it could be killed"
        os.killpg(driver.pid, signal.SIGKILL)
    before = {name: s3.filesystem().info(f"{commits}/{name}")["LastModified"] for name in storage.names(commits)}
    assert not storage.exists(f"s3://{bucket}/run/_SUCCESS")
    done = subprocess.run(run, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = {name: s3.filesystem().info(f"{commits}/{name}")["LastModified"] for name in storage.names(commits)}
    assert len(after) > len(before)
    assert {name: after[name] for name in before} == before
    rows = reranked(s3, bucket)
    assert [(row["query_id"], row["rank"]) for row in rows] == sorted(
        (f"q{q}", rank) for q in range(100) for rank in range(1, 401)
    )
    scorer = Scorer.from_pretrained(tiny_checkpoint, device="cpu", max_length=32)
    corpus = dict(line.split("\t") for line in s3.filesystem().cat(f"{bucket}/corpus.tsv").decode().splitlines())
    sample = rows[::37]
    queries = [f"{WORDS[int(row['query_id'][1:]) % len(WORDS)]} {row['query_id'][1:]}" for row in sample]
    expected = scorer.score(queries, [corpus[row["doc_id"]] for row in sample])
    np.testing.assert_allclose([row["margin"] for row in sample], expected.margin, atol=1e-5)


@pytest.fixture
def head(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """Address of the job server of a head that `ray start` started."""
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
    deadline = time.monotonic() + 60
    while True:
        try:
            JobSubmissionClient(address).submit_job(entrypoint="true")
            return
        except (RuntimeError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # between polls of a server that is starting


def test_ray_job_submit_with_a_config_on_s3(
    s3: S3Server, tiny_checkpoint: Path, environment: dict[str, str], head: str, tmp_path: Path
) -> None:
    bucket = s3.new_bucket()
    put(s3, f"{bucket}/rerank.yaml", small_job(s3, bucket, tiny_checkpoint, queries=4, documents=20))
    ray = str(Path(sys.executable).parent / "ray")
    submit = [ray, "job", "submit", "--address", head, "--working-dir", str(ROOT), "--"]
    job = ["python", "-m", "jobs.rerank", "--config", f"s3://{bucket}/rerank.yaml", "--output.top_k", "5"]
    done = subprocess.run([*submit, *job], env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "head.log").read_text()
    assert "succeeded" in done.stdout
    assert "score: " in done.stdout
    assert "read 80 = scored 80" in done.stdout
    assert len(reranked(s3, bucket)) == 4 * 5
    assert Storage(s3.storage_options).exists(f"s3://{bucket}/run/_SUCCESS")
