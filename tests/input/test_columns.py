"""Columns beside the known ones: carried, renamed, left out or widened, and told."""

from __future__ import annotations

import base64
import datetime as dt
import json
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tart_ray.errors import InputError
from tart_ray.input import json_lines
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import Source, inspect_source, table_schema

PAIR = {"query_id": "q1", "query": "a", "doc_id": "d1", "text": "b"}


def put(local: Any, kind: str, *rows: dict[str, Any], name: str = "a") -> None:
    local.put(
        f"in/{name}.{kind}",
        pa.Table.from_pylist([*rows]) if kind == "parquet" else "".join(json.dumps(row) + "\n" for row in rows),
    )


def look(local: Any, columns: dict[str, str] | None = None, drop: Any = ()) -> Source:
    return inspect_source(local.storage, local.at("in"), "candidates", columns or {}, drop=drop)


def rows_of(local: Any, source: Source) -> list[dict[str, Any]]:
    bad = Quarantine("read")
    tables = [table for split in source.splits for table in read_split(local.storage, source, split, bad)]
    assert bad.rows == []
    table = pa.concat_tables([table_schema(source).empty_table(), *tables])
    if source.has_objects:
        source = source.as_read([json_lines.kinds_of(json_lines.objects_of(table))])
        table = json_lines.expand(table, source.extras, source.carried)
    found = table.drop_columns(["_split", "_position", "_item"]).to_pylist()
    return [{name: value for name, value in row.items() if value is not None} for row in found]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_names_that_the_output_needs_get_a_prefix(local: Any, kind: str) -> None:
    put(local, kind, {**PAIR, "rank": 1, "Tokens": 3, "_split": 4, "input_rank": 5, "lang": "en"})
    source = look(local)
    others = {"input_input_rank": 1, "input_Tokens": 3, "input__split": 4, "input_rank": 5, "lang": "en"}
    assert rows_of(local, source) == [{**PAIR, **others}]
    told = "\n".join(source.notes)
    assert "column 'Tokens' is carried as 'input_Tokens': that name has a meaning here" in told
    assert "column '_split' is carried as 'input__split'" in told
    assert "lang" not in told


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_names_that_differ_by_case_alone_are_kept_apart(local: Any, kind: str) -> None:
    put(local, kind, {**PAIR, "Price": 1, "price": 2})
    source = look(local)
    assert rows_of(local, source) == [{**PAIR, "Price": 1, "input_price": 2}]
    assert source.notes == ("column 'price' is carried as 'input_price': another column is called 'Price'",)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_what_a_mapping_leaves_over_is_carried(local: Any, kind: str) -> None:
    put(local, kind, {**PAIR, "text": "summary", "body": "all of it"})
    source = look(local, {"text": "body"})
    assert rows_of(local, source) == [{**PAIR, "text": "all of it", "input_text": "summary"}]


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_what_stands_beside_a_list_is_carried(local: Any, kind: str) -> None:
    row = {"query_id": "q", "query": "a", "score": 7, "candidates": [{"doc_id": "d", "text": "b", "score": 1.5}]}
    put(local, kind, row)
    (found,) = rows_of(local, look(local))
    assert (found["score"], found["input_score"]) == (1.5, 7)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_other_columns_can_be_renamed(local: Any, kind: str) -> None:
    put(local, kind, {**PAIR, "rank": 3, "lang": "en"})
    source = look(local, {"first_rank": "rank", "language": "lang"})
    assert rows_of(local, source) == [{**PAIR, "first_rank": 3, "language": "en"}]
    assert source.notes == ()


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"first": "nope"}, r"input.columns says first: nope, available: \['doc_id', 'lang', 'query'"),
        ({"rank": "lang"}, r"input.columns says rank: lang, but that name has a meaning here; give it another"),
        ({"Margin": "lang"}, r"input.columns says Margin: lang, but that name has"),
        ({"x": "lang", "X": "query_id"}, r"input.columns says X: query_id, but 'lang' is given that name"),
    ],
)
def test_renaming_that_cannot_be_done_is_refused(local: Any, kind: str, columns: Any, message: str) -> None:
    put(local, kind, {**PAIR, "lang": "en"})
    with pytest.raises(InputError, match=message):
        look(local, columns)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_columns_can_be_left_out(local: Any, kind: str) -> None:
    put(local, kind, {**PAIR, "rank": 1, "lang": "en", "title": "T"})
    assert rows_of(local, look(local, drop=["rank", "title"])) == [{**PAIR, "lang": "en"}]
    assert "text" not in look(local, drop=["text"]).columns  # it can be joined
    put(local, kind, {"k": "v", **PAIR}, name="k=1/b")
    assert "k" not in look(local, drop=["k"]).extras.names


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("drop", "columns", "message"),
    [
        (["nope"], {}, r"input.drop_columns: got \['nope'\], available: \['body', 'doc_id', 'query', "),
        (["doc_id"], {}, r"input.drop_columns: got \['doc_id'\], needed as \['doc_id'\]"),
        (["body"], {"text": "body"}, r"input.drop_columns: got \['body'\], needed as \['text'\]"),
        (["body"], {"other": "body"}, r"input.drop_columns: got \['body'\], needed as \['other'\]"),
    ],
)
def test_leaving_out_what_is_needed_or_not_there_is_refused(
    local: Any, kind: str, drop: list[str], columns: dict[str, str], message: str
) -> None:
    put(local, kind, {**PAIR, "body": "x"})
    with pytest.raises(InputError, match=message):
        look(local, columns, drop)


