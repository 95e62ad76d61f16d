"""Rows that kill the process that scores them, that raise, or that have no score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.deadly import load_faulty, marker
from support.job_files import read_output, report_of, write_jsonl

from tart_ray.errors import ExitCode
from tart_ray.reranking.job import rerank

pytestmark = pytest.mark.usefixtures("cluster")

SAID = {
    "exit": "4 processes died with it at work, 2 of them with nothing else",
    "kill": "4 processes died with it at work, 2 of them with nothing else",
    "cuda": "4 processes died with it at work, 2 of them with nothing else; it said: RuntimeError: CUDA error: "
    "device-side assert triggered",
    "memory": "raised MemoryError: Unable to allocate 16.0 MiB for an array with shape (16777216,) and data type uint8",
    "raise": "raised ValueError: this row is not to my liking",
    "nan": "the model's output is NaN or infinite",
    "infinite": "the model's output is NaN or infinite",
    "hang": "4 processes died with it at work, 2 of them with nothing else; it said: no answer within 20 s",
}
ROWS = {"exit": 17, "kill": 450, "cuda": 2000, "memory": 1300, "raise": 1301, "nan": 5, "infinite": 1999, "hang": 900}
QUICK = ["kill", "memory", "raise", "nan"]  # one alone in its chunk, two in one; a process that dies costs seconds


@pytest.mark.parametrize("faults", [QUICK, pytest.param([*ROWS], marks=pytest.mark.matrix)], ids=["some", "all"])
@pytest.mark.parametrize("family", ["enct5", pytest.param("cross-encoder", marks=pytest.mark.matrix)], indirect=True)
def test_every_poison_row_is_found_and_all_others_are_scored(
    faults: list[str],
    pairs: Any,
    undisturbed: Any,
    assert_same: Any,
    quarantined: Any,
    tmp_path: Path,
    make_config: Any,
) -> None:
    rows = [dict(row) for row in pairs]
    poison = {}
    for fault in faults:
        row = rows[ROWS[fault]]
        row["text"] += f" {marker(fault)}"
        poison[row["query_id"], row["doc_id"]] = SAID[fault]
    write_jsonl(tmp_path / "candidates" / "a.jsonl", rows)
    assert rerank(make_config(limits={"max_seconds_per_batch": 20}), load=load_faulty) == ExitCode.DONE
    assert quarantined(tmp_path / "run") == poison
    assert_same(read_output(tmp_path / "run"), undisturbed, without=poison.keys())
    counts = report_of(tmp_path / "run")["counts"]
    assert (counts["read"], counts["scored"], counts["quarantined"]) == (2400, 2400 - len(poison), len(poison))


def test_rows_that_the_tokenizer_refuses_are_found(
    pairs: Any, undisturbed: Any, assert_same: Any, quarantined: Any, tmp_path: Path, make_config: Any
) -> None:
    rows = [dict(row) for row in pairs]
    rows[700]["query"] = rows[700]["query_id"] = "word " * 200
    write_jsonl(tmp_path / "candidates" / "a.jsonl", rows)
    assert rerank(make_config(model={"truncation": "only_document"})) == ExitCode.DONE
    assert quarantined(tmp_path / "run") == {
        (
            "word " * 200,
            rows[700]["doc_id"],
        ): "instruction and query leave too little room for a document in model.max_length"
    }
    assert_same(read_output(tmp_path / "run"), undisturbed, without={("q1", rows[700]["doc_id"])})
