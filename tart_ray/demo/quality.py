"""How good a ranking is: nDCG@10."""

from __future__ import annotations

from collections.abc import Mapping

import ir_measures


def ndcg_at_10(run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, int]]) -> float:
    """nDCG@10, between 0 and 1, averaged over all judged queries; one that is missing from the run counts 0.

    Args:
        run: ``{query_id: {doc_id: score}}``, higher is better; queries without a judgement do not count.
        qrels: ``{query_id: {doc_id: grade}}``; a document without a grade has grade 0.

    Raises:
        ValueError: no query is judged.
    """
    if not qrels:
        raise ValueError("qrels: got no judged query, expected at least one")
    plain_run = {query_id: dict(hits) for query_id, hits in run.items() if query_id in qrels}
    plain_qrels = {query_id: dict(judged) for query_id, judged in qrels.items()}
    measure = ir_measures.nDCG @ 10
    # ir_measures itself gives 0 to judged queries that the run lacks and counts them in the mean.
    return float(ir_measures.calc_aggregate([measure], plain_qrels, plain_run)[measure])
