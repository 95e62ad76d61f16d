"""jobs.rerank from S3 to S3: Cranfield on two nodes against the reference path, `ray job submit`, a killed driver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import pytest
import yaml
from support.s3_jobs import ROOT, command, put, reranked, small_job
from support.s3_server import S3Server
from support.shown import shown

from tart_ray import EncT5ForSequenceClassification, EncT5Tokenizer, Scorer
from tart_ray.scoring.reference import ReferenceEncoder
from tart_ray.storage import Storage

CRANFIELD = {"candidates": "bm25.trec", "queries": "queries.jsonl", "corpus": "corpus.jsonl"}
INSTRUCTION = "Retrieve a scientific paper abstract that answers this question"


def test_cranfield_on_two_nodes_equals_the_reference(
    s3: S3Server,
    shared_data: Path,
    nodes: Any,
    cluster: str,
    tmp_path: Path,
    environment: dict[str, str],
    capsys: pytest.CaptureFixture[str],
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
    model = EncT5ForSequenceClassification.from_pretrained(shared_data / "tart-tiny").eval()
    tokenizer = EncT5Tokenizer.from_pretrained(shared_data / "tart-tiny")
    reference = Scorer(model, tokenizer, max_length=96, encoder=ReferenceEncoder(model))
    expected = reference.score([queries[row["query_id"]] for row in rows], texts, INSTRUCTION)
    np.testing.assert_allclose([row["margin"] for row in rows], expected.margin, atol=1e-5)
    np.testing.assert_allclose([row["score"] for row in rows], expected.score, atol=1e-5)

    stores = [part for name, value in config["storage"].items() for part in (f"--storage.{name}", value)]
    told = shown(capsys, "show", f"s3://{bucket}/run", "--query", "1", "--top", "5", *stores)
    assert told[0].startswith(f"query 1: {queries['1'][:100]}")
    best = sorted((row["rank"], row["doc_id"]) for row in rows if row["query_id"] == "1" and row["rank"] <= 5)
    words = [" ".join(f"{corpus[name]['title']} {corpus[name]['text']}".split()[:3]) for _, name in best]
    assert [(int(line.split()[0]), text in line) for line, text in zip(told[3:], words, strict=True)] == [
        (rank, True) for rank in range(1, 6)
    ]

    s3.filesystem().get(f"{bucket}/run/reranked/", str(tmp_path / "reranked/"), recursive=True)
    assert duckdb.sql(
        f"select count(*), count(distinct query_id), max(rank) from read_parquet('{tmp_path}/reranked/*.parquet')"
    ).fetchall() == [(22_500, 225, 100)]
    written = b"".join(
        s3.filesystem().cat(f"{bucket}/run/{name}") for name in ("manifest.json", "report.json", "report.html")
    )
    assert s3.secret.encode() not in written
    logs = [path.read_bytes() for path in Path(nodes.head_node.get_logs_dir_path()).rglob("*") if path.is_file()]
    assert any(b"map_batches" in log or b"MapBatches" in log for log in logs)  # Ray told what it ran
    assert not [log for log in logs if s3.secret.encode() in log]
    assert s3.secret not in done.stderr + done.stdout


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


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
    assert Storage(s3.config).exists(f"s3://{bucket}/run/_SUCCESS")
    done = subprocess.run(
        [*submit, *job, "--output.path", "run"],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "which is in the copy of the working directory that Ray made for this job" in done.stdout
    assert "exit code 2" in done.stdout
