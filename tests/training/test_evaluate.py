"""nDCG@10 of held-out queries, worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tart_ray import EncT5ForSequenceClassification, EncT5Tokenizer, Scorer
from tart_ray.model.encoded import EncodedPairs
from tart_ray.training.evaluate import Evaluation
from tart_ray.training.examples import Query

QUERIES = [
    Query("wing", "t", ("Find it", "not this one, which is so much longer"), ("a a a a a a a a",), ("b", "c c c c")),
    Query("lift", "", (), ("d", "e e e e e e e"), ("f f f f",), ("g g g g g g g g g g g g",)),
]


@pytest.fixture
def by_length(tiny_checkpoint: Path) -> Callable[[int], Scorer]:
    """Scorers that rank by the number of tokens, times a sign."""
    model = EncT5ForSequenceClassification.from_pretrained(tiny_checkpoint)
    tokenizer = EncT5Tokenizer.from_pretrained(tiny_checkpoint)

    def make(sign: int) -> Scorer:
        def encode(pairs: EncodedPairs, rows: Any) -> torch.Tensor:
            margin = torch.from_numpy(pairs.lengths[rows].astype(np.float32)) * sign
            return torch.stack([torch.zeros_like(margin), margin], dim=1)

        return Scorer(model, tokenizer, encoder=encode)

    return make


def test_ndcg_by_hand(by_length: Callable[[int], Scorer]) -> None:
    rank_2 = 1 / math.log2(3)
    # longest first: a of a, c, b; g, e, f, d of which e and d are positive
    second = (rank_2 + 1 / math.log2(5)) / (1 + rank_2)
    assert Evaluation(QUERIES, by_length(1)).figures().ndcg_at_10 == pytest.approx((1 + second) / 2)
    # shortest first: b, c, a; d, f, e, g
    figures = Evaluation(QUERIES, by_length(-1)).figures()
    assert figures.ndcg_at_10 == pytest.approx((0.5 + (1 + 0.5) / (1 + rank_2)) / 2)
    assert (figures.queries, figures.pairs) == (2, 7)


def test_labels_are_right_where_the_margin_has_the_sign_of_the_answer(by_length: Callable[[int], Scorer]) -> None:
    assert Evaluation(QUERIES, by_length(1)).figures().right == 3, "all are called relevant: a, d and e are"
    assert Evaluation(QUERIES, by_length(-1)).figures().right == 4, "none is"
    assert Evaluation(QUERIES, by_length(0)).figures().right == 4, "a margin of 0 is label 0, as argmax has it"


def test_a_model_that_cannot_tell_documents_apart_gets_nothing_for_it(by_length: Callable[[int], Scorer]) -> None:
    query = Query("wing", "t", (), ("a",), tuple("bcdefghijk"))
    assert Evaluation([query], by_length(0)).figures().ndcg_at_10 == 0.0
