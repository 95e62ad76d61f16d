"""An example of training: a query of a task, with documents that answer it and documents that do not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """A query and the texts of its documents, with their titles in front.

    Attributes:
        text: the query, without an instruction.
        task: random negatives are drawn from the same task, and instruction-unfollowing ones are counted by task.
        instructions: those of the task, of which one is drawn for each pair; if empty, the query is used alone.
        positives: documents that answer the query as the instructions ask.
        negatives: documents that do not answer it, usually hard ones.
        unfollowing: documents that answer the query, but not as the instructions ask.
        positive_scores: a teacher's margin of each positive, or empty.
        negative_scores: a teacher's margin of each negative, or empty.
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
