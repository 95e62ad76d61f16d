"""jobs.evaluate on a two-node cluster: real collections, closed and pooled, several instructions, resumed, refused."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pyarrow.parquet as pq
import pytest
from support.cheap import load_cheap_scorer
from support.collections import (
    LOTTE_QRELS,
    read_qrels,
    read_trec,
    write_beir,
    write_followir,
    write_functions,
    write_lotte,
    write_modules,
    write_qrels,
    write_run,
    write_topics,
)
from support.job_files import read_output, report_of, write_jsonl
from support.shown import shown

from tart_ray.config import EvaluateConfig, RerankConfig
from tart_ray.errors import CheckpointError, ConfigurationError, ExitCode, RunConflictError, RunFailedError
from tart_ray.evaluation.job import describe, evaluate
from tart_ray.evaluation.metrics import p_mrr
from tart_ray.reranking.job import rerank

pytestmark = pytest.mark.usefixtures("cluster")

INSTRUCTIONS = ["Find the function", "Retrieve a python code that implements this"]


def never(_: Any) -> Any:
    raise AssertionError("what is scored must not be scored again")


def make(root: Path, checkpoint: Path, tasks: list[dict[str, Any]], name: str = "run", **more: Any) -> EvaluateConfig:
    base: dict[str, Any] = {
        "input": {"tasks": tasks, "pools": more.pop("pools", {})},
        "output": {"path": str(root / name)},
        "metrics": {"resamples": 50},
        "model": {"path": str(checkpoint), "max_length": 64},
        "cluster": {"gpus_per_replica": 0, "replicas": {"min": 1, "max": 2}},
    }
    return EvaluateConfig.model_validate(base | more)


def metrics_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


def by_trec_eval(run: Path, qrels: Any, measure: str) -> float:
    parsed = ir_measures.parse_measure(measure)
    return float(ir_measures.calc_aggregate([parsed], qrels, read_trec(run))[parsed])


@pytest.fixture(scope="module")
def finished(
    cluster: str, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EvaluateConfig, Path]:
    """Three real collections in a pool, two instructions for two of them, LoTTE and FollowIR, in one run."""
    root = tmp_path_factory.mktemp("evaluate")
    write_functions(root / "functions")
    write_topics(root / "topics")
    write_modules(root / "modules")
    write_lotte(root / "lotte")
    write_run(
        root / "lotte.trec",
        {q: {str(d): 9.0 - d for d in range(10)} for q in LOTTE_QRELS} | {"other": {"1": 1.0}, "2": {}},
    )
    write_followir(root / "news")
    tasks = [
        {"name": "functions", "path": str(root / "functions"), "instructions": INSTRUCTIONS, "top_k": 10},
        {"name": "topics", "path": str(root / "topics"), "instructions": ["Find a chapter", "Find help"], "top_k": 10},
        {"name": "modules", "path": str(root / "modules"), "instructions": [{"preset": "x2/linkso_py"}], "top_k": 10},
        {"name": "lotte", "kind": "lotte", "path": str(root / "lotte"), "first_stage": str(root / "lotte.trec")},
        {"name": "news", "kind": "followir", "path": str(root / "news"), "template": "query_first"},
    ]
    config = make(root, tiny_checkpoint, tasks, pools={"library": ["functions", "topics", "modules"]})
    assert evaluate(config) == ExitCode.DONE
    return config, root / "run"


def test_counts_reconcile_and_every_pair_is_scored_once(finished: tuple[EvaluateConfig, Path]) -> None:
    _, run = finished
    counts = report_of(run)["counts"]
    scores = read_output(run / "scoring", "scores")
    pairs = {(row["query_id"], row["doc_id"]) for row in scores}
    assert len(pairs) == len(scores) == counts["pairs to score"] == counts["scored"] == counts["measured"]
    assert (counts["duplicates"], counts["quarantined"], counts["quarantined pairs"]) == (0, 0, 0)
    assert (run / "_SUCCESS").exists()
    assert not (run / "_work").exists()
    assert {row["instruction"] for row in scores if row["task"] == "functions"} == {*INSTRUCTIONS}
    notes = report_of(run)["notes"]
    assert notes["lotte"] == [
        "no instruction: queries are scored bare",
        "1 of 4 judged queries without any candidate, counted as 0",
        "1 queries of the first stage's run without judgement or text, left out",
    ]


def test_metrics_are_those_of_trec_eval_on_the_run_files(finished: tuple[EvaluateConfig, Path]) -> None:
    _, run = finished
    tasks = metrics_of(run)["tasks"]
    compared = 0
    for name, setup in itertools.product(("functions", "topics", "modules"), ("closed", "pooled")):
        qrels = read_qrels(run.parent / name / "qrels" / "test.tsv")
        if setup == "pooled":
            qrels = {query: {f"{name}:{doc}": grade for doc, grade in docs.items()} for query, docs in qrels.items()}
        for ranking, measures in tasks[name]["setups"][setup]["runs"].items():
            for measure, found in measures.items():
                wanted = by_trec_eval(run / "runs" / name / setup / f"{ranking}.trec", qrels, measure)
                assert found["mean"] == pytest.approx(wanted, abs=1e-12)
                assert found["low"] <= found["mean"] <= found["high"]
                compared += 1
    assert compared == 4 * 2 * (4 + 4 + 2)  # measures, setups, rankings
    values = pq.read_table(run / "per_query" / "functions.parquet").to_pylist()
    chosen = [v["value"] for v in values if (v["setup"], v["run"], v["measure"]) == ("pooled", "ensemble", "nDCG@10")]
    assert len(chosen) == 12
    assert np.mean(chosen) == pytest.approx(
        tasks["functions"]["setups"]["pooled"]["runs"]["ensemble"]["nDCG@10"]["mean"]
    )


def test_the_pool_holds_documents_of_all_its_tasks_and_the_gap_is_told(finished: tuple[EvaluateConfig, Path]) -> None:
    _, run = finished
    found = {
        doc.partition(":")[0]
        for docs in read_trec(run / "runs/topics/pooled/first_stage.trec").values()
        for doc in docs
    }
    assert len(found) > 1
    assert found <= {"functions", "topics", "modules"}
    own = read_trec(run / "runs/topics/closed/reranked-1.trec")
    assert {doc for docs in own.values() for doc in docs} <= {r["_id"] for r in _corpus(run.parent / "topics")}
    for name in ("functions", "topics", "modules"):
        task = metrics_of(run)["tasks"][name]
        closed, pooled = (task["setups"][setup]["reranked"]["nDCG@10"]["mean"] for setup in ("closed", "pooled"))
        assert task["pooled_minus_closed"]["nDCG@10"]["difference"] == pytest.approx(pooled - closed)
        # the same pair has the same margin in both setups
        pooled_run = read_trec(run / f"runs/{name}/pooled/reranked-1.trec")
        for query, docs in read_trec(run / f"runs/{name}/closed/reranked-1.trec").items():
            for doc, margin in docs.items():
                assert pooled_run.get(query, {}).get(f"{name}:{doc}", margin) == margin


def _corpus(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]


def test_the_table_and_the_figures_of_a_query_are_shown(
    finished: tuple[EvaluateConfig, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = finished
    told = shown(capsys, "show", run)
    table = (run / "table.txt").read_text().splitlines()
    assert told[: len(table)] == table
    assert told[len(table) + 1] == "jobs.evaluate: finished"
    rows = read_output(run, "per_query")
    query_id = rows[0]["query_id"]
    expected = {row["measure"] for row in rows if row["query_id"] == query_id}
    _, header, *told = shown(capsys, "show", run, "--query", query_id)
    assert len(told) == sum(row["query_id"] == query_id for row in rows)
    assert "measure" in header.split()
    assert all(any(measure in line.split() for line in told) for measure in expected)
    (of_store, *_) = read_output(run / "scoring", "scores")
    assert shown(capsys, "show", run / "scoring", "--query", of_store["query_id"])[0].startswith("query ")


def test_instructions_are_summed_up(finished: tuple[EvaluateConfig, Path]) -> None:
    _, run = finished
    found = metrics_of(run)["tasks"]["topics"]["setups"]["closed"]
    means = [found["runs"][f"reranked-{index}"]["nDCG@10"]["mean"] for index in (1, 2)]
    spread = found["reranked"]["nDCG@10"]["robustness"]
    assert spread["instructions"] == 2
    assert spread["mean"] == pytest.approx(sum(means) / 2)
    assert found["reranked"]["nDCG@10"]["mean"] == pytest.approx(sum(means) / 2)
    assert spread["worst"]["value"] == min(means)
    assert spread["standard_deviation"] == pytest.approx(abs(means[0] - means[1]) / math.sqrt(2))
    one, two, both = (read_trec(run / f"runs/topics/closed/{n}.trec") for n in ("reranked-1", "reranked-2", "ensemble"))
    for query, docs in both.items():
        assert docs == pytest.approx({doc: (one[query][doc] + two[query][doc]) / 2 for doc in docs}, rel=1e-6)
    assert "robustness" not in metrics_of(run)["tasks"]["modules"]["setups"]["closed"]["reranked"]["nDCG@10"]


def ranks_of(run: dict[str, dict[str, float]]) -> dict[str, dict[str, int]]:
    return {
        query: {doc: rank for rank, doc in enumerate(sorted(docs, key=docs.__getitem__, reverse=True), start=1)}
        for query, docs in run.items()
    }


def test_lotte_and_followir_in_the_same_run(finished: tuple[EvaluateConfig, Path]) -> None:
    _, run = finished
    lotte = metrics_of(run)["tasks"]["lotte"]["setups"]["closed"]["runs"]
    # ranked 0, 1, 2 …: question 0 has 0, 1 has 2, 3 has 1 among the best five; 2 has no candidates
    success = lotte["first_stage"]["Success@5"]
    assert (success["mean"], success["queries"]) == (0.75, 4)
    ranks = {name: ranks_of(read_trec(run / f"runs/news/closed/{name}.trec")) for name in ("original", "changed")}
    lost = {"t1": ["d1"], "t2": ["d1", "d3"]}
    wanted = [p_mrr(ranks["original"][query], ranks["changed"][query], docs) for query, docs in lost.items()]
    found = metrics_of(run)["tasks"]["news"]["setups"]["closed"]["reranked"]["p-MRR"]
    assert found["mean"] == pytest.approx(np.mean(wanted))
    scores = [row for row in read_output(run / "scoring", "scores") if row["task"] == "news"]
    assert {row["instruction"] for row in scores} == {None}  # the reversed template is one query


def test_the_table_has_averages_and_the_page_shows_it(finished: tuple[EvaluateConfig, Path]) -> None:
    _, run = finished
    table = metrics_of(run)["table"]
    rows = {(row["task"], row["setup"], row["measure"]): row for row in table}
    for setup in ("closed", "pooled"):
        members = [rows[name, setup, "nDCG@10"] for name in ("functions", "topics", "modules")]
        for column in ("first_stage", "reranked"):
            wanted = np.mean([row[column] for row in members])
            assert rows["macro average", setup, "nDCG@10"][column] == pytest.approx(wanted)
    assert ("news", "closed", "p-MRR") in rows
    page = (run / "report.html").read_text()
    assert "<svg" in page
    assert "macro average" in page
    assert re.search(r"It measured \d+ tasks, whose candidates \S+ reranked; macro average: ", page)
    picture = (run / "metrics.svg").read_text()
    assert {row["task"] for row in table if row["reranked"] is not None} <= {*re.findall(r">([^<>]+)</text>", picture)}
    assert "macro average" in (run / "table.txt").read_text()


def test_the_same_again_does_nothing_and_another_is_refused(finished: tuple[EvaluateConfig, Path]) -> None:
    config, run = finished
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert evaluate(config, load=never) == ExitCode.DONE
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before
    other = config.model_copy(update={"metrics": config.metrics.model_copy(update={"seed": 1})})
    with pytest.raises(RunConflictError, match="seed: 0 → 1"):
        evaluate(other)


def test_scores_that_are_there_are_measured_and_not_made_again(
    finished: tuple[EvaluateConfig, Path],
    make_config: Callable[..., RerankConfig],
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    _, run = finished
    folder = run.parent / "topics"
    qrels, first = folder / "qrels" / "test.tsv", str(run / "runs/topics/closed/first_stage.trec")
    given = {"candidates": first, "queries": str(folder / "queries.jsonl"), "corpus": str(folder / "corpus.jsonl")}
    scores = str(tmp_path / "scores")
    reranking = make_config(input={**given, "instruction": "Find a chapter"}, output={"path": scores})
    assert rerank(reranking) == ExitCode.DONE
    task = {"name": "topics", "path": str(folder), "scores": [scores], "compare_with": first}
    config = make(tmp_path, tiny_checkpoint, [task])
    assert f"scores that are there: {scores}" in "\n".join(describe(config))
    assert evaluate(config, load=never) == ExitCode.DONE
    found = metrics_of(tmp_path / "run")["tasks"]["topics"]["setups"]["closed"]
    wanted = metrics_of(run)["tasks"]["topics"]["setups"]["closed"]
    for measure, same in wanted["runs"]["reranked-1"].items():
        assert found["runs"]["scores-1"][measure]["mean"] == pytest.approx(same["mean"])
    assert found["runs"]["first_stage"] == wanted["runs"]["first_stage"] == found["runs"]["compare_with"]
    assert found["against_compare_with"]["first_stage"]["nDCG@10"]["p_value"] == 1
    measured = by_trec_eval(tmp_path / "run/runs/topics/closed/scores-1.trec", read_qrels(qrels), "nDCG@10")
    assert measured == pytest.approx(found["runs"]["scores-1"]["nDCG@10"]["mean"])
    pairs = len(Path(first).read_text().splitlines())
    assert report_of(tmp_path / "run")["counts"]["pairs of runs that were there"] == pairs


def failing(_: Any) -> Any:
    raise CheckpointError("no such weights")


def test_a_run_that_failed_continues_and_tells_what_is_missing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tart_ray.evaluation.job.PAIRS_PER_PART", 150)  # of 400 that could be: three parts a forum
    documents = {f"d{i}": ("", f"wing flow {i}") for i in range(4)} | {"q2": ("", "wing")}
    queries = {"q1": "wing", "q2": "flow", "unjudged": "heat", "none": "zebra"}
    qrels = {"q1": {"d1": 1, "gone": 1}, "q2": {"q2": 1, "d2": 0}, "none": {"d1": 1}, "no-text": {"d1": 1}}
    for forum in ("gis", "tex"):
        write_beir(tmp_path / "c" / forum, documents, queries, qrels)
    (tmp_path / "runs").mkdir()
    run = {"q1": {"d1": 3.0, "gone": 2.0, "d2": 1.0}, "q2": {"q2": 3.0, "d0": 2.0}, "no-text": {"d1": 1.0}}
    for forum in ("gis", "tex"):
        write_run(tmp_path / "runs" / f"{forum}.trec", run)
    with (tmp_path / "c" / "tex" / "qrels" / "test.tsv").open("a") as file:
        file.write("q1\td3\tyes\n")
    task = {"name": "cqa", "kind": "cqadupstack", "path": str(tmp_path / "c"), "first_stage": str(tmp_path / "runs")}
    config = make(tmp_path, tiny_checkpoint, [task], limits={"max_quarantined_fraction": 0.5})
    with pytest.raises(RunFailedError, match="no such weights"):
        evaluate(config, load=failing)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "candidates").iterdir()}
    assert len(written) == 2
    assert evaluate(config, load=load_cheap_scorer) == ExitCode.DONE
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "candidates").iterdir()} == written
    results = metrics_of(tmp_path / "run")
    gis, tex = (results["tasks"][f"cqa-{forum}"]["counts"] for forum in ("gis", "tex"))
    expected = {
        "queries": 4, "judged_queries": 4, "judgements": 6, "queries_without_judgements": 1,
        "judged_queries_without_text": 1, "judged_queries_without_candidates": 2, "judged_queries_without_relevant": 0,
        "judged_documents_not_in_corpus": 1, "candidates_not_in_corpus": 1, "other_queries_in_run": 1, "quarantined": 0,
        "pairs": 4,
    }  # fmt: skip
    assert {name: gis[name] for name in expected} == expected
    assert {name: tex[name] for name in expected} == expected | {"quarantined": 1}
    notes = report_of(tmp_path / "run")["notes"]["cqa-tex"]
    assert notes[0].startswith("forums of CQADupStack that are missing: android")
    assert "1 of 4 candidate documents that the corpus does not have, not scored" in notes
    (bad,) = read_output(tmp_path / "run", "quarantine")
    assert bad["reason"] == "undecodable line: got relevance 'yes', expected an integer"
    assert {row["reason"] for row in read_output(tmp_path / "run" / "scoring", "quarantine")} == {
        "doc_id is not in the corpus"
    }
    assert len(list((tmp_path / "run" / "_commits" / "measure").iterdir())) == 6
    assert len(read_trec(tmp_path / "run" / "runs" / "cqa-gis" / "closed" / "reranked.trec")) == 2
    assert results["tasks"]["cqa-gis"]["setups"]["closed"]["runs"]["reranked"]["nDCG@10"]["queries"] == 4
    rows = {row["task"]: row for row in results["table"]}
    assert set(rows) == {"cqa"}  # one row for all forums, and no macro average of a single row
    # of four judged queries one finds one of its two relevant documents, at rank 1
    assert rows["cqa"]["first_stage"] == pytest.approx((1 + 1 / math.log2(3)) / (1 + 1 / math.log2(3)) / 4)


def test_a_store_that_is_found_complete_is_counted_by_its_commits(tiny_checkpoint: Path, tmp_path: Path) -> None:
    write_beir(tmp_path / "b", {"d1": ("", "wing"), "d2": ("", "flow")}, {"q1": "wing"}, {"q1": {"d1": 1}})
    write_run(tmp_path / "b.trec", {"q1": {"d1": 3.0, "d2": 2.0, "gone": 1.0}})
    task = {"name": "b", "path": str(tmp_path / "b"), "first_stage": str(tmp_path / "b.trec")}
    config = make(tmp_path, tiny_checkpoint, [task], limits={"max_quarantined_fraction": 0.5})
    assert evaluate(config, load=load_cheap_scorer) == ExitCode.DONE
    run = tmp_path / "run"
    counts = report_of(run)["counts"]
    assert (counts["pairs to score"], counts["scored"], counts["quarantined pairs"]) == (3, 2, 1)
    for file in ("_SUCCESS", "report.json", "scoring/report.json"):
        (run / file).unlink()
    assert evaluate(config, load=never) == ExitCode.DONE
    assert report_of(run)["counts"] == counts


def test_bad_configurations_are_refused_before_any_work(tiny_checkpoint: Path, tmp_path: Path) -> None:
    write_beir(tmp_path / "b", {"d1": ("", "x")}, {"q1": "one"}, {"q1": {"d1": 1}})
    write_qrels(tmp_path / "b" / "qrels" / "dev.tsv", {"q1": {"d1": 1}})
    write_jsonl(tmp_path / "scores" / "manifest.json", [{"identity": {"job": "evaluate"}, "config": {}}])
    given = {"name": "b", "path": str(tmp_path / "b")}
    with pytest.raises(ConfigurationError, match=r"input.tasks: b: scores .*none of jobs.rerank"):
        evaluate(make(tmp_path, tiny_checkpoint, [{**given, "scores": [str(tmp_path / "scores")]}]), load=never)
    with pytest.raises(CheckpointError):
        evaluate(make(tmp_path, tmp_path / "no-model", [given]), load=never)
    for tasks, more, said in (
        ([given, given], {}, "expected each once"),
        ([{**given, "name": "a/b"}], {}, "pattern"),
        ([given], {"pools": {"x": ["b", "c"]}}, "available: .*'b'"),
        ([{**given, "pooled_first_stage": "bm25"}], {}, "in none of input.pools"),
        ([{**given, "scores": ["x"], "instructions": ["y"]}], {}, "expected none: scores were made with theirs"),
        ([{**given, "kind": "followir", "instructions": ["y"]}], {}, "has those of its queries"),
        ([], {}, "at least 1 item"),
    ):
        with pytest.raises(ValueError, match=said):
            make(tmp_path, tiny_checkpoint, tasks, **more)
    assert not (tmp_path / "run").exists()
