"""Which measures a task may have, how sure their means are, and how far rankings follow a changed instruction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.stats

from tart_ray.errors import InputError
from tart_ray.retrieval.measures import parse_measure

P_MRR = "p-MRR"
BATCH = 100  # resamples that are held at once

Floats = npt.NDArray[np.float64]


def check_measures(task: str, names: Sequence[str]) -> None:
    """Refuse what trec_eval cannot compute.

    Raises:
        InputError: an unknown name, or a measure that is not one of trec_eval's.
    """
    try:
        parsed = {parse_measure(name) for name in names}
    except InputError as error:
        raise InputError(f"input.tasks: {task}: measures: {error}") from None
    if len(parsed) < len(names):
        raise InputError(f"input.tasks: {task}: measures: got {[*names]}, of which some are the same measure")


def p_mrr(original: Mapping[str, int], changed: Mapping[str, int], documents: Iterable[str]) -> float:
    """How far documents fall that a changed instruction makes irrelevant, of one query; from -1 to 1, higher is better.

    With MRR = 1 / rank, for each document: ``MRR_og / MRR_new - 1`` where its rank did not get worse, else
    ``1 - MRR_new / MRR_og``; the mean over documents. Of a task, the mean over queries. Weller et al. 2024, FollowIR
    (arXiv:2403.15246), equation 1. A document that is not in a ranking has the rank behind its last, as in their code.

    Args:
        original, changed: ranks, from 1, of documents under each instruction.
        documents: those whose relevance the change takes away; at least one.
    """
    values = []
    for document in documents:
        before = original.get(document, len(original) + 1)
        after = changed.get(document, len(changed) + 1)
        values.append(after / before - 1 if before >= after else 1 - before / after)
    return float(np.mean(values))


def interval(values: Floats, confidence: float, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over queries (Efron and Tibshirani 1993, chapter 13)."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    bounds = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, confidence_level=confidence, method="percentile", batch=BATCH,
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(bounds.low), float(bounds.high)


def compare(values: Floats, baseline: Floats) -> dict[str, Any]:
    """The same queries under two runs: difference of means, and the p-value of a two-sided paired t-test.

    The t-test is the one that Urbano, Lima and Hanjalic 2019 (SIGIR) recommend for means over queries. ``p_value`` is
    None with fewer than two queries, and 1 where all values are equal.
    """
    difference = values - baseline
    p_value: float | None = None
    if len(difference) > 1:
        spread = float(np.ptp(difference))
        p_value = float(scipy.stats.ttest_rel(values, baseline).pvalue) if spread else float(not difference.any())
    return {
        "difference": float(difference.mean()),
        "p_value": p_value,
        "better": int((difference > 0).sum()),
        "worse": int((difference < 0).sum()),
        "equal": int((difference == 0).sum()),
    }


def robustness(values: Mapping[str, Floats]) -> dict[str, Any]:
    """Several instructions for the same queries, by name.

    ``mean``, ``standard_deviation`` (n - 1), ``best`` and ``worst`` are over the instructions' means;
    ``worst_per_query`` is the mean over queries of the least value that any instruction gives.
    """
    means = {name: float(of_queries.mean()) for name, of_queries in values.items()}
    worst, best = min(means, key=lambda name: means[name]), max(means, key=lambda name: means[name])
    return {
        "instructions": len(means),
        "mean": float(np.mean([*means.values()])),
        "standard_deviation": float(np.std([*means.values()], ddof=1)),
        "best": {"run": best, "value": means[best]},
        "worst": {"run": worst, "value": means[worst]},
        "worst_per_query": float(np.min([*values.values()], axis=0).mean()),
    }