DAY = dt.date(2024, 2, 29)


@pytest.mark.parametrize(
    ("first", "second", "expected", "told"),
    [
        ([1], ["1 EUR"], ["1", "1 EUR"], "int64 in a.parquet, string in b.parquet"),
        ([1], [0.5], [1.0, 0.5], None),
        ([True], [2], ["true", "2"], "bool in a.parquet, int64 in b.parquet"),
        ([DAY], ["soon"], ["2024-02-29", "soon"], "date32"),
        ([[1, 2]], ["x"], ["[1,2]", "x"], "list<"),
        ([{"k": DAY}], [3], ['{"k":"2024-02-29"}', "3"], "struct<k: date32"),
        ([np.float16(1.5)], [Decimal("1.00")], ["1.5", "1.00"], "halffloat in a.parquet, decimal128"),
    ],
)
def test_types_that_clash_between_files_are_widened(
    local: Any, first: list[Any], second: list[Any], expected: list[Any], told: str | None
) -> None:
    for name, values in {"a": first, "b": second}.items():
        local.put(f"in/{name}.parquet", pa.Table.from_pylist([PAIR]).append_column("x", pa.array(values)))
    source = look(local)
    assert [row["x"] for row in rows_of(local, source)] == expected
    assert [told in note for note in source.notes] == ([True] if told else [])


def test_ids_may_be_integers_in_one_file_and_text_in_another(local: Any) -> None:
    put(local, "parquet", {**PAIR, "query_id": 7})
    put(local, "parquet", {**PAIR, "query_id": "q"}, name="b")
    assert [row["query_id"] for row in rows_of(local, look(local))] == ["7", "q"]


def test_what_cannot_become_text_is_refused_by_name_and_can_be_left_out(local: Any) -> None:
    put(local, "parquet", {**PAIR, "x": b"\xff"})
    put(local, "parquet", {**PAIR, "x": 1}, name="b")
    with pytest.raises(InputError, match=r"a\.parquet: column 'x': got binary in a\.parquet, int64 in b\.parquet, .*"
                                         r"leave it out by input\.drop_columns, or cast"):  # fmt: skip
        look(local)
    assert rows_of(local, look(local, drop=["x"])) == [PAIR, PAIR]


