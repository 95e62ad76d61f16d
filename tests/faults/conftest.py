"""One small job, and what it gives when nothing goes wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cross_encoders import make_bert
from support.drivers import CHUNKS, Jobs
from support.drivers import DOCUMENTS as DOCUMENTS_OF_A_JOB
from support.drivers import QUERIES as QUERIES_OF_A_JOB
from support.faulty_s3 import faulty
from support.job_files import WORDS, read_output, write_jsonl

QUERIES, DOCUMENTS = 6, 400  # as many chunks as queries

Rows = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="session")
def family(request: pytest.FixtureRequest) -> str:
    """Of the model that scores: enct5, unless a test is parametrised by it."""
    return getattr(request, "param", "enct5")


@pytest.fixture(scope="session")
def checkpoint(family: str, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one of the family."""
    return tiny_checkpoint if family == "enct5" else make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def make_config(make_config: Any, checkpoint: Path) -> Any:
    """Configurations of small jobs on CPUs with that model."""

    def make(**sections: Any) -> Any:
        model = {"path": str(checkpoint)} | sections.pop("model", {})
        return make_config(model=model, **sections)

    return make


@pytest.fixture(scope="session")
def pairs() -> list[dict[str, str]]:
    """2,400 pairs."""
    return [
        {
            "query_id": f"q{query}",
            "query": f"{WORDS[query]} flow",
            "doc_id": f"d{document}",
            "text": f"{WORDS[document % 18]} {WORDS[document // 18 % 18]} {document}",
        }
        for query in range(QUERIES)
        for document in range(DOCUMENTS)
    ]


@pytest.fixture(scope="session")
def undisturbed(cluster: str, pairs: Any, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The rows of a run of these pairs in which nothing happened."""
    from tart_ray.config import RerankConfig
    from tart_ray.reranking.job import rerank

    folder = tmp_path_factory.mktemp("undisturbed")
    write_jsonl(folder / "candidates.jsonl", pairs)
    config = {
        "model": {"path": str(checkpoint), "max_length": 64},
        "input": {"candidates": str(folder / "candidates.jsonl")},
        "output": {"path": str(folder / "run")},
        "cluster": {"gpus_per_replica": 0, "replicas": {"max": 2}},
    }
    rerank(RerankConfig.model_validate(config))
    rows = keyed(read_output(folder / "run"))
    assert len(rows) == QUERIES * DOCUMENTS
    return rows


@pytest.fixture(scope="session")
def _jobs(s3: Any, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    folder = tmp_path_factory.mktemp("jobs")
    with faulty(s3) as proxy:
        yield Jobs(proxy, folder, checkpoint, {**os.environ, "TART_RAY_CACHE": str(folder / "cache")})


@pytest.fixture
def jobs(_jobs: Jobs) -> Iterator[Jobs]:
    """Jobs on object storage, behind a proxy that behaves until it is told otherwise."""
    yield _jobs
    _jobs.proxy.behave()


@pytest.fixture(scope="session")
def undisturbed_job(_jobs: Jobs) -> Rows:
    """The rows of such a job in which nothing happened."""
    assert _jobs.finish("undisturbed") == 0, _jobs.said
    rows = keyed(_jobs.rows("undisturbed"))
    assert len(rows) == QUERIES_OF_A_JOB * DOCUMENTS_OF_A_JOB
    assert _jobs.starts_of_chunks("undisturbed").total() == CHUNKS
    return rows


def keyed(rows: list[dict[str, Any]]) -> Rows:
    """Rows by their ids, each of which must be there once."""
    found = {(row["query_id"], row["doc_id"]): row for row in rows}
    assert len(found) == len(rows), "rows were written twice"
    return found


@pytest.fixture(scope="session")
def assert_same() -> Any:
    """Compares rows with those of an undisturbed run, one by one."""

    def compare(rows: list[dict[str, Any]], expected: Rows, *, without: set[tuple[str, str]] = frozenset()) -> None:
        found = keyed(rows)
        assert found.keys() == expected.keys() - without
        margins: dict[str, dict[str, float]] = {}
        for (query, document), row in expected.items():
            if (query, document) not in without:
                margins.setdefault(query, {})[document] = row["margin"]
        ranks: dict[str, list[int]] = {}
        for key, row in found.items():
            margin = expected[key]["margin"]
            assert row["margin"] == pytest.approx(margin, abs=1e-5), key
            assert row["score"] == pytest.approx(expected[key]["score"], abs=3e-6), key  # a quarter of the margin's
            others = margins[key[0]].values()  # those that come as close as rounding may change places
            better = sum(other > margin + 2e-5 for other in others)
            assert better < row["rank"] <= sum(other >= margin - 2e-5 for other in others), key
            ranks.setdefault(key[0], []).append(row["rank"])
        for query, given in ranks.items():
            assert sorted(given) == [*range(1, len(margins[query]) + 1)], query

    return compare


@pytest.fixture
def quarantined() -> Any:
    """Reasons of a run's quarantine by ids; every entry must hold its row."""

    def read(run: Path) -> dict[tuple[str, str], str]:
        entries = read_output(run, "quarantine") if (run / "quarantine").exists() else []
        for entry in entries:
            row = json.loads(entry["row"])
            assert (row["query_id"], row["doc_id"]) == (entry["query_id"], entry["doc_id"])
            assert row["text"]
        return {(entry["query_id"], entry["doc_id"]): entry["reason"] for entry in entries}

    return read
