"""BM25 over a corpus in memory."""

from __future__ import annotations

from collections.abc import Mapping

import bm25s
import numpy as np

from tart_ray.errors import InputError

WORD = r"(?u)\b\w\w+\b"
ENGLISH = "en"


class Bm25:
    """An index by bm25s with its defaults: Lucene's variant of BM25, k1 = 1.5, b = 0.75.

    Holds the corpus' tokens in memory: about 1 KB a passage while it is built.

    Args:
        texts: document id → text.
        word: a regular expression of the words of texts and queries, which are in lower case when they are looked for.
        stopwords: the language whose most frequent words are left out; None leaves out none.

    Raises:
        InputError: no document has a word.
    """

    def __init__(self, texts: Mapping[str, str], *, word: str = WORD, stopwords: str | None = ENGLISH) -> None:
        self._doc_ids, self._word, self._stopwords = [*texts], word, stopwords
        tokens = bm25s.tokenize([*texts.values()], token_pattern=word, stopwords=stopwords, show_progress=False)
        if not any(tokens.ids):
            raise InputError(f"BM25: got a corpus of {len(texts)} documents without a word, expected some")
        self._index = bm25s.BM25()
        self._index.index(tokens, show_progress=False)

    def search(self, query: str, k: int) -> dict[str, float]:
        """The ``k`` best documents at most, best first: document id → score, which is above 0.

        A document without any word of the query is not in it. Documents with equal scores are ordered as trec_eval
        ranks them, the one with the greatest id first, whatever machine this is.
        """
        (words,) = bm25s.tokenize(
            [query], token_pattern=self._word, stopwords=self._stopwords, return_ids=False, show_progress=False
        )
        scores = self._index.get_scores_from_ids(self._index.get_tokens_ids(words))
        least = np.partition(scores, -k)[-k] if k < len(scores) else 0.0
        hits = np.flatnonzero((scores > 0) & (scores >= least))
        found = [(float(score), self._doc_ids[hit]) for hit, score in zip(hits, scores[hits], strict=True)]
        return {doc_id: score for score, doc_id in sorted(found, reverse=True)[:k]}
