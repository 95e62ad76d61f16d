"""Measures of rankings by ir-measures, as trec_eval computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import ir_measures

from tart_ray.errors import InputError

Qrels = Mapping[str, Mapping[str, int]]  # query → document → relevance
Run = Mapping[str, Mapping[str, float]]  # query → document → score; the higher the better

NDCG_AT_10 = "nDCG@10"


def parse_measure(name: str) -> Any:
    """The measure of ir-measures that has a name, such as ``nDCG@10``.

    Raises:
        InputError: there is none, or trec_eval does not compute it.
    """
    try:
        measure = ir_measures.parse_measure(name)
        is_known = ir_measures.pytrec_eval.supports(measure)
    except (NameError, ValueError, SyntaxError) as error:
        raise InputError(f"got {name!r}: {error}; expected names like {NDCG_AT_10}") from None
    if not is_known:
        raise InputError(
            f"got {name!r}, which trec_eval does not compute; "
            "available: nDCG@k, R@k, Success@k, P@k, AP, AP@k, RR, Rprec, Bpref"
        )
    return measure


def per_query(measures: Sequence[str], qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """Measure → query → value, of every query in ``qrels``: 0 where the run has nothing for it, or nothing is relevant.

    Of documents with equal scores the one with the greatest id is ranked first.
    """
    values = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    parsed = {parse_measure(name): name for name in measures}
    judged = {query: documents for query, documents in qrels.items() if documents}
    for metric in ir_measures.pytrec_eval.iter_calc(list(parsed), judged, run):
        values[parsed[metric.measure]][metric.query_id] = float(metric.value)
    return values


def mean(measure: str, qrels: Qrels, run: Run) -> float:
    """The mean of `per_query` over the queries of ``qrels``, of which there is at least one."""
    return fmean(per_query([measure], qrels, run)[measure].values())
