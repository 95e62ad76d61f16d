"""Texts that many rows share."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tart_ray.tables.texts import (
    SHARED_TEXT,
    document_text_column,
    document_texts,
    each_value,
    first_known,
    nbytes_of_each,
    plain,
    share,
    shared_schema,
    slices,
    values,
    without_unused,
)

TEXTS = ["one", None, "two", "one", ""]


def table(texts: list[str | None] = TEXTS, kind: pa.DataType | None = None) -> pa.Table:
    text = pa.array(texts, kind or pa.large_string())
    return pa.table({"doc_id": [f"d{i}" for i in range(len(texts))], "text": text})


def dictionaries(column: pa.ChunkedArray) -> list[list[str]]:
    return [chunk.dictionary.to_pylist() for chunk in column.chunks]


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string(), pa.dictionary(pa.int8(), pa.string()), SHARED_TEXT])
def test_shared_texts_are_held_once_and_read_as_before(kind: pa.DataType) -> None:
    rows = table(kind=kind)
    shared = share(pa.concat_tables([rows.slice(3), rows]))
    assert shared.schema == shared_schema(rows.schema)
    assert [sorted(held) for held in dictionaries(shared["text"])] == [["", "one", "two"]] * 2
    assert shared["text"].to_pylist() == values(shared["text"]) == ["one", "", *TEXTS]
    assert plain(shared)["text"].type == pa.large_string()
    assert plain(shared)["text"].to_pylist() == ["one", "", *TEXTS]
    strings = values(shared["text"])
    assert strings[0] is strings[2] is strings[5]


def test_values_of_texts_that_are_not_shared() -> None:
    assert values(table()["text"]) == TEXTS
    assert values(table().slice(0, 0)["text"]) == []


def test_texts_that_no_row_has_go() -> None:
    shared = share(table(["a", "b", None, "c", "b"]))
    some = without_unused(shared.slice(1, 2))
    assert (dictionaries(some["text"]), some["text"].to_pylist()) == ([["b"]], ["b", None])
    assert without_unused(shared.slice(2, 1))["text"].to_pylist() == [None]
    assert without_unused(shared.slice(0, 0)).to_pylist() == []
    apart = pa.concat_tables([share(table(["x"])), share(table(["y", "x"]))])
    assert dictionaries(without_unused(apart)["text"]) == [["x", "y"]]


def test_the_first_text_that_is_known() -> None:
    columns = [share(table(texts))["text"] for texts in (["a", None, None], ["b", "c", None], ["d", "a", None])]
    assert first_known(*columns).to_pylist() == ["a", "c", None]
    assert first_known(columns[0]).to_pylist() == ["a", None, None]
    assert first_known(columns[0].slice(0, 0), columns[1].slice(0, 0)).to_pylist() == []


def test_a_function_of_each_text() -> None:
    for column in (table()["text"], share(table())["text"]):
        found = each_value(column, lambda texts: pc.equal(texts, "one"))
        assert found.to_pylist() == [True, None, False, True, False]
    assert each_value(share(table([]))["text"], pc.binary_length).to_pylist() == []


def test_slices_are_by_bytes_of_utf8() -> None:
    rows = share(table(["é" * 3, "abc", "x" * 20, "", "y", None])).append_column("title", pa.array(["t"] * 6))
    assert nbytes_of_each(rows).tolist() == [7, 4, 21, 1, 2, 1]
    assert [part["doc_id"].to_pylist() for part in slices(rows, 11)] == [["d0", "d1"], ["d2"], ["d3", "d4", "d5"]]
    assert [len(part) for part in slices(rows, 1)] == [1] * 6
    assert [len(part) for part in slices(rows.slice(0, 0), 11)] == [0]
    assert nbytes_of_each(rows.select(["doc_id"])).tolist() == [0] * 6


def test_a_document_is_its_title_and_text_as_one_text() -> None:
    rows = [
        ("T", "x", "T x", 2),
        ("", " x ", "x", -1),
        ("\u2003T", "y\x1c", "T y", 2),
        ("", "", "", 0),
        ("T", "\u00a0", "T", 2),
    ]
    titles, bodies, wanted, begins = (list(column) for column in zip(*rows, strict=True))
    documents = pa.table(
        [titles, bodies], schema=pa.schema([("title", pa.large_string()), ("text", pa.large_string())])
    )
    assert document_texts(documents) == (wanted, begins)
    assert document_texts(share(documents)) == (wanted, begins)
    assert document_text_column(documents).to_pylist() == wanted
    untitled = documents.slice(1, 1).drop_columns(["title"])
    assert document_texts(untitled) == (["x"], [-1])
    assert document_texts(pa.table({"title": [None, "T"], "text": ["x", None]})) == (["x", "T"], [0, 2])
