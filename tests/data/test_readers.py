"""Rows of every format: good ones as tables, each bad one in quarantine with its reason and origin."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tart_ray.data.quarantine import Quarantine
from tart_ray.data.readers import read_split
from tart_ray.data.sources import inspect_source
from tart_ray.data.storage import Storage

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
    ]
    # the line that is none is met while reading, the score while checking
    assert [(row["reason"], row["position"], row["raw"]) for row in bad] == [
        ("undecodable line: got 4 columns, expected query_id Q0 doc_id rank score tag", 58, b"q1 Q0 d4 4"),
        ("score is NaN or infinite", 38, None),
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
def test_scores_that_do_not_order_are_quarantined(local: Any, value: float) -> None:
    put(local, "parquet", [GOOD, {**GOOD, "score": value}])
    _, table, bad = local.read()
    assert (len(table), [(row["reason"], row["position"]) for row in bad]) == (1, [("score is NaN or infinite", 1)])


JSON_BAD = [
    ({**GOOD, "query_id": 7}, "query_id: got int, expected string"),
    ({**GOOD, "text": ["t"]}, "text: got list, expected string"),
    ({**GOOD, "title": True}, "title: got bool, expected string"),
    ({**GOOD, "score": "1"}, "score: got str, expected number"),
    ({**GOOD, "score": True}, "score: got bool, expected number"),
    ({**GOOD, "n": "one"}, "n: got str 'one', expected int64"),
    ({**GOOD, "n": 1.5}, "n: got float 1.5, expected int64"),
    ({**GOOD, "n": True}, "n: got bool True, expected int64"),
    ({**GOOD, "n": 2**63}, f"n: got {2**63}, which does not fit int64"),
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
    monkeypatch.setattr("tart_ray.data.sources.SAMPLE_BYTES", 1)  # the types are those of the first line
    rows = [GOOD, *(row for row, _ in JSON_BAD), *(line for line, _ in UNDECODABLE), GOOD]
    put(local, "jsonl", rows)
    _, table, bad = local.read()
    assert len(table) == 2
    assert [row["position"] for row in bad] == [len(jsonl(rows[:i])) for i in range(1, len(rows) - 1)]
    for row, (record, reason) in zip(bad, JSON_BAD, strict=False):
        assert (row["reason"], json.loads(row["row"]), row["raw"]) == (reason, record, None)
    for row, (line, reason) in zip(bad[len(JSON_BAD) :], UNDECODABLE, strict=True):
        assert row["reason"].startswith(reason)
        assert (row["raw"], row["row"], row["query_id"]) == (line, None, None)


def test_lists_that_are_none(local: Any) -> None:
    item = {"doc_id": "d", "text": "t"}
    outer = {"query_id": "q", "query": "a?"}
    lists: list[tuple[dict[str, Any], list[tuple[int, str]]]] = [
        ({**outer, "candidates": [item, item]}, []),
        ({**outer, "candidates": []}, [(0, "no candidates")]),
        ({**outer, "candidates": None}, [(0, "no candidates")]),
        (outer, [(0, "no candidates")]),
        ({**outer, "candidates": "d"}, [(0, "candidates: got str, expected a list of objects")]),
        ({**outer, "candidates": 0}, [(0, "candidates: got int, expected a list of objects")]),
        ({**outer, "candidates": {}}, [(0, "candidates: got dict, expected a list of objects")]),
        ({**outer, "candidates": [item, "d", None]}, [
            (1, "candidates: got a list with str, expected a list of objects"),
            (2, "candidates: got a list with NoneType, expected a list of objects")]),
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


FIRST = jsonl([{**GOOD, "s": "x", "f": 0.5, "b": True}])
FINITE = st.floats(allow_nan=False, allow_infinity=False)  # the others are no JSON
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FINITE | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from([*GOOD, "s", "f", "b", "candidates", "_split", "query_id"])
RECORDS = st.dictionaries(NAMES, VALUES, max_size=6).map(lambda values: json.dumps({**GOOD, **values}).encode())


def read_bytes(data: bytes, sample: int) -> tuple[int, list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.jsonl").write_bytes(data)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tart_ray.data.sources.SAMPLE_BYTES", sample)
            source = inspect_source(Storage(), folder, "candidates")
        quarantine = Quarantine("read")
        tables = list(read_split(Storage(), source, source.splits[0], quarantine))
        for table in tables:
            table.validate(full=True)
        return sum(map(len, tables)), quarantine.table().to_pylist()


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.lists(st.binary(max_size=40) | RECORDS, max_size=6))
def test_whatever_a_file_holds_every_line_becomes_a_row_or_a_record(lines: list[bytes]) -> None:
    data = FIRST + b"\n".join(lines)
    good, bad = read_bytes(data, 1)
    wanted = [line for line in data.split(b"\n") if line.strip()]
    assert good + len(bad) == len(wanted)
    assert all(row["raw"] in {line.rstrip(b"\r\n") for line in wanted} for row in bad if row["row"] is None)


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(st.lists(VALUES, max_size=5), st.booleans())
def test_whatever_a_list_of_candidates_holds_each_item_becomes_a_row_or_a_record(items: list[Any], whole: bool) -> None:
    first = {"query_id": "q", "query": "?", "candidates": [{"doc_id": "d", "text": "t", "score": 1}]}
    values: Any = items[0] if whole and items else items
    good, bad = read_bytes(jsonl([first, {**first, "candidates": values}]), 1)
    wanted = len(values) if isinstance(values, list) and values else 1
    assert good + len(bad) == 1 + wanted
