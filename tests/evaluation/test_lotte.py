"""LoTTE's files, read and measured: the values worked out by hand."""

from __future__ import annotations

from pathlib import Path

from support.collections import (
    LOTTE_QRELS,
    write_lotte,
    write_run,
)
from support.evaluating import STORAGE, evaluated, find, values_of
from support.job_files import write_jsonl

from tart_ray.config import MetricsConfig
from tart_ray.evaluation.datasets import read_judgements, read_queries
from tart_ray.evaluation.summary import summarise
from tart_ray.input.quarantine import READ, Quarantine


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
