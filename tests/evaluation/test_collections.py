"""Files of collections, first stages and rankings, without Ray: the values worked out by hand or by trec_eval."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from support.collections import (
    LOTTE_QRELS,
    read_qrels,
    read_trec,
    write_beir,
    write_followir,
    write_lotte,
    write_qrels,
    write_run,
)
from support.job_files import write_jsonl

from tart_ray.config import EvaluateInputConfig, MetricsConfig
from tart_ray.errors import InputError
from tart_ray.evaluation.candidates import candidates_of, first_stage_of, union
from tart_ray.evaluation.datasets import find_tasks, read_documents, read_judgements, read_queries
from tart_ray.evaluation.first_stage import Bm25, best, in_trec_order
from tart_ray.evaluation.measuring import SCORED, left_out_of_p_mrr, make_rankings, measure
from tart_ray.evaluation.pools import with_full_ids
from tart_ray.evaluation.reading import DOCUMENTS, QUERIES
from tart_ray.evaluation.summary import summarise
from tart_ray.evaluation.tasks import Task
from tart_ray.evaluation.trec_runs import RUN, check_ids, have_blanks, read_run, trec_lines
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.input.sources import inspect_source
from tart_ray.storage import Storage

STORAGE = Storage()


def find(*tasks: dict[str, Any], **more: Any) -> list[Task]:
    return find_tasks(STORAGE, EvaluateInputConfig.model_validate({"tasks": tasks, **more}))


def values_of(table: pa.Table, run: str, measured: str) -> dict[str, float]:
    chosen = table.filter(pc.and_(pc.equal(table["run"], run), pc.equal(table["measure"], measured)))
    return dict(zip(chosen["query_id"].to_pylist(), chosen["value"].to_pylist(), strict=True))


def evaluated(task: Task, bad: Quarantine, margins: Any = None) -> tuple[pa.Table, list[Any]]:
    """Values and rankings; ``margins`` gives every candidate's from its rank in the first stage, by variant."""
    queries = read_queries(STORAGE, task, bad).table
    judgements = {name: read.table for name, read in read_judgements(STORAGE, task, bad).items()}
    judged = pa.concat_arrays([c for table in judgements.values() for c in table["query_id"].chunks]).unique()
    assert task.first_stage is not None
    run = read_run(STORAGE, task.first_stage, bad, task.name, ()).table
    first = {"closed": first_stage_of(task, run, judged, queries["query_id"])}
    scored = [SCORED.empty_table()]
    for variant, rows in zip(task.variants, candidates_of(task, union(first), queries, 1), strict=True):
        margin = margins(variant.name, rows) if margins else np.zeros(len(rows))
        columns = [rows["variant"], rows["task_query_id"], rows["doc_id"], pa.array(margin, pa.float32())]
        scored.append(pa.table(columns, schema=SCORED))
    rankings = make_rankings(task, first, None, pa.concat_tables(scored))
    return measure(task, judgements, rankings), rankings


@pytest.mark.parametrize("ignore", [False, True])
def test_cranfield_is_measured_as_trec_eval_does(shared_data: Path, tmp_path: Path, ignore: bool) -> None:
    folder = shared_data / "cranfield"
    given: dict[str, Any] = {"name": "cranfield", "path": str(folder), "first_stage": str(folder / "bm25.trec")}
    (task,) = find({**given, "ignore_identical_ids": ignore})
    bad = Quarantine(READ)
    noise = np.random.default_rng(0)

    def margins(_: str, rows: pa.Table) -> Any:
        return rows["score"].to_numpy() + noise.normal(0, 2, len(rows))

    table, rankings = evaluated(task, bad, margins)
    assert not bad.rows
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    for ranking in rankings:
        path = tmp_path / f"{ranking.name}.trec"
        path.write_text("".join(trec_lines(ranking.table, "x")).replace("cranfield:", ""))
        run = read_trec(path)
        assert any(query in docs for query, docs in run.items()) != ignore
        measures = [ir_measures.parse_measure(name) for name in task.measures]
        wanted = ir_measures.calc_aggregate(measures, qrels, run)
        found = {m: float(np.mean([*values_of(table, ranking.name, str(m)).values()])) for m in measures}
        assert found == pytest.approx(wanted, abs=1e-12)
        if ranking.name == "first_stage":
            assert round(found[measures[0]], 3) == 0.369
            assert round(found[measures[1]], 3) == 0.709
    summary = summarise(task, table, MetricsConfig(resamples=50), "some/model")
    tests = summary["setups"]["closed"]["reranked"]["nDCG@10"]["against_first_stage"]
    assert tests["better"] + tests["worse"] + tests["equal"] == 225
    assert tests["difference"] < 0


