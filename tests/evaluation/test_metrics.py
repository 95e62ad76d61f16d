"""Intervals, tests and p-MRR against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tart_ray.errors import InputError
from tart_ray.evaluation.metrics import check_measures, compare, interval, p_mrr, robustness


def test_p_mrr_by_hand() -> None:
    before = {"d1": 1, "d2": 2, "d3": 3, "d4": 4}
    after = {"d1": 2, "d2": 1, "d3": 3, "d4": 4}
    assert p_mrr(before, after, ["d1"]) == 0.5  # from 1 to 2: 1 - (1/2) / (1/1)
    assert p_mrr(before, after, ["d2"]) == -0.5  # from 2 to 1: (1/2) / (1/1) - 1
    assert p_mrr(before, after, ["d3"]) == 0
    assert p_mrr(before, {"d1": 4, "d3": 1}, ["d1", "d3"]) == pytest.approx((3 / 4 - 2 / 3) / 2)
    assert p_mrr(before, {"d2": 1, "d3": 2}, ["d1"]) == pytest.approx(2 / 3)  # gone: the rank behind the last, 3


def test_comparison_by_hand() -> None:
    found = compare(np.array([1.0, 0.5, 0.5, 1.0]), np.array([0.0, 0.5, 1.0, 0.5]))
    assert (found["better"], found["worse"], found["equal"]) == (2, 1, 1)
    assert found["difference"] == 0.25
    # differences 1, 0, -.5, .5: mean .25, standard error .6455 / 2, t = .7746 with 3 degrees of freedom
    assert found["p_value"] == pytest.approx(0.4950, abs=5e-4)
    assert compare(np.ones(3), np.ones(3))["p_value"] == 1
    assert compare(np.ones(3), np.zeros(3))["p_value"] == 0
    assert compare(np.ones(1), np.zeros(1))["p_value"] is None


def test_an_interval_holds_the_mean_and_is_the_same_for_a_seed() -> None:
    values = np.array([0.0, 1.0] * 50)
    low, high = interval(values, 0.95, 500, 3)
    # the standard error of the mean is .05: 1.96 of it on either side
    assert low == pytest.approx(0.402, abs=0.03)
    assert high == pytest.approx(0.598, abs=0.03)
    assert interval(values, 0.95, 500, 3) == (low, high)
    assert interval(values, 0.5, 500, 3)[0] > low
    assert interval(np.array([0.25]), 0.95, 500, 0) == (0.25, 0.25)


def test_robustness_by_hand() -> None:
    found = robustness({"one": np.array([1.0, 0.0]), "two": np.array([0.5, 0.5]), "three": np.array([0.0, 0.5])})
    assert found["mean"] == pytest.approx(1.25 / 3)
    assert found["standard_deviation"] == pytest.approx(math.sqrt((2 * (1 / 12) ** 2 + (1 / 6) ** 2) / 2))
    assert found["worst"] == {"run": "three", "value": 0.25}
    assert found["best"]["value"] == 0.5
    assert found["worst_per_query"] == 0


@pytest.mark.parametrize("name", ["nDGC@10", "nDCG@", "ERR@10", "Judged@10", ""])
def test_measures_that_trec_eval_does_not_have_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"input\.tasks: t: measures: got"):
        check_measures("t", ["nDCG@10", name])


def test_the_same_measure_twice_is_refused() -> None:
    check_measures("t", ["nDCG@10", "nDCG@5", "AP"])
    with pytest.raises(InputError, match=r"t: measures: got \['AP', 'MAP'\], of which some are the same measure"):
        check_measures("t", ["AP", "MAP"])
