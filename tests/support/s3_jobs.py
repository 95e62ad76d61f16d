"""Jobs whose input, model and output are in a bucket."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import yaml
from pyarrow.fs import FSSpecHandler, PyFileSystem

from support.job_files import WORDS
from support.s3_server import S3Server

ROOT = Path(__file__).parents[2]


def command(config: str, *options: str, job: str = "rerank") -> list[str]:
    return [sys.executable, "-m", f"jobs.{job}", "--config", config, *options]


def put(s3: S3Server, url: str, data: bytes | str | dict[str, Any]) -> None:
    text = yaml.safe_dump(data) if isinstance(data, dict) else data
    s3.filesystem().pipe_file(url, text.encode() if isinstance(text, str) else text)


def small_job(s3: S3Server, bucket: str, checkpoint: Path, queries: int, documents: int) -> dict[str, Any]:
    """A job whose input, model and output are in the bucket."""
    for file in checkpoint.iterdir():
        put(s3, f"{bucket}/model/{file.name}", file.read_bytes())
    words = np.random.default_rng(0).choice(WORDS, (documents, 5)).tolist()
    put(s3, f"{bucket}/run.trec", "".join(f"q{q} Q0 d{d} 1 {-d} x\n" for q in range(queries) for d in range(documents)))
    put(s3, f"{bucket}/corpus.tsv", "".join(f"d{d}\t{' '.join(words[d])}\n" for d in range(documents)))
    put(s3, f"{bucket}/queries.tsv", "".join(f"q{q}\t{WORDS[q % len(WORDS)]} {q}\n" for q in range(queries)))
    return {
        "model": {"path": f"s3://{bucket}/model/", "max_length": 32},
        "input": {
            "candidates": f"s3://{bucket}/run.trec",
            "queries": f"s3://{bucket}/queries.tsv",
            "corpus": f"s3://{bucket}/corpus.tsv",
        },
        "output": {"path": f"s3://{bucket}/run/"},
        "cluster": {"gpus_per_replica": 0, "replicas": {"min": 1, "max": 1}},
    }


def reranked(s3: S3Server, bucket: str) -> list[dict[str, Any]]:
    filesystem = PyFileSystem(FSSpecHandler(s3.filesystem()))
    rows: list[dict[str, Any]] = ds.dataset(f"{bucket}/run/reranked", filesystem=filesystem).to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["query_id"], row["rank"]))
