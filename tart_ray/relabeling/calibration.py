"""From margins to probabilities that can be believed: Platt's sigmoid or an isotonic step, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.config import CalibrationConfig
from tart_ray.errors import CalibrationError
from tart_ray.tables.keys import random_keys
from tart_ray.tables.masks import as_mask

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BINS = 10  # of a reliability curve


@dataclass(frozen=True)
class Calibration:
    """A map from margins to probabilities.

    Attributes:
        slope, intercept: of ``platt``: p = 1 / (1 + exp(-(slope m + intercept))).
        margins, probabilities: of ``isotonic``: linear between these points, constant outside of them.
    """

    method: Literal["platt", "isotonic"]
    slope: float = 0.0
    intercept: float = 0.0
    margins: Sequence[float] = ()
    probabilities: Sequence[float] = ()

    def probability(self, margin: Floats) -> Floats:
        """Of each margin; float64 in [0, 1]."""
        if self.method == "isotonic":
            return np.asarray(np.interp(margin, self.margins, self.probabilities), np.float64)
        z = np.clip(self.slope * margin + self.intercept, -700, 700)  # exp overflows beyond
        return np.asarray(1 / (1 + np.exp(-z)), np.float64)


def check_labels(relevant: Bools, min_labels: int, place: str) -> None:
    """Refuse too few labels of either class.

    Raises:
        CalibrationError: fewer than ``min_labels`` positives, or negatives.
    """
    positives, negatives = int(relevant.sum()), int((~relevant).sum())
    if min(positives, negatives) < min_labels:
        raise CalibrationError(
            f"calibration: among the pairs {place} got {positives} relevant and {negatives} irrelevant ones, expected "
            f"{min_labels} or more of each (labels.calibration.min_labels); give more labels, or labels.by: thresholds"
        )


def fit(method: Literal["platt", "isotonic"], margin: Floats, relevant: Bools) -> Calibration:
    """Fit a calibration to labelled margins.

    ``platt``: maximum likelihood for a sigmoid of the margin, with Platt's targets (N+ + 1)/(N+ + 2) and 1/(N- + 2) in
    place of 1 and 0 (Platt 1999, "Probabilistic outputs for support vector machines"); a soft target t is a positive
    of weight t and a negative of weight 1 - t. ``isotonic``: the rising step function of least squares (Zadrozny and
    Elkan 2002), between whose points scikit-learn draws lines.

    Raises:
        CalibrationError: relevance does not rise with the margin.
    """
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # scikit-learn takes a second to import: only fits need it

        isotonic = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(margin, relevant)
        points, values = isotonic.X_thresholds_.tolist(), isotonic.y_thresholds_.tolist()
        if values[0] == values[-1]:
            raise CalibrationError(
                f"calibration: relevance does not rise with the margin: it is {values[0]:.3f} for all"
            )
        return Calibration("isotonic", margins=points, probabilities=values)
    from sklearn.linear_model import LogisticRegression

    positives, negatives = int(relevant.sum()), int((~relevant).sum())
    targets = np.where(relevant, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1_000)
    model.fit(
        np.tile(margin, 2)[:, None],
        np.repeat([1, 0], len(margin)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    slope = float(model.coef_[0, 0])
    if slope <= 0:
        raise CalibrationError(
            f"calibration: relevance does not rise with the margin: got a slope of {slope:.3g}; are the labels those "
            "of these pairs, and is the instruction the one that they were judged for?"
        )
    return Calibration("platt", slope, float(model.intercept_[0]))


def assess(probability: Floats, relevant: Bools) -> dict[str, Any]:
    """Brier score and reliability curve of probabilities, on pairs that nothing was fitted to.

    The Brier score is the mean of (p - y)^2 (Brier 1950). The curve has `BINS` bins of equal width; each that has pairs
    gives their number, their mean probability and the share of relevant ones, which are equal where p can be believed.
    """
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    curve = [
        {
            "from": bin_ / BINS,
            "to": (bin_ + 1) / BINS,
            "pairs": int((bins == bin_).sum()),
            "mean_probability": float(probability[bins == bin_].mean()),
            "relevant_fraction": float(relevant[bins == bin_].mean()),
        }
        for bin_ in np.unique(bins).tolist()
    ]
    return {"brier": float(np.mean((probability - relevant) ** 2)), "reliability": curve}


def sample(rows: pa.Table, relevance: pa.ChunkedArray, config: CalibrationConfig) -> pa.Table:
    """``margin, score, relevant, held_out`` of the pairs whose relevance is known; queries are held out whole.

    Args:
        relevance: of each of ``rows``, integers; null where it is not known.
    """
    rows = rows.select(["query_id", "margin", "score"]).append_column("relevance", relevance)
    rows = rows.filter(pc.is_valid(rows["relevance"]))
    held_out = random_keys(config.seed, rows["query_id"], rows["query_id"]) < config.held_out_fraction
    relevant = pc.greater_equal(rows["relevance"], config.min_relevance)
    known = rows.select(["margin", "score"]).append_column("relevant", relevant)
    return known.append_column("held_out", pa.array(held_out))


def calibrate(pairs: pa.Table, config: CalibrationConfig) -> tuple[Calibration, dict[str, dict[str, Any]]]:
    """Fit a calibration to what `sample` gave of some queries, and assess it on the pairs of the others.

    Returns:
        The calibration, and how good it is on pairs that are ``fitted`` and ``held_out``, and the uncalibrated score.

    Raises:
        CalibrationError: there are too few labels, or relevance does not rise with the margin.
    """
    score, margin = (np.asarray(pairs[name].to_numpy(), np.float64) for name in ("score", "margin"))
    relevant, held_out = (as_mask(pairs[name]) for name in ("relevant", "held_out"))
    check_labels(relevant[~held_out], config.min_labels, "to fit on")
    check_labels(relevant[held_out], config.min_labels, "held out")
    calibration = fit(config.method, margin[~held_out], relevant[~held_out])
    probability = calibration.probability(margin)
    assessed = {
        "fitted": (probability, ~held_out),
        "held_out": (probability, held_out),
        "held_out_uncalibrated": (score, held_out),
    }
    return calibration, {
        name: {
            "pairs": int(rows.sum()),
            "relevant": int(relevant[rows].sum()),
            **assess(numbers[rows], relevant[rows]),
        }
        for name, (numbers, rows) in assessed.items()
    }
