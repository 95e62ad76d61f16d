"""Which rows go through the encoder together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tart_ray.scoring.batching import default_max_tokens, padded_tokens, plan_batches


def plan(lengths: list[int], budget: int) -> list[list[int]]:
    return [batch.tolist() for batch in plan_batches(np.array(lengths, dtype=np.int64), budget)]


def test_by_hand() -> None:
    # longest first: 9 (row 1), 7 (row 4), 5 5 (rows 0, 3), 2 (row 2); 20 tokens hold two of 9, three of 5
    assert plan([5, 9, 2, 5, 7], 20) == [[1, 4], [0, 3, 2]]
    assert padded_tokens(np.array([5, 9, 2, 5, 7]), 20) == 2 * 9 + 3 * 5


def test_equal_lengths_keep_the_order_of_the_input() -> None:
    assert plan([4, 4, 4, 4, 4], 8) == [[0, 1], [2, 3], [4]]


def test_a_budget_that_is_met_exactly_is_used_whole() -> None:
    assert plan([5, 5, 5, 5], 20) == [[0, 1, 2, 3]]
    assert plan([5, 5, 5, 5], 19) == [[0, 1, 2], [3]]


def test_a_row_longer_than_the_budget_goes_alone() -> None:
    assert plan([3, 50, 60, 3], 10) == [[2], [1], [0, 3]]


def test_no_rows() -> None:
    assert plan([], 10) == []
    assert padded_tokens(np.array([], dtype=np.int64), 10) == 0


@pytest.mark.parametrize("seed", range(30))
def test_every_row_exactly_once_within_the_budget(seed: int) -> None:
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 513, size=draw.integers(1, 400))
    budget = int(draw.integers(1, 5_000))
    batches = plan_batches(lengths, budget)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    costs = [int(lengths[batch].max()) * len(batch) for batch in batches]
    assert all(cost <= budget or len(batch) == 1 for cost, batch in zip(costs, batches, strict=True))
    assert sum(costs) == padded_tokens(lengths, budget)
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    for batch, following in itertools.pairwise(batches):  # no batch could have taken one row more
        assert lengths[batch[0]] * (len(batch) + 1) > budget
        assert lengths[batch].min() >= lengths[following].max()


def test_default_budget_depends_on_the_device() -> None:
    assert default_max_tokens("cuda") > default_max_tokens("cpu") == default_max_tokens("some-other-device")
