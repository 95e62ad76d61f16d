"""How well a model ranks the documents of held-out queries."""

from __future__ import annotations

from collections.abc import Sequence

import ir_measures

from tart_ray.scoring.scorer import Scorer
from tart_ray.training.examples import Query

POSITIVE, NEGATIVE = "a", "b"  # begin ids: trec_eval puts the later one first where scores are equal


class Evaluation:
    """Held-out queries, encoded once.

    A query is ranked under the first instruction of its task; its documents are its positives, negatives and
    instruction-unfollowing ones.
    """

    def __init__(self, queries: Sequence[Query], scorer: Scorer) -> None:
        self._scorer = scorer
        self.qrels: dict[str, dict[str, int]] = {}
        self._pairs: list[tuple[str, str]] = []
        texts, documents, instructions = [], [], []
        for number, query in enumerate(queries):
            of_query = [*query.negatives, *query.unfollowing]
            ids = [f"{POSITIVE}{i}" for i in range(len(query.positives))]
            self.qrels[f"{number}"] = dict.fromkeys(ids, 1)
            ids += [f"{NEGATIVE}{i}" for i in range(len(of_query))]
            self._pairs += [(f"{number}", doc_id) for doc_id in ids]
            documents += [*query.positives, *of_query]
            texts += [query.text] * len(ids)
            instructions += [query.instructions[0] if query.instructions else None] * len(ids)
        self._encoded = scorer.encode(texts, documents, instructions)

    def ndcg_at_10(self) -> float:
        """Mean nDCG@10 over the queries, as trec_eval computes it."""
        margins = self._scorer.score_encoded(self._encoded).margin.tolist()
        run: dict[str, dict[str, float]] = {}
        for (query_id, doc_id), margin in zip(self._pairs, margins, strict=True):
            run.setdefault(query_id, {})[doc_id] = margin
        measure = ir_measures.nDCG @ 10
        return float(ir_measures.calc_aggregate([measure], self.qrels, run)[measure])
