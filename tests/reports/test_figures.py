"""Figures of a report, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tart_ray.reports import speed, wording
from tart_ray.reports.figures import Compared, Comparison, Table, as_json, evenly, histogram
from tart_ray.reports.ranks import Ranked, example, hardly_differ, moves, snippet


def test_series_are_counted_in_the_same_bins_and_infinite_values_not_at_all() -> None:
    found = histogram("t", "x", "n", {"a": np.array([0.0, 3.0, np.nan]), "b": np.array([30.0, np.inf, 0.5])})
    assert found is not None
    assert found.edges == [float(edge) for edge in range(31)]
    assert (found.counts["a"][0], found.counts["a"][3], sum(found.counts["a"])) == (1, 1, 2)
    assert (found.counts["b"][0], found.counts["b"][29], sum(found.counts["b"])) == (1, 1, 2)
    assert histogram("t", "x", "n", {"a": np.array([np.nan])}) is None


def test_bins_of_integers_lie_between_integers() -> None:
    few = histogram("t", "x", "n", {"": np.array([7, 9, 9])})
    assert few is not None
    assert (few.edges, few.counts[""]) == ([6.5, 7.5, 8.5, 9.5], [1, 0, 2])
    many = histogram("t", "x", "n", {"": np.arange(100)})
    assert many is not None
    assert many.edges[:3] == [-0.5, 3.5, 7.5]  # 25 bins of 4
    assert many.counts[""] == [4] * 25


def test_one_value_has_a_bin_around_it() -> None:
    found = histogram("t", "x", "n", {"": np.array([2.5, 2.5])})
    assert found is not None
    assert (found.edges[0], found.edges[-1], sum(found.counts[""])) == (2.0, 3.0, 2)


@pytest.mark.parametrize(("number", "expected"), [(9, [0, 1, 2, 3, 4, 5]), (3, [0, 2, 4]), (1, [0])])
def test_items_at_even_distances(number: int, expected: list[int]) -> None:
    assert evenly(range(6), number) == expected


def test_the_pairs_of_a_chunk_are_spread_over_the_time_that_it_took() -> None:
    # 0 to 60 s: 60 pairs by a; 30 to 60 s: 90 pairs by b
    work = [speed.Work(1_000.0, 60.0, 60, 600, "a"), speed.Work(1_030.0, 30.0, 90, 900, "b")]
    curve = speed.over_time(work)
    assert curve is not None
    assert curve.x == "seconds since the first chunk"
    assert curve.lines[""] == [(second + 0.5, 1.0 if second < 30 else 4.0) for second in range(60)]
    assert speed.over_time([speed.Work(1_000.0, 0.0, 5, 50, "a")]) is None


def test_replicas_by_what_they_did_and_many_of_them_in_one_row() -> None:
    work = [speed.Work(0.0, 2.0, 10 + index, 100, f"node:{index}") for index in range(22)]
    rows = speed.by_replica(work).rows
    assert rows[0] == ["node:21", 1, 31, 100, 2.0, 15.5, 50.0]
    assert len(rows) == 21
    assert rows[-1] == ["2 others", 2, 21, 200, 4.0, 5.25, 50.0]


def test_moves_of_ranks_and_where_the_top_came_from() -> None:
    before, after = np.array([1, 2, 3, 12]), np.array([2, 4, 3, 1])
    moved, table = moves(before, after)
    assert dict(zip(np.array(moved.edges[:-1]) + 0.5, moved.counts[""], strict=True))[11] == 1
    assert sum(moved.counts[""]) == 4
    assert table.rows == [["top 1", 1, "0%", 12], ["top 3", 3, "67%", 12], ["top 10", 4, "75%", 12]]
    assert moves(np.array([], np.int64), np.array([], np.int64)) == []


def test_a_query_with_its_first_documents_before_and_after() -> None:
    documents = [Ranked("a", 2, 1, 0.5, "one  two"), Ranked("b", 1, 2, 1.5, None), Ranked("c", 3, None, -1.0, None)]
    table = example("q: what", documents)
    assert table.header == ["rank", "first stage", "reranked"]
    assert table.rows[0] == [1, "a (margin 0.50, now 2, was 1): one two", "b (margin 1.50, now 1, was 2)"]
    assert table.rows[2] == [3, None, "c (margin -1.00, now 3)"]
    assert example("q", [documents[2]]).header == ["rank", "reranked"]


def test_a_snippet_is_cut_at_a_space() -> None:
    assert snippet("one two\nthree", 9) == "one two …"
    assert snippet("unbroken", 4) == "unbr …"
    assert snippet(" short ", 9) == "short"


def test_margins_that_hardly_differ() -> None:
    flat, steep = np.array([1.0, 1.02, 1.01]), np.array([0.0, 5.0])
    assert hardly_differ([flat, flat, steep, np.array([9.0])], 0.1) == pytest.approx(0.02)
    assert hardly_differ([flat, steep], 0.1) is None  # the median is 2.51
    assert hardly_differ([np.array([9.0])], 0.1) is None


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (3.21, "3.2 seconds"),
        (61, "1 minute 1 second"),
        (3_600, "1 hour"),
        (7_500, "2 hours 5 minutes"),
        (172_859, "2 days"),
    ],
)
def test_durations(seconds: float, expected: str) -> None:
    assert wording.duration(seconds) == expected


def test_dates_shares_and_numbers() -> None:
    assert wording.date(0) == "1 January 1970, 00:00 UTC"
    assert wording.share(12, 1_000) == "12 of 1,000 (1.2%)"
    assert [wording.number_of(n, "query", "queries") for n in (1, 1_200)] == ["1 query", "1,200 queries"]


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ([""], "without an instruction"),
        (["Find it"], "under the instruction “Find it”"),
        (["Find it", ""], "under the instruction “Find it” and without one"),
        (["A", "B"], "under 2 instructions: “A”, “B”"),
        (["A", "B", "C", "D"], "under 4 instructions, such as “A”, “B”, “C”"),
    ],
)
def test_instructions_in_a_sentence(instructions: list[str], expected: str) -> None:
    assert wording.under(instructions) == expected


def test_figures_as_json_say_their_kind() -> None:
    figures = {"Results": [Table("t", ["a"], [[1]]), Comparison("c", [Compared("task", "nDCG@10", None, 0.5)])]}
    (table, comparison) = as_json(figures)["Results"]
    assert table == {"kind": "table", "title": "t", "header": ["a"], "rows": [[1]], "note": ""}
    assert (comparison["kind"], comparison["rows"][0]["reranked"]) == ("comparison", 0.5)
