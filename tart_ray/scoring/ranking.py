"""What a notebook asks of a model beside its logits: one query's documents ranked, one number for each pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from tart_ray.scoring.scores import Scores

Document = str | Mapping[str, Any]  # a text, or ``text`` and, if need be, ``title``
Instructions = Sequence[str | None] | str | None


class RankedDocument(TypedDict):
    """A document of `RanksDocuments.rank`; ``text`` is the document as it was given, where it was asked for."""

    corpus_id: int
    score: float
    margin: float
    text: NotRequired[Document]


class RanksDocuments(ABC):
    """A scorer of pairs that is also called as sentence-transformers' ``CrossEncoder`` is."""

    @abstractmethod
    def score(self, queries: Sequence[str], documents: Sequence[Document], instructions: Instructions = None) -> Scores:
        """Score ``documents[i]`` for ``queries[i]`` under ``instructions[i]``, or under one instruction for all."""

    def rank(
        self,
        query: str,
        documents: Sequence[Document],
        instruction: str | None = None,
        *,
        top_k: int | None = None,
        return_documents: bool = False,
    ) -> list[RankedDocument]:
        """One query's documents, the most relevant first: by margin, those that tie in the order of the input.

        Args:
            documents: texts, or mappings of ``text`` and, if need be, ``title``; other keys are not read.
            top_k: documents that are returned; None returns all.
            return_documents: whether each comes with its document, under ``text``.

        Returns:
            For each document its place in ``documents`` (``corpus_id``), its probability (``score``) and its
            ``margin``. Scores that saturate tie where margins do not, so ranks may differ among equal scores.

        Raises:
            TypeError, ValueError: as `score`; or a ``top_k`` below 1.
        """
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k: got {top_k}, expected 1 or more, or None for all documents")
        texts, _ = split_titles(documents)
        scores = self.score([query] * len(texts), documents, instruction)
        ranked: list[RankedDocument] = []
        for place in np.argsort(-scores.margin, kind="stable")[:top_k].tolist():
            found = RankedDocument(
                corpus_id=place, score=float(scores.score[place]), margin=float(scores.margin[place])
            )
            if return_documents:
                found["text"] = documents[place]
            ranked.append(found)
        return ranked

    def predict(self, pairs: Sequence[Any], instruction: Instructions = None) -> npt.NDArray[np.float32] | float:
        """The probability of "relevant" of each pair of a query and a document, or of a single pair.

        It is `Scores.score`, and what ``CrossEncoder.predict`` gives for a model with one label. To rank by, take the
        margins of `score`, which do not saturate.

        Args:
            pairs: (query, document) of each, or one such pair; documents as of `rank`.
            instruction: for all pairs, or one for each.

        Returns:
            float32 (n,), in the order of the input; a float for a single pair.

        Raises:
            TypeError, ValueError: as `score`; or something else than a query and a document in ``pairs``.
        """
        if isinstance(pairs, str | bytes | Mapping) or not isinstance(pairs, Iterable):
            raise TypeError(f"pairs: got {type(pairs).__name__}, expected a list of (query, document), or one of them")
        given = list(pairs)
        single = bool(given) and isinstance(given[0], str)
        columns: tuple[list[str], list[Document]] = ([], [])
        for place, pair in enumerate([given] if single else given):
            if isinstance(pair, str | Mapping) or not isinstance(pair, Iterable) or len(parts := list(pair)) != 2:
                raise ValueError(f"pairs[{place}]: got {pair!r:.60}, expected a query and a document")
            columns[0].append(parts[0])
            columns[1].append(parts[1])
        scores = self.score(*columns, instruction).score
        return float(scores[0]) if single else scores


def split_titles(documents: Sequence[Document]) -> tuple[Sequence[str], list[str | None] | None]:
    """The texts of documents, and their titles; None where all documents are texts.

    Raises:
        TypeError: a single document in place of a list, or a mapping whose ``title`` is neither a text nor None.
        ValueError: a mapping without ``text``.
    """
    if isinstance(documents, Mapping):
        raise TypeError(f"documents: got a {type(documents).__name__}, expected a list of documents")
    if not isinstance(documents, Iterable) or not any(isinstance(document, Mapping) for document in documents):
        return documents, None  # type: ignore[return-value]  # who scores them checks texts
    titles: list[str | None] = []
    for place, document in enumerate(documents):
        title = document.get("title") if isinstance(document, Mapping) else None
        if isinstance(document, Mapping) and "text" not in document:
            raise ValueError(f"documents[{place}]: got the keys {[*document]}, expected text and, if need be, title")
        if not isinstance(title, str | None):
            raise TypeError(f"documents[{place}].title: got {type(title).__name__}, expected a text or None")
        titles.append(title)
    return [found["text"] if isinstance(found, Mapping) else found for found in documents], titles
