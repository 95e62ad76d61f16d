"""Labels by hand: thresholds, exact quantiles over several tables, what two label sets differ in, content keys."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import FUZZED

from tart_ray.relabeling.labels import (
    DIFF,
    LABELLED,
    Labelling,
    add_counts,
    count_parts,
    diff,
    find_places,
    label,
    numbers_of,
    ordered_keys,
    thresholds_at,
)
from tart_ray.tables.keys import content_keys, positions


def scores(margins: list[float], instructions: list[str | None] | None = None) -> pa.Table:
    margin = pa.array(margins, pa.float32())
    score = pa.array(1 / (1 + np.exp(-np.array(margins))), pa.float32())
    named = pa.array(instructions or [None] * len(margins), pa.large_string())
    return pa.table({"instruction": named, "margin": margin, "score": score})


def test_a_label_is_the_number_of_thresholds_that_are_reached() -> None:
    found = label(scores([-3.0, -1.0, -0.5, 2.0, 7.0]), Labelling("margin", (-1.0, 2.0)))
    assert found["label"].to_pylist() == [0, 1, 1, 2, 2]
    assert found["threshold"].to_pylist() == [None, -1.0, -1.0, 2.0, 2.0]
    by_probability = label(scores([-1.0, 0.0, 1.0]), Labelling("score", (0.5,)))
    assert by_probability["label"].to_pylist() == [0, 1, 1]
    assert label(scores([]), Labelling("margin", (0.0,))).num_rows == 0


def test_each_instruction_has_thresholds_of_its_own() -> None:
    labelling = Labelling("margin", (), {"a": (0.0,), None: (5.0,)})
    assert label(scores([1.0, 1.0, 6.0], ["a", None, None]), labelling)["label"].to_pylist() == [1, 0, 1]
    with pytest.raises(ValueError, match="no thresholds for instruction 'b'"):
        label(scores([1.0], ["b"]), labelling)


def quantiles(tables: list[pa.Table], wanted: list[float]) -> dict[str | None, list[float]]:
    places = find_places(add_counts(count_parts(table, "margin") for table in tables), wanted)
    found = thresholds_at(places, add_counts(count_parts(table, "margin", places) for table in tables))
    return dict(zip(found["instruction"].to_pylist(), found["thresholds"].to_pylist(), strict=True))


def test_quantiles_by_hand() -> None:
    first = scores([1.0, 2.0, 3.0, 4.0, 5.0, -9.0], ["a"] * 5 + [None])
    second = scores([6.0, 7.0, 8.0, 9.0, 10.0], ["a"] * 5)
    # of ten numbers 1 to 10: floor(10 · 0.9) + 1 = the tenth; 0.95 likewise, and 0.5 is the sixth
    assert quantiles([first, second], [0.5, 0.9, 0.95]) == {"a": [6.0, 10.0, 10.0], None: [-9.0] * 3}
    # 0.29 · 100 is 28.999999999999996 in binary: the 30th of 0 to 99 is meant
    assert quantiles([scores([float(n) for n in range(100)])], [0.29]) == {None: [29.0]}
    # ties: all of them reach what one of them does
    assert quantiles([scores([0.0, 1.0, 1.0, 1.0])], [0.75]) == {None: [1.0]}
    assert quantiles([scores([-1.0, 0.0, -0.0, 1.0])], [0.3]) == {None: [0.0]}


@FUZZED
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1), st.floats(0.001, 0.999), st.integers(1, 4))
def test_fuzz_quantiles_are_order_statistics_however_rows_are_spread(
    numbers: list[float], q: float, parts: int
) -> None:
    with np.errstate(over="ignore"):
        tables = [scores(numbers[part::parts]) for part in range(parts)]
    (found,) = quantiles(tables, [q])[None]
    reached = sum(number >= found for number in numbers)
    assert found in numbers
    assert reached >= len(numbers) * (1 - q) - 1e-6  # the best 1 - q of the pairs …
    assert sum(number > found for number in numbers) <= len(numbers) * (1 - q) + 1e-6  # … and what ties with the last


def test_ordered_keys_keep_the_order_and_give_the_numbers_back() -> None:
    numbers = np.array([-np.inf, -3.4e38, -1.5, -1e-45, 0.0, 1e-45, 1.5, 3.4e38, np.inf], np.float32)
    keys = ordered_keys(numbers)
    assert (np.diff(keys.astype(np.int64)) > 0).all()
    assert (numbers_of(keys) == numbers).all()
    assert ordered_keys(np.array([-0.0], np.float32)) == ordered_keys(np.array([0.0], np.float32))


def labelled(*rows: tuple[str, str, int, float | None, str | None]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(LABELLED.names, row, strict=True)) for row in rows], schema=LABELLED)


def test_a_diff_by_hand() -> None:
    old = labelled(
        ("q1", "same", 1, 0.5, "x"),
        ("q1", "moved", 0, 0.1, "x"),
        ("q1", "gone", 2, 0.9, "x"),
        ("q2", "given", 1, None, None),
    )
    new = labelled(
        ("q2", "given", 0, 0.0, "y"),
        ("q1", "same", 1, 0.6, "y"),
        ("q1", "moved", 2, 0.7, "x"),
        ("q0", "new", 0, 0.2, "x"),
    )
    found = diff(old, new)
    assert found.counts == {"unchanged": 1, "changed": 2, "new": 1, "gone": 1}
    assert found.flips == {(0, 2): 1, (1, 0): 1, (1, 1): 1}
    assert found.old_labels.to_pylist() == [1, 1, 0, None]
    assert found.rows.schema == DIFF
    near = pytest.approx
    assert [tuple(row.values()) for row in found.rows.to_pylist()] == [
        ("q0", "new", "new", None, 0, None, near(0.2), None),
        ("q1", "gone", "gone", 2, None, near(0.9), None, None),
        ("q1", "moved", "changed", 0, 2, near(0.1), near(0.7), False),
        ("q2", "given", "changed", 1, 0, None, 0.0, None),
    ]


def test_a_diff_with_nothing_is_all_new_or_all_gone() -> None:
    one, none = labelled(("q", "d", 1, 0.5, "x")), labelled()
    assert diff(none, one).counts == {"unchanged": 0, "changed": 0, "new": 1, "gone": 0}
    assert diff(one, none).counts == {"unchanged": 0, "changed": 0, "new": 0, "gone": 1}
    assert len(diff(none, none).rows) == 0


def test_positions_are_the_first_that_is_equal_in_all_keys() -> None:
    rows = pa.table({"a": ["x", "y", "x", "z"], "b": ["1", "1", "2", "1"]})
    among = pa.table({"a": ["x", "x", "x", "y"], "b": ["2", "1", "2", "1"]})
    assert positions(rows, among, ("a", "b")).tolist() == [1, 3, 0, -1]
    assert positions(rows, among.slice(0, 0), ("a", "b")).tolist() == [-1] * 4


def pairs(**columns: str | None) -> pa.Table:
    return pa.table({name: pa.array([value], pa.large_string()) for name, value in columns.items()})


def test_content_keys_differ_wherever_the_model_sees_a_difference() -> None:
    different = [
        ({"instruction": "a", "query": "b", "title": "c", "text": "d"}, b"m"),
        ({"instruction": "ab", "query": "", "title": "c", "text": "d"}, b"m"),
        ({"instruction": "a", "query": "bc", "title": "", "text": "d"}, b"m"),
        ({"instruction": "a", "query": "b", "title": "", "text": "cd"}, b"m"),
        ({"instruction": None, "query": "b", "title": "c", "text": "d"}, b"m"),
        ({"instruction": "", "query": "b", "title": "c", "text": "d"}, b"m"),
        ({"instruction": "a", "query": "b", "title": "c", "text": "d"}, b"n"),
        ({"instruction": "a", "query": "b", "title": "c", "text": "d"}, b"ma"),
    ]
    keys = {content_keys(pairs(**columns), model)[0].as_py() for columns, model in different}
    assert len(keys) == len(different)
    assert all(len(key) == 32 for key in keys)


def test_content_keys_are_the_same_for_what_the_model_cannot_tell_apart() -> None:
    with_null, with_empty = (pairs(instruction="a", query="b", title=title, text="d") for title in (None, ""))
    without = pairs(instruction="a", query="b", text="d")
    keys = {content_keys(table, b"m")[0].as_py() for table in (with_null, with_empty, without)}
    assert len(keys) == 1


@FUZZED
@given(st.lists(st.tuples(*[st.text(alphabet="ab\0", max_size=3)] * 3), unique=True, min_size=1))
def test_fuzz_no_two_inputs_have_one_key(rows: list[tuple[str, str, str]]) -> None:
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(("instruction", "query", "text"))})
    assert len(set(content_keys(table, b"m").to_pylist())) == len(rows)
