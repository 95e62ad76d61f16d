"""Ranking, by hand."""

from __future__ import annotations

import random
from typing import Any

import pyarrow as pa
import pytest

from tart_ray.tables.ranking import rank

SCHEMA = pa.schema(
    [("query_id", pa.string()), ("doc_id", pa.string()), ("margin", pa.float32()), ("first_stage_rank", pa.int32())]
)
EXPECTED: list[tuple[str, str, float | None, int | None, int]] = [
    ("a", "d5", 3.0, 9, 1),
    ("a", "d9", 1.0, 1, 2),  # a tie: by the first stage's rank
    ("a", "d1", 1.0, 2, 3),
    ("a", "d2", 1.0, None, 4),  # without one last, by doc_id
    ("a", "d3", 1.0, None, 5),
    ("a", "d4", -0.5, 1, 6),
    ("a", "d0", None, 1, 7),  # without a margin last
    ("aa", "d1", 0.0, None, 1),
    ("b", "d10", -7.0, None, 1),  # text order, not that of numbers
    ("b", "d9", -7.0, None, 2),
]


def table_of(rows: Any) -> pa.Table:
    columns = [[row[i] for row in rows] for i in range(4)]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("top_k", [None, 1, 3, 100])
def test_ranks_whatever_the_order_of_the_input(seed: int, top_k: int | None) -> None:
    shuffled = random.Random(seed).sample(EXPECTED, len(EXPECTED))
    table = pa.concat_tables([table_of(shuffled[:4]), table_of(shuffled[4:])])
    ranked = rank(table, top_k)
    assert ranked.schema == SCHEMA.append(pa.field("rank", pa.int32()))
    kept = [row for row in EXPECTED if top_k is None or row[4] <= top_k]
    assert [tuple(row.values()) for row in ranked.to_pylist()] == kept


def test_nothing_is_ranked_to_nothing() -> None:
    for table in (SCHEMA.empty_table(), table_of(EXPECTED).slice(0, 0), pa.concat_tables([SCHEMA.empty_table()])):
        assert rank(table, 3).num_rows == 0
        assert rank(table).schema.field("rank").type == pa.int32()


def test_the_margin_decides_where_the_probability_ties() -> None:
    table = table_of([("q", "d1", 20.0, 1), ("q", "d2", 30.0, 2)])  # both 1.0 as a float32 softmax
    table = table.append_column("score", pa.array([1.0, 1.0], pa.float32()))
    assert rank(table)["doc_id"].to_pylist() == ["d2", "d1"]
