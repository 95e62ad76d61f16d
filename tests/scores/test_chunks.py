"""Rows of a bucket to chunks."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from tart_ray.input.quarantine import Quarantine
from tart_ray.input.sources import Source, inspect_source
from tart_ray.scores import chunks
from tart_ray.scores.chunks import (
    cut,
    drop_duplicates,
    first_of_each,
    join_documents,
    join_queries,
    quarantine_contradictions,
)
from tart_ray.tables.ranking import first_stage_ranks
from tart_ray.tables.texts import share

NAMES = ["query_id", "doc_id", "_split", "_position", "_item"]
TYPES = [pa.string(), pa.string(), pa.int32(), pa.int64(), pa.int32()]


def rows_of(*rows: tuple[Any, ...], **more: pa.Array) -> pa.Table:
    columns = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(TYPES)]
    return pa.table(dict(zip(NAMES, columns, strict=True)) | more)


@pytest.fixture
def source(local: Any) -> Source:
    return inspect_source(local.storage, local.put("in/a.run", "q1 Q0 d1 1 1 t\n"), "candidates")


def test_the_first_of_duplicates_stays() -> None:
    rows = rows_of(
        ("q2", "d1", 1, 0, 0), ("q1", "d1", 0, 7, 1), ("q1", "d1", 0, 7, 0), ("q1", "d0", 0, 8, 0),
        ("q1", "d1", 0, 3, 5), ("q2", "d1", 0, 9, 0), ("q1", "d0", 1, 0, 0),
    )  # fmt: skip
    assert [tuple(row.values()) for row in drop_duplicates(rows).to_pylist()] == [
        ("q1", "d1", 0, 3, 5), ("q1", "d0", 0, 8, 0), ("q2", "d1", 0, 9, 0),
    ]  # fmt: skip
    assert drop_duplicates(rows.slice(0, 0)).num_rows == 0


def test_a_repeated_pair_under_another_query_or_instruction_is_quarantined(source: Source) -> None:
    ids = [
        ("q1", "d1", 0, 9, 0),
        ("q1", "d1", 0, 5, 0),
        ("q1", "d1", 0, 7, 0),
        ("q1", "d2", 0, 8, 0),
        ("q2", "d1", 0, 6, 0),
    ]
    texts = {
        "query": pa.array(["cats", "cats", "dogs", "cats", "cats"], pa.large_string()),
        "instruction": pa.array([None, "find", "find", None, None], pa.large_string()),
    }
    quarantine = Quarantine("join")
    kept = quarantine_contradictions(rows_of(*ids, **texts), source, quarantine)
    assert [row["_position"] for row in kept.to_pylist()] == [5, 8, 6]
    assert {row["position"]: row["reason"] for row in quarantine.rows} == {
        7: "another query than an earlier row of this query_id and doc_id",
        9: "another instruction than an earlier row of this query_id and doc_id",
    }


@pytest.mark.parametrize(
    ("scores", "listed", "ranks"),
    [
        ([2.0, 3.0, 2.0, 9.0, -1.0], False, [2, 1, 3, 1, 2]),  # ties in input order
        ([None, 3.0, None, None, -1.0], False, [None, 1, None, None, 1]),
        ([None, 3.0, None, None, -1.0], True, [2, 1, 3, 2, 1]),
        ([None] * 5, True, [1, 2, 3, 1, 2]),
        ([None] * 5, False, [None] * 5),
        (None, True, [1, 2, 3, 1, 2]),
        (None, False, [None] * 5),
    ],
)
def test_first_stage_ranks(scores: list[float | None] | None, listed: bool, ranks: list[int | None]) -> None:
    more = {} if scores is None else {"score": pa.array(scores, pa.float64())}
    rows = rows_of(*((query, f"d{i}", 0, i, 0) for i, query in enumerate(["a", "a", "a", "b", "b"])), **more)
    for table in (rows, pa.concat_tables([rows.slice(0, 2), rows.slice(2)])):
        found = first_stage_ranks(table, listed=listed)
        assert found.type == pa.int32()
        assert found.to_pylist() == ranks
    assert first_stage_ranks(rows.slice(0, 0), listed=listed).to_pylist() == []


@pytest.mark.parametrize(
    ("sizes", "chunks"),
    [
        ([], []),
        ([3], [3]),
        ([5, 5], [10]),
        ([5, 6], [5, 6]),
        ([4, 4, 4, 4], [8, 8]),
        ([20], [20]),  # up to twice the size a query stays whole
        ([21], [7, 7, 7]),
        ([3, 20, 3], [3, 20, 3]),
        ([3, 31, 3, 3], [3, 7, 8, 8, 8, 6]),
        ([45, 25], [9] * 5 + [8, 8, 9]),
        ([1] * 25, [10, 10, 5]),
    ],
)
def test_chunks_hold_whole_queries_unless_one_is_too_large(sizes: list[int], chunks: list[int]) -> None:
    ids = [f"q{i:03d}" for i, size in enumerate(sizes) for _ in range(size)]
    rows = rows_of(*((query, f"d{i}", 0, i, 0) for i, query in enumerate(ids)))
    found = cut(rows, 10)
    assert [len(chunk) for chunk in found] == chunks
    assert [row for chunk in found for row in chunk["doc_id"].to_pylist()] == [f"d{i}" for i in range(len(ids))]


def test_a_pair_of_a_long_document_counts_as_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1_000)  # of 10 pairs, so that 300 bytes count as 3 of them
    sizes = {"a": [300, 300, 10], "b": [300, 99], "c": [300] * 10, "d": [5_000, 1]}
    ids = [(query, f"{query}{i}") for query, found in sizes.items() for i in range(len(found))]
    long = pa.array(["x" * size for found in sizes.values() for size in found], pa.large_string())
    rows = rows_of(*((query, doc, 0, i, 0) for i, (query, doc) in enumerate(ids)), text=long)
    expected = [["a0", "a1", "a2"], ["b0", "b1"], [f"c{i}" for i in range(4)], [f"c{i}" for i in range(4, 7)],
                [f"c{i}" for i in range(7, 10)], ["d0"], ["d1"]]  # fmt: skip
    for table in (rows, share(rows)):
        assert [chunk["doc_id"].to_pylist() for chunk in cut(table, 10)] == expected


def corpus_of(*rows: tuple[str, str | None, str | None]) -> pa.Table:
    columns = [pa.array([row[i] for row in rows], pa.large_string()) for i in (1, 2)]
    return pa.table(
        {"doc_id": pa.array([row[0] for row in rows], pa.string()), "text": columns[0], "title": columns[1]}
    )


def test_documents_are_joined(source: Source) -> None:
    rows = rows_of(
        *(("q", doc, 0, i, 0) for i, doc in enumerate(["d3", "d1", "gone", "null", "blank", "titled", "d1"]))
    )
    corpus = corpus_of(
        ("d1", "one", None), ("d1", "another", "T"), ("d3", "three", "T3"), ("null", None, "T"), ("blank", " ", ""),
        ("titled", "", "T"),
    )  # fmt: skip
    quarantine = Quarantine("join")
    found = join_documents(rows, corpus, source, quarantine)
    assert [tuple(row.values()) for row in found.select(["doc_id", "text", "title", "_position"]).to_pylist()] == [
        ("d3", "three", "T3", 0), ("d1", "one", None, 1), ("titled", "", "T", 5), ("d1", "one", None, 6),
    ]  # fmt: skip
    bad = {row["doc_id"]: row for row in quarantine.table().to_pylist()}
    assert {doc: (row["reason"], row["position"]) for doc, row in bad.items()} == {
        "gone": ("doc_id is not in the corpus", 2), "null": ("text is null", 3), "blank": ("empty document", 4),
    }  # fmt: skip
    assert bad["gone"]["source"] == source.files[0].url
    rows_of_bad = {doc: json.loads(row["row"]) for doc, row in bad.items()}  # the corpus has the texts
    assert rows_of_bad["null"] == {"query_id": "q", "doc_id": "null", "text": None}
    assert rows_of_bad["blank"] == {"query_id": "q", "doc_id": "blank"}


def test_the_corpus_replaces_titles_of_the_candidates(source: Source) -> None:
    rows = rows_of(("q", "d1", 0, 0, 0), title=pa.array(["of the candidate"], pa.large_string()))
    corpus = corpus_of(("d1", "one", "of the corpus"))
    assert join_documents(rows, corpus, source, Quarantine("join"))["title"].to_pylist() == ["of the corpus"]
    kept = join_documents(rows, corpus.drop_columns(["title"]), source, Quarantine("join"))
    assert (kept["title"].to_pylist(), kept["text"].to_pylist()) == (["of the candidate"], ["one"])


def test_queries_are_joined(source: Source) -> None:
    rows = rows_of(("q2", "d", 0, 0, 0), ("gone", "d", 0, 1, 0), ("q1", "d", 0, 2, 0))
    queries = pa.table({"query_id": ["q1", "q2", "q2"], "query": pa.array(["one", "two", "later"], pa.large_string())})
    quarantine = Quarantine("join")
    found = join_queries(rows, queries, source, quarantine)
    assert found.select(["query_id", "query"]).to_pylist() == [
        {"query_id": "q2", "query": "two"},
        {"query_id": "q1", "query": "one"},
    ]
    assert [(row["reason"], row["query_id"], row["position"]) for row in quarantine.rows] == [
        ("query_id is not in the queries", "gone", 1)
    ]


def test_joins_with_nothing(source: Source) -> None:
    rows, corpus = rows_of(("q", "d", 0, 0, 0)), corpus_of()
    queries = pa.table({"query_id": pa.array([], pa.string()), "query": pa.array([], pa.large_string())})
    for empty in (rows.slice(0, 0), pa.concat_tables([rows.schema.empty_table()])):
        quarantine = Quarantine("join")
        assert join_documents(empty, corpus, source, quarantine).num_rows == 0
        assert join_queries(empty, queries, source, quarantine).num_rows == 0
        assert len(quarantine) == 0
    quarantine = Quarantine("join")
    assert join_documents(rows, corpus, source, quarantine).schema.names == [*NAMES, "text", "title"]
    assert join_queries(rows, queries, source, quarantine).num_rows == 0
    assert len(quarantine) == 2


def test_another_text_under_an_id_is_quarantined_and_a_repetition_counted(local: Any) -> None:
    corpus = inspect_source(local.storage, local.put("in/c.jsonl", '{"_id": "d1", "text": "one"}\n'), "corpus")
    texts = [("d1", "one", None), ("d2", None, "T"), ("d1", "one", None), ("d1", "two", None), ("d2", None, "T"),
             ("d2", None, "U"), ("d2", "x", "T"), ("d3", "three", None), ("d1", "one", "")]  # fmt: skip
    rows = corpus_of(*texts)
    for name, column in {"_split": [0] * 9, "_position": range(9), "_item": [0] * 9}.items():
        rows = rows.append_column(name, pa.array(column, dict(zip(NAMES, TYPES, strict=True))[name]))
    quarantine = Quarantine("join")
    kept, repeated = first_of_each(rows, "doc_id", ["text", "title"], corpus, quarantine)
    assert (kept["_position"].to_pylist(), repeated) == ([0, 1, 7], 2)
    assert {row["position"]: row["reason"] for row in quarantine.rows} == {
        3: "another text than an earlier row of this doc_id", 5: "another title than an earlier row of this doc_id",
        6: "another text than an earlier row of this doc_id", 8: "another title than an earlier row of this doc_id",
    }  # fmt: skip
    once = rows.slice(0, 2)
    assert first_of_each(once, "doc_id", ["text", "title"], corpus, quarantine) == (once, 0)
    assert first_of_each(rows.slice(0, 0), "doc_id", ["text"], corpus, quarantine)[1] == 0
