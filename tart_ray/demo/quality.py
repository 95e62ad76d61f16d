"""How good a ranking is."""

from __future__ import annotations

import ir_measures

Run = dict[str, dict[str, float]]
Qrels = dict[str, dict[str, int]]


def ndcg_at_10(run: Run, qrels: Qrels) -> float:
    """Mean nDCG@10, as trec_eval computes it, over all judged queries; one that is missing from the run counts 0."""
    measure = ir_measures.nDCG @ 10
    return float(ir_measures.calc_aggregate([measure], qrels, run)[measure])
