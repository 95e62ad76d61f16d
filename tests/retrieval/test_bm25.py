"""BM25 against scores worked out by hand. `tests/evaluation/test_rankings.py` compares it with a run over Cranfield."""

from __future__ import annotations

import math

import pytest

from tart_ray.errors import InputError
from tart_ray.retrieval.bm25 import Bm25


def test_scores_by_hand() -> None:
    texts = {"a": "Wing, wing flow", "b": "heat of the flow", "c": "wing", "d": "of the"}  # 3, 2, 1 and 0 words
    found = Bm25(texts).search("WING and the flow", 4)

    def gain(times: int, length: int) -> float:
        """Lucene's, with the inverse document frequency of a word that two of four documents have."""
        return math.log(1 + (4 - 2 + 0.5) / (2 + 0.5)) * times / (times + 1.5 * (1 - 0.75 + 0.75 * length / 1.5))

    assert found == pytest.approx({"a": gain(2, 3) + gain(1, 3), "c": gain(1, 1), "b": gain(1, 2)}, rel=1e-6)
    assert [*found] == ["a", "c", "b"]
    assert [*Bm25(texts).search("wing flow", 1)] == ["a"]
    assert Bm25(texts).search("of the zebra", 4) == {}


def test_words_and_stop_words_may_be_others() -> None:
    texts = {"x": "is_in a", "y": "IS b"}
    assert [*Bm25(texts).search("is a b", 2)] == []
    assert [*Bm25(texts, stopwords=None).search("is a b", 2)] == ["y"]
    assert [*Bm25(texts, word="[a-z]+", stopwords=None).search("is a b a", 2)] == ["x", "y"]


def test_of_equal_documents_those_are_taken_that_trec_eval_ranks_first() -> None:
    texts = dict.fromkeys("caebd", "wing flow") | {"top": "wing wing", "none": "heat"}
    index = Bm25(texts)
    assert [*index.search("wing", 3)] == ["top", "e", "d"]
    assert [*index.search("wing", 100)] == ["top", *"edcba"]
    assert [*index.search("heat wing", 3)] == ["none", "top", "e"]


@pytest.mark.parametrize("texts", [{}, {"a": "", "b": "the of"}])
def test_a_corpus_without_a_word_is_refused(texts: dict[str, str]) -> None:
    with pytest.raises(InputError, match=f"BM25: got a corpus of {len(texts)} documents without a word"):
        Bm25(texts)
