"""Rows to buckets and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tart_ray.runs import fragments as shuffle
from tart_ray.runs.fragments import decode_rows, encode_fragment, encode_fragments, read_bucket
from tart_ray.tables.groups import in_input_order
from tart_ray.tables.keys import bucket_of
from tart_ray.tables.texts import share

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64()), ("kind", pa.large_string())])


def test_buckets_are_the_same_for_ever() -> None:
    ids = pa.array(["", "a", "q1", "zwölf", "a", "x" * 1000])
    # CRC-32: 0, 0xe8b7be43 (well known), and the rest as computed once
    assert bucket_of(ids, 1 << 32).tolist() == [0, 0xE8B7BE43, 0x26235A72, 0x983B9057, 0xE8B7BE43, 0x3B41C9E6]
    assert bucket_of(ids, 7).tolist() == [0, *(value % 7 for value in bucket_of(ids, 1 << 32)[1:])]
    chunked = pa.chunked_array([ids[:2], ids[2:2], ids[2:]])
    assert bucket_of(chunked, 1 << 32).tolist() == bucket_of(ids, 1 << 32).tolist()
    assert bucket_of(ids.slice(2, 2), 1 << 32).tolist() == [0x26235A72, 0x983B9057]


@pytest.mark.parametrize(
    "ids", [pa.array([], pa.string()), pa.chunked_array([], pa.string()), pa.chunked_array([pa.array([], pa.string())])]
)
def test_no_ids_have_no_buckets(ids: Any) -> None:
    assert bucket_of(ids, 3).tolist() == []


def test_every_bucket_gives_back_its_rows_in_order(place: Any) -> None:
    # bucket 1 has rows of both, 0 and 3 of one, 2 and 4 of none
    first = pa.table({"id": ["a", "b", "c", "d"], "n": [1, 2, None, 4], "kind": ["x", None, "y", "x"]}, schema=SCHEMA)
    second = pa.table({"id": ["e", "f"], "n": [5, 6], "kind": ["z", "z"]}, schema=SCHEMA)
    whole = pa.concat_tables([second, first, second]).slice(1, 6)  # chunked and sliced
    rows = whole.to_pylist()
    urls = [
        place.put("0.fragment", encode_fragment(whole, np.array([1, 3, 1, 1, 0, 1]), 5)),
        place.put("1.fragment", encode_fragment(SCHEMA.empty_table(), np.array([], np.int64), 5)),
        place.put("2.fragment", encode_fragment(second, np.array([1, 1]), 5)),
    ]
    expected = [[rows[4]], [rows[0], rows[2], rows[3], rows[5], *second.to_pylist()], [], [rows[1]], []]
    for bucket, wanted in enumerate(expected):
        found = read_bucket(place.storage, urls, bucket, SCHEMA)
        assert found.to_pylist() == wanted
        assert found.schema == SCHEMA
    assert read_bucket(place.storage, urls[::-1], 1, SCHEMA)["id"].to_pylist()[:2] == ["e", "f"]
    assert read_bucket(place.storage, [], 0, SCHEMA).to_pylist() == []


def test_a_fragment_depends_on_its_rows_alone() -> None:
    table = pa.table({"id": ["a", "b", "c"], "n": [1, 2, 3], "kind": ["x", "y", "z"]}, schema=SCHEMA)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    buckets = np.array([1, 0, 1])
    assert encode_fragment(table, buckets, 2) == encode_fragment(chunked, buckets, 2)


def test_a_text_goes_to_the_buckets_that_need_it_once_each(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shuffle, "FRAGMENT_BYTES", 3_000)
    texts = ["a" * 1_000, "b" * 1_000, "c" * 5_000]
    rows = share(pa.table({"n": range(6), "text": pa.array([texts[i % 3] for i in range(6)], pa.large_string())}))
    bucket = np.array([0, 1, 1, 0, 1, 0])
    fragments = [*encode_fragments(rows, bucket, 2)]
    assert len(fragments) == 4  # rows 0 and 1, 2, 3 and 4, 5
    urls = [place.put(f"{i}.fragment", fragment) for i, fragment in enumerate(fragments)]
    for wanted in (0, 1):
        found = read_bucket(place.storage, urls, wanted, rows.schema)
        assert found["n"].to_pylist() == [i for i in range(6) if bucket[i] == wanted]
        assert [*{*found["text"].to_pylist()}] == [*{texts[i % 3] for i in found["n"].to_pylist()}]
        assert all(len(chunk.dictionary) <= 3 for chunk in found["text"].chunks)
    (alone,) = encode_fragments(rows.take(pa.array([0, 3])), np.array([0, 1]), 2)
    assert "b" not in {text[0] for text in decode_rows(alone[24:])["text"].chunk(0).dictionary.to_pylist()}


def test_input_order_is_split_then_position_then_item() -> None:
    rows = [("b", 0, 5, 0), ("a", 1, 0, 0), ("b", 0, 5, 1), ("a", 0, 10, 0), ("a", 0, 9, 2)]
    names = ["id", "_split", "_position", "_item"]
    table = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    ordered = [rows[i] for i in (0, 2, 4, 3, 1)]
    assert [tuple(row.values()) for row in in_input_order(table).to_pylist()] == ordered
    by_id = [rows[i] for i in (4, 3, 1, 0, 2)]
    assert [tuple(row.values()) for row in in_input_order(table, "id").to_pylist()] == by_id
