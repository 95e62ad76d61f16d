"""Tokenising a chunk: which rows have no ids, and why."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.specs import spec_of

from tart_ray import EncT5Tokenizer, Scorer
from tart_ray.config import RerankConfig
from tart_ray.scores.encode import encode
from tart_ray.scores.spec import ScoringSpec

NOTHING = "\u200b \x01\ufeff"  # zero-width space, a control character, a byte order mark
QUERY = "the query encodes to no token: it holds nothing but characters that the model's vocabulary leaves out"
DOCUMENT = QUERY.replace("query", "document")


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> EncT5Tokenizer:
    return EncT5Tokenizer.from_pretrained(tiny_checkpoint)


def spec(tiny_checkpoint: Path, **sections: Any) -> ScoringSpec:
    base: dict[str, Any] = {"input": {"candidates": "x"}, "output": {"path": "x"}, "model": {}}
    for name, section in sections.items():
        base[name] |= section
    base["model"] |= {"path": str(tiny_checkpoint)}
    return spec_of(RerankConfig.model_validate(base))


def chunk(rows: list[tuple[str, str | None, str]]) -> pa.Table:
    queries, titles, texts = zip(*rows, strict=True)
    columns = {"query": queries, "title": titles, "text": texts, "instruction": ["Find it"] * len(rows)}
    return pa.table({name: pa.array([*values], pa.large_string()) for name, values in columns.items()})


ROWS = [
    ("wing", None, "flow"),
    ("wing", None, NOTHING),
    (NOTHING, None, "flow"),
    ("wing", "a title", NOTHING),
    (NOTHING, None, NOTHING),
    ("?!", None, "..."),
    ("wing", NOTHING, "plate"),
]


@pytest.mark.parametrize("long_documents", ["truncate", "maxp"])
def test_rows_of_which_nothing_is_left_are_told_apart(
    long_documents: str, tokenizer: EncT5Tokenizer, tiny_checkpoint: Path
) -> None:
    settings = spec(tiny_checkpoint, model={"long_documents": long_documents})
    pairs, reasons = encode(tokenizer, chunk(ROWS), settings)
    assert reasons == {1: DOCUMENT, 2: QUERY, 4: QUERY}
    alone = [encode(tokenizer, chunk([ROWS[i]]), settings)[0].rows.row(0).tolist() for i in (0, 3, 5, 6)]
    assert [pairs.rows.row(i).tolist() for i in range(len(pairs))] == alone


def test_empty_documents_that_are_to_be_scored_are(tokenizer: EncT5Tokenizer, tiny_checkpoint: Path) -> None:
    settings = spec(tiny_checkpoint, input={"empty_documents": "score"})
    pairs, reasons = encode(tokenizer, chunk([*ROWS, ("wing", None, " ")]), settings)
    assert reasons == {2: QUERY, 4: QUERY}
    np.testing.assert_array_equal(pairs.rows.row(1), pairs.rows.row(5))  # <s> Find it [SEP] wing </s> </s>
    assert pairs.rows.row(1)[-2:].tolist() == [tokenizer.eos_token_id] * 2


def test_queries_without_room_are_counted_by_their_place_among_all(
    tokenizer: EncT5Tokenizer, tiny_checkpoint: Path
) -> None:
    settings = spec(tiny_checkpoint, model={"truncation": "only_document", "max_length": 24})
    rows = [("wing", None, NOTHING), ("wing", None, "flow"), ("wing " * 30, None, "flow " * 9), ("heat", None, "flow")]
    pairs, reasons = encode(tokenizer, chunk(rows), settings)
    assert reasons == {0: DOCUMENT, 2: "instruction and query leave too little room for a document in model.max_length"}
    assert len(pairs) == 2


def test_only_rows_without_tokens(tokenizer: EncT5Tokenizer, tiny_checkpoint: Path) -> None:
    pairs, reasons = encode(tokenizer, chunk([("wing", None, NOTHING)]), spec(tiny_checkpoint))
    assert (len(pairs), reasons) == (0, {0: DOCUMENT})


def test_a_scorer_tells_of_texts_that_it_scores_as_empty(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = Scorer.from_pretrained(tiny_checkpoint, device="cpu")
    with caplog.at_level(logging.WARNING):
        told = scorer.score(["wing"] * 3, ["flow", NOTHING, ""]).margin
        assert told[1] == told[2]
        assert "2 documents encode to no token and are scored as empty texts; the first is documents[1]" in caplog.text
        caplog.clear()
        scorer.score(["wing"], ["..."])
        assert not caplog.records
