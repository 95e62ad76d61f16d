"""Columns under other names, of every input and in every job: what the advice of an error says can be done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from tart_ray.config import (
    CalibrationConfig,
    EvaluateInputConfig,
    InputConfig,
    MineConfig,
    PositivesConfig,
    RelabelConfig,
    RerankConfig,
)
from tart_ray.errors import ConfigurationError, InputError
from tart_ray.evaluation.datasets import find_tasks, read_documents, read_judgements, read_queries
from tart_ray.evaluation.trec_runs import read_run
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.mining.job import _inspect_positives
from tart_ray.relabeling.job import look
from tart_ray.scores.plan import Plan, make_plan
from tart_ray.storage import Storage


def put(path: Path, *rows: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def plan_of(folder: Path, columns: dict[str, str], **paths: str) -> Plan:
    config = {"input": {**paths, "columns": columns}, "output": {"path": str(folder / "run")}}
    return make_plan(Storage(), RerankConfig.model_validate(config).input, windows=False)


@pytest.fixture(params=["jsonl", "parquet"])
def inputs(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    kind = request.param
    (tmp_path / "run.trec").write_text("q1 Q0 d1 1 9.0 bm25\n")
    return {
        "candidates": str(tmp_path / "run.trec"),
        "queries": put(tmp_path / f"queries.{kind}", {"number": "q1", "question": "a?"}),
        "corpus": put(tmp_path / f"corpus.{kind}", {"docno": "d1", "contents": "b", "text": "", "headline": "h"}),
    }


def test_names_of_what_is_joined(inputs: dict[str, str], tmp_path: Path) -> None:
    columns = {"queries.query_id": "number", "query": "question", "corpus.doc_id": "docno", "text": "contents"}
    plan = plan_of(tmp_path, {**columns, "corpus.title": "headline"}, **inputs)
    assert plan.queries is not None
    assert plan.corpus is not None
    assert plan.queries.columns == {"query_id": "number", "query": "question"}
    assert plan.corpus.columns == {"doc_id": "docno", "text": "contents", "title": "headline"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, r"queries: missing column query_id, query; available: \['number', 'question'\]; name theirs in "
             r"input.columns, as in {queries.query_id: THEIR_NAME}; query_id may also be _id"),
        ({"queries.query_id": "nr"}, r"input.columns says queries.query_id: nr, available: \['number', 'question'\]"),
        ({"query_id": "number", "query": "q"}, r"queries.*: input.columns says query: q, available: \['number'"),
        ({"query_id": "number", "query": "question", "doc_id": "docno", "title": "x"},
         r"input.columns says title: x, available: candidates: \['doc_id', .*; corpus: \['contents', 'docno', 'head"),
    ],
)  # fmt: skip
def test_a_name_that_is_not_there_is_told_with_those_that_are(
    inputs: dict[str, str], columns: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(tmp_path, columns, **inputs)


def test_a_name_without_a_role_is_for_the_candidates_and_for_others_only_in_need(tmp_path: Path) -> None:
    candidates = put(tmp_path / "c.jsonl", {"qid": "q1", "query": "a?", "docno": "d1", "words": "b"})
    columns = {"query_id": "qid", "doc_id": "docno"}
    in_need = put(tmp_path / "1.jsonl", {"docno": "d1", "text": "b"})
    plan = plan_of(tmp_path, columns, candidates=candidates, corpus=in_need)
    assert plan.corpus is not None
    assert plan.corpus.columns["doc_id"] == "docno"
    with_own = put(tmp_path / "2.jsonl", {"doc_id": "d1", "docno": "another", "text": "b"})
    plan = plan_of(tmp_path, columns, candidates=candidates, corpus=with_own)
    assert plan.corpus is not None
    assert plan.corpus.columns["doc_id"] == "doc_id"
    with pytest.raises(ConfigurationError, match=r"no column 'text'.*input.corpus.*as in {text: THEIR_NAME}"):
        plan_of(tmp_path, columns, candidates=candidates)
    assert plan_of(tmp_path, {**columns, "text": "words"}, candidates=candidates).corpus is None  # as that advises
    lists = put(tmp_path / "l.jsonl", {"qid": "q1", "query": "a?", "hits": [{"docno": "d1"}]})
    columns = {"query_id": "qid", "candidates": "hits", "candidates.doc_id": "docno", "text": "contents"}
    corpus = put(tmp_path / "3.jsonl", {"id": "d1", "contents": "b"})
    plan = plan_of(tmp_path, columns, candidates=lists, corpus=corpus)
    assert plan.corpus is not None
    assert plan.corpus.columns["text"] == "contents"


def test_names_in_the_qrels_and_the_corpus_of_positives(tmp_path: Path) -> None:
    rows = [{"query_id": "q1", "query": "a?", "doc_id": f"d{i}", "text": "b", "gold": i % 2 / 1} for i in range(8)]
    candidates = put(tmp_path / "c.jsonl", *rows)
    judged = [{"topic": "q1", "docno": row["doc_id"], "grade": row["gold"]} for row in rows]
    qrels = put(tmp_path / "q.jsonl", *judged)
    corpus = put(tmp_path / "d.jsonl", {"docno": "d1", "contents": "b"})
    columns = {"query_id": "topic", "doc_id": "docno", "relevance": "grade"}
    model = {"path": str(Path(__file__).parents[2] / "tart_ray/demo/model")}
    common = {"model": model, "input": {"candidates": candidates}, "output": {"path": str(tmp_path / "run")}}

    def positives(**more: Any) -> Any:
        config = MineConfig.model_validate({**common, "positives": {"qrels": qrels, "corpus": corpus, **more}})
        plan = make_plan(Storage(), config.input.to_score(), windows=False)
        return _inspect_positives(Storage(), config, plan)

    found, documents = positives(columns={**columns, "corpus.doc_id": "docno", "corpus.text": "contents"})
    assert (found.columns, documents.columns) == (columns, {"doc_id": "docno", "text": "contents", "title": "title"})
    with pytest.raises(InputError, match=r"corpus: missing .* in positives.columns, as in {corpus.doc_id: THEIR_NAME}"):
        positives()
    with pytest.raises(InputError, match=r"qrels: missing .* in positives.columns, as in {qrels.query_id: THEIR_NAME}"):
        positives(columns={"corpus.doc_id": "docno", "corpus.text": "contents"})
    labels = {"by": "calibrated", "cuts": [0.5], "calibration": {"qrels": qrels, "columns": columns, "min_labels": 1}}
    task = look(Storage(), RelabelConfig.model_validate({**common, "labels": labels}))
    assert task.qrels is not None
    assert task.qrels.columns == columns
    labels["calibration"] = {"label_column": "gold", "min_labels": 1}
    assert look(Storage(), RelabelConfig.model_validate({**common, "labels": labels})).qrels is None


@pytest.mark.parametrize(
    ("section", "given", "message"),
    [
        (InputConfig, {"candidates": "x", "columns": {"corpus.score": "s"}}, r"input.columns: got \['corpus.score'\]"),
        (InputConfig, {"candidates": "x", "columns": {"qrels.doc_id": "s"}}, r"expected names among .*'corpus.title'"),
        (PositivesConfig, {"qrels": "x", "columns": {"text": "s"}}, r"positives.columns: got \['text'\], .*corpus"),
        (CalibrationConfig, {"qrels": "x", "columns": {"score": "s"}}, r"labels.calibration.columns: got \['score'\]"),
        (EvaluateInputConfig, {"tasks": [{"name": "t", "path": "x", "columns": {"doc_id": "s"}}]},
         r"t: columns: got \['doc_id'\], expected .*'candidates.doc_id'.*'qrels.doc_id'"),
    ],
)  # fmt: skip
def test_names_that_are_none_of_ours(section: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        section.model_validate(given)


def test_names_in_a_collection(tmp_path: Path) -> None:
    put(tmp_path / "corpus.jsonl", {"docno": "d1", "contents": "b", "headline": "h"})
    put(tmp_path / "queries.jsonl", {"number": "q1", "question": "a?"})
    put(tmp_path / "qrels" / "test.jsonl", {"number": "q1", "docno": "d1", "grade": 1.0})
    first_stage = put(tmp_path / "run.jsonl", {"topic": "q1", "hit": "d1", "bm25": 2.0})
    columns = {
        "corpus.doc_id": "docno", "text": "contents", "title": "headline", "queries.query_id": "number",
        "query": "question", "qrels.query_id": "number", "qrels.doc_id": "docno", "relevance": "grade",
        "candidates.query_id": "topic", "candidates.doc_id": "hit", "score": "bm25",
    }  # fmt: skip

    def find(names: dict[str, str]) -> Any:
        given = {"name": "t", "path": str(tmp_path), "first_stage": first_stage, "columns": names}
        return find_tasks(Storage(), EvaluateInputConfig.model_validate({"tasks": [given]}))[0]

    task, bad = find(columns), Quarantine(READ)
    assert read_queries(Storage(), task, bad).table.to_pylist() == [{"query_id": "q1", "query": "a?"}]
    (judged,) = read_judgements(Storage(), task, bad)["all"].table.to_pylist()
    assert judged == {"query_id": "q1", "doc_id": "t:d1", "relevance": 1}
    (document,) = (row for table in read_documents(Storage(), task) for row in table.to_pylist())
    assert document == {"doc_id": "t:d1", "title": "h", "text": "b"}
    (scored,) = read_run(Storage(), task.first_stage, bad, "t", ()).table.to_pylist()
    assert (scored, len(bad)) == ({"query_id": "q1", "doc_id": "t:d1", "score": 2.0}, 0)
    for left_out in (name for name in columns if name not in ("title", "score")):
        with pytest.raises(InputError, match="t: columns") as caught:
            find({name: theirs for name, theirs in columns.items() if name != left_out})
        role = {"text": "corpus", "query": "queries", "relevance": "qrels"}.get(left_out, left_out.split(".")[0])
        assert f"{role}.{left_out.split('.')[-1]}" in str(caught.value)
    with pytest.raises(InputError, match=r"t: columns says title: nope, available: queries: .*corpus: .*qrels"):
        find({**columns, "title": "nope"})