def test_bm25_reproduces_the_run_of_cranfield(shared_data: Path) -> None:
    folder = shared_data / "cranfield"
    (task,) = find({"name": "cranfield", "path": str(folder)})
    bad = Quarantine(READ)
    queries = read_queries(STORAGE, task, bad).table
    found = Bm25(read_documents(STORAGE, task)).search(queries, 100)
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


def test_bm25_leaves_out_what_shares_no_word() -> None:
    documents = pa.table({"doc_id": ["a", "b", "c"], "title": ["wing", None, ""], "text": ["", "wing flow", "heat"]})
    queries = pa.table({"query_id": ["1", "2", "3"], "query": ["wing", "zebra", "the"]})
    found = Bm25([documents]).search(queries, 10).to_pylist()
    assert {(row["query_id"], row["doc_id"]) for row in found} == {("1", "a"), ("1", "b")}


def test_success_at_5_of_lotte_by_hand_with_query_0(tmp_path: Path) -> None:
    write_lotte(tmp_path / "lotte")
    run = {
        "0": {"9": 6.0, "8": 5.0, "7": 4.0, "6": 3.0, "3": 2.0, "0": 1.0},  # passage 3 is the fifth: found
        "1": {"9": 6.0, "8": 5.0, "7": 4.0, "6": 3.0, "5": 2.0, "2": 1.0},  # passage 2 is the sixth: not found
        "3": {"1": 1.0},  # found; question 2 is missing from the run: not found
    }
    write_run(tmp_path / "run.trec", run)
    given = {"kind": "lotte", "path": str(tmp_path / "lotte"), "first_stage": str(tmp_path / "run.trec")}
    for kind in ("search", "forum"):
        (task,) = find({"name": "t", "questions": kind, **given})
        bad = Quarantine(READ)
        queries = read_queries(STORAGE, task, bad).table
        assert queries["query"].to_pylist() == [f"{kind} question {query}" for query in LOTTE_QRELS]
        table, _ = evaluated(task, bad)
        assert values_of(table, "first_stage", "Success@5") == {"0": 1, "1": 0, "2": 0, "3": 1}
        assert not bad.rows
        found = summarise(task, table, MetricsConfig(resamples=10), "x")["setups"]["closed"]["runs"]["first_stage"]
        assert found["Success@5"]["mean"] == 0.5


def test_equal_ids_of_a_question_and_a_passage_mean_nothing_in_lotte(tmp_path: Path) -> None:
    write_lotte(tmp_path / "lotte")
    write_run(tmp_path / "run.trec", {"0": {"0": 1.0}})
    given = {"kind": "lotte", "path": str(tmp_path / "lotte"), "first_stage": str(tmp_path / "run.trec")}
    table, _ = evaluated(find({"name": "t", **given})[0], Quarantine(READ))
    assert values_of(table, "first_stage", "Success@5")["0"] == 1


def test_bad_answers_of_lotte_are_quarantined(tmp_path: Path) -> None:
    write_lotte(tmp_path / "lotte")
    lines = ['{"qid": 0, "answer_pids": [1]}', '{"qid": 0, "answer_pids": [2]}', '{"qid": 1, "answer_pids": 3}', "[]"]
    lines.append('{"qid": 4, "answer_pids": []}')
    write_jsonl(tmp_path / "lotte" / "qas.search.jsonl", lines)
    (task,) = find({"name": "t", "kind": "lotte", "path": str(tmp_path / "lotte")})
    bad = Quarantine(READ)
    read = read_judgements(STORAGE, task, bad)["all"]
    assert [tuple(row.values()) for row in read.table.to_pylist()] == [("0", "t:1", 1), ("4", None, None)]
    assert [row["reason"] for row in bad.rows] == [
        "answers to this qid came before",
        "expected qid and a list of ids, answer_pids",
        "undecodable line: got list, expected a JSON object",
    ]
    assert read.rows == 5


