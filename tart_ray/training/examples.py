"""What is trained on: a query of a task, with the documents that answer it and those that do not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """A query and its documents, as texts (title in front).

    Attributes:
        text: the query, without an instruction.
        task: random negatives are drawn, and instruction-unfollowing ones counted, within it.
        instructions: the task's; one of them is drawn for each pair. None: the bare query is trained on.
        positives: documents that answer the query as the instructions ask.
        negatives: documents that do not, hard ones as a rule.
        unfollowing: documents that answer the query, but not as the instructions ask.
        positive_scores: a teacher's margins, one for each positive, or none at all.
        negative_scores: a teacher's margins, one for each negative, or none at all.
    """

    text: str
    task: str
    instructions: tuple[str, ...]
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    unfollowing: tuple[str, ...] = ()
    positive_scores: tuple[float, ...] = ()
    negative_scores: tuple[float, ...] = ()

    @property
    def has_scores(self) -> bool:
        """Whether a teacher scored every positive and negative."""
        return bool(self.positive_scores and self.negative_scores)


def fingerprint_queries(queries: Iterable[Query]) -> str:
    """A hash that changes with any text, score or order of the examples."""
    digest = hashlib.blake2b(digest_size=16)
    for query in queries:
        digest.update(repr(query).encode())
    return digest.hexdigest()
