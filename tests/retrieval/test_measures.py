"""Measures against values worked out by hand, and against ir-measures' own means."""

from __future__ import annotations

import math
import random

import ir_measures
import pytest

from tart_ray.evaluation.beir import MAX_RELEVANCE
from tart_ray.retrieval.measures import mean, per_query


def test_values_by_hand_and_judged_queries_that_are_missing_count_as_0() -> None:
    qrels = {"a": {"d1": 1, "d2": 1}, "b": {"d1": 1}, "c": {}, "d": {"d3": 0}}
    run = {"a": {"d9": 3.0, "d1": 2.0, "d2": 1.0}, "c": {"d1": 1.0}, "d": {"d3": 1.0}, "unjudged": {"d1": 1.0}}
    found = per_query(["nDCG@10", "R@1", "R@2", "RR", "Success@1", "Success@5"], qrels, run)
    ndcg = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    assert found["nDCG@10"] == pytest.approx({"a": ndcg, "b": 0, "c": 0, "d": 0}, abs=1e-12)
    assert found["R@2"] == {"a": 0.5, "b": 0, "c": 0, "d": 0}
    assert found["RR"] == {"a": 0.5, "b": 0, "c": 0, "d": 0}
    assert found["Success@1"] == {"a": 0, "b": 0, "c": 0, "d": 0}
    assert found["Success@5"] == {"a": 1, "b": 0, "c": 0, "d": 0}


def test_the_highest_grade_that_is_taken_is_measured() -> None:
    qrels = {"a": {"d1": MAX_RELEVANCE, "d2": 1}, "b": {"d1": -MAX_RELEVANCE, "d2": 1}}
    found = per_query(["nDCG@10", "AP", "Bpref", "Rprec"], qrels, {q: {"d1": 1.0, "d2": 2.0} for q in qrels})
    ideal = MAX_RELEVANCE + 1 / math.log2(3)
    assert found["nDCG@10"] == pytest.approx({"a": (1 + MAX_RELEVANCE / math.log2(3)) / ideal, "b": 1.0}, abs=1e-9)
    assert found["AP"] == {"a": 1.0, "b": 1.0}


def test_odd_ids_and_unjudged_documents_are_measured_as_any_other() -> None:
    """Documents without a judgement count as irrelevant, and as places in the ranking."""
    qrels = {"0": {"a b.txt": 1, "": 0}, "q 1": {"0": 2, "d\u00e9": 1}}
    run = {"0": {"unjudged": 3.0, "a b.txt": 2.0}, "q 1": {"0": 1.0, "d\u00e9": 1.0, "zz": 1.0}}
    found = per_query(["RR", "nDCG@3", "P@2"], qrels, run)
    assert found["RR"] == {"0": 0.5, "q 1": 0.5}  # "zz", "d\u00e9", "0": the greatest first, of equal scores
    dcg, ideal = 1 / math.log2(3) + 2 / math.log2(4), 2 + 1 / math.log2(3)
    assert found["nDCG@3"] == pytest.approx({"0": 1 / math.log2(3), "q 1": dcg / ideal}, abs=1e-12)
    assert found["P@2"] == {"0": 0.5, "q 1": 0.5}


def test_equal_scores_are_ranked_as_trec_eval_does_the_greatest_document_first() -> None:
    found = per_query(["RR"], {"a": {"d1": 1}, "b": {"d2": 1}}, {q: {"d1": 1.0, "d2": 1.0} for q in "ab"})
    assert found["RR"] == {"a": 0.5, "b": 1.0}


def test_means_are_of_all_judged_queries_and_those_of_ir_measures() -> None:
    qrels = {"second": {"a": 1}, "both": {"a": 2, "b": 1}, "eleventh": {"a": 1}, "missing": {"a": 1}}
    run = {
        "second": {"x": 3.0, "a": 2.0},
        "both": {"b": 3.0, "x": 2.0, "a": 1.0},
        "eleventh": {"a": 0.0} | {f"x{i}": float(i) for i in range(1, 11)},
        "not judged": {"a": 1.0},
    }
    both = (1 + 2 / math.log2(4)) / (2 + 1 / math.log2(3))
    assert mean("nDCG@10", qrels, run) == pytest.approx((1 / math.log2(3) + both + 0 + 0) / 4, abs=1e-12)
    assert mean("nDCG@10", qrels, {}) == 0
    draw = random.Random(0)
    graded = {f"q{q}": {f"d{d}": draw.randrange(3) for d in draw.sample(range(30), 8)} for q in range(40)}
    found = {q: {f"d{d}": float(draw.randrange(6)) for d in draw.sample(range(30), 20)} for q in [*graded][:35]}
    for name in ("nDCG@10", "AP", "R@5", "RR", "P@3"):
        measure = ir_measures.parse_measure(name)
        wanted = ir_measures.calc_aggregate([measure], graded, found)[measure]
        assert mean(name, graded, found) == pytest.approx(wanted, abs=1e-12)