def test_p_mrr_of_followir_by_hand(tmp_path: Path) -> None:
    write_followir(tmp_path / "news")
    write_run(tmp_path / "run.trec", {query: {f"d{i}": 9.0 - i for i in range(1, 5)} for query in ("t1", "t2")})
    (task,) = find(
        {"name": "news", "kind": "followir", "path": str(tmp_path / "news"), "first_stage": str(tmp_path / "run.trec")}
    )
    # t1: original d1 d2 d3 d4, changed d2 d1 d3 d4; t2: original d1 d2 d3 d4, changed d3 d4 d2 d1
    orders = {
        ("original", "t1"): "1234",
        ("changed", "t1"): "2134",
        ("original", "t2"): "1234",
        ("changed", "t2"): "3421",
    }

    def margins(variant: str, rows: pa.Table) -> list[int]:
        pairs = zip(rows["task_query_id"].to_pylist(), rows["doc_id"].to_pylist(), strict=True)
        return [-orders[variant, query].index(doc[-1]) for query, doc in pairs]

    table, rankings = evaluated(task, Quarantine(READ), margins)
    t1 = 1 - 1 / 2  # d1 falls from 1 to 2
    t2 = (1 - 1 / 4 + 1 / 3 - 1) / 2  # d1 falls from 1 to 4, d3 rises from 3 to 1
    assert values_of(table, "changed", "p-MRR") == pytest.approx({"t1": t1, "t2": t2})
    assert {ranking.name for ranking in rankings} == {"first_stage", "original", "changed"}
    # each ranking is measured with the judgements that belong to its instruction
    assert values_of(table, "changed", "nDCG@5")["t1"] == 1
    assert values_of(table, "changed", "nDCG@5")["t2"] == 0
    assert values_of(table, "original", "nDCG@5")["t1"] == 1
    found = summarise(task, table, MetricsConfig(resamples=10), "x")["setups"]["closed"]
    assert found["reranked"]["p-MRR"]["mean"] == pytest.approx((t1 + t2) / 2)
    assert set(found["runs"]) == {"first_stage", "first_stage (changed)", "original", "changed"}


def test_p_mrr_is_of_queries_that_both_rankings_have(tmp_path: Path) -> None:
    write_followir(tmp_path / "news")
    (task,) = find({"name": "n", "kind": "followir", "path": str(tmp_path / "news")})
    judgements = {name: read.table for name, read in read_judgements(STORAGE, task, Quarantine(READ)).items()}
    first = with_full_ids(pa.table([["t1", "t1", "t2"], ["d1", "d2", "d1"], [3.0, 2.0, 1.0]], schema=RUN), "n")
    # every pair has a score under the first instruction; under the changed one, none of t2's has
    margins = {"original": [2.0, 1.0, 1.0], "changed": [1.0, 2.0]}
    scored = [
        pa.table([[name] * len(m), first["query_id"][: len(m)], first["doc_id"][: len(m)], m], schema=SCORED)
        for name, m in margins.items()
    ]
    rankings = make_rankings(task, {"closed": first}, None, pa.concat_tables(scored))
    table = measure(task, judgements, rankings)
    # of t1, d1 falls from rank 1 to 2: 1 - (1/2) / (1/1); t2 is no query whose document fell to the bottom
    assert values_of(table, "changed", "p-MRR") == {"t1": 0.5}
    assert left_out_of_p_mrr(task, judgements, rankings) == 1
    swapped = [replace(r, table=r.table.slice(0, 0)) if r.name == "original" else r for r in rankings]
    assert left_out_of_p_mrr(task, judgements, swapped) == 2
    assert not len(measure(task, judgements, swapped).filter(pc.field("measure") == "p-MRR"))


def test_instructions_of_followir_reach_the_model_in_either_order(tmp_path: Path) -> None:
    write_followir(tmp_path / "news")
    rows = {}
    for template in ("instruction_first", "query_first"):
        (task,) = find({"name": "n", "kind": "followir", "path": str(tmp_path / "news"), "template": template})
        queries = read_queries(STORAGE, task, Quarantine(READ)).table
        pairs = pa.table([["t2"], ["n:d1"], [1.0]], schema=RUN)
        tables = list(candidates_of(task, pairs, queries, 1))
        rows[template] = [
            (t["query_id"][0].as_py(), t["query"][0].as_py(), t["instruction"][0].as_py()) for t in tables
        ]
    assert rows["instruction_first"] == [
        ("n/original/t2", "flow of t2", "instruction_og of t2"),
        ("n/changed/t2", "flow of t2", "instruction_changed of t2"),
    ]
    assert rows["query_first"] == [
        ("n/original/t2", "flow of t2 [SEP] instruction_og of t2", None),
        ("n/changed/t2", "flow of t2 [SEP] instruction_changed of t2", None),
    ]


