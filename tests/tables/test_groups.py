"""Rows in groups, by hand."""

from __future__ import annotations

import pyarrow as pa

from tart_ray.tables.groups import first_rows, group_starts, places_in_groups


def test_rows_are_counted_within_their_group() -> None:
    rows = pa.table({"query_id": ["a", "a", "b", "c", "c", "c"]})
    starts = group_starts(rows, "query_id")
    assert starts.tolist() == [0, 2, 3, 6]
    assert places_in_groups(starts).tolist() == [0, 1, 0, 0, 1, 2]
    assert places_in_groups(group_starts(rows.slice(0, 0), "query_id")).tolist() == []


def test_the_first_row_of_each_pair_is_kept_where_it_stood() -> None:
    rows = [("b", "1", 0), ("a", "1", 1), ("b", "1", 2), ("b", "2", 3), ("a", "1", 4)]
    table = pa.table([list(column) for column in zip(*rows, strict=True)], names=["query_id", "doc_id", "n"])
    several_chunks = pa.concat_tables([table.slice(0, 2), table.slice(2)])
    assert first_rows(several_chunks, "query_id", "doc_id")["n"].to_pylist() == [0, 1, 3]
    assert first_rows(several_chunks, "query_id")["n"].to_pylist() == [0, 1]
    assert len(first_rows(table.slice(0, 0), "query_id")) == 0
