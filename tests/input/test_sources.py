"""What is found out about the input before any work."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tart_ray.errors import InputError
from tart_ray.input import inspect_text, splits
from tart_ray.input.sources import inspect_source
from tart_ray.storage import Storage

PAIR = {"query_id": "q1", "query": "a", "doc_id": "d1", "text": "b"}
LIST = {"query_id": "q1", "query": "a", "candidates": [{"doc_id": "d1", "text": "b"}]}
PAIRS = pa.Table.from_pylist([PAIR])


def one_row(row: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([row])


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "role", "kind"),
    [
        ("a.parquet", PAIRS, "candidates", "parquet"),
        ("a.PQ", PAIRS, "candidates", "parquet"),
        ("part-0", PAIRS, "candidates", "parquet"),
        ("a.jsonl", lines(PAIR), "candidates", "jsonl"),
        ("a.ndjson", lines(PAIR), "candidates", "jsonl"),
        ("a.json", lines(PAIR), "candidates", "jsonl"),
        ("part-0", lines(PAIR), "candidates", "jsonl"),
        ("a.jsonl.gz", gzip.compress(lines(PAIR).encode(), mtime=0), "candidates", "jsonl"),
        ("A.JSONL.GZ", gzip.compress(lines(PAIR).encode(), mtime=0), "candidates", "jsonl"),
        ("a.trec", "q1 Q0 d1 1 2.5 tag\n", "candidates", "trec"),
        ("bm25.run", "q1 Q0 d1 1 2.5 tag\n", "candidates", "trec"),
        ("run", "q1 Q0 d1 1 2.5 tag\n", "candidates", "trec"),
        ("a.tsv", "q1\ta\n", "queries", "tsv"),
        ("a.tsv", "d1\ta\n", "corpus", "tsv"),
    ],
)
def test_formats(local: Any, name: str, content: Any, role: str, kind: str) -> None:
    local.put(name, content)
    source, table, bad = local.read(name, role)
    assert (source.format, len(table), bad) == (kind, 1, [])


@pytest.mark.parametrize(
    ("files", "role", "message"),
    [
        (
            {"a.jsonl": lines(PAIR), "b.parquet": PAIRS},
            "candidates",
            r"files of several formats: .*a\.jsonl.*b\.parquet",
        ),
        ({"a.csv": "x,y\n1,2\n"}, "candidates", r"a\.csv: unknown format; expected .*\.jsonl.*\.gz"),
        ({"a.jsonl.zst": b"\x28\xb5\x2f\xfd"}, "candidates", "unknown format"),
        ({"a.tsv": "a\tb\n"}, "candidates", "got TSV, expected candidates as Parquet, JSONL or a TREC run"),
        ({"a.run": "q1 Q0 d1 1 2 t\n"}, "queries", "got a TREC run, expected queries as"),
        ({"a.run": "q1 Q0 d1 1 2 t\n"}, "corpus", "got a TREC run, expected corpus as"),
        (
            {"a.jsonl": "nope\n[1]\n"},
            "candidates",
            r"none of the first 2 lines can be read as jsonl: invalid literal.*; in the line: nope$",
        ),
        (
            {"a.json": json.dumps([PAIR])},
            "candidates",
            r"it is a JSON array, expected one object a line: `jq -c '\.\[\]'`",
        ),
        ({"a.json": json.dumps([PAIR], indent=1)}, "candidates", "it is a JSON array, .* the first line: \\[$"),
        (
            {"a.json": json.dumps(PAIR, indent=1)},
            "candidates",
            r"its objects span lines, expected one object a line: `jq",
        ),
        ({"a.tsv": "d1\tu\tt\tb\n"}, "corpus", r"as tsv: got 4 columns, expected 2 \(id, text\); in the line: d1\tu"),
        ({"a.tsv": "query-id\tcorpus-id\tscore\nq\td\t0.5\n"}, "qrels", r"got relevance '0\.5', .*: q\td\t0\.5$"),
        ({"a.tsv": "query-id\tcorpus-id\tscore\n"}, "qrels", r"got relevance 'score', .*: query-id\tcorpus-id"),
        ({"a.jsonl": gzip.compress(lines(PAIR).encode())}, "candidates", r"compressed as \.gz files are.*rename it"),
        ({"a.jsonl.gz": lines(PAIR)}, "candidates", r"its name ends in \.gz and it is not compressed"),
        ({"a.jsonl.gz": gzip.compress(b"")}, "candidates", "none of the first 0 lines .*: there are none"),
        (
            {"a.jsonl": lines({"id": "1", "body": "x"})},
            "candidates",
            r"missing column query_id, doc_id; available: \['body', 'id'\]",
        ),
        (
            {"a.parquet": pa.table({"x": [1], "doc_id": ["d"]})},
            "candidates",
            r"missing column query_id; available: \['doc_id', 'x'\]",
        ),
        (
            {"a.jsonl": lines({"_id": "1", "title": "x"})},
            "corpus",
            r"missing column text; available: \['_id', 'title'\]",
        ),
        ({"a.jsonl": lines({"_id": "1"})}, "queries", "missing column query;"),
        (
            {"a.jsonl": lines({**LIST, "candidates": [{"id": "d", "text": "b"}]})},
            "candidates",
            r"missing column doc_id; available: .*'candidates\.id'",
        ),
        (
            {"a.parquet": one_row({**LIST, "candidates": [{"pid": "d", "text": "b"}]})},
            "candidates",
            r"missing column doc_id; available: .*'candidates\.pid'",
        ),
        (
            {"a.parquet": one_row({**LIST, "candidates": [1.5]})},
            "candidates",
            r"got list<.*double>, expected list<struct<doc_id.*, or a list of document ids",
        ),
        (
            {"a.parquet": one_row({**PAIR, "query_id": 1.0})},
            "candidates",
            r"column 'query_id': got double, expected string or integer; cast it",
        ),
        (
            {"a.parquet": one_row({**PAIR, "doc_id": True})},
            "candidates",
            r"column 'doc_id': got bool, expected string or integer",
        ),
        (
            {"a.parquet": one_row({**PAIR, "text": 1})},
            "candidates",
            r"column 'text': got int64, expected string; cast it",
        ),
        (
            {"a.parquet": one_row({**PAIR, "score": "1"})},
            "candidates",
            r"column 'score': got string, expected a number",
        ),
        (
            {"a.parquet": one_row({**LIST, "candidates": [{"doc_id": 7.5, "text": "b"}]})},
            "candidates",
            r"column 'candidates\.doc_id': got double, expected string or integer",
        ),
        ({"a.parquet": pa.table({"_id": [b"1"], "text": ["x"]})}, "corpus", r"corpus: column '_id': got binary"),
        (
            {"a.parquet": PAIRS, "b.parquet": PAIRS.set_column(3, "text", pa.array([1]))},
            "candidates",
            r"b\.parquet: candidates: column 'text': got int64, expected string; cast it first",
        ),
        (
            {"a.parquet": pa.table([["q"], ["q"], ["d"]], names=["query_id", "query_id", "doc_id"])},
            "candidates",
            r"a\.parquet: .*duplicate",
        ),
    ],
)
def test_input_that_cannot_be_used_is_refused(local: Any, files: dict[str, Any], role: Any, message: str) -> None:
    for name, content in files.items():
        local.put(name, content)
    with pytest.raises(InputError, match=message):
        inspect_source(local.storage, local.url, role)


@pytest.mark.parametrize("damage", ["cut", "footer", "short", "text"])
def test_a_damaged_parquet_file_is_named(place: Any, damage: str) -> None:
    url = place.put("good.parquet", PAIRS)
    whole = place.storage.read(url)
    place.put("bad.parquet", {
        "cut": whole[: len(whole) // 2],
        "footer": whole[:-200] + b"\xff" * 192 + whole[-8:],
        "short": b"PAR1",
        "text": b"no Parquet at all, but long enough to be one",
    }[damage])  # fmt: skip
    with pytest.raises(InputError, match=r"bad\.parquet: .*Parquet"):
        inspect_source(place.storage, place.url, "candidates")


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_columns_under_other_names(local: Any, kind: str) -> None:
    row = {"qid": "q1", "question": "a", "pid": "d1", "passage": "b", "bm25": 3.0, "lang": "en"}
    local.put(f"a.{kind}", one_row(row) if kind == "parquet" else lines(row))
    names = {"query_id": "qid", "query": "question", "doc_id": "pid", "text": "passage", "score": "bm25"}
    source, table, bad = local.read(**names)
    assert dict(source.columns).items() >= names.items()
    assert source.extras.names == ["lang"]
    assert bad == []
    assert table.select([*names, "lang"]).to_pylist() == [
        {"query_id": "q1", "query": "a", "doc_id": "d1", "text": "b", "score": 3.0, "lang": "en"}
    ]
    with pytest.raises(InputError, match=r"input.columns says query_id: nope, available: \['bm25', 'lang', "):
        inspect_source(local.storage, local.url, "candidates", {**names, "query_id": "nope"})


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_fields_of_a_candidate_under_other_names(local: Any, kind: str) -> None:
    row = {"qid": "q1", "query": "a", "id": "carried", "hits": [{"id": "d1", "text": "b"}, {"id": "d2", "text": "c"}]}
    local.put(f"a.{kind}", one_row(row) if kind == "parquet" else lines(row))
    names = {"query_id": "qid", "candidates": "hits", "doc_id": "id"}
    source, table, bad = local.read(**names)
    assert (source.shape, source.rows, bad) == ("lists", 2, [])
    assert table.select(["query_id", "doc_id", "text", "id"]).to_pylist() == [
        {"query_id": "q1", "doc_id": "d1", "text": "b", "id": "carried"},
        {"query_id": "q1", "doc_id": "d2", "text": "c", "id": "carried"},
    ]
    with pytest.raises(InputError, match=r"says {'text': 'nope'}, available in each candidate: \['id', 'text'\]"):
        inspect_source(local.storage, local.url, "candidates", {**names, "text": "nope"})


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_column_that_is_claimed_for_one_meaning_has_no_other(local: Any, kind: str) -> None:
    row = {"query_id": "q", "title": "a?", "candidates": [{"doc_id": "d1", "title": "b"}]}
    local.put(f"a.{kind}", one_row(row) if kind == "parquet" else lines(row))
    _, table, bad = local.read(query="title", text="title")
    assert bad == []
    found = table.to_pylist()[0]
    assert (found["query"], found["text"], found.get("title")) == ("a?", "b", None)


def test_an_optional_column_that_only_a_late_row_has_is_read(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_text, "SAMPLE_BYTES", 1)
    late = {"title": "T", "score": 2, "instruction": "I"}
    local.put("pairs/a.jsonl", lines(PAIR, {**PAIR, **late}))
    _, table, bad = local.read("pairs")
    assert (table.select(list(late)).to_pylist(), bad) == ([dict.fromkeys(late), late], [])
    local.put("lists/a.jsonl", lines(LIST, {**LIST, "candidates": [{"doc_id": "d", "text": "b", "title": "T"}]}))
    _, table, bad = local.read("lists")
    assert (table["title"].to_pylist(), bad) == ([None, "T"], [])


def test_a_column_mapped_away_does_not_come_back_under_our_name(local: Any) -> None:
    local.put("a.jsonl", lines({"_id": "1", "q": "mine", "query": "another"}))
    _, table, bad = local.read(role="queries", query="q")
    assert (table["query"].to_pylist(), bad) == (["mine"], [])


def test_list_views_are_refused(local: Any) -> None:
    views = pa.ListViewArray.from_arrays([0], [1], pa.array(["k"]))
    local.put("a.parquet", PAIRS.append_column("x", pa.ListArray.from_arrays([0, 1], views)))
    with pytest.raises(InputError, match=r"a\.parquet: column 'x': got list<.*list_view.*, expected lists; cast"):
        inspect_source(local.storage, local.url, "candidates")


def test_parquet_types_are_promoted_across_files(local: Any) -> None:
    columns: dict[str, list[pa.Array]] = {
        "number": [pa.array([1], pa.int32()), pa.array([1 << 40], pa.int64())],
        "sometimes": [pa.nulls(1), pa.array(["x"])],
        "encoded": [pa.array(["x"]).dictionary_encode(), pa.array(["y"])],
        "wide": [pa.array(["x"], pa.string_view()), pa.array(["y"], pa.large_string())],
        "title": [pa.array(["t"]).dictionary_encode(), pa.nulls(1)],
        "moment": [pa.array([1], pa.timestamp("ms")), pa.array([2], pa.timestamp("us"))],
    }
    for i in range(2):
        table = PAIRS
        for name, arrays in columns.items():
            table = table.append_column(name, arrays[i])
        local.put(f"{i}.parquet", table)
    required = pa.schema([pa.field("required", pa.int64(), nullable=False, metadata={"a": "b"})])
    extra = pa.table([[7]], schema=required)
    local.put("2.parquet", PAIRS.append_column(extra.schema.field(0), extra["required"]))
    source, table, bad = local.read()
    assert bad == []
    assert table["number"].to_pylist() == [1, 1 << 40, None]
    assert table["sometimes"].to_pylist() == [None, "x", None]
    assert table["encoded"].to_pylist() == ["x", "y", None]
    assert table["wide"].to_pylist() == ["x", "y", None]
    assert table["title"].to_pylist() == ["t", None, None]
    assert table["required"].to_pylist() == [None, None, 7]
    assert table["moment"].cast(pa.int64()).to_pylist() == [1000, 2, None]
    pq.write_table(table, pa.BufferOutputStream())  # nothing is declared that does not hold
    assert [source.extras.field(name).type for name in ("encoded", "sometimes")] == [pa.string()] * 2


def test_values_that_the_common_type_cannot_hold_are_quarantined(local: Any) -> None:
    three = pa.concat_tables([PAIRS] * 3).set_column(2, "doc_id", pa.array(["d1", "d2", "d3"]))
    local.put("a.parquet", three.append_column("x", pa.array([1, 2**53 + 1, None])))
    local.put("b.parquet", PAIRS.append_column("x", pa.array([0.5])))
    _, table, bad = local.read()
    assert table.select(["doc_id", "x"]).to_pylist() == [
        {"doc_id": "d1", "x": 1.0}, {"doc_id": "d3", "x": None}, {"doc_id": "d1", "x": 0.5},
    ]  # fmt: skip
    (row,) = bad
    assert row["reason"].startswith("x does not fit double, which all files share: Integer value 9007199254740993")
    assert (row["source"][-9:], row["position"], row["item"], row["doc_id"]) == ("a.parquet", 1, 0, "d2")
    assert json.loads(row["row"]) == {**PAIR, "doc_id": "d2", "x": 2**53 + 1}


def test_values_of_lists_that_the_common_type_cannot_hold_are_quarantined_with_their_items(local: Any) -> None:
    local.put("a.parquet", one_row({**LIST, "x": 2**53 + 1}))
    local.put("b.parquet", one_row({**LIST, "candidates": LIST["candidates"] * 2, "x": 0.5}))
    _, table, bad = local.read()
    assert table["x"].to_pylist() == [0.5, 0.5]
    assert [(row["source"][-9:], row["position"], row["item"], row["doc_id"]) for row in bad] == [
        ("a.parquet", 0, 0, "d1")
    ]


def test_counts_are_exact_for_parquet_and_close_for_text(local: Any) -> None:
    local.put("pairs/a.parquet", pa.table({"query_id": ["q"] * 1000, "doc_id": ["d"] * 1000}), row_group_size=300)
    local.put("pairs/b.parquet", pa.table({"query_id": ["q"] * 11, "doc_id": ["d"] * 11}))
    assert inspect_source(local.storage, local.at("pairs"), "candidates").rows == 1011
    lists = [[{"doc_id": f"d{i}", "text": "t"} for i in range(n)] for n in (3, 0, 5)] + [None]
    table = pa.table({"query_id": list("abcd"), "candidates": lists})
    local.put("lists/a.parquet", table)
    local.put("lists/b.parquet", pa.table({"query_id": ["e", "f"], "candidates": pa.nulls(2)}))
    local.put("lists/c.parquet", pa.table({"query_id": ["g"]}))
    source, found, bad = local.read("lists")
    assert source.rows == 3 + 1 + 5 + 1 + 2 + 1  # an empty or missing list counts as one, as a quarantined row does
    assert (len(found), len(bad)) == (8, 5)
    assert {row["reason"] for row in bad} == {"no candidates"}
    one = lines({**PAIR, "text": "x" * 100})
    local.put("text/a.jsonl", one * 5000)
    assert inspect_source(local.storage, local.at("text"), "candidates").rows == 5000
    local.put("listed/a.jsonl", lines({**LIST, "candidates": LIST["candidates"] * 4}) * 100)
    assert inspect_source(local.storage, local.at("listed"), "candidates").rows == 400


def test_splits_cover_all_row_groups_once(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"d{i}" for i in range(50)]
    local.put("a.parquet", pa.table({"query_id": ["q"] * 50, "doc_id": ids}), row_group_size=4)
    local.put("b.parquet", pa.table({"query_id": ["q"] * 3, "doc_id": ["x", "y", "z"]}))
    local.put("c.parquet", pa.table({"query_id": pa.array([], pa.string()), "doc_id": pa.array([], pa.string())}))
    for size in (1, 500, 1000, 1 << 30):
        monkeypatch.setattr(splits, "SPLIT_BYTES", size)
        source, table, _ = local.read()
        assert [split.index for split in source.splits] == list(range(len(source.splits)))
        assert all(split.start < split.end for split in source.splits if "c.parquet" not in split.file.url)
        assert table["doc_id"].to_pylist() == [*ids, "x", "y", "z"]
        assert table["_position"].to_pylist() == [*range(50), *range(3)]
        assert [source.origin(i)[-9:] for i in table["_split"].to_pylist()] == ["a.parquet"] * 50 + ["b.parquet"] * 3
    monkeypatch.setattr(splits, "SPLIT_BYTES", 1)
    assert len(inspect_source(local.storage, local.at("[ab].parquet"), "candidates").splits) == 13 + 1


def test_splits_cover_all_bytes_once_and_stay_few(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**PAIR, "doc_id": f"d{i}"} for i in range(200)]
    local.put("a.jsonl", lines(*rows))
    monkeypatch.setattr(splits, "SPLIT_BYTES", 100)
    source, table, _ = local.read()
    assert table["doc_id"].to_pylist() == [row["doc_id"] for row in rows]
    ends = [0, *(split.end for split in source.splits)]
    assert [split.start for split in source.splits] == ends[:-1]
    assert ends[-1] == source.files[0].size
    monkeypatch.setattr(splits, "MAX_SPLITS", 7)
    assert len(inspect_source(local.storage, local.url, "candidates").splits) == 7


def test_extra_columns_of_json_get_the_type_of_the_sampled_values(local: Any) -> None:
    rows = [
        {"b": True, "i": 1, "f": 1, "s": "x", "mixed": 1, "nested": {"k": [1]}, "none": None},
        {"b": None, "i": -2, "f": 2.5, "s": "", "mixed": "1", "nested": [None], "none": None},
    ]
    local.put("a.jsonl", lines(*(PAIR | row for row in rows)))
    source, table, bad = local.read()
    kinds = {"b": pa.bool_(), "i": pa.int64(), "f": pa.float64()}
    assert {f.name: f.type for f in source.extras} == {n: kinds.get(n, pa.large_string()) for n in rows[0]}
    assert bad == []
    assert table.select(list(rows[0])).to_pylist() == [
        {"b": True, "i": 1, "f": 1.0, "s": "x", "mixed": "1", "nested": '{"k":[1]}', "none": None},
        {"b": None, "i": -2, "f": 2.5, "s": "", "mixed": "1", "nested": "[null]", "none": None},
    ]


def test_beir_names_are_known(local: Any) -> None:
    local.put("queries.jsonl", lines({"_id": "q1", "text": "a", "metadata": {}}))
    local.put("corpus.jsonl", lines({"_id": "d1", "title": "t", "text": "b", "metadata": {}}))
    _, queries, _ = local.read("queries.jsonl", "queries")
    _, corpus, _ = local.read("corpus.jsonl", "corpus")
    assert queries.select(["query_id", "query"]).to_pylist() == [{"query_id": "q1", "query": "a"}]
    assert corpus.to_pylist()[0].items() >= {"doc_id": "d1", "text": "b", "title": "t"}.items()
    assert "metadata" not in corpus.schema.names


def test_cranfield_is_understood(shared_data: Path) -> None:
    folder = shared_data / "cranfield"
    found = {
        role: inspect_source(Storage(), str(next(folder.glob(name))), role)  # type: ignore[arg-type]
        for role, name in {"candidates": "bm25.trec", "queries": "queries.*", "corpus": "corpus.*"}.items()
    }
    assert found["queries"].rows == pytest.approx(225, rel=0.2)
    assert found["corpus"].rows == pytest.approx(1400, rel=0.2)
    assert found["candidates"].rows == pytest.approx(22_500, rel=0.2)
