"""A scorer that chooses its encoder, follows the choice of another, and falls back to the reference."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.random_models import LENGTHS, all_rows, make_model, make_pairs

from tart_ray import EncT5ForSequenceClassification
from tart_ray.model.encoded import EncodedPairs
from tart_ray.scoring.candidates import named
from tart_ray.scoring.choice import Choice
from tart_ray.scoring.choosing import ChoosingScorer, sample
from tart_ray.scoring.encoder import PackedEncoder
from tart_ray.scoring.reference import Encoder, ReferenceEncoder
from tart_ray.scoring.trials import Expected

PAIRS = make_pairs(LENGTHS)
MODEL = make_model()
LOGITS = ReferenceEncoder(MODEL)(PAIRS, all_rows(PAIRS)).numpy()
FAST = Choice("fast", "another device", "float32", 512)


class Changed:
    """The packed encoder, or something that goes wrong; counts the batches."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits) -> None:
        self._encoder, self._change, self.calls = PackedEncoder(MODEL), change, 0

    def __call__(self, pairs: EncodedPairs, rows: Any) -> torch.Tensor:
        self.calls += 1
        return self._change(self._encoder(pairs, rows))


class Trying(ChoosingScorer):
    """With candidates of the test's own beside the reference."""

    def __init__(self, **options: Any) -> None:
        self.fast = Changed()
        super().__init__(MODEL, max_length=200, expected=Expected.of(MODEL, 200), **options)

    def candidates(self, max_tokens: int) -> dict[str, Callable[[], Encoder]]:
        return {"reference": lambda: ReferenceEncoder(MODEL), "fast": lambda: self.fast}


def wrong(logits: torch.Tensor) -> torch.Tensor:
    return logits + 0.1


