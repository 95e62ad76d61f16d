"""Files of collections as BEIR has them, read and measured: the values worked out by hand or by trec_eval."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.collections import (
    read_qrels,
    read_trec,
    write_beir,
    write_qrels,
)
from support.evaluating import STORAGE, evaluated, find, values_of
from support.job_files import write_jsonl

from tart_ray.config import MetricsConfig
from tart_ray.errors import InputError
from tart_ray.evaluation.datasets import read_documents, read_judgements, read_queries
from tart_ray.evaluation.summary import summarise
from tart_ray.evaluation.trec_runs import RUN, check_ids, have_blanks, read_run, trec_lines
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.input.sources import inspect_source


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
