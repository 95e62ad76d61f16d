"""One replica: the order of its scores, precision, labels, and running out of memory."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tart_ray import EncT5ForSequenceClassification, EncT5Tokenizer, Scorer
from tart_ray.errors import CheckpointError
from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.truncation import QueryTooLongError
from tart_ray.scoring.batched import _start_fetching
from tart_ray.scoring.dtypes import resolve_dtype
from tart_ray.scoring.scores import Scores

PAIRS = 24
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}


@pytest.fixture
def pairs(sentences: list[str]) -> tuple[list[str], list[str], list[str | None]]:
    """Queries, documents and instructions of very unequal lengths, in no order of length."""
    draw = np.random.default_rng(1)
    documents = [" ".join(sentences[i].split()[: draw.integers(1, 30)]) for i in range(PAIRS)]
    queries = [" ".join(sentence.split()[:3]) for sentence in sentences[-PAIRS:]]
    instructions = [None if i % 3 == 0 else "Find a test" if i % 3 == 1 else "" for i in range(PAIRS)]
    return queries, documents, instructions


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Scorer:
    return Scorer.from_pretrained(tiny_checkpoint, device="cpu")


def test_golden_scores(shared_data: Path, device: str) -> None:
    golden = json.loads((shared_data / "golden_pairs.json").read_text())
    scorer = Scorer.from_pretrained(shared_data / "tart-tiny", device=device, dtype="float32")
    scores = scorer.score(*([pair[name] for pair in golden] for name in ("query", "document", "instruction")))
    tolerance = TOLERANCE[device]
    np.testing.assert_allclose(scores.logits, [pair["logits"] for pair in golden], atol=tolerance, rtol=0)
    np.testing.assert_allclose(scores.score, [pair["score"] for pair in golden], atol=tolerance, rtol=0)
    np.testing.assert_array_equal(scores.margin, scores.logits[:, 1] - scores.logits[:, 0])


# The order of the input


def test_scores_are_in_the_order_of_the_input(
    tiny_checkpoint: Path, device: str, pairs: tuple[list[str], list[str], list[str | None]]
) -> None:
    scorer = Scorer.from_pretrained(tiny_checkpoint, device=device, dtype="float32", max_tokens_per_batch=300)
    together = scorer.score(*pairs)
    alone = [scorer.score([query], [document], [told]) for query, document, told in zip(*pairs, strict=True)]
    assert together.logits.shape == (PAIRS, 2)
    assert together.logits.dtype == together.margin.dtype == together.score.dtype == np.float32
    assert len(np.unique(together.margin)) == PAIRS  # a wrong order would show
    expected = np.concatenate([scores.logits for scores in alone])
    np.testing.assert_allclose(together.logits, expected, atol=TOLERANCE[device], rtol=0)


def test_the_budget_does_not_change_scores(
    tiny: Scorer, tiny_checkpoint: Path, pairs: tuple[list[str], list[str], list[str | None]]
) -> None:
    small = Scorer.from_pretrained(tiny_checkpoint, device="cpu", max_tokens_per_batch=1)
    np.testing.assert_allclose(small.score(*pairs).logits, tiny.score(*pairs).logits, atol=1e-5, rtol=0)


def test_one_instruction_for_all(tiny: Scorer) -> None:
    queries, documents = ["wing", "heat"], ["flow", "plate"]
    one = tiny.score(queries, documents, "Find it").logits
    assert (one == tiny.score(queries, documents, ["Find it", "Find it"]).logits).all()
    assert (one == tiny.score(["Find it [SEP] wing", "Find it [SEP] heat"], documents).logits).all()
    assert (one != tiny.score(queries, documents).logits).all()


def test_a_text_is_no_list_of_texts(tiny: Scorer) -> None:
    with pytest.raises(TypeError, match=r"documents: got .a document. \(str\), expected a list of texts"):
        tiny.score(["a query"], "a document")


NAN = float("nan")


@pytest.mark.parametrize(
    ("queries", "documents", "instructions", "error", "message"),
    [
        ([None], ["a"], "Find", TypeError, r"queries\[0\]: got None \(NoneType\), expected a text"),
        ([None], ["a"], None, TypeError, r"queries\[0\]: got None"),
        (["q", NAN], ["a", "b"], "Find", TypeError, r"queries\[1\]: got nan \(float\)"),
        ([["a", "b"]], ["a"], "Find", TypeError, r"queries\[0\]: got \['a', 'b'\] \(list\)"),
        ([b"q"], ["a"], None, TypeError, r"queries\[0\]: got b'q' \(bytes\)"),
        (["q"] * 3, ["a", None, "c"], "Find", TypeError, r"documents\[1\]: got None"),
        (["q"], [NAN], None, TypeError, r"documents\[0\]: got nan"),
        (["q"], ["a"], [NAN], TypeError, r"instructions\[0\]: got nan \(float\), expected a text or None"),
        (["q"], ["a"], NAN, TypeError, r"instructions: got nan \(float\), expected a list of texts"),
        (None, ["a"], None, TypeError, r"queries: got None \(NoneType\), expected a list of texts"),
        (["q"] * 3, ["a", "b", "x\ud83d"], "Find", ValueError, r"documents\[2\]: got '\\ud83d' at character 1"),
        (["\udc00"], ["a"], None, ValueError, r"queries\[0\]: got '\\udc00' at character 0"),
        (["q"], ["a"], ["\ud800 find"], ValueError, r"instructions\[0\]: got"),
        (["q"], ["a"], "find \ud800", ValueError, r"instructions\[0\]: got '\\ud800' at character 5"),
    ],
)
@pytest.mark.parametrize("long_documents", ["truncate", "maxp"])
def test_what_is_no_text_is_refused_by_its_place(
    tiny: Scorer, long_documents: Any, queries: Any, documents: Any, instructions: Any, error: Any, message: str
) -> None:
    scorer = Scorer(tiny.model, tiny.tokenizer, long_documents=long_documents, encoder=tiny._encoder)
    with pytest.raises(error, match=message):
        scorer.score(queries, documents, instructions)


def test_lists_of_other_kinds_are_lists(tiny: Scorer) -> None:
    expected = tiny.score(["wing", "heat"], ["flow", "plate"], [None, "Find"]).margin
    given = tiny.score(np.array(["wing", "heat"]), ("flow", "plate"), np.array([None, "Find"], dtype=object))  # type: ignore[arg-type]
    np.testing.assert_array_equal(given.margin, expected)


def test_nothing_to_score(tiny: Scorer) -> None:
    scores = tiny.score([], [])
    assert (scores.logits.shape, scores.margin.shape, scores.score.shape) == ((0, 2), (0,), (0,))


@pytest.mark.parametrize(
    ("documents", "instructions", "message"),
    [
        (["flow"], None, "got 2 queries, 1 documents and 2 instructions"),
        (["flow", "heat"], ["Find it"], "got 2 queries, 2 documents and 1 instructions"),
    ],
)
def test_unequal_lists_are_refused(tiny: Scorer, documents: list[str], instructions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny.score(["wing", "heat"], documents, instructions)


# Tokenising ahead


def test_pairs_tokenised_in_parts_keep_their_order(
    tiny: Scorer, pairs: tuple[list[str], list[str], list[str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tiny.score(*pairs).logits
    monkeypatch.setattr("tart_ray.scoring.scorer.PAIRS_AHEAD", 7)  # 24 pairs: three parts of 7, one of 3
    np.testing.assert_allclose(tiny.score(*pairs).logits, expected, atol=1e-5, rtol=0)


def test_rows_that_a_part_refuses_are_counted_from_the_first_pair(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer.from_pretrained(tiny_checkpoint, device="cpu", max_length=16, truncation="only_document")
    monkeypatch.setattr("tart_ray.scoring.scorer.PAIRS_AHEAD", 2)
    queries = ["wing", "wing", "wing", "flow heat plate " * 10, "wing"]
    with pytest.raises(QueryTooLongError) as caught:
        scorer.score(queries, ["jet"] * 5)
    assert caught.value.rows == [3]


# Options


def test_options_reach_the_tokenizer(tiny_checkpoint: Path) -> None:
    short = Scorer.from_pretrained(tiny_checkpoint, device="cpu", max_length=16)
    document = "flow heat plate " * 10
    assert (short.score(["wing"], [document]).logits == short.score(["wing"], [document + "jet"]).logits).all()
    keeping = Scorer.from_pretrained(tiny_checkpoint, device="cpu", max_length=16, truncation="only_document")
    with pytest.raises(QueryTooLongError, match="1 pairs"):
        keeping.score([document], ["wing"])
    plain = Scorer.from_pretrained(tiny_checkpoint, device="cpu", split_special_tokens=True)
    parsed = Scorer.from_pretrained(tiny_checkpoint, device="cpu")
    assert (plain.score(["wing"], ["a </s> b"]).logits != parsed.score(["wing"], ["a </s> b"]).logits).all()


def test_bfloat16_is_close_to_float32(
    tiny_checkpoint: Path, device: str, pairs: tuple[list[str], list[str], list[str | None]]
) -> None:
    reference = Scorer.from_pretrained(tiny_checkpoint, device=device, dtype="float32").score(*pairs)
    scorer = Scorer.from_pretrained(tiny_checkpoint, device=device, dtype="bfloat16")
    scores = scorer.score(*pairs)
    assert scorer.model.dtype == torch.bfloat16
    assert scores.logits.dtype == np.float32
    assert (scores.logits != reference.logits).any()
    np.testing.assert_allclose(scores.logits, reference.logits, atol=0.05 * np.abs(reference.logits).max(), rtol=0)
    assert np.corrcoef(scores.margin, reference.margin)[0, 1] > 0.99


@pytest.mark.parametrize("dtype", ["float16", torch.float16, "float64", "int8"])
def test_other_dtypes_are_refused(tiny_checkpoint: Path, dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"dtype: got .*expected one of auto, float32, bfloat16; T5 overflows"):
        Scorer.from_pretrained(tiny_checkpoint, device="cpu", dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "cpu", "cuda"),
    [
        (None, torch.float32, torch.bfloat16),
        ("auto", torch.float32, torch.bfloat16),
        ("float32", torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_dtype_of_a_device(dtype: Any, cpu: torch.dtype, cuda: torch.dtype) -> None:
    assert resolve_dtype(dtype, torch.device("cpu")) == cpu
    assert resolve_dtype(dtype, torch.device("cuda")) == cuda


def test_no_checkpoint_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a local directory"):
        Scorer.from_pretrained(tmp_path / "nothing")


# From logits to scores


def test_three_labels_are_no_relevance(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = EncT5ForSequenceClassification.config_class.from_pretrained(tiny_checkpoint, num_labels=3)
    EncT5ForSequenceClassification(config).save_pretrained(tmp_path)
    EncT5Tokenizer.from_pretrained(tiny_checkpoint).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="got num_labels 3, expected 2") as caught:
        Scorer.from_pretrained(tmp_path, device="cpu")
    assert str(tmp_path) in str(caught.value)


def test_margin_and_score_by_hand() -> None:
    scores = Scores(np.array([[1.0, 1.0], [0.0, np.log(3.0)], [np.log(9.0), 0.0]], dtype=np.float32))
    np.testing.assert_allclose(scores.margin, [0.0, np.log(3.0), -np.log(9.0)], rtol=1e-6)
    np.testing.assert_allclose(scores.score, [0.5, 0.75, 0.1], rtol=1e-6)


def test_the_margin_keeps_the_order_where_the_probability_saturates() -> None:
    scores = Scores(np.array([[-10, 15], [-10, 16], [-20, 30], [60, -60], [70, -60]], dtype=np.float32))
    assert scores.score[:3].tolist() == [1.0, 1.0, 1.0]
    assert scores.margin.tolist() == [25.0, 26.0, 50.0, -120.0, -130.0]
    assert scores.score[3:].tolist() == [0.0, 0.0]


def test_scores_of_extreme_logits_are_finite() -> None:
    scores = Scores(np.array([[0, 1e38], [1e38, 0]], dtype=np.float32))
    assert scores.score.tolist() == [1.0, 0.0]


def test_a_one_label_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = EncT5ForSequenceClassification.config_class.from_pretrained(tiny_checkpoint, num_labels=1)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = EncT5ForSequenceClassification(config).eval()
        torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(tmp_path)
    tokenizer = EncT5Tokenizer.from_pretrained(tiny_checkpoint)
    tokenizer.save_pretrained(tmp_path)

    scores = Scorer.from_pretrained(tmp_path, device="cpu").score(["wing", "heat 7"], ["flow", "plate jet"])
    with torch.inference_mode():
        raw = [model(**tokenizer(*pair, return_tensors="pt")).logits.item() for pair in [("wing", "flow")]]
    assert scores.logits.shape == (2, 1)
    np.testing.assert_array_equal(scores.margin, scores.logits[:, 0])
    np.testing.assert_allclose(scores.margin[0], raw[0], atol=1e-5)
    np.testing.assert_allclose(scores.score, 1 / (1 + np.exp(-scores.margin.astype(np.float64))), rtol=1e-6)


# Running out of memory


class FakeEncoder:
    """Obviously fake: the logits of a row are (0, its length), and few padded tokens fit."""

    def __init__(self, room: int, failing_calls: tuple[int, ...] = ()) -> None:
        self.room = room
        self.failing_calls = failing_calls
        self.calls = 0
        self.done: list[int] = []
        self.costs: list[int] = []

    def __call__(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        self.calls += 1
        lengths = pairs.lengths[rows]
        cost = int(lengths.max()) * len(rows)
        if cost > self.room or self.calls in self.failing_calls:
            raise torch.OutOfMemoryError("not really")
        self.done += rows.tolist()
        self.costs.append(cost)
        return torch.stack([torch.zeros(len(rows)), torch.from_numpy(lengths).float()], dim=1)


def encoded(lengths: list[int]) -> EncodedPairs:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return EncodedPairs(np.ones(offsets[-1], np.int32), offsets, np.zeros(len(lengths), bool))


LENGTHS = [3, 17, 5, 5, 12, 9, 1, 16, 4, 8, 17, 2]


def scorer_with(tiny: Scorer, encoder: FakeEncoder, budget: int) -> Scorer:
    return Scorer(tiny.model, tiny.tokenizer, max_tokens_per_batch=budget, encoder=encoder)


def test_out_of_memory_halves_the_budget(tiny: Scorer, caplog: pytest.LogCaptureFixture) -> None:
    encoder = FakeEncoder(room=40)
    scorer = scorer_with(tiny, encoder, 128)
    with caplog.at_level(logging.WARNING):
        scores = scorer.score_encoded(encoded(LENGTHS))
    assert scores.margin.tolist() == LENGTHS
    assert sorted(encoder.done) == list(range(len(LENGTHS)))
    assert scorer.max_tokens_per_batch == 32  # 128 and 64 let 7 and 3 rows of 17 through, 32 one
    assert [record.args for record in caplog.records] == [(7, 64), (3, 32)]
    assert max(encoder.costs) <= 40


def test_the_smaller_budget_stays(tiny: Scorer) -> None:
    encoder = FakeEncoder(room=40)
    scorer = scorer_with(tiny, encoder, 128)
    scorer.score_encoded(encoded(LENGTHS))
    tried = encoder.calls - len(encoder.costs)
    scorer.score_encoded(encoded(LENGTHS))
    assert encoder.calls - len(encoder.costs) == tried == 2


def test_rows_that_are_done_are_not_done_again(tiny: Scorer) -> None:
    encoder = FakeEncoder(room=10**6, failing_calls=(2, 4))
    scores = scorer_with(tiny, encoder, 64).score_encoded(encoded(LENGTHS))
    assert scores.margin.tolist() == LENGTHS
    assert sorted(encoder.done) == list(range(len(LENGTHS)))
    # 64: 17 17 16 | 12 9 8 5 5 fails, 32: 12 9 | 8 5 5 4 fails, 16: 8 5 | 5 4 3 | 2 1
    assert encoder.costs == [51, 24, 16, 15, 4]


def test_a_small_batch_that_fails_is_split_and_the_budget_stays(tiny: Scorer, caplog: pytest.LogCaptureFixture) -> None:
    encoder = FakeEncoder(room=10**6, failing_calls=(3, 4))
    scorer = scorer_with(tiny, encoder, 64)
    with caplog.at_level(logging.WARNING):
        scores = scorer.score_encoded(encoded(LENGTHS))
    assert scores.margin.tolist() == LENGTHS
    assert sorted(encoder.done) == list(range(len(LENGTHS)))
    # 17 17 16 | 12 9 8 5 5 | 4 3 2 1 fails, 4 3 fails, 4 | 3 | 2 1
    assert encoder.costs == [51, 60, 4, 3, 4]
    assert scorer.max_tokens_per_batch == 64
    assert [record.args for record in caplog.records] == [(4, 64), (2, 64)]


def test_a_single_row_that_does_not_fit_is_an_error(tiny: Scorer) -> None:
    encoder = FakeEncoder(room=16)
    with pytest.raises(torch.OutOfMemoryError):
        scorer_with(tiny, encoder, 128).score_encoded(encoded(LENGTHS))


def test_rows_that_only_fit_alone(tiny: Scorer) -> None:
    encoder = FakeEncoder(room=17)
    scores = scorer_with(tiny, encoder, 128).score_encoded(encoded([17, 17, 17]))
    assert scores.margin.tolist() == [17, 17, 17]
    assert encoder.costs == [17, 17, 17]


# Fetching results


def test_results_are_awaited_on_the_stream_of_their_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        """Logits on the second device, and an event that keeps which stream it was recorded on."""

        device = torch.device("cuda:1")
        streams: ClassVar[list[Any]] = []

        def to(self, *_: Any, **__: Any) -> torch.Tensor:
            return torch.ones(2)

        def record(self, stream: Any = "of the current device") -> None:
            self.streams.append(stream)

        def synchronize(self) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "Event", Fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"of {device}")
    assert _start_fetching(Fake())().tolist() == [1, 1]  # type: ignore[arg-type]
    assert Fake.streams == ["of cuda:1"]


# Long documents


class NeedleEncoder:
    """Obviously fake: the margin of a row is how often one token is in it; memory for four rows of 512."""

    def __init__(self, needle: int) -> None:
        self._needle = needle

    def __call__(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        if len(rows) > 4:
            raise torch.OutOfMemoryError("not really")
        found = torch.tensor([float((pairs.row(int(row)) == self._needle).sum()) for row in rows])
        return torch.stack([torch.zeros(len(rows)), found], dim=1)


def test_the_window_that_holds_the_answer_gives_the_score(tiny: Scorer) -> None:
    """A special token is one token: 512 less 3 and 1 of the query are 508, so 1,200 tokens are read in three windows,
    from 0, 346 and 692 (see tests/model/test_windows.py). Token 600 is in the second alone, 800 in the last two,
    token 100 in the first, and 1,199 in the last.
    """
    filler, needle = "<extra_id_5>", "<extra_id_7>"
    width = len(filler)
    places = [[600], [800], [100], [1_199, 1_190, 700, 100], []]
    documents = ["".join(needle if i in found else filler for i in range(1_200)) for found in places]
    encoder = NeedleEncoder(tiny.tokenizer.encode_texts([needle])[0][0])
    options: Any = {"encoder": encoder, "max_tokens_per_batch": 10 * 512}
    scorer = Scorer(tiny.model, tiny.tokenizer, long_documents="maxp", **options)
    scores = scorer.score(["<pad>"] * 6, [*documents, needle])
    assert scores.margin.tolist() == [1, 1, 1, 3, 0, 1]
    assert scores.windows is not None
    assert scores.windows.index.tolist() == [1, 1, 0, 2, 0, 0]
    assert scores.windows.count.tolist() == [3, 3, 3, 3, 3, 1]
    assert scores.windows.start.tolist() == [346 * width, 346 * width, 0, 692 * width, 0, 0]
    assert scores.windows.end.tolist() == [854 * width, 854 * width, 508 * width, 1_200 * width, 508 * width, width]
    assert scorer.max_tokens_per_batch == 1_280  # 5,120 and 2,560 let 10 and 5 rows through
    truncating = Scorer(tiny.model, tiny.tokenizer, **options)
    cut = truncating.score(["<pad>"] * 6, [*documents, needle])
    assert cut.margin.tolist() == [0, 0, 1, 1, 0, 1]
    assert cut.windows is None


def test_the_best_of_windows_scored_one_by_one_by_a_real_model(tiny_checkpoint: Path, sentences: list[str]) -> None:
    reading = Scorer.from_pretrained(tiny_checkpoint, device="cpu", max_length=64, long_documents="maxp")
    documents = [" ".join(sentences[i : i + 9]) for i in range(0, 72, 9)]
    scores = reading.score(["wing flow"] * len(documents), documents, "Find it")
    assert scores.windows is not None
    windows = reading.tokenizer.encode_windows(["Find it [SEP] wing flow"] * len(documents), documents, max_length=64)
    for i in range(len(documents)):
        rows = range(windows.starts[i], windows.starts[i + 1])
        alone = [reading.score_encoded(windows.rows.take(np.array([row]))).margin[0] for row in rows]
        assert scores.margin[i] == pytest.approx(max(alone), abs=1e-5)
        assert scores.windows.index[i] == np.argmax(alone)
    assert len({*scores.windows.index.tolist()}) > 2


def test_documents_that_fit_score_exactly_as_when_others_are_cut(
    tiny: Scorer, tiny_checkpoint: Path, pairs: tuple[list[str], list[str], list[str | None]]
) -> None:
    scores = Scorer.from_pretrained(tiny_checkpoint, device="cpu", long_documents="maxp").score(*pairs)
    np.testing.assert_array_equal(scores.logits, tiny.score(*pairs).logits)
