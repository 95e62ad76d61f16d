"""How good a ranking is."""

from __future__ import annotations

from collections.abc import Mapping

import ir_measures

Run = Mapping[str, Mapping[str, float]]
Qrels = Mapping[str, Mapping[str, int]]


def ndcg_at_10(run: Run, qrels: Qrels) -> float:
    """Mean nDCG@10, as trec_eval computes it, over all judged queries; one that is missing from the run counts 0."""
    measure = ir_measures.nDCG @ 10
    return float(ir_measures.calc_aggregate([measure], qrels, run)[measure])