def test_contradictory_judgements_and_queries_are_quarantined_and_repeated_ones_are_not(tmp_path: Path) -> None:
    write_beir(tmp_path / "b", {"d1": ("", "x")}, {"q1": "one"}, {})
    write_jsonl(
        tmp_path / "b" / "queries.jsonl",
        [{"_id": "q1", "text": "one"}, {"_id": "q1", "text": "one"}, {"_id": "q1", "text": "two"}, {"_id": "q2"}],
    )
    lines = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td1\t1\nq1\td1\t2\nq1\td2\tx\n"
    (tmp_path / "b" / "qrels" / "test.tsv").write_text(lines)
    (task,) = find({"name": "b", "path": str(tmp_path / "b")})
    bad = Quarantine(READ)
    queries, judgements = read_queries(STORAGE, task, bad), read_judgements(STORAGE, task, bad)["all"]
    assert queries.table.to_pylist() == [{"query_id": "q1", "query": "one"}]
    assert judgements.table.to_pylist() == [{"query_id": "q1", "doc_id": "b:d1", "relevance": 1}]
    assert (queries.rows, judgements.rows) == (4, 4)
    assert [row["reason"] for row in bad.rows] == [
        "query is null",
        "another query than an earlier row of this query_id",
        "undecodable line: got relevance 'x', expected an integer",
        "another relevance than an earlier row of this query_id and doc_id",
    ]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    write_beir(tmp_path / "b", {"d1": ("", "x")}, {"q1": "one"}, {"q1": {"d1": 1}}, split="dev")
    with pytest.raises(InputError, match=r"got split 'test', available: \['dev'\]"):
        find({"name": "b", "path": str(tmp_path / "b")})
    (tmp_path / "b" / "qrels").rename(tmp_path / "b" / "judged")
    with pytest.raises(InputError, match="available: none, no such directory"):
        find({"name": "b", "path": str(tmp_path / "b")})
    with pytest.raises(InputError, match="no forum of CQADupStack there, expected android"):
        find({"name": "c", "kind": "cqadupstack", "path": str(tmp_path / "b")})
    write_beir(tmp_path / "c" / "gis", {"d1": ("", "x")}, {"q1": "one"}, {"q1": {"d1": 1}})
    (task,) = find({"name": "c", "kind": "cqadupstack", "path": str(tmp_path / "c")})
    assert (task.name, task.group) == ("c-gis", "c")
    assert "missing: android, english" in task.notes[0]
    with pytest.raises(InputError, match="instructions: one is given twice"):
        find({"name": "g", "path": str(tmp_path / "c" / "gis"), "instructions": ["x", "x"]})


def test_bm25_takes_of_equal_documents_those_that_trec_eval_ranks_first() -> None:
    texts = {f"t:{name}": "wing flow" for name in "caebd"} | {"t:top": "wing wing", "t:none": "heat"}
    index = Bm25([pa.table([[*texts], [""] * 7, [*texts.values()]], schema=DOCUMENTS)])
    queries = pa.table([["q1", "q2", "q3"], ["wing", "zebra", "heat wing"]], schema=QUERIES)
    found = index.search(queries, 3).to_pylist()
    assert [(row["query_id"], row["doc_id"]) for row in found] == [
        ("q1", "t:top"), ("q1", "t:e"), ("q1", "t:d"), ("q3", "t:none"), ("q3", "t:top"), ("q3", "t:e"),
    ]  # fmt: skip
    assert len(index.search(queries, 100)) == 6 + 7


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


def test_qrels_of_another_layout(tmp_path: Path) -> None:
    write_beir(tmp_path / "b", {"d1": ("", "x")}, {"q1": "one"}, {})
    write_qrels(tmp_path / "b" / "qrels" / "train.tsv", {"q1": {"d1": 2}})
    (tmp_path / "b" / "qrels" / "dev.trec").write_text("q1 0 d1 3\n")
    grades = {}
    for split in ("train", "dev"):
        (task,) = find({"name": "b", "path": str(tmp_path / "b"), "split": split})
        read = read_judgements(STORAGE, task, Quarantine(READ))["all"].table
        grades[split] = read["relevance"].to_pylist()
    assert grades == {"train": [2], "dev": [3]}


