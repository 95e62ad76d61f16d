"""The jobs as functions, on a Ray that the caller is connected to already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ray
from support.job_files import write_jsonl

import tart_ray
from tart_ray.errors import ConfigurationError, InputError

pytestmark = pytest.mark.usefixtures("cluster")

QUERIES, DOCUMENTS = 3, 8


@pytest.fixture
def config(tmp_path: Path, tiny_checkpoint: Path) -> dict[str, Any]:
    rows = [
        {"query_id": f"q{q}", "query": f"wing {q}", "doc_id": f"d{d}", "text": f"flow {d}", "part": d % 2}
        for q in range(QUERIES)
        for d in range(DOCUMENTS)
    ]
    write_jsonl(tmp_path / "candidates.jsonl", [*rows, {**rows[0], "doc_id": "bad", "text": None}])
    return {
        "model": {"path": str(tiny_checkpoint), "max_length": 48},
        "input": {"candidates": str(tmp_path / "candidates.jsonl"), "instruction": "Find it"},
        "output": {"path": str(tmp_path / "run"), "partition_by": ["part"]},
        "cluster": {"gpus_per_replica": 0, "replicas": {"max": 1}},
        "limits": {"max_quarantined_fraction": 0.5},
    }


def test_one_job_after_the_other_and_their_results(tmp_path: Path, config: dict[str, Any]) -> None:
    assert "about 25 rows" in tart_ray.plan(config, job="rerank")
    assert not (tmp_path / "run").exists()
    run = tart_ray.rerank(config)
    assert (run.job, run.path, run.complete) == ("rerank", str(tmp_path / "run"), True)
    assert (run.counts["read"], run.counts["scored"], run.counts["quarantined"]) == (25, 24, 1)
    assert run.tables == ["reranked", "scores", "quarantine"]
    ranked = run.read("reranked").to_table()
    assert sorted(zip(ranked["query_id"].to_pylist(), ranked["rank"].to_pylist(), strict=True)) == [
        (f"q{q}", rank + 1) for q in range(QUERIES) for rank in range(DOCUMENTS)
    ]
    assert {(row["doc_id"], row["part"]) for row in ranked.to_pylist()} == {
        (f"d{d}", str(d % 2)) for d in range(DOCUMENTS)
    }
    assert run.read("scores").count_rows() == 24
    assert run.read("quarantine").to_table()["reason"].to_pylist() == ["text is null"]
    with pytest.raises(InputError, match=r"got 'labels', available: .*reranked"):
        run.read("labels")

    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t1\nq1\td1\t1\nq2\td2\t1\n")
    (tmp_path / "mine.yaml").write_text(json.dumps({
        "input": {"run": run.path},
        "positives": {"qrels": str(tmp_path / "qrels.tsv")},
        "mining": {"policies": [{"num_negatives": 2}]},
        "output": {"path": str(tmp_path / "mined")},
        "cluster": {"gpus_per_replica": 0},
    }))  # fmt: skip
    mined = tart_ray.mine_negatives(tmp_path / "mine.yaml")
    assert mined.read("negatives").count_rows() == QUERIES * 2
    again = tart_ray.open_run(tmp_path / "mined")
    assert (again.job, again.counts, again.complete) == ("mine_negatives", mined.counts, True)

    labelled = tart_ray.relabel({
        "input": {"run": run.path},
        "labels": {"by": "thresholds", "cuts": [0.0], "score": "margin"},
        "output": {"path": str(tmp_path / "labels")},
        "cluster": {"gpus_per_replica": 0},
    })  # fmt: skip
    assert not labelled.complete  # 1 of 25 rows is more than the 1 % that are allowed by default
    assert labelled.read("labels").count_rows() == 24
    with pytest.raises(ConfigurationError, match=r"got no run, expected output\.path of a job"):
        tart_ray.open_run(tmp_path / "labels")
    assert ray.is_initialized()


def test_what_is_no_configuration_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="got an unknown key 'inputs'; did you mean 'input'"):
        tart_ray.rerank({**config, "inputs": {}})
    with pytest.raises(ConfigurationError, match=r"cannot read the configuration .*absent\.yaml: FileNotFoundError"):
        tart_ray.rerank(tmp_path / "absent.yaml")
    with pytest.raises(ConfigurationError, match="got list, expected a RerankConfig, a dict, or the path"):
        tart_ray.rerank([])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="job: got None, expected one of"):
        tart_ray.plan(config)
