"""First stages by BM25 and from files, their order, and rankings made of scores."""

from __future__ import annotations

from pathlib import Path

import ir_measures
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.collections import (
    read_qrels,
    read_trec,
    write_beir,
    write_followir,
    write_run,
)
from support.evaluating import STORAGE, find
from support.job_files import write_jsonl

from tart_ray.evaluation.candidates import first_stage_of, union
from tart_ray.evaluation.datasets import read_documents, read_queries
from tart_ray.evaluation.first_stage import best, in_trec_order, index, search
from tart_ray.evaluation.measuring import SCORED, make_rankings
from tart_ray.evaluation.pools import with_full_ids
from tart_ray.evaluation.trec_runs import RUN, read_run
from tart_ray.input.quarantine import READ, Quarantine


def test_bm25_reproduces_the_run_of_cranfield(shared_data: Path) -> None:
    folder = shared_data / "cranfield"
    (task,) = find({"name": "cranfield", "path": str(folder)})
    bad = Quarantine(READ)
    queries = read_queries(STORAGE, task, bad).table
    found = search(index(read_documents(STORAGE, task)), queries, 100)
    run: dict[str, dict[str, float]] = {}
    for row in found.to_pylist():
        run.setdefault(row["query_id"], {})[row["doc_id"].removeprefix("cranfield:")] = row["score"]
    given = read_trec(folder / "bm25.trec")
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    measures = [ir_measures.nDCG @ 10, ir_measures.R @ 100]
    wanted, got = (ir_measures.calc_aggregate(measures, qrels, found) for found in (given, run))
    assert got == pytest.approx(wanted, abs=5e-4)
    for query, docs in given.items():
        with_words = {doc: score for doc, score in docs.items() if score > 0}
        assert len(run[query]) == len(with_words)
        last = min(with_words.values()) + 1e-5  # of documents that tie at the end, each may take another
        assert {doc for doc, score in with_words.items() if score > last} == {
            d for d, s in run[query].items() if s > last
        }


def test_the_first_stage_is_of_titles_and_texts_and_of_an_id_that_comes_twice_the_first_counts() -> None:
    documents = pa.table({"doc_id": ["a", "b", "c"], "title": ["wing", None, ""], "text": ["", "wing flow", "heat"]})
    again = pa.table({"doc_id": ["c", "d"], "title": ["", ""], "text": ["wing", "cold"]})
    queries = pa.table({"query_id": ["1", "2", "3"], "query": ["wing", "zebra", "the cold"]})
    found = search(index([documents, again]), queries, 10)
    assert found.schema == RUN
    assert found.drop_columns(["score"]).to_pylist() == [
        {"query_id": "1", "doc_id": "a"}, {"query_id": "1", "doc_id": "b"}, {"query_id": "3", "doc_id": "d"},
    ]  # fmt: skip
    assert search(index([documents]), queries.slice(0, 0), 10) == RUN.empty_table()


@pytest.mark.parametrize("layout", ["pairs.jsonl", "pairs.parquet", "lists.jsonl", "lists.parquet", "objects.jsonl"])
def test_without_scores_the_order_of_a_run_is_its_ranking(tmp_path: Path, layout: str) -> None:
    write_followir(tmp_path / "news")
    order = {"t2": ["d9", "d1"], "t1": ["d3", "d1", "d2"]}
    if layout.startswith("pairs"):
        # queries need not stand together; a pair that comes again keeps its first place
        rows = [("t2", "d9"), ("t1", "d3"), ("t1", "d1"), ("t2", "d1"), ("t1", "d3"), ("t1", "d2")]
        table = pa.table({"qid": [query for query, _ in rows], "pid": [doc for _, doc in rows]})
    elif layout.startswith("lists"):
        table = pa.table({"query-id": [*order], "corpus-ids": [*order.values()]})
    else:
        table = pa.table(
            {"query_id": [*order], "candidates": [[{"doc_id": d} for d in docs] for docs in order.values()]}
        )
    path = tmp_path / layout
    if layout.endswith("parquet"):
        pq.write_table(table, path)
    else:
        write_jsonl(path, table.to_pylist())
    (task,) = find({"name": "n", "kind": "followir", "path": str(tmp_path / "news"), "first_stage": str(path)})
    assert task.first_stage is not None
    bad = Quarantine(READ)
    run = read_run(STORAGE, task.first_stage, bad, "n", ()).table
    assert not bad.rows
    ranked = in_trec_order(run).to_pylist()
    assert [(row["query_id"], row["doc_id"], row["rank"], row["score"]) for row in ranked] == [
        ("t1", "n:d3", 1, -1.0),
        ("t1", "n:d1", 2, -2.0),
        ("t1", "n:d2", 3, -3.0),
        ("t2", "n:d9", 1, -1.0),
        ("t2", "n:d1", 2, -2.0),
    ]


