"""Jobs on a store whose listings show nothing that the job has written: names come from commits, no row is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.cheap import load_cheap_scorer
from support.faulty_s3 import Proxy, faulty
from support.s3_jobs import put
from support.s3_server import S3Server

from tart_ray.config import EvaluateConfig, MineConfig, RelabelConfig
from tart_ray.errors import ExitCode
from tart_ray.evaluation.job import evaluate
from tart_ray.mining.job import mine_negatives
from tart_ray.relabeling.job import relabel
from tart_ray.runs import directory, segments
from tart_ray.storage import Storage

pytestmark = pytest.mark.usefixtures("cluster")

QUERIES, DOCUMENTS = 3, 4


@pytest.fixture(autouse=True)
def segments_of_single_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage of several units has segments, which listings do not show."""
    for module in (directory, segments):
        monkeypatch.setattr(module, "SEGMENT_UNITS", 1)


@pytest.fixture
def lagging(s3: S3Server) -> Iterator[Proxy]:
    with faulty(s3) as proxy:
        proxy.lag_listings(3600)
        yield proxy


@pytest.fixture
def bucket(s3: S3Server, tiny_checkpoint: Path) -> str:
    """A collection and its candidates, put there past the proxy: the listings show them."""
    bucket = s3.new_bucket()
    queries = [{"_id": f"q{q}", "text": f"wing {q}"} for q in range(QUERIES)]
    documents = [{"_id": f"d{d}", "title": "", "text": f"flow {d}"} for d in range(DOCUMENTS)]
    pairs = [(q, d) for q in range(QUERIES) for d in range(DOCUMENTS)]
    rows = [
        {"query_id": f"q{q}", "query": f"wing {q}", "doc_id": f"d{d}", "text": f"flow {d}", "score": -d}
        for q, d in pairs
    ]
    for name, lines in (("beir/queries.jsonl", queries), ("beir/corpus.jsonl", documents), ("pairs.jsonl", rows)):
        put(s3, f"{bucket}/{name}", b"".join(orjson.dumps(line) + b"\n" for line in lines))
    put(s3, f"{bucket}/beir/qrels/test.tsv", "".join(f"q{q}\td{q}\t1\n" for q in range(QUERIES)))
    put(s3, f"{bucket}/run.trec", "".join(f"q{q} Q0 d{d} 0 {-d} x\n" for q, d in pairs))
    return bucket


def sections(proxy: Proxy, bucket: str, checkpoint: Path, name: str) -> dict[str, Any]:
    server = proxy.server
    return {
        "output": {"path": f"s3://{bucket}/{name}"},
        "model": {"path": str(checkpoint), "max_length": 32},
        "cluster": {"gpus_per_replica": 0, "replicas": {"max": 1}},
        "storage": {"endpoint_url": server.endpoint_url, "key": server.key, "secret": server.secret},
    }


def report_of(proxy: Proxy, url: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Storage(proxy.server.config).read(f"{url}/report.json"))
    return found["counts"]


def test_evaluate(lagging: Proxy, bucket: str, tiny_checkpoint: Path) -> None:
    task = {"name": "t", "path": f"s3://{bucket}/beir", "first_stage": f"s3://{bucket}/run.trec"}
    given = {"input": {"tasks": [task]}, "metrics": {"resamples": 10}}
    config = EvaluateConfig.model_validate(given | sections(lagging, bucket, tiny_checkpoint, "evaluated"))
    assert evaluate(config, load=load_cheap_scorer) == ExitCode.DONE
    counts = report_of(lagging, f"s3://{bucket}/evaluated")
    assert counts["measured"] == counts["scored"] == QUERIES * DOCUMENTS


def test_mining_and_relabelling(lagging: Proxy, bucket: str, tiny_checkpoint: Path) -> None:
    pairs = f"s3://{bucket}/pairs.jsonl"
    given: dict[str, Any] = {"input": {"candidates": pairs}, "positives": {"qrels": f"s3://{bucket}/beir/qrels/"}}
    config = MineConfig.model_validate(given | sections(lagging, bucket, tiny_checkpoint, "mined"))
    assert mine_negatives(config, load=load_cheap_scorer) == ExitCode.DONE
    counts = report_of(lagging, f"s3://{bucket}/mined")
    assert counts["queries with negatives"] == QUERIES
    # what was scored for the mining is a run like any other, whose scores relabelling takes over
    labels = {"cuts": [0.5]}
    given = {"input": {"run": f"s3://{bucket}/mined/scoring"}, "labels": labels}
    relabelling = RelabelConfig.model_validate(given | sections(lagging, bucket, tiny_checkpoint, "labelled"))
    assert relabel(relabelling, load=load_cheap_scorer) == ExitCode.DONE
    # labels by other thresholds are compared with the first ones, all of which are found
    given["labels"] = {"cuts": [0.25]}
    relabelling = RelabelConfig.model_validate(given | sections(lagging, bucket, tiny_checkpoint, "labelled"))
    assert relabel(relabelling, load=load_cheap_scorer) == ExitCode.DONE
    current = json.loads(Storage(lagging.server.config).read(f"s3://{bucket}/labelled/current.json"))
    counts = report_of(lagging, f"s3://{bucket}/labelled/{current['path']}")
    assert (counts["labelled"], counts["new"], counts["gone"]) == (QUERIES * DOCUMENTS, 0, 0)
