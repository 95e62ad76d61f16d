"""Qrels as they are found: TREC, BEIR, Parquet, JSONL; and what is not one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tart_ray.errors import InputError
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import inspect_source
from tart_ray.storage import Storage

EXPECTED = [("q1", "d1", 1), ("q1", "d2", 0), ("q2", "d 3", -1)]


def read(path: Path) -> tuple[list[tuple[Any, ...]], list[str]]:
    """The judgements, and the reasons of bad rows."""
    source, quarantine = inspect_source(Storage(), str(path), "qrels"), Quarantine(READ)
    tables = [table for split in source.splits for table in read_split(Storage(), source, split, quarantine)]
    rows = [row for table in tables for row in table.select(["query_id", "doc_id", "relevance"]).to_pylist()]
    return [tuple(row.values()) for row in rows], [row["reason"] for row in quarantine.rows]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td 3\t-1\n"),
        ("test.tsv", "query_id\tdoc_id\trelevance\r\nq1\td1\t1\r\nq1\td2\t0\r\nq2\td 3\t-1\r\n"),
        ("qrels.txt", "q1\t0\td1\t1\n\nq1\t0\td2\t0\nq2\t0\td 3\t-1"),
        ("qrels", '{"qid": "q1", "docid": "d1", "label": 1}\n{"qid": "q1", "docid": "d2", "label": 0}\n'
                  '{"qid": "q2", "docid": "d 3", "label": -1}\n'),
    ],
    ids=["BEIR", "another header", "TREC with tabs", "JSON lines without a suffix"],
)  # fmt: skip
def test_text(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert read(tmp_path / name) == (EXPECTED, [])
    if "{" not in content:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        assert read(tmp_path / f"{name}.gz") == (EXPECTED, [])


def test_trec_with_blanks(tmp_path: Path) -> None:
    (tmp_path / "robust.qrels").write_text("301 0 FBIS3-1 1\n301 0  FBIS3-2 +0\n")
    assert read(tmp_path / "robust.qrels") == ([("301", "FBIS3-1", 1), ("301", "FBIS3-2", 0)], [])


def test_parquet(tmp_path: Path) -> None:
    table = pa.table({"qid": [1, 2], "pid": [3, 4], "score": [0.5, 0.25], "label": pa.array([1, 2**40])})
    for name in ("qrels.parquet", "qrels"):
        pq.write_table(table, tmp_path / name)
        assert read(tmp_path / name) == ([("1", "3", 1), ("2", "4", 2**40)], [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("q1\td1\t1.5", "got relevance '1.5', expected an integer"),
        ("q1\td1\tnan", "got relevance 'nan', expected an integer"),
        ("q1\td1\t1_0", "got relevance '1_0', expected an integer"),
        ("q1\td1\t" + "9" * 30, "expected an integer"),
        ("q1 d1 1", "got 3 columns, expected 4"),
        ("q1\t0\td1\t1\t1", "got 5 columns, expected 4"),
        ("\td1\t1", "query_id is empty"),
    ],
)
def test_bad_lines(line: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text(f"q0\td0\t1\n{line}\n")
    rows, reasons = read(tmp_path / "qrels.tsv")
    assert rows == [("q0", "d0", 1)]
    (told,) = reasons
    assert reason in told


def test_columns_that_are_not_there_or_of_another_type(tmp_path: Path) -> None:
    pq.write_table(pa.table({"query_id": ["q"], "doc_id": ["d"], "rel": [1]}), tmp_path / "qrels.parquet")
    with pytest.raises(
        InputError,
        match=r"missing column relevance; available: .*qrels\.relevance: THEIR_NAME.*may also be label, score",
    ):
        read(tmp_path / "qrels.parquet")
    pq.write_table(pa.table({"query_id": ["q"], "doc_id": ["d"], "score": ["1"]}), tmp_path / "qrels.parquet")
    with pytest.raises(InputError, match=r"column 'score': got string, expected integer"):
        read(tmp_path / "qrels.parquet")


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.decimal128(5, 2)], ids=str)
def test_grades_of_parquet_that_are_written_as_fractions(kind: pa.DataType, tmp_path: Path) -> None:
    grades = pa.array([1, 0, None, 2], pa.int8()).cast(kind)
    columns = {"query_id": list("abcd"), "doc_id": list("efgh")}
    pq.write_table(pa.table({**columns, "relevance": grades}), tmp_path / "qrels.parquet")
    assert read(tmp_path / "qrels.parquet") == ([("a", "e", 1), ("b", "f", 0), ("d", "h", 2)], ["relevance is null"])


def test_grades_that_are_no_integers(tmp_path: Path) -> None:
    grades = [1.0, 1.5, float("nan"), 1e300, None]
    rows = [{"query_id": "q", "doc_id": f"d{i}", "relevance": grade} for i, grade in enumerate(grades)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "qrels.parquet")
    good = [("q", "d0", 1)]
    assert read(tmp_path / "qrels.parquet") == (good, [
        "relevance is 1.5, expected an integer", "relevance is 1e+300, expected an integer",
        "relevance is null", "relevance is null",
    ])  # fmt: skip
    (tmp_path / "qrels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(tmp_path / "qrels.jsonl") == (good, [
        "relevance: got 1.5, expected an integer of 64 bits", "relevance: got 1e+300, expected an integer of 64 bits",
        "relevance is null", "relevance is null",
    ])  # fmt: skip