def test_a_run_that_has_scores_has_one_for_each_row(tmp_path: Path) -> None:
    write_beir(tmp_path / "b", {"d1": ("", "x")}, {"q1": "one"}, {"q1": {"d1": 1}})
    rows = [{"query_id": "q1", "doc_id": "d1", "score": 2.0}, {"query_id": "q1", "doc_id": "d2"}]
    write_jsonl(tmp_path / "run.jsonl", rows)
    (task,) = find({"name": "b", "path": str(tmp_path / "b"), "first_stage": str(tmp_path / "run.jsonl")})
    assert task.first_stage is not None
    bad = Quarantine(READ)
    assert read_run(STORAGE, task.first_stage, bad, "b", ()).table["doc_id"].to_pylist() == ["b:d1"]
    assert [(row["doc_id"], row["reason"]) for row in bad.rows] == [("d2", "score is null")]


def test_a_run_over_a_pool_names_the_collection_of_each_document(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_beir(tmp_path / name, {"d1": ("", "x")}, {"q1": "one"}, {"q1": {"d1": 1}})
    write_run(tmp_path / "pool.trec", {"q1": {"a:d1": 3.0, "b:d1": 2.0, "d1": 1.0, "c:d1": 0.5}})
    pooled = {"name": "a", "path": str(tmp_path / "a"), "pooled_first_stage": str(tmp_path / "pool.trec")}
    tasks = find(pooled, {"name": "b", "path": str(tmp_path / "b")}, pools={"x": ["a", "b"]})
    assert [task.setups for task in tasks] == [("closed", "pooled")] * 2
    bad = Quarantine(READ)
    assert tasks[0].pooled_first_stage is not None
    read = read_run(STORAGE, tasks[0].pooled_first_stage, bad, None, ["a", "b"])
    assert read.table["doc_id"].to_pylist() == ["a:d1", "b:d1"]
    assert [row["doc_id"] for row in bad.rows] == ["d1", "c:d1"]
    assert "expected {task}:{doc_id}" in bad.rows[0]["reason"]


def test_documents_with_their_querys_id_are_left_out_before_the_best_are_taken(tmp_path: Path) -> None:
    write_beir(tmp_path / "b", {"1": ("", "x")}, {"1": "one"}, {"1": {"2": 1}})
    run = with_full_ids(pa.table([["1", "1", "1"], ["1", "2", "3"], [3.0, 2.0, 1.0]], schema=RUN), "b")
    kept = {}
    for ignore in (None, False):
        (task,) = find({"name": "b", "path": str(tmp_path / "b"), "top_k": 2, "ignore_identical_ids": ignore})
        ids = pa.chunked_array([["1"]])
        kept[ignore] = first_stage_of(task, run, ids, ids)["doc_id"].to_pylist()
    assert kept == {None: ["b:2", "b:3"], False: ["b:1", "b:2"]}


def test_the_order_of_trec_eval() -> None:
    scores = [1.0, 1.0 + 1e-9, 2.0, 0.5]  # the first two are one number of 32 bits
    run = pa.table([["q"] * 4, ["a", "b", "c", "d"], scores], schema=RUN)
    assert in_trec_order(run)["doc_id"].to_pylist() == ["c", "b", "a", "d"]
    assert in_trec_order(run)["rank"].to_pylist() == [1, 2, 3, 4]
    assert best(run, 2)["doc_id"].to_pylist() == ["c", "b"]


def test_a_pair_of_both_setups_is_scored_once() -> None:
    closed = pa.table([["q", "q"], ["a:1", "a:2"], [2.0, 1.0]], schema=RUN)
    pooled = pa.table([["q", "q"], ["b:1", "a:1"], [5.0, 4.0]], schema=RUN)
    rows = union({"closed": closed, "pooled": pooled}).to_pylist()
    assert [(row["doc_id"], row["score"]) for row in rows] == [("a:1", 2.0), ("a:2", 1.0), ("b:1", 5.0)]


def test_the_ensemble_is_of_documents_that_every_instruction_scored(tmp_path: Path) -> None:
    write_beir(tmp_path / "b", {"d1": ("", "x")}, {"q": "one"}, {"q": {"d1": 1}})
    (task,) = find({"name": "b", "path": str(tmp_path / "b"), "instructions": ["one", "two"]})
    first = with_full_ids(pa.table([["q"] * 3, ["d1", "d2", "d3"], [3.0, 2.0, 1.0]], schema=RUN), "b")
    names = [variant.name for variant in task.variants]
    scored = pa.table(
        [
            [names[0]] * 3 + [names[1]] * 2,
            ["q"] * 5,
            ["b:d1", "b:d2", "b:d3", "b:d1", "b:d2"],
            [1.0, 2.0, 9.0, 6.0, 3.0],
        ],
        schema=SCORED,
    )
    rankings = {ranking.name: ranking.table for ranking in make_rankings(task, {"closed": first}, None, scored)}
    ensemble = rankings["ensemble"]
    assert ensemble.select(["doc_id", "score"]).to_pylist() == [
        {"doc_id": "b:d1", "score": 3.5},
        {"doc_id": "b:d2", "score": 2.5},
    ]
    assert rankings[names[0]]["doc_id"].to_pylist() == ["b:d3", "b:d2", "b:d1"]