@pytest.mark.parametrize("grade", [1_000_001, -1_000_001, 10**9, 10**17, -(10**17)])
@pytest.mark.parametrize("name", ["test.tsv", "test.parquet"])
def test_grades_that_trec_eval_cannot_hold_are_refused_by_place(tmp_path: Path, grade: int, name: str) -> None:
    write_beir(tmp_path / "b", {"d1": ("", "x")}, {"q1": "one"}, {"q1": {"d0": 1_000_000, "d1": -1_000_000}})
    (task,) = find({"name": "b", "path": str(tmp_path / "b")})
    read_judgements(STORAGE, task, Quarantine(READ))
    (tmp_path / "b" / "qrels" / "test.tsv").unlink()
    rows = [("q1", "d0", 1), ("q1", "d1", grade), ("q1", "d2", grade)]
    if name.endswith("tsv"):
        write_qrels(tmp_path / "b" / "qrels" / name, {"q1": {doc: relevance for _, doc, relevance in rows}})
    else:
        columns = zip(*rows, strict=True)
        table = pa.table(dict(zip(("query_id", "doc_id", "relevance"), map(list, columns), strict=True)))
        pq.write_table(table, tmp_path / "b" / "qrels" / name)
    (task,) = find({"name": "b", "path": str(tmp_path / "b")})
    place = "line 3" if name.endswith("tsv") else "row 1"  # below the header
    with pytest.raises(InputError, match=f"{name}: {place}: relevance {grade:,} of query 'q1' and document 'd1'"):
        read_judgements(STORAGE, task, Quarantine(READ))


def test_a_compressed_collection_whose_ids_have_blanks(tmp_path: Path) -> None:
    documents = {
        "files/how to open_1.txt": ("", "open a file"),
        "sort": ("", "sort a list"),
        "a\u00a0b": ("", "a file"),
    }
    write_beir(tmp_path, documents, {"my query": "open a file"}, {"my query": {"files/how to open_1.txt": 1}})
    (tmp_path / "first.trec").write_text("".join(f"my query\tQ0\t{doc}\t1\t2.5\tbm25\n" for doc in documents))
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.with_name(f"{path.name.upper()}.GZ").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    (tmp_path / "qrels" / "TEST.TSV.GZ").rename(tmp_path / "qrels" / "test.tsv.gz")
    (task,) = find({"name": "t", "path": str(tmp_path), "first_stage": str(tmp_path / "FIRST.TREC.GZ")})
    bad = Quarantine(READ)
    table, rankings = evaluated(task, bad, lambda _, rows: [float("open" in doc) for doc in rows["doc_id"].to_pylist()])
    assert values_of(table, "reranked", "nDCG@10") == {"my query": 1.0}
    assert not bad.rows
    assert {row["doc_id"] for part in read_documents(STORAGE, task) for row in part.to_pylist()} == {
        f"t:{doc}" for doc in documents
    }
    whole = next(ranking for ranking in rankings if ranking.name == "reranked").table
    check_ids(whole["doc_id"], "t")
    assert have_blanks([whole])
    assert not have_blanks([pa.table({"query_id": ["q1"], "doc_id": ["t:sort"]})])
    again = tmp_path / "again.trec"
    again.write_text("".join(trec_lines(whole, "x", "\t")))
    read = read_run(STORAGE, inspect_source(STORAGE, str(again), "candidates"), bad, None, ["t"])
    assert sorted(read.table.to_pylist(), key=str) == sorted(whole.select(RUN.names).to_pylist(), key=str)
    for odd in ("a\tb", "a\nb", " a", "a "):
        with pytest.raises(InputError, match="expected ids without tabs, line breaks, and blanks at their ends"):
            check_ids(pa.chunked_array([[odd]]), "t: candidates")


def test_a_file_and_its_compressed_twin(tmp_path: Path) -> None:
    write_beir(tmp_path, {"d": ("", "x")}, {"q": "y"}, {"q": {"d": 1}})
    (tmp_path / "corpus.jsonl.gz").write_bytes(b"left over")
    assert find({"name": "t", "path": str(tmp_path)})[0].corpus.url == str(tmp_path / "corpus.jsonl")
    (tmp_path / "corpus.jsonl").rename(tmp_path / "corpus.jsonl.xz")
    with pytest.raises(InputError, match=r"corpus.jsonl.gz', 'corpus.jsonl.xz'\], expected one file corpus.jsonl"):
        find({"name": "t", "path": str(tmp_path)})
