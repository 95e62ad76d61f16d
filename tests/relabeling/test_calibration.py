"""Platt and isotonic calibration against worked examples; what is reported, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from tart_ray.errors import CalibrationError
from tart_ray.relabeling.calibration import Calibration, assess, check_labels, fit

MARGINS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
RELEVANT = np.array([False, False, True, False, True, True])


def test_platt_is_the_maximum_of_platts_likelihood() -> None:
    """Three of each class: targets 4/5 and 1/5; the maximum is found here by another optimiser."""
    targets = np.where(RELEVANT, 4 / 5, 1 / 5)

    def loss(parameters: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-(parameters[0] * MARGINS + parameters[1])))
        return float(-(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum())

    slope, intercept = minimize(loss, [1.0, 0.0], tol=1e-12).x
    found = fit("platt", MARGINS, RELEVANT)
    assert (found.slope, found.intercept) == (pytest.approx(slope, abs=1e-5), pytest.approx(intercept, abs=1e-5))
    assert found.probability(np.array([0.5]))[0] == pytest.approx(
        1 / (1 + np.exp(-(slope * 0.5 + intercept))), abs=1e-6
    )


def test_platt_of_two_points_by_hand() -> None:
    """One margin for each class: the sigmoid goes through the targets 2/3 at 1 and 1/3 at -1, so slope = ln 2."""
    found = fit("platt", np.array([-1.0, 1.0]), np.array([False, True]))
    assert found.slope == pytest.approx(np.log(2), abs=1e-6)
    assert found.intercept == pytest.approx(0, abs=1e-6)
    assert found.probability(np.array([-1e9, 1e9])).tolist() == pytest.approx([0, 1])


def test_isotonic_by_hand() -> None:
    """0, 0, (1, 0) pooled to 1/2, 1, 1; lines in between, constant outside."""
    found = fit("isotonic", MARGINS, RELEVANT)
    asked = np.array([-5.0, -1.0, -0.5, 0.0, 1.0, 1.5, 2.0, 9.0])
    assert found.probability(asked).tolist() == pytest.approx([0, 0, 0.25, 0.5, 0.5, 0.75, 1, 1])


def test_brier_score_and_reliability_by_hand() -> None:
    found = assess(np.array([0.1, 0.15, 0.8, 1.0]), np.array([False, True, True, True]))
    assert found["brier"] == pytest.approx((0.01 + 0.7225 + 0.04 + 0) / 4)
    curve = [tuple(bin_.values()) for bin_ in found["reliability"]]
    assert curve == [
        (0.1, 0.2, 2, pytest.approx(0.125), 0.5),
        (0.8, 0.9, 1, pytest.approx(0.8), 1.0),
        (0.9, 1.0, 1, 1.0, 1.0),
    ]


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibration_makes_held_out_probabilities_better(method: str) -> None:
    draw = np.random.default_rng(0)
    margin = draw.normal(0, 4, 4_000)
    relevant = draw.random(4_000) < 1 / (1 + np.exp(-(0.5 * margin - 1)))
    found = fit(method, margin[:3_000], relevant[:3_000])  # type: ignore[arg-type]
    calibrated = assess(found.probability(margin[3_000:]), relevant[3_000:])
    as_it_is = assess(1 / (1 + np.exp(-margin[3_000:])), relevant[3_000:])
    assert calibrated["brier"] < as_it_is["brier"] - 0.01
    gaps = [abs(bin_["mean_probability"] - bin_["relevant_fraction"]) for bin_ in calibrated["reliability"]]
    assert max(gaps) < 0.12
    if method == "platt":
        assert (found.slope, found.intercept) == (pytest.approx(0.5, abs=0.05), pytest.approx(-1, abs=0.15))


def test_too_few_and_one_sided_labels_are_refused() -> None:
    check_labels(np.array([True] * 3 + [False] * 3), 3, "to fit on")
    with pytest.raises(CalibrationError, match="to fit on got 2 relevant and 9 irrelevant ones, expected 3 or more"):
        check_labels(np.array([True] * 2 + [False] * 9), 3, "to fit on")
    with pytest.raises(CalibrationError, match="held out got 9 relevant and 0 irrelevant"):
        check_labels(np.array([True] * 9), 1, "held out")


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_relevance_that_falls_with_the_margin_is_refused(method: str) -> None:
    with pytest.raises(CalibrationError, match="does not rise with the margin"):
        fit(method, np.array([-1.0, 0.0, 1.0, 2.0]), np.array([True, True, False, False]))  # type: ignore[arg-type]


def test_a_calibration_is_a_plain_record() -> None:
    found = fit("isotonic", MARGINS, RELEVANT)
    again = Calibration(found.method, margins=list(found.margins), probabilities=list(found.probabilities))
    assert again.probability(MARGINS).tolist() == found.probability(MARGINS).tolist()
