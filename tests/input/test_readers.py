"""Rows of every format: good ones as tables, each bad one in quarantine with its reason and origin."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from support.stores import supported

from tart_ray.errors import InputError
from tart_ray.input import inspect_text, json_lines, splits
from tart_ray.input.parquet_files import _checked
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import inspect_source
from tart_ray.storage import Storage

ORIGIN = ["_split", "_position", "_item"]
PAIRS = [
    {"query_id": "q1", "query": "a?", "doc_id": "d1", "text": "one", "title": "T", "score": 2.5, "lang": "en"},
    {"query_id": "q1", "query": "a?", "doc_id": "d2", "text": "", "title": "only a title", "score": None, "lang": None},
    {"query_id": "q2", "query": "b?", "doc_id": "d1", "text": "zwölf", "title": None, "score": -1.0, "lang": "de"},
]
LISTS = [
    {"query_id": "q1", "query": "a?", "lang": "en", "candidates": [
        {"doc_id": "d1", "text": "one", "title": "T", "score": 2.5},
        {"doc_id": "d2", "text": "", "title": "only a title", "score": None}]},
    {"query_id": "q2", "query": "b?", "lang": "de", "candidates": [
        {"doc_id": "d1", "text": "zwölf", "title": None, "score": -1.0}]},
]  # fmt: skip


def jsonl(rows: list[Any]) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def put(place: Any, kind: str, rows: list[Any], **options: Any) -> None:
    place.put(f"a.{kind}", pa.Table.from_pylist(rows) if kind == "parquet" else jsonl(rows), **options)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_pairs(place: Any, kind: str) -> None:
    put(place, kind, PAIRS)
    source, table, bad = place.read()
    assert (source.shape, bad) == ("pairs", [])
    assert table.drop_columns(ORIGIN).select(list(PAIRS[0])).to_pylist() == PAIRS
    second = len(jsonl(PAIRS[:1]))
    positions = [0, 1, 2] if kind == "parquet" else [0, second, len(jsonl(PAIRS[:2]))]
    assert table.select(ORIGIN).to_pylist() == [{"_split": 0, "_position": p, "_item": 0} for p in positions]
    assert table.schema.field("text").type == pa.large_string()
    assert table.schema.field("query_id").type == pa.string()
    assert table.schema.field("score").type == pa.float64()


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_lists_are_taken_apart(place: Any, kind: str) -> None:
    put(place, kind, LISTS)
    source, table, bad = place.read()
    assert (source.shape, bad) == ("lists", [])
    expected = [{**pair, "lang": lang} for pair, lang in zip(PAIRS, ["en", "en", "de"], strict=True)]
    assert table.select(list(PAIRS[0])).to_pylist() == expected
    second = 1 if kind == "parquet" else len(jsonl(LISTS[:1]))
    assert [tuple(row.values()) for row in table.select(ORIGIN).to_pylist()] == [(0, 0, 0), (0, 0, 1), (0, second, 0)]


def test_a_run_and_its_texts(place: Any) -> None:
    place.put("run.trec", "q1 Q0 d1 1 9.5 bm25\nq1 Q0 d2 2 9 bm25\nq1 Q0 d3 3 nan bm25\nq1 Q0 d4 4\n")
    place.put("queries.tsv", "q1\ta?\n\tno id\nq2\t \nq3\n")
    place.put("corpus.jsonl", jsonl([{"_id": "d1", "title": "T", "text": None}, {"_id": None, "text": "x"}]))
    _, run, bad = place.read("run.trec")
    assert run.select(["query_id", "doc_id", "score"]).to_pylist() == [
        {"query_id": "q1", "doc_id": "d1", "score": 9.5},
        {"query_id": "q1", "doc_id": "d2", "score": 9.0},
        {"query_id": "q1", "doc_id": "d3", "score": None},
    ]
    assert [(row["reason"], row["position"], row["raw"]) for row in bad] == [
        ("undecodable line: got 4 columns, expected query_id Q0 doc_id rank score tag", 58, b"q1 Q0 d4 4"),
    ]
    _, queries, bad = place.read("queries.tsv", "queries")
    assert queries["query"].to_pylist() == ["a?"]
    assert sorted(row["reason"] for row in bad) == [
        "query is empty", "query_id is empty", "undecodable line: got 1 columns, expected 2 (id, text)",
    ]  # fmt: skip
    _, corpus, bad = place.read("corpus.jsonl", "corpus")
    assert corpus["doc_id"].to_pylist() == ["d1"]  # its missing text concerns the candidates that name it
    assert [row["reason"] for row in bad] == ["doc_id is null"]


GOOD = {"query_id": "q", "query": "a?", "doc_id": "d", "text": "t", "title": None, "score": 1.0, "n": 1}
BAD_VALUES = [  # of both formats
    ({"query_id": None}, "query_id is null"),
    ({"query_id": ""}, "query_id is empty"),
    ({"doc_id": None}, "doc_id is null"),
    ({"doc_id": ""}, "doc_id is empty"),
    ({"query": None}, "query is null"),
    ({"query": " \t\n"}, "query is empty"),
    ({"text": None}, "text is null"),
    ({"text": None, "title": "a title"}, "text is null"),
    ({"text": ""}, "empty document"),
    ({"text": " ", "title": "\u2003"}, "empty document"),
    ({"query_id": "", "text": None}, "query_id is empty"),  # the first reason is told
]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_rows_with_bad_values_are_quarantined(local: Any, kind: str) -> None:
    rows = [GOOD, *({**GOOD, **values} for values, _ in BAD_VALUES), GOOD]
    put(local, kind, rows)
    _, table, bad = local.read()
    assert len(table) == 2
    assert [row["reason"] for row in bad] == [reason for _, reason in BAD_VALUES]
    offsets = [i if kind == "parquet" else len(jsonl(rows[:i])) for i in range(1, len(rows) - 1)]
    assert [row["position"] for row in bad] == offsets
    for row, (values, _) in zip(bad, BAD_VALUES, strict=True):
        assert json.loads(row["row"]).items() >= {**GOOD, **values}.items()
        assert (row["source"][-len(kind) - 2 :], row["stage"], row["item"], row["raw"]) == (
            f"a.{kind}",
            "read",
            0,
            None,
        )
        assert (row["query_id"], row["doc_id"]) == (
            {**GOOD, **values}["query_id"],
            {**GOOD, **values}["doc_id"],
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_scores_that_do_not_order_are_missing(local: Any, kind: str, value: float) -> None:
    put(local, kind, [GOOD, {**GOOD, "score": value}, {**GOOD, "score": None}])
    assert kind == "parquet" or str(value).encode()[-3:] in local.storage.read(local.at("a.jsonl")).lower()
    _, table, bad = local.read()
    assert (table["score"].to_pylist(), bad) == ([1.0, None, None], [])


JSON_BAD = [
    ({**GOOD, "query_id": 7.0}, "query_id: got float, expected string or integer"),
    ({**GOOD, "doc_id": True}, "doc_id: got bool, expected string or integer"),
    ({**GOOD, "query": 7}, "query: got int, expected string"),
    ({**GOOD, "text": ["t"]}, "text: got list, expected string"),
    ({**GOOD, "title": True}, "title: got bool, expected string"),
    ({**GOOD, "score": "1"}, "score: got str, expected number"),
    ({**GOOD, "score": True}, "score: got bool, expected number"),
]
UNDECODABLE = [
    (b'{"query_id": "q"', "undecodable line: unexpected end of data"),
    (b"[1, 2]", "undecodable line: got list, expected a JSON object"),
    (b"null", "undecodable line: got NoneType, expected a JSON object"),
    (b'{"query_id": "\xff\xfe"}', "undecodable line: str is not valid UTF-8"),
    (b"\x00\x01", "undecodable line: "),
]


def test_json_of_wrong_types_is_quarantined_and_lines_that_are_none_keep_their_bytes(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tart_ray.input.inspect_text.SAMPLE_BYTES", 1)  # the types are those of the first line
    rows = [GOOD, *(row for row, _ in JSON_BAD), *(line for line, _ in UNDECODABLE), GOOD]
    put(local, "jsonl", rows)
    _, table, bad = local.read()
    assert len(table) == 2
    assert [row["position"] for row in bad] == [len(jsonl(rows[:i])) for i in range(1, len(rows) - 1)]
    for row, (record, reason) in zip(bad, JSON_BAD, strict=False):
        assert (row["reason"], json.loads(row["row"]), row["raw"]) == (reason, record, None)
        assert row["doc_id"] == ("d" if isinstance(record["doc_id"], str) else None)
    for row, (line, reason) in zip(bad[len(JSON_BAD) :], UNDECODABLE, strict=True):
        assert row["reason"].startswith(reason)
        assert (row["raw"], row["row"], row["query_id"]) == (line, None, None)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("columns", "expected", "positions"),
    [
        ({"qid": ["1", "1"], "pid": ["d1", "d2"]}, [("1", "d1"), ("1", "d2")], []),
        (
            {"query-id": [1, 2, 3], "corpus-ids": [["d2", "d1"], None, ["d3", None]]},
            [("1", "d2"), ("1", "d1"), ("3", "d3")],
            [(1, 0), (2, 1)],
        ),
        ({"query_id": ["q"], "candidates": [[7, 8]]}, [("q", "7"), ("q", "8")], []),
    ],
    ids=["pairs", "lists", "integers"],
)
def test_rows_and_lists_of_ids_alone(local: Any, kind: str, columns: Any, expected: Any, positions: Any) -> None:
    table = pa.table(columns)
    lines = table.to_pylist()
    local.put(f"a.{kind}", table if kind == "parquet" else jsonl(lines))
    source, read, bad = local.read(f"a.{kind}")
    assert [(row["query_id"], row["doc_id"]) for row in read.to_pylist()] == expected
    offsets = [0, *itertools.accumulate(len(jsonl([line])) for line in lines)] if kind == "jsonl" else range(9)
    assert [(row["position"], row["item"]) for row in bad] == [(offsets[row], item) for row, item in positions]
    assert not source.extras.names


def test_lists_that_are_none(local: Any) -> None:
    item = {"doc_id": "d", "text": "t"}
    outer = {"query_id": "q", "query": "a?"}
    lists: list[tuple[dict[str, Any], list[tuple[int, str]]]] = [
        ({**outer, "candidates": [item, item]}, []),
        ({**outer, "candidates": []}, [(0, "no candidates")]),
        ({**outer, "candidates": None}, [(0, "no candidates")]),
        (outer, [(0, "no candidates")]),
        ({**outer, "candidates": "d"}, [(0, "candidates: got str, expected a list of objects or of ids")]),
        ({**outer, "candidates": 0}, [(0, "candidates: got int, expected a list of objects or of ids")]),
        ({**outer, "candidates": {}}, [(0, "candidates: got dict, expected a list of objects or of ids")]),
        ({**outer, "candidates": [item, "d", None]}, [
            (1, "text is null"),
            (2, "candidates: got a list with NoneType, expected a list of objects or of ids")]),
        ({**outer, "candidates": [{**item, "text": 1}, item, {**item, "doc_id": None}]}, [
            (0, "text: got int, expected string"), (2, "doc_id is null")]),
        ({**outer, "query": "", "candidates": [item, item]}, [(0, "query is empty"), (1, "query is empty")]),
    ]  # fmt: skip
    local.put("a.jsonl", jsonl([row for row, _ in lists]))
    _, table, bad = local.read()
    assert [row["_item"] for row in table.to_pylist()] == [0, 1, 0, 1]
    found = sorted((row["position"], row["item"], row["reason"]) for row in bad)
    offsets = [len(jsonl([row for row, _ in lists[:i]])) for i in range(len(lists))]
    assert found == [(offset, *place) for offset, (_, places) in zip(offsets, lists, strict=True) for place in places]
    empty = next(row for row in bad if row["position"] == offsets[1])
    assert json.loads(empty["row"]) == {**outer, "candidates": []}


def test_a_candidate_has_no_text_but_its_own(local: Any) -> None:
    listed = [{"doc_id": "d1", "text": "t", "query_id": "forged", "lang": "xx"}, {"doc_id": "d2"}]
    local.put("a.jsonl", jsonl([{"query_id": "q", "query": "a?", "lang": "en", "candidates": listed}]))
    _, table, bad = local.read()
    assert table.select(["query_id", "doc_id", "text", "lang"]).to_pylist() == [
        {"query_id": "q", "doc_id": "d1", "text": "t", "lang": "en"}
    ]
    assert [(row["reason"], row["item"]) for row in bad] == [("text is null", 1)]


def test_null_lists_of_parquet_hide_what_lies_behind_them(local: Any) -> None:
    kind = pa.list_(pa.struct([("doc_id", pa.string()), ("text", pa.string())]))
    values = pa.array([{"doc_id": f"d{i}", "text": "t"} for i in range(6)], kind.value_type)
    lists = pa.ListArray.from_arrays(
        pa.array([0, 2, 4, 4, 6], pa.int32()), values, mask=pa.array([False, True, False, False])
    )
    assert lists.is_null().to_pylist() == [False, True, False, False]
    moments = pa.array([2**60] * 4, pa.timestamp("us"))  # in a year that Python does not know
    table = pa.table({"query_id": list("abcd"), "query": ["?"] * 4, "moment": moments, "candidates": lists})
    local.put("a.parquet", pa.concat_tables([table.slice(1, 3), table.slice(0, 2)]), row_group_size=2)
    _, found, bad = local.read()
    columns = ["query_id", "doc_id", "_position", "_item"]
    assert [tuple(row.values()) for row in found.select(columns).to_pylist()] == [
        ("d", "d4", 2, 0), ("d", "d5", 2, 1), ("a", "d0", 3, 0), ("a", "d1", 3, 1),
    ]  # fmt: skip
    assert [(row["reason"], row["query_id"], row["position"]) for row in bad] == [
        ("no candidates", "b", 0), ("no candidates", "c", 1), ("no candidates", "b", 4),
    ]  # fmt: skip


def test_null_items_and_candidates_without_a_field_of_other_files(local: Any) -> None:
    outer = {"query_id": "q", "query": "?"}
    with_title = [{"doc_id": "d1", "text": "t", "title": "T"}, None]
    local.put("a.parquet", pa.Table.from_pylist([{**outer, "candidates": with_title}]))
    local.put("b.parquet", pa.Table.from_pylist([{**outer, "candidates": [{"doc_id": "d2", "text": "u"}]}]))
    _, found, bad = local.read()
    assert found.select(["doc_id", "text", "title"]).to_pylist() == [
        {"doc_id": "d1", "text": "t", "title": "T"},
        {"doc_id": "d2", "text": "u", "title": None},
    ]
    assert [(row["reason"], row["item"]) for row in bad] == [("doc_id is null", 1)]


def test_a_field_of_candidates_that_is_always_null(local: Any) -> None:
    lists = [[{"doc_id": f"d{i}{j}", "text": "t", "title": None, "score": None} for j in range(i)] for i in range(4)]
    table = pa.table({"query_id": list("abcd"), "query": ["?"] * 4, "candidates": lists, "x": [[{"y": None}]] * 4})
    local.put("a.parquet", table, row_group_size=2)
    _, found, bad = local.read()
    found.validate(full=True)
    assert found["doc_id"].to_pylist() == ["d10", "d20", "d21", "d30", "d31", "d32"]
    assert found["title"].to_pylist() == found["score"].to_pylist() == [None] * 6
    assert found["x"].to_pylist() == [[{"y": None}]] * 6
    assert [row["reason"] for row in bad] == ["no candidates"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_encodings_of_parquet_text(local: Any, kind: pa.DataType) -> None:
    columns = {name: pa.array([row[name] for row in PAIRS]) for name in PAIRS[0]}
    for name in ("query_id", "query", "doc_id", "text", "title", "lang"):
        columns[name] = columns[name].dictionary_encode() if pa.types.is_dictionary(kind) else columns[name].cast(kind)
    local.put("a.parquet", pa.table(columns))
    _, table, bad = local.read()
    assert bad == []
    assert table.select(list(PAIRS[0])).to_pylist() == PAIRS


IDS = {pa.int8(): -(2**7), pa.int32(): 2**31 - 1, pa.int64(): -(2**63), pa.uint64(): 2**64 - 1}


@pytest.mark.parametrize("kind", [*IDS, pa.dictionary(pa.int8(), pa.int64())], ids=str)
def test_integers_of_parquet_are_ids(local: Any, kind: pa.DataType) -> None:
    values = pa.array([0, IDS.get(kind, 2**53 + 1), None], kind.value_type if kind not in IDS else kind)
    column = values if kind in IDS else values.dictionary_encode()
    text = pa.array(["a", "b", "c"])
    local.put("pairs/a.parquet", pa.table({"query_id": column, "query": text, "doc_id": column, "text": text}))
    items = pa.StructArray.from_arrays([values, text], ["doc_id", "text"])
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), items)
    local.put("lists/a.parquet", pa.table({"query_id": column, "query": text, "candidates": lists}))
    local.put("corpus/a.parquet", pa.table({"_id": column, "text": text}))
    local.put("queries/a.parquet", pa.table({"_id": column, "text": text}))
    expected = ["0", str(IDS.get(kind, 2**53 + 1))]
    for name, role, ids in [
        ("pairs", "candidates", ["query_id", "doc_id"]), ("lists", "candidates", ["query_id", "doc_id"]),
        ("corpus", "corpus", ["doc_id"]), ("queries", "queries", ["query_id"]),
    ]:  # fmt: skip
        _, found, bad = local.read(name, role)
        assert [found[column].to_pylist() for column in ids] == [expected] * len(ids)
        assert [(row["reason"], row["position"]) for row in bad] == [(f"{ids[0]} is null", 2)]
        assert found.schema.field(ids[0]).type == pa.string()


def test_integers_of_parquet_are_ids_of_different_widths(local: Any) -> None:
    for name, values in {"a": pa.array([2**64 - 1], pa.uint64()), "b": pa.array([-1], pa.int8())}.items():
        local.put(f"{name}.parquet", pa.Table.from_pylist([GOOD]).set_column(2, "doc_id", values))
    _, found, bad = local.read()
    assert (found["doc_id"].to_pylist(), bad) == ([str(2**64 - 1), "-1"], [])


def test_integers_of_json_are_ids_beside_texts(local: Any) -> None:
    ids = [7, "7", -1, 2**64 - 1, "a", 0]
    pairs = [{**GOOD, "query_id": name, "doc_id": name} for name in ids]
    local.put("pairs/a.jsonl", jsonl([*pairs, {**GOOD, "doc_id": 8, "text": ""}]))
    listed = [{"doc_id": name, "text": "t"} for name in ids]
    local.put("lists/a.jsonl", jsonl([{"query_id": 5, "query": "?", "candidates": listed}]))
    local.put("texts/a.jsonl", jsonl([{"_id": name, "text": "t"} for name in ids]))
    expected = ["7", "7", "-1", "18446744073709551615", "a", "0"]
    _, found, bad = local.read("pairs")
    assert [found[name].to_pylist() for name in ("query_id", "doc_id")] == [expected] * 2
    assert [(row["reason"], row["query_id"], row["doc_id"]) for row in bad] == [("empty document", "q", "8")]
    _, found, bad = local.read("lists")
    assert (found["query_id"].to_pylist(), found["doc_id"].to_pylist(), bad) == (["5"] * 6, expected, [])
    for role, name in (("queries", "query_id"), ("corpus", "doc_id")):
        _, found, bad = local.read("texts", role)
        assert (found[name].to_pylist(), bad) == (expected, [])


@pytest.mark.parametrize("kind", [pa.int32(), pa.float32(), pa.decimal128(10, 2), pa.null()])
def test_kinds_of_scores(local: Any, kind: pa.DataType) -> None:
    table = pa.Table.from_pylist(PAIRS).drop_columns(["score"])
    scores = pa.nulls(3) if pa.types.is_null(kind) else pa.array([3, None, -2]).cast(pa.decimal128(21, 2)).cast(kind)
    local.put("a.parquet", table.append_column("score", scores))
    _, found, bad = local.read()
    assert (found["score"].to_pylist(), bad) == ([None] * 3 if kind == pa.null() else [3.0, None, -2.0], [])


def test_columns_of_nulls_alone(local: Any) -> None:
    table = pa.table({name: pa.array(["x", "y"]) for name in ("query_id", "query", "doc_id", "text")})
    for name in ("title", "instruction", "score", "extra"):
        table = table.append_column(name, pa.nulls(2))
    local.put("a.parquet", table)
    _, found, bad = local.read()
    assert bad == []
    assert found.select(["title", "score"]).to_pylist() == [{"title": None, "score": None}] * 2
    local.put("a.parquet", table.set_column(3, "text", pa.nulls(2)))
    _, found, bad = local.read()
    assert (len(found), [row["reason"] for row in bad]) == (0, ["text is null"] * 2)


def test_parquet_text_that_is_not_utf8_is_quarantined(local: Any) -> None:
    def forged(*values: bytes | None) -> pa.Array:
        return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())

    ids = pa.array(["a", "b", "c", "d"])
    table = pa.table({
        "query_id": ids, "query": ids, "doc_id": ids,
        "text": forged(b"ok", b"\xff\xfe", None, b"ok"), "note": forged(b"", b"ok", b"ok", b"x\xc3"),
    })  # fmt: skip
    local.put("a.parquet", table)
    _, found, bad = local.read()
    assert found["doc_id"].to_pylist() == ["a"]
    assert [(row["reason"], row["doc_id"]) for row in bad] == [
        ("text is not UTF-8", "b"), ("text is null", "c"), ("note is not UTF-8", "d"),
    ]  # fmt: skip
    assert json.loads(bad[0]["row"])["text"] == "\ufffd\ufffd"


def test_bad_rows_with_values_that_json_does_not_know(local: Any) -> None:
    table = pa.table({
        "query_id": ["q"], "query": [""], "doc_id": ["d"], "text": ["t"],
        "bytes": [b"\xff"], "ns": pa.array([1], pa.timestamp("ns")),
        "far": pa.array([2**60], pa.timestamp("us", "UTC")),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "day": pa.array([1], pa.date32()),
        "amount": pa.array([1], pa.int64()).cast(pa.decimal128(21, 2)), "nested": [{"a": [1, None]}],
    })  # fmt: skip
    local.put("a.parquet", table)
    _, _, bad = local.read()
    row = json.loads(bad[0]["row"])
    assert row["day"] == "1970-01-02"
    assert row["nested"] == {"a": [1, None]}
    assert row["amount"] == "1.00"
    assert row["ns"].startswith("1970-01-01 00:00:00.000000001")


def test_odd_file_names_are_no_globs(place: Any) -> None:
    for name in ("a*.parquet", "ab.parquet", "a[b].parquet"):
        place.put(name, pa.Table.from_pylist([{**GOOD, "doc_id": name}]))
    _, table, _ = place.read()
    assert sorted(table["doc_id"].to_pylist()) == ["a*.parquet", "a[b].parquet", "ab.parquet"]


MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("name", ["a.jsonl", "a"])
def test_a_byte_order_mark_spoils_no_json(place: Any, name: str) -> None:
    place.put(name, MARK + jsonl(PAIRS))
    _, table, bad = place.read()
    assert (table.select(list(PAIRS[0])).to_pylist(), bad) == (PAIRS, [])


def test_a_byte_order_mark_spoils_no_id(local: Any) -> None:
    local.put("run", MARK + b"q1 Q0 d1 1 2 t\n")
    local.put("texts.tsv", MARK + b"q1\ta?\n")
    assert [local.read("run")[1][name].to_pylist() for name in ("query_id", "doc_id")] == [["q1"], ["d1"]]
    assert local.read("texts.tsv", "queries")[1]["query_id"].to_pylist() == ["q1"]
    assert local.read("texts.tsv", "corpus")[1]["doc_id"].to_pylist() == ["q1"]


def with_damage(data: bytes, *groups: int) -> bytes:
    """A Parquet file whose footer is whole, and the first pages of some row groups are not."""
    footer, damaged = pq.read_metadata(pa.BufferReader(data)), bytearray(data)
    for group in groups:
        column = footer.row_group(group).column(1)
        start = column.dictionary_page_offset or column.data_page_offset
        damaged[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    return bytes(damaged)


@pytest.mark.parametrize("form", ["pairs", "lists"])
def test_rows_of_a_damaged_row_group_are_quarantined_and_the_others_read(place: Any, form: str) -> None:
    rows = PAIRS * 3 if form == "pairs" else [LISTS[0]] * 9
    url = place.put("a.parquet", pa.Table.from_pylist(rows), row_group_size=3)
    place.storage.write(url, with_damage(place.storage.read(url), 1))
    source, table, bad = place.read()
    items = 1 if form == "pairs" else 2
    assert table["_position"].to_pylist() == [row for row in (0, 1, 2, 6, 7, 8) for _ in range(items)]
    assert source.rows == 9 * items
    for position, row in enumerate(bad, start=3):
        reason = row.pop("reason")
        assert reason.startswith("row group 1 cannot be read: ")
        assert len(reason) > len("row group 1 cannot be read: ")
        assert row == {
            "stage": "read", "source": source.files[0].url, "position": position, "item": 0, "query_id": None,
            "doc_id": None, "row": None, "raw": None,
        }  # fmt: skip
    assert len(bad) == 3


def test_a_changed_value_is_found_where_the_pages_have_checksums(local: Any) -> None:
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    url = local.put("a.parquet", pa.Table.from_pylist(PAIRS), **options)
    in_statistics, in_page, end = local.storage.read(url).split("zwölf".encode(), 2)
    local.storage.write(url, in_statistics + "zwölf".encode() + in_page + b"eleven" + end)
    _, table, bad = local.read()
    assert len(table) == 0
    assert ["checksum" in row["reason"] or "CRC" in row["reason"] for row in bad] == [True] * 3


class ShortOnce(MemoryFileSystem):
    """Files in memory whose next open handle ends early, as when a connection breaks."""

    protocol = "short"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    cachable = False
    left = 0

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        handle = super()._open(path, mode, **options)
        if mode == "rb" and options.get("cache_type") == "none" and ShortOnce.left:
            ShortOnce.left -= 1
            return io.BytesIO(handle.getvalue()[:200])
        return handle


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_cut_short_once_is_read_again(times: int) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(PAIRS), sink)
    with supported(ShortOnce, "short"):
        storage = Storage()
        storage.write("short://in/a.parquet", sink.getvalue().to_pybytes())
        source = inspect_source(storage, "short://in", "candidates")
        ShortOnce.left = times
        quarantine = Quarantine("read")
        good = sum(map(len, read_split(storage, source, source.splits[0], quarantine)))
    assert (good, len(quarantine), ShortOnce.left) == ((3, 0, 0) if times == 1 else (0, 3, 0))


def test_an_index_outside_of_its_dictionary_is_damage(local: Any) -> None:
    def put(indices: list[int | None]) -> None:
        column = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(["x", "y"]), safe=False)
        nested = pa.array(range(len(indices) + 1), pa.int32())
        for inside in (column, pa.ListArray.from_arrays(nested, pa.StructArray.from_arrays([column], ["a"]))):
            _checked(pa.table({"c": inside}), len(indices))

    put([])
    put([None, None])
    put([0, None, 1])
    for wrong in ([0, 2], [-1, 0]):
        with pytest.raises(pa.ArrowInvalid, match=r"indices from .* into 2 values"):
            put(wrong)
    with pytest.raises(pa.ArrowInvalid, match="got 1 rows, expected 2"):
        _checked(pa.table({"c": [1]}), 2)


def test_text_inside_of_other_values_that_is_not_utf8_is_quarantined(local: Any) -> None:
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"ok", b"\xff", b"ok"], pa.binary()).buffers())
    table = pa.Table.from_pylist(PAIRS)
    table = table.append_column("tags", pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), text))
    local.put("a.parquet", table)
    _, found, bad = local.read()
    assert found["tags"].to_pylist() == [["ok"], ["ok"]]
    assert [(row["reason"], row["position"]) for row in bad] == [
        ("tags holds a value that is no valid list<item: string>", 1)
    ]
    assert json.loads(bad[0]["row"])["tags"] is None


def test_empty_documents_are_rows_where_they_are_wanted(local: Any) -> None:
    rows = [{**GOOD, "text": ""}, {**GOOD, "text": " ", "title": ""}, {**GOOD, "text": None}]
    put(local, "jsonl", rows)
    source = dataclasses.replace(inspect_source(local.storage, local.url, "candidates"), allows_empty_documents=True)
    bad = Quarantine("read")
    (table,) = read_split(local.storage, source, source.splits[0], bad)
    assert table["text"].to_pylist() == ["", " "]
    assert [row["reason"] for row in bad.rows] == ["text is null"]


def test_columns_of_json_lines_are_those_of_all_rows(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_text, "SAMPLE_BYTES", 1)  # the first line
    monkeypatch.setattr(splits, "SPLIT_BYTES", 200)  # a few lines each
    values = {
        "widened": [3, 4, None, 3.5], "words": [1, "one", 2.5, None], "flag": [True, None, False, True],
        "mixed": [True, 1, None, [1, {"k": None}]], "long": [2**53, 2**53 + 1, None, -(2**63)],
        "long and float": [2**53 + 1, 0.5, None, 1], "exact": [2**53, 0.5, None, -(2**53)],
        "huge": [1, 2**63, 10**20, None], "late": [None, None, None, "en"], "nan": [1.5, float("nan"), None, 2],
        "nested": [{"a": 10**20}, [float("nan")], None, "x"], "never": [None] * 4,
    }  # fmt: skip
    rows = [{**GOOD, **{k: v[i] for k, v in values.items() if k != "late" or v[i]}} for i in range(4)]
    put(local, "jsonl", [*rows, {**GOOD, "doc_id": None, "widened": "bad rows decide nothing"}])
    sampled = inspect_source(local.storage, local.url, "candidates")
    assert len(sampled.splits) > 4
    source, table, bad = local.read()
    assert [row["reason"] for row in bad] == ["doc_id is null"]
    assert json.loads(bad[0]["row"])["widened"] == "bad rows decide nothing"
    assert {name: table[name].to_pylist() for name in values} == {
        "widened": [3.0, 4.0, None, 3.5], "words": ["1", "one", "2.5", None], "flag": [True, None, False, True],
        "mixed": ["true", "1", None, '[1,{"k":null}]'], "long": [2**53, 2**53 + 1, None, -(2**63)],
        "long and float": ["9007199254740993", "0.5", None, "1"], "exact": [2.0**53, 0.5, None, -(2.0**53)],
        "huge": ["1", "9223372036854775808", "100000000000000000000", None], "late": [None, None, None, "en"],
        "nan": [1.5, None, None, 2.0], "nested": ['{"a":100000000000000000000}', "[null]", None, "x"],
        "never": [None] * 4,
    }  # fmt: skip
    assert json_lines.changes(sampled.extras, source.extras) == [
        "exact: int64 in the sample, double as read",
        "huge: int64 in the sample, large_string as read",
        "long and float: int64 in the sample, large_string as read",
        "mixed: bool in the sample, large_string as read",
        "widened: int64 in the sample, double as read",
        "words: int64 in the sample, large_string as read",
        "late: not in the sample, large_string as read",
    ]
    with pytest.raises(InputError, match=r"got 2,012 fields beside the known ones.* expected 1,000 at most"):
        sampled.as_read([{f"f{i}": ["text"] for i in range(2_000)}])


def test_late_columns_are_carried_under_names_that_the_output_does_not_need(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect_text, "SAMPLE_BYTES", 1)
    late = {"query_id": "q3", "query": "c?", "candidates": [{"doc_id": "d", "text": "t"}] * 2}
    put(
        local, "jsonl", [*LISTS, {**late, "year": 2024}, {**late, "text": "of all", "rank": 7, "Lang": "no", "gone": 1}]
    )
    source, table, bad = local.read()
    assert not bad
    assert table.select(["lang", "year", "gone", "input_text", "input_rank", "input_Lang"]).to_pylist() == [
        dict(zip(("lang", "year", "gone", "input_text", "input_rank", "input_Lang"), row, strict=True))
        for row in (
            ("en", None, None, None, None, None), ("en", None, None, None, None, None),
            ("de", None, None, None, None, None), (None, 2024, None, None, None, None),
            (None, 2024, None, None, None, None), (None, None, 1, "of all", 7, "no"),
            (None, None, 1, "of all", 7, "no"),
        )
    ]  # fmt: skip
    assert [note.partition(":")[0] for note in source.notes] == [
        "column 'Lang' is carried as 'input_Lang'", "column 'rank' is carried as 'input_rank'",
        "column 'text' is carried as 'input_text'",
    ]  # fmt: skip
    without = inspect_source(local.storage, local.url, "candidates", drop=["lang"])
    tables = [t for split in without.splits for t in read_split(local.storage, without, split, Quarantine("read"))]
    assert "lang" not in {name for t in tables for fields in json_lines.objects_of(t) for name in fields}


def test_hive_keys_of_files_beyond_the_sample_are_columns(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_text, "SAMPLED_FILES", 1)
    for name in ("a/x", "lang=en/x"):
        local.put(f"in/{name}.run", "q Q0 d 1 2 t\n")
    source, table, bad = local.read("in")
    assert (source.extras.names, table["lang"].to_pylist(), bad) == (["lang"], [None, "en"], [])


# Ids that are made of texts


def hash_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_ids_without_a_column_are_hashes_of_the_texts(local: Any, kind: str) -> None:
    rows = [
        {"query": "a?", "document": "one", "title": "T"},
        {"query": "a?", "document": " zwölf ", "title": None},
        {"query": "a?", "document": "one", "title": "T", "instruction": "Find it"},
        {"query": None, "document": "one"},
        {"query": "a?", "document": None},
    ]
    names = ("query", "document", "title", "instruction")
    put(local, kind, [{name: row.get(name) for name in names} for row in rows])
    source, table, bad = local.read(ids_from_text=True)
    assert source.made_ids == ("query_id", "doc_id")
    assert table.select(["query_id", "doc_id", "text"]).to_pylist() == [
        {"query_id": hash_of("a?"), "doc_id": hash_of("T one"), "text": "one"},
        {"query_id": hash_of("a?"), "doc_id": hash_of("zwölf"), "text": " zwölf "},
        {"query_id": hash_of("Find it\na?"), "doc_id": hash_of("T one"), "text": "one"},
    ]
    assert [row["reason"] for row in bad] == ["query is null", "text is null"]
    assert (bad[0]["query_id"], bad[0]["doc_id"]) == (None, hash_of("one"))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_ids_that_have_a_column_are_kept(local: Any, kind: str) -> None:
    put(local, kind, [{"qid": 7, "query": "a?", "text": "one"}, {"qid": None, "query": "b?", "text": "two"}])
    source, table, bad = local.read(ids_from_text=True)
    assert source.made_ids == ("doc_id",)
    assert table.select(["query_id", "doc_id"]).to_pylist() == [{"query_id": "7", "doc_id": hash_of("one")}]
    assert [row["reason"] for row in bad] == ["query_id is null"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_ids_are_made_in_lists_too(local: Any, kind: str) -> None:
    put(local, kind, [{"query": "a?", "candidates": [{"text": "one"}, {"text": "two"}]}])
    _, table, bad = local.read(ids_from_text=True)
    assert (table["doc_id"].to_pylist(), bad) == ([hash_of("one"), hash_of("two")], [])
    assert table["query_id"].to_pylist() == [hash_of("a?")] * 2


def test_a_column_document_is_the_text_on_request_alone(local: Any) -> None:
    put(local, "parquet", [{"query_id": "q", "doc_id": "d", "text": "one", "document": "two"}])
    for asked in (False, True):
        _, table, _ = local.read(ids_from_text=asked)
        assert table.select(["doc_id", "text", "document"]).to_pylist() == [
            {"doc_id": "d", "text": "one", "document": "two"}
        ]


@pytest.mark.parametrize(
    ("row", "asked", "message"),
    [
        (
            {"query": "a?", "text": "one"},
            False,
            r"missing column query_id, doc_id; .*input\.ids: from_text make ids of the",
        ),
        (
            {"text": "one"},
            True,
            r"missing column query_id; .*input\.ids: from_text makes query_id of query,",
        ),
        ({"query": "a?"}, True, r"missing column doc_id; .*input\.ids: from_text makes"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_missing_id_names_the_key_that_makes_ids(local: Any, kind: str, row: Any, asked: bool, message: str) -> None:
    put(local, kind, [row])
    with pytest.raises(InputError, match=message):
        local.read(ids_from_text=asked)