def tensors(*shape: int) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (tensors(1, 2), [0.0, 1.0]),
        (pa.ListArray.from_arrays([0, 2], tensors(2, 1)), [[0.0], [1.0]]),
        (pa.StructArray.from_arrays([tensors(1, 2)], ["k"]), {"k": [0.0, 1.0]}),
        (pa.array([b"0123456789abcdef"], pa.uuid()), b"0123456789abcdef"),
        (pa.array(['{"k":1}'], pa.json_()), '{"k":1}'),
        (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1], pa.int8())), 1),
        (pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "geometry", "someone"), pa.array([b"1"])), b"1"),
        (pa.array([1.5], pa.float16()), 1.5),
        (pa.array([Decimal("1.50")], pa.decimal256(50, 2)), Decimal("1.50")),
        (pa.array([3], pa.duration("s")), dt.timedelta(seconds=3)),
        (pa.array([dt.time(1, 2)], pa.time64("us")), dt.time(1, 2)),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [("k", 1)]),
    ],
)
def test_columns_of_every_type_are_carried(local: Any, column: pa.Array, expected: Any) -> None:
    local.put("in/a.parquet", pa.Table.from_pylist([PAIR]).append_column("x", column))
    source = look(local)
    (row,) = rows_of(local, source)
    assert row["x"] == expected
    assert not isinstance(source.extras.field("x").type, pa.BaseExtensionType)


RERANKED = {
    "query_id": "q1", "doc_id": "d1", "rank": 1, "score": 0.9, "margin": 2.5, "first_stage_rank": 3,
    "first_stage_score": 11.0, "instruction": "find it", "lang": "en",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_the_output_of_a_run_is_a_first_stage(local: Any, kind: str) -> None:
    put(local, kind, RERANKED)
    source = look(local)
    assert source.is_cascade
    assert rows_of(local, source) == [
        {"query_id": "q1", "doc_id": "d1", "instruction": "find it", "score": 2.5, "lang": "en"}
    ]
    assert source.notes == (
        "the output of an earlier run: its margin is the score of the first stage; left out: first_stage_rank, "
        "first_stage_score, rank, score",
    )
    kept = rows_of(local, look(local, {"old_rank": "rank"}, ["lang"]))
    assert kept[0].items() >= {"score": 2.5, "old_rank": 1}.items()
    other = look(local, {"score": "first_stage_score"})
    assert not other.is_cascade
    assert rows_of(local, other)[0].items() >= {"score": 11.0, "input_rank": 1, "input_margin": 2.5}.items()


def test_rows_that_only_resemble_a_runs_are_no_cascade(local: Any) -> None:
    put(local, "parquet", {**PAIR, "rank": 1, "score": 0.5})
    assert not look(local).is_cascade


@pytest.mark.parametrize("named", ["run/reranked", "run/reranked/lang=en", "run/reranked/*/*.parquet", "run/scores"])
def test_the_rows_of_a_run_that_is_not_finished_are_refused(place: Any, named: str) -> None:
    for part in ["reranked/lang=en/0", "scores/0"]:
        place.put(f"run/{part}.parquet", pa.Table.from_pylist([RERANKED]))
    place.put("run/manifest.json", "{}")
    with pytest.raises(InputError, match=r"run is a run that is not finished: it has no _SUCCESS"):
        inspect_source(place.storage, place.at(named), "candidates")
    with pytest.raises(InputError, match=r"the directory of a run; expected its rows: .*run/reranked"):
        inspect_source(place.storage, place.at("run/"), "candidates")
    place.put("run/_SUCCESS", "done")
    assert inspect_source(place.storage, place.at(named), "candidates").rows == 1


def with_wide_integers(table: pa.Table, name: str) -> bytes:
    """A Parquet file as polars writes it: its column of 16 bytes is one of 128-bit integers in Arrow's schema."""
    declared = pa.schema([pa.field(f.name, pa.int64() if f.name == name else f.type) for f in table.schema])
    plain = declared.serialize().to_pybytes()
    for place in range(len(plain)):
        if plain[place : place + 4] == b"\x40\0\0\0":  # 64 bits
            changed = plain[:place] + b"\x80\0\0\0" + plain[place + 4 :]
            try:
                pa.ipc.read_schema(pa.py_buffer(changed))
            except pa.ArrowNotImplementedError:
                break
            except pa.ArrowException:
                continue
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({"XRROW:schema": base64.b64encode(changed)}), sink)
    return sink.getvalue().to_pybytes().replace(b"ARROW:schema", b"YRROW:schema").replace(b"XRROW:", b"ARROW:")


