"""Documents ranked, and pairs predicted, as users of sentence-transformers' CrossEncoder expect it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.cross_encoders import make_bert

from tart_ray import Scorer
from tart_ray.model.template import Template
from tart_ray.scoring.ranking import Document, Instructions, RanksDocuments
from tart_ray.scoring.scores import Scores
from tart_ray.tables.texts import document_texts


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Scorer:
    return Scorer.from_pretrained(tiny_checkpoint, device="cpu")


class Counting(RanksDocuments):
    """Obviously fake: the margin of a pair is a number that its document says."""

    def score(self, queries: Sequence[str], documents: Sequence[Document], instructions: Instructions = None) -> Scores:
        margins = np.array([float(str(document)) for document in documents], np.float32)
        return Scores(np.stack([np.zeros_like(margins), margins], axis=1))


def test_documents_come_by_margin_and_ties_in_the_order_of_the_input() -> None:
    ranked = Counting().rank("q", ["1", "-2", "3", "1", "nan", "3"])
    assert [found["corpus_id"] for found in ranked] == [2, 5, 0, 3, 1, 4]
    assert [found["margin"] for found in ranked[:5]] == [3, 3, 1, 1, -2]
    assert ranked[2]["score"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_margins_rank_where_scores_saturate() -> None:
    ranked = Counting().rank("q", ["40", "50", "45"])
    assert [found["score"] for found in ranked] == [1, 1, 1]
    assert [found["corpus_id"] for found in ranked] == [1, 2, 0]


def test_the_first_k_and_their_documents() -> None:
    ranked = Counting().rank("q", ["1", "2", "3"], top_k=2, return_documents=True)
    assert [(found["corpus_id"], found["text"]) for found in ranked] == [(2, "3"), (1, "2")]
    assert len(Counting().rank("q", ["1"], top_k=5)) == 1
    assert Counting().rank("q", []) == []
    with pytest.raises(ValueError, match="top_k: got 0, expected 1 or more, or None"):
        Counting().rank("q", ["1"], top_k=0)


def test_a_ranking_is_of_the_scores_of_the_pairs(tiny: Scorer, sentences: list[str]) -> None:
    documents = sentences[:20]
    scores = tiny.score(["wing flow"] * 20, documents, "Find it")
    ranked = tiny.rank("wing flow", documents, "Find it")
    places = [found["corpus_id"] for found in ranked]
    assert sorted(places) == list(range(20))
    assert [found["margin"] for found in ranked] == sorted(scores.margin.tolist(), reverse=True)
    assert [found["score"] for found in ranked] == scores.score[places].tolist()
    assert all("text" not in found for found in ranked)


TITLED: list[Any] = [
    {"title": "wing", "text": "flow over a plate"},
    {"title": None, "text": "heat"},
    {"text": "jet body", "_id": "d3"},
    "lift",
    {"title": "mach", "text": ""},
]


def test_title_and_text_are_read_as_a_job_reads_them(tiny: Scorer) -> None:
    columns = {
        "title": ["wing", None, None, None, "mach"],
        "text": ["flow over a plate", "heat", "jet body", "lift", ""],
    }
    read = document_texts(pa.table(columns))[0]
    expected = tiny.score(["q"] * 5, read).margin
    np.testing.assert_array_equal(tiny.score(["q"] * 5, TITLED).margin, expected)
    ranked = tiny.rank("q", TITLED, return_documents=True)
    assert {found["corpus_id"]: found["margin"] for found in ranked} == dict(enumerate(expected.tolist()))
    assert all(found["text"] is TITLED[found["corpus_id"]] for found in ranked)


def test_every_window_has_the_title_and_is_counted_in_the_text(tiny: Scorer, tiny_checkpoint: Path) -> None:
    reading = Scorer.from_pretrained(tiny_checkpoint, device="cpu", max_length=32, long_documents="maxp")
    text = "flow heat plate " * 20
    scores = reading.score(["jet"], [{"title": "wing", "text": text}])
    windows = reading.tokenizer.encode_windows(["jet"], [f"wing {text}".strip()], heads=[4], max_length=32)
    alone = reading.score_encoded(windows.rows).margin
    assert scores.margin[0] == pytest.approx(alone.max(), abs=1e-5)
    assert scores.windows is not None
    best = int(scores.windows.index[0])
    expected = np.maximum(windows.spans[best] - len("wing "), 0)
    assert [scores.windows.start[0], scores.windows.end[0]] == expected.tolist()


def test_a_template_puts_title_and_text_together(tmp_path: Path) -> None:
    checkpoint = make_bert(tmp_path)
    template = Template(document="{text} of {title}")
    scorer = Scorer.from_pretrained(checkpoint, device="cpu", max_length=100, template=template)
    ranked = scorer.rank("what is it", [{"title": "france", "text": "the capital"}, "paris"])
    bare = Template(document="{text}")
    plain = Scorer.from_pretrained(checkpoint, device="cpu", max_length=100, template=bare)
    expected = plain.score(["what is it"] * 2, ["the capital of france", "paris of"]).margin
    margins = [found["margin"] for found in sorted(ranked, key=lambda found: found["corpus_id"])]
    np.testing.assert_allclose(margins, expected, atol=1e-6)


# Pairs


def test_predictions_are_the_probabilities_of_the_pairs(tiny: Scorer) -> None:
    pairs = [("wing", "flow over a plate"), ("heat", "jet")]
    expected = tiny.score(["wing", "heat"], ["flow over a plate", "jet"], ["Find it", None]).score
    predicted = tiny.predict(pairs, ["Find it", None])
    assert isinstance(predicted, np.ndarray)
    assert (predicted.dtype, predicted.shape) == (np.float32, (2,))
    np.testing.assert_array_equal(predicted, expected)
    np.testing.assert_array_equal(tiny.predict(np.array(pairs), ["Find it", None]), expected)  # type: ignore[arg-type]
    titled = tiny.predict([["wing", {"title": "flow", "text": "over a plate"}]], "Find it")
    np.testing.assert_allclose(titled, expected[:1], atol=1e-6)


def test_one_pair_gives_a_number(tiny: Scorer) -> None:
    one = tiny.predict(("wing", "flow"), "Find it")
    assert isinstance(one, float)
    assert one == float(tiny.score(["wing"], ["flow"], "Find it").score[0])
    none = tiny.predict([])
    assert isinstance(none, np.ndarray)
    assert (none.dtype, none.shape) == (np.float32, (0,))


def test_a_cross_encoder_predicts_what_its_library_does(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="of the extra cross-encoders")
    pairs = [["what", "paris is the capital"], ["history", "dog"]]
    theirs = sentence_transformers.CrossEncoder(str(make_bert(tmp_path)), device="cpu", max_length=100)
    ours = Scorer.from_pretrained(tmp_path, device="cpu", max_length=100)
    np.testing.assert_allclose(ours.predict(pairs), theirs.predict(pairs), atol=1e-6)
    documents = ["paris is the capital", "dog", "history of science"]
    ranked = theirs.rank("what", documents, return_documents=True)
    found = ours.rank("what", documents, return_documents=True)
    assert [(one["corpus_id"], one["text"]) for one in found] == [(one["corpus_id"], one["text"]) for one in ranked]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in ranked], abs=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda it: it.rank("q", "a text"), TypeError, r"documents: got .a text. \(str\), expected a list of texts"),
        (lambda it: it.rank("q", {"text": "a"}), TypeError, "documents: got a dict, expected a list of documents"),
        (
            lambda it: it.rank("q", [{"body": "a"}]),
            ValueError,
            r"documents\[0\]: got the keys \['body'\], expected text",
        ),
        (lambda it: it.rank("q", ["a", {"text": None}]), TypeError, r"documents\[1\]: got None"),
        (lambda it: it.rank("q", [{"text": "a", "title": 3}]), TypeError, r"documents\[0\]\.title: got int"),
        (lambda it: it.rank(None, ["a"]), TypeError, r"queries\[0\]: got None"),
        (lambda it: it.predict("a text"), TypeError, r"pairs: got str, expected a list of \(query, document\)"),
        (lambda it: it.predict(["q", "a", "b"]), ValueError, r"pairs\[0\]: got \['q', 'a', 'b'\], expected a query"),
        (lambda it: it.predict([("q", "a"), ("q",)]), ValueError, r"pairs\[1\]: got \('q',\), expected a query"),
        (lambda it: it.predict([("q", "a"), "b"]), ValueError, r"pairs\[1\]: got 'b', expected a query"),
        (lambda it: it.predict([("q", None)]), TypeError, r"documents\[0\]: got None"),
    ],
)
def test_what_is_no_document_and_no_pair_is_refused_by_its_place(
    tiny: Scorer, call: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(tiny)
