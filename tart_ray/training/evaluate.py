"""How well a model ranks the documents of held-out queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tart_ray.model.texts import join_instruction
from tart_ray.retrieval.measures import NDCG_AT_10, mean
from tart_ray.scoring.scorer import Scorer
from tart_ray.training.examples import Query

POSITIVE, NEGATIVE = "a", "b"  # ids begin with these: of equal scores, trec_eval puts the later id first


@dataclass(frozen=True)
class Figures:
    """Figures of held-out queries.

    Attributes:
        ndcg_at_10: the mean over queries, as trec_eval computes it.
        right: how many of the pairs have the right label: the margin is above 0 if, and only if, the document answers
            the query as the instruction asks.
    """

    queries: int
    ndcg_at_10: float
    pairs: int
    right: int


class Evaluation:
    """Held-out queries, encoded once.

    A query is scored with the first instruction of its task. Its documents are its positives, its negatives and its
    instruction-unfollowing documents.
    """

    def __init__(self, queries: Sequence[Query], scorer: Scorer) -> None:
        self._scorer = scorer
        self.qrels: dict[str, dict[str, int]] = {}
        self._pairs: list[tuple[str, str]] = []
        texts, documents = [], []
        for number, query in enumerate(queries):
            others = [*query.negatives, *query.unfollowing]
            ids = [f"{POSITIVE}{i}" for i in range(len(query.positives))]
            self.qrels[f"{number}"] = dict.fromkeys(ids, 1)
            ids += [f"{NEGATIVE}{i}" for i in range(len(others))]
            self._pairs += [(f"{number}", doc_id) for doc_id in ids]
            documents += [*query.positives, *others]
            instruction = query.instructions[0] if query.instructions else None
            texts += [join_instruction(instruction, query.text)] * len(ids)
        self._encoded = scorer.tokenizer.encode_pairs(
            texts, documents, max_length=scorer.max_length, truncation=scorer.truncation
        )

    def figures(self) -> Figures:
        """The figures of the model as it is now."""
        if not self.qrels:
            return Figures(0, 0.0, 0, 0)
        margins = self._scorer.score_encoded(self._encoded).margin.tolist()
        run: dict[str, dict[str, float]] = {}
        for (query_id, doc_id), margin in zip(self._pairs, margins, strict=True):
            run.setdefault(query_id, {})[doc_id] = margin
        labels = [doc_id.startswith(POSITIVE) for _, doc_id in self._pairs]
        right = sum((margin > 0) == label for margin, label in zip(margins, labels, strict=True))
        return Figures(len(self.qrels), mean(NDCG_AT_10, self.qrels, run), len(labels), right)