def broken(logits: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no kernel image")


def test_until_it_has_chosen_the_reference_scores() -> None:
    scorer = Trying()
    assert (scorer.choice, scorer.encoder) == (None, "reference")
    np.testing.assert_array_equal(scorer.score_encoded(PAIRS).logits.shape, LOGITS.shape)
    assert scorer.fast.calls == 0


def test_it_scores_with_what_it_has_chosen() -> None:
    scorer = Trying(max_tokens_per_batch=512)
    choice = scorer.choose(PAIRS, excluded={"reference": "to see the other chosen"})
    assert (choice.encoder, choice.max_tokens_per_batch) == ("fast", 512)
    assert (scorer.choice, scorer.encoder, scorer.fallback) == (choice, "fast", None)
    before = scorer.fast.calls
    np.testing.assert_allclose(scorer.score_encoded(PAIRS).logits, LOGITS, atol=1e-5)
    assert scorer.fast.calls > before


def test_a_budget_that_is_not_given_is_found() -> None:
    scorer = Trying()
    tried: list[str] = []
    choice = scorer.choose(PAIRS, on_trial=tried.append)
    assert tried == ["reference", "fast", choice.encoder]  # whose tokens are sought last
    assert 256 <= choice.max_tokens_per_batch <= 4_096  # an eighth of 2,048 to twice as many
    assert scorer.max_tokens_per_batch == choice.max_tokens_per_batch


def test_a_scorer_that_has_nothing_to_compare_with_cannot_choose() -> None:
    with pytest.raises(ValueError, match="expected one with the logits of the float32 model"):
        ChoosingScorer(MODEL, max_length=200).choose(PAIRS)


def test_it_follows_the_choice_of_another() -> None:
    scorer = Trying()
    scorer.follow(FAST)
    assert (scorer.choice, scorer.encoder, scorer.fallback) == (FAST, "fast", None)
    assert scorer.max_tokens_per_batch == 512
    np.testing.assert_allclose(scorer.score_encoded(PAIRS).logits, LOGITS, atol=1e-5)


def test_a_follower_with_less_memory_has_the_encoder_with_fewer_tokens() -> None:
    scorer = Trying()

    def little(encoder: Encoder) -> Callable[[], Encoder]:
        def encode(pairs: EncodedPairs, rows: Any) -> torch.Tensor:
            if len(rows) * pairs.lengths[rows].max() > 1_024:
                raise torch.OutOfMemoryError
            return encoder(pairs, rows)

        return lambda: encode

    makers = {"reference": little(ReferenceEncoder(MODEL)), "fast": little(PackedEncoder(MODEL))}
    scorer.candidates = lambda _: makers  # type: ignore[method-assign]
    scorer.follow(Choice("fast", "another device", "float32", 2_048))
    assert (scorer.encoder, scorer.fallback, scorer.max_tokens_per_batch) == ("fast", None, 1_024)


def test_tokens_that_are_given_are_those_of_a_follower() -> None:
    scorer = Trying(max_tokens_per_batch=256)
    scorer.follow(FAST)
    assert (scorer.encoder, scorer.max_tokens_per_batch) == ("fast", 256)


@pytest.mark.parametrize("error", [RuntimeError("launch failed"), torch.OutOfMemoryError("taken by another")])
def test_a_search_for_tokens_that_fails_leaves_those_of_the_trial(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = Trying()
    trials: list[str] = []

    def note(name: str) -> None:
        trials.append(name)
        if trials.count("fast") == 2:  # the second time its tokens are sought
            scorer.fast._change = fail

    def fail(_: torch.Tensor) -> torch.Tensor:
        raise error

    choice = scorer.choose(PAIRS, excluded={"reference": "to see the other chosen"}, on_trial=note)
    assert (choice.encoder, choice.max_tokens_per_batch) == ("fast", 2_048)
    assert "a batch keeps 2048 tokens" in caplog.text


@pytest.mark.parametrize(
    ("change", "reason"),
    [(wrong, "its logits are up to 0.1 from the reference's"), (broken, "RuntimeError: no kernel image")],
)
def test_an_encoder_that_is_not_right_on_this_device_is_not_followed(
    change: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = Trying()
    scorer.fast = Changed(change)
    scorer.follow(FAST)
    assert (scorer.choice, scorer.encoder) == (FAST, "reference")
    assert scorer.fallback is not None
    assert scorer.fallback.startswith(reason)
    assert "the reference scores in place of the chosen encoder" in caplog.text
    np.testing.assert_allclose(scorer.score_encoded(PAIRS).logits, LOGITS, atol=1e-5)


def test_an_encoder_that_this_device_does_not_have() -> None:
    scorer = Trying()
    scorer.follow(Choice("packed-flash", "another device", "float32", 512))
    assert (scorer.encoder, scorer.fallback) == ("reference", "there is no encoder packed-flash for this device")


def test_a_settled_scorer_keeps_its_encoder_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    scorer = ChoosingScorer(MODEL, max_length=200, encoder="packed")
    own = scorer.choice
    assert own is not None
    scorer.follow(own)
    assert scorer.fallback is None
    scorer.follow(FAST)
    assert (scorer.choice, scorer.encoder) == (own, own.encoder)
    assert scorer.fallback == f"the encoder fast is not for {own.device}"
    assert scorer.fallback in caplog.text


def test_an_encoder_that_fails_later_gives_way_to_the_reference(caplog: pytest.LogCaptureFixture) -> None:
    scorer = Trying()
    scorer.follow(FAST)
    scorer.fast._change = broken
    np.testing.assert_allclose(scorer.score_encoded(PAIRS).logits, LOGITS, atol=1e-5)
    assert (scorer.encoder, scorer.fallback) == ("reference", "RuntimeError: no kernel image")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    before = scorer.fast.calls
    scorer.score_encoded(PAIRS)
    assert scorer.fast.calls == before  # for good


def test_pairs_that_the_reference_refuses_too_are_at_fault_themselves() -> None:
    scorer = Trying()
    scorer.follow(FAST)
    bad = EncodedPairs(np.array([1_000_000], np.int32), np.array([0, 1]), np.zeros(1, bool))  # no such token
    with pytest.raises(IndexError):
        scorer.score_encoded(bad)
    assert (scorer.encoder, scorer.fallback) == ("fast", None)


def test_memory_that_runs_out_is_a_matter_of_the_batch() -> None:
    scorer = Trying()
    scorer.follow(FAST)

    def little(logits: torch.Tensor) -> torch.Tensor:
        if len(logits) > 1:
            raise torch.OutOfMemoryError
        return logits

    scorer.fast._change = little
    np.testing.assert_allclose(scorer.score_encoded(PAIRS).logits, LOGITS, atol=1e-5)
    assert (scorer.encoder, scorer.fallback) == ("fast", None)


def test_in_a_block_of_distrust_the_reference_scores() -> None:
    scorer = Trying()
    with scorer.distrusted("not chosen yet"):
        assert (scorer.encoder, scorer.fallback) == ("reference", None)
    scorer.follow(FAST)
    before = scorer.fast.calls
    with scorer.distrusted("a process died"):
        assert (scorer.encoder, scorer.fallback) == ("reference", "a process died")
        scorer.score_encoded(PAIRS)
    assert scorer.fast.calls == before
    assert (scorer.encoder, scorer.fallback) == ("fast", None)
    scorer.score_encoded(PAIRS)
    assert scorer.fast.calls > before


@pytest.mark.parametrize("name", ["reference", "packed", "packed-torch"])
def test_an_encoder_by_name(name: str) -> None:
    scorer = ChoosingScorer(MODEL, max_length=200, encoder=name)
    assert scorer.choice is not None
    assert scorer.encoder == scorer.choice.encoder == name
    assert scorer.choice.trials == {}
    np.testing.assert_allclose(scorer.score_encoded(PAIRS).logits, LOGITS, atol=1e-5)


def test_a_name_that_is_not_for_the_device() -> None:
    with pytest.raises(ValueError, match="got the encoder 'padded', expected one of reference, packed, packed-torch"):
        ChoosingScorer(MODEL, max_length=200, encoder="padded")
    nothing: Any = None
    makers = {"reference": nothing, "packed-torch": nothing}
    assert named(makers, "packed") == "packed-torch"  # where oneDNN has no kernels


def test_a_model_cast_after_its_float32_logits_were_taken_is_the_one_loaded_in_that_dtype(
    tiny_checkpoint: Path,
) -> None:
    cast = EncT5ForSequenceClassification.from_pretrained(tiny_checkpoint, dtype=torch.float32).to(torch.bfloat16)
    loaded = EncT5ForSequenceClassification.from_pretrained(tiny_checkpoint, dtype=torch.bfloat16)
    pairs = dict(loaded.named_parameters())
    assert pairs.keys() == dict(cast.named_parameters()).keys()
    for name, weight in cast.named_parameters():
        assert weight.dtype == pairs[name].dtype == torch.bfloat16
        assert torch.equal(weight, pairs[name])


def test_a_sample_has_the_lengths_of_the_pairs() -> None:
    pairs = make_pairs([10, 20, 30, 40])
    assert sample(pairs, 50).lengths.tolist() == [10, 30]
    assert sample(pairs, 200).lengths.tolist() == [10, 10, 20, 20, 30, 30, 40, 40]
    assert sample(pairs, 1).lengths.tolist() == [10]
