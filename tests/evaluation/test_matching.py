"""Files that do not belong together are found before any work, by name, with ids of both sides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.collections import write_beir, write_followir, write_lotte, write_qrels, write_run
from support.job_files import write_jsonl

from tart_ray.config import EvaluateInputConfig
from tart_ray.errors import InputError
from tart_ray.evaluation import matching
from tart_ray.evaluation.datasets import find_tasks
from tart_ray.evaluation.matching import check_matches
from tart_ray.storage import Storage

STORAGE = Storage()
DOCUMENTS = {"d1": ("", "x"), "d2": ("", "y")}


def check(*tasks: dict[str, Any], stores: Any = None, **more: Any) -> None:
    """Look at the first task."""
    found = find_tasks(STORAGE, EvaluateInputConfig.model_validate({"tasks": tasks, **more}))
    check_matches(STORAGE, found[0], found if more else [], stores or {})


def beir(folder: Path, qrels: Any = None, **more: Any) -> dict[str, Any]:
    write_beir(folder, DOCUMENTS, {"1": "one", "2": "two"}, qrels or {"1": {"d1": 1}})
    return {"name": "b", "path": str(folder), **more}


def run_of(folder: Path, run: Any) -> str:
    write_run(folder / "run.trec", run)
    return str(folder / "run.trec")


def lotte_of_other_questions(folder: Path) -> dict[str, Any]:
    write_lotte(folder / "c")
    write_jsonl(folder / "c" / "qas.search.jsonl", [{"qid": 70, "query": "x", "answer_pids": [0]}])
    return {"name": "b", "kind": "lotte", "path": str(folder / "c")}


def followir_with(folder: Path, name: str, qrels: Any) -> dict[str, Any]:
    write_followir(folder / "c")
    write_qrels(folder / "c" / f"qrels_{name}" / "test.tsv", qrels)
    return {"name": "b", "kind": "followir", "path": str(folder / "c")}


CASES: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "another form of query ids": (
        lambda at: beir(at / "c", {"q1": {"d1": 1}, "q2": {"d1": 1}}),
        r"b: judgements: query ids: none is in the queries: got 'q1', 'q2', and there are '1', '2'",
    ),
    "leading zeros": (lambda at: beir(at / "c", {"0001": {"d1": 1}}), r"got '0001', and there are '1', '2'"),
    "another form of documents": (
        lambda at: beir(at / "c", {"1": {"1": 1}}),
        r"b: judgements: document ids: none is in the corpus: got '1', and there are 'd1', 'd2'",
    ),
    "nothing relevant": (
        lambda at: beir(at / "c", {"1": {"d1": 0, "d2": -1}}),
        r"b: judgements: no document is relevant to any query: got relevances from -1 to 0",
    ),
    "relevant only to a query without text": (
        lambda at: beir(at / "c", {"1": {"d1": 0}, "9": {"d1": 1}}),
        r"no document is relevant to any query: got relevances from 0 to 0",
    ),
    "a first stage of other queries": (
        lambda at: beir(at / "c", first_stage=run_of(at, {"q1": {"d1": 1.0}})),
        r"b: first_stage .*run.trec: query ids: none is in the judged queries: got 'q1', and there are '1'",
    ),
    "a first stage of unjudged queries": (
        lambda at: beir(at / "c", first_stage=run_of(at, {"2": {"d1": 1.0}})),
        r"none is in the judged queries: got '2', and there are '1'",
    ),
    "a first stage of other documents": (
        lambda at: beir(at / "c", first_stage=run_of(at, {"1": {"doc1": 1.0}, "2": {"d1": 1.0}})),
        r"b: first_stage .*: document ids: none is in the corpus: got 'doc1', and there are 'd1', 'd2'",
    ),
    "a run to compare with of other queries": (
        lambda at: beir(at / "c", compare_with=run_of(at, {"q1": {"d1": 1.0}})),
        r"b: compare_with .*: query ids: none is in the judged queries: got 'q1'",
    ),
    "answers to other questions": (
        lotte_of_other_questions,
        r"b: judgements: query ids: none is in the queries: got '70', and there are '0', '1', '2', …",
    ),
    "changed judgements of other queries": (
        lambda at: followir_with(at, "changed", {"1": {"d1": 1}}),
        r"b: judgements \(changed\): query ids: none is in the queries: got '1', and there are 't1', 't2'",
    ),
    "no good judgement": (
        lambda at: followir_with(at, "og", {"t1": {"": 1}}),
        r"b: judgements \(original\): got no good one of 1",
    ),
}


@pytest.mark.parametrize(("make", "message"), CASES.values(), ids=[*CASES])
def test_what_matches_nothing_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    task = make(tmp_path)
    with pytest.raises(InputError, match=message):
        check(task)


def test_scored_runs_of_other_queries_or_documents_are_refused(tmp_path: Path) -> None:
    task = beir(tmp_path / "c", scores=[str(tmp_path / "run")])
    pairs = {"query_id": ["1"], "doc_id": ["d2"]}
    check(task, stores={"run": [pa.table(pairs)]})
    with pytest.raises(InputError, match=r"b: scores run: query ids: none is in the judged queries: got 'q1'"):
        check(task, stores={"run": [pa.table(pairs | {"query_id": ["q1"]})]})
    with pytest.raises(InputError, match=r"b: scores run: document ids: none is in the corpus: got '2'"):
        check(task, stores={"run": [pa.table(pairs | {"doc_id": ["2"]})]})
    with pytest.raises(InputError, match="got none, and there are '1'"):
        check(task, stores={"run": []})


def test_a_run_over_a_pool_is_looked_up_in_all_its_corpora(tmp_path: Path) -> None:
    other = beir(tmp_path / "other") | {"name": "other"}
    for document, fits in (("other:d2", True), ("other:2", False)):
        pooled = run_of(tmp_path, {"1": {document: 1.0}})
        tasks = [beir(tmp_path / "c", pooled_first_stage=pooled), other]
        if fits:
            check(*tasks, pools={"x": ["b", "other"]})
        else:
            told = r"pooled_first_stage .*: document ids: none is in the corpora of its pool: got 'other:2', .* 'b:d1'"
            with pytest.raises(InputError, match=told):
                check(*tasks, pools={"x": ["b", "other"]})


def test_what_matches_in_part_is_left_to_the_counts(tmp_path: Path) -> None:
    run = run_of(tmp_path, {"1": {"d1": 1.0, "d9": 0.5}, "q1": {"d1": 1.0}})
    check(beir(tmp_path / "c", {"1": {"d1": 1, "d8": 1}, "3": {"d1": 1}}, first_stage=run, compare_with=run))


@pytest.mark.parametrize("suffixed", [False, True])
def test_candidates_of_followir_are_known_by_either_id(tmp_path: Path, suffixed: bool) -> None:
    """MTEB lists each query's candidates twice."""
    write_followir(tmp_path / "c")
    ids = ["t1-og", "t1-changed"] if suffixed else ["t1"]
    pq.write_table(pa.table({"query-id": ids, "corpus-ids": [["d1", "d2"]] * len(ids)}), tmp_path / "run.parquet")
    run = str(tmp_path / "run.parquet")
    check({"name": "b", "kind": "followir", "path": str(tmp_path / "c"), "first_stage": run})
    pq.write_table(pa.table({"query-id": ["t9-og"], "corpus-ids": [["d1"]]}), tmp_path / "run.parquet")
    with pytest.raises(InputError, match=r"got 't9-og'"):
        check({"name": "b", "kind": "followir", "path": str(tmp_path / "c"), "first_stage": run})


def test_of_what_is_large_only_a_part_is_read_and_nothing_is_concluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "RUN_BYTES", 1)
    check(beir(tmp_path / "c", first_stage=run_of(tmp_path, {"q1": {"d1": 1.0}})))
    monkeypatch.setattr(matching, "CORPUS_BYTES", 1)
    check(beir(tmp_path / "c", {"1": {"1": 1}}))