@pytest.mark.parametrize("drop", [[], ["big"]])
def test_integers_of_128_bits_are_left_out_by_name(local: Any, drop: list[str]) -> None:
    big = pa.array([(5).to_bytes(16, "little")], pa.binary(16))
    data = with_wide_integers(pa.Table.from_pylist([PAIR]).append_column("big", big), "big")
    with pytest.raises(pa.ArrowNotImplementedError, match="more than 64 bits"):
        pq.read_schema(pa.BufferReader(data))
    local.put("in/a.parquet", data)
    source = look(local, drop=drop)
    assert rows_of(local, source) == [PAIR]
    told = ["column 'big' is left out: integers of 128 bits are not supported"]
    assert [*source.notes] == ([] if drop else told)


def test_what_the_reader_cannot_read_is_not_called_damaged(local: Any) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([PAIR]), sink, compression="none", use_dictionary=False)
    data = sink.getvalue().to_pybytes()
    codec = data.index(b"\x18\x08query_id\x15\x00", data.rindex(b"query_id") - 2000) + 11
    local.put("in/a.parquet", data[:codec] + b"\x06" + data[codec + 1 :])  # LZO
    with pytest.raises(InputError, match=r"a\.parquet: column 'query_id' is compressed by LZO, which is not available"):
        look(local)
    local.put("in/a.parquet", b"PARE" + data[4:-4] + b"PARE")
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read here, though it need not be damaged: .*encrypt"):
        look(local)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("of_directory", "own", "expected", "overruled"),
    [
        ("2024", [2024, 2023, None], [2024] * 3, 1),
        ("2024", ["2024", "2023", None], ["2024"] * 3, 1),
        ("true", [True, False, None], [True] * 3, 1),
        ("0.5", [0.5, 1.5, None], [0.5] * 3, 1),
        ("soon", [2024, 2023, None], ["soon"] * 3, 2),
        ("__HIVE_DEFAULT_PARTITION__", [2024, 2023, None], [None] * 3, 2),
    ],
)
def test_the_directory_is_believed(
    local: Any, kind: str, of_directory: str, own: list[Any], expected: list[Any], overruled: int
) -> None:
    if kind == "jsonl":  # a value that is missing has no type
        own, expected = own[:-1], expected[:-1]
    rows = [{**PAIR, "doc_id": f"d{i}", "k": value} for i, value in enumerate(own)]
    put(local, kind, *rows, name=f"k={of_directory}/a")
    source = look(local)
    bad = Quarantine("read")
    tables = [table for split in source.splits for table in read_split(local.storage, source, split, bad)]
    if kind == "jsonl":  # whose columns get their types when all have been read
        assert [fields["k"] for table in tables for fields in json_lines.objects_of(table)] == expected
    else:
        assert [value for table in tables for value in table["k"].to_pylist()] == expected
    assert (bad.overruled, bad.rows) == (overruled, [])
    assert ["k" in note for note in source.notes] == ([True] if of_directory == "soon" and kind == "parquet" else [])


def test_duckdb_believes_the_directory_too(local: Any) -> None:
    put(local, "parquet", {**PAIR, "k": 1}, {**PAIR, "doc_id": "d2", "k": 2}, name="k=2/a")
    read = f"SELECT k FROM read_parquet('{local.at('in')}/*/*.parquet', hive_partitioning = true)"
    assert duckdb.sql(read).fetchall() == [(2,), (2,)]
    assert [row["k"] for row in rows_of(local, look(local))] == [2, 2]
