"""Rows without an instruction are counted, and told unless somebody said that none is meant."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tart_ray.scores.prepare import Cut, _warnings, _with_instruction

ROWS = pa.table({"query_id": ["a", "b", "c"], "instruction": pa.array(["Find it", None, ""], pa.large_string())})


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        (None, ["Find it", None, ""]),
        ("", ["Find it", None, ""]),  # none, and nothing that stands for it
        ("Find all", ["Find it", "Find all", ""]),
    ],
)
def test_an_empty_default_is_none(default: str | None, expected: list[str | None]) -> None:
    assert _with_instruction(ROWS, default)["instruction"].to_pylist() == expected
    bare = ROWS.drop_columns(["instruction"])
    assert _with_instruction(bare, default)["instruction"].to_pylist() == [default or None] * 3


def test_rows_without_an_instruction_are_told_unless_that_is_meant() -> None:
    cuts = [
        Cut.model_construct(rows=1_000, without_instruction=0),
        Cut.model_construct(rows=500, without_instruction=20),
    ]
    (told,) = _warnings(cuts, None)
    assert told.startswith("20 of 1,500 pairs have no instruction, or an empty one. ")
    assert [*_warnings(cuts, "Find it")] == [told]
    assert [*_warnings(cuts, "")] == []
    assert [*_warnings(cuts[:1], None)] == []
