"""Choosing an encoder by trying: what is wrong, fails or is slow is not chosen, and the reason is kept."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.random_models import VOCABULARY, all_rows, make_model, make_pairs

from tart_ray.model.encoded import EncodedPairs
from tart_ray.scoring.budget import find_budget
from tart_ray.scoring.candidates import candidates, compiled_candidates
from tart_ray.scoring.choice import Choice, DeviceFailedError, NoEncoderError, Trial
from tart_ray.scoring.cuda import CompiledEncoder
from tart_ray.scoring.encoder import PackedEncoder
from tart_ray.scoring.projections import TorchProjection
from tart_ray.scoring.reference import Encoder, ReferenceEncoder
from tart_ray.scoring.trials import (
    OUT_OF_TIME,
    Expected,
    float32_logits,
    trial_pairs,
    try_encoders,
)

PAIRS = trial_pairs(140, VOCABULARY)
SPEED_PAIRS = make_pairs([40, 30, 20, 10] * 5)  # 20
NO_WARNING = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


class Clock:
    """A clock that goes on as encoders take their time."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def logits_of(pairs: EncodedPairs, rows: Any) -> torch.Tensor:
    """Something that depends on each pair's own ids, (n, 2)."""
    sums = [float(pairs.row(int(row)).sum()) for row in rows]
    return torch.tensor([[value / 1_000, 1 - value / 1_000] for value in sums])


EXPECTED = Expected(PAIRS, logits_of(PAIRS, all_rows(PAIRS)).numpy())


def encoder(
    clock: Clock,
    seconds: float = 1.0,
    change: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
) -> Callable[[], Encoder]:
    """Makes an encoder that takes so many seconds for a batch."""

    def encode(pairs: EncodedPairs, rows: Any) -> torch.Tensor:
        clock.now += seconds
        return change(logits_of(pairs, rows))

    return lambda: encode


def raising(error: Exception) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(logits: torch.Tensor) -> torch.Tensor:
        raise error

    return change


def choose(makers: Any, clock: Clock, **options: Any) -> Choice:
    defaults: dict[str, Any] = {"dtype": torch.float32, "seconds": 10_000, "max_tokens": 640, "clock": clock}
    choice, _ = try_encoders(makers, EXPECTED, SPEED_PAIRS, **{"device": torch.device("cpu"), **defaults, **options})
    return choice


def test_the_fastest_is_chosen() -> None:
    clock = Clock()
    tried: list[str] = []
    makers = {"slow": encoder(clock, 4), "fast": encoder(clock, 0.5), "reference": encoder(clock, 2)}
    choice = choose(makers, clock, on_trial=tried.append)
    assert choice.encoder == "fast"
    assert tried == ["reference", "slow", "fast"]  # the reference first, whatever the order
    assert list(choice.trials) == ["slow", "fast", "reference"]
    # 640 tokens: 16 pairs of up to 40 tokens, then 4
    speeds = {name: trial.pairs_per_second for name, trial in choice.trials.items()}
    assert speeds == {"slow": 20 / 8, "fast": 20 / 1, "reference": 20 / 4}
    assert {trial.largest_difference for trial in choice.trials.values()} == {0.0}
    assert choice.seconds == clock.now - 1_000
    assert (choice.dtype, choice.max_tokens_per_batch) == ("float32", 640)
    assert choice.device.startswith("cpu ")


def add(offset: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda logits: logits + offset


def not_a_number(logits: torch.Tensor) -> torch.Tensor:
    return torch.where(logits == logits.max(), torch.nan, logits)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (add(0.01), "its logits are up to 0.01 from the reference's, expected at most 1e-05"),
        (not_a_number, r"gives logits that are not finite for \d of"),
        (lambda logits: logits[:, :1], r"gives logits of shape \(\d+, 1\), expected \(\d+, 2\)"),
        (lambda logits: logits.flip(0), "its logits are up to"),
        (raising(RuntimeError("no kernel image")), "RuntimeError: no kernel image"),
        (raising(torch.OutOfMemoryError("tried to allocate")), "OutOfMemoryError: tried to allocate"),
    ],
    ids=["wrong", "NaN", "shape", "order", "raises", "memory"],
)
def test_what_is_fast_but_not_right_is_out(change: Any, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    choice = choose({"reference": encoder(clock, 2), "fast": encoder(clock, 0.1, change)}, clock)
    assert choice.encoder == "reference"
    found = choice.trials["fast"]
    assert found.pairs_per_second is None
    assert found.reason is not None
    assert re.search(reason, found.reason)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [f"encoder fast is not considered: {found.reason}"]


def test_a_difference_is_relative_to_large_logits_alone() -> None:
    clock = Clock()
    makers = {"reference": encoder(clock), "close": encoder(clock, 0.1, lambda logits: logits * (1 + 5e-6))}
    assert choose(makers, clock).encoder == "close"
    far = {"reference": encoder(clock), "far": encoder(clock, 0.1, lambda logits: logits * (1 + 5e-5))}
    assert choose(far, clock).encoder == "reference"


def test_one_that_cannot_be_made() -> None:
    def make() -> Encoder:
        raise ValueError("heads too narrow")

    clock = Clock()
    choice = choose({"reference": encoder(clock), "fast": make}, clock)
    assert choice.encoder == "reference"
    assert choice.trials["fast"].reason == "ValueError: heads too narrow"


def test_one_that_is_right_and_fails_while_it_is_measured() -> None:
    clock = Clock()

    def encode(pairs: EncodedPairs, rows: Any) -> torch.Tensor:
        if pairs is SPEED_PAIRS:
            raise RuntimeError("compiler")
        return logits_of(pairs, rows)

    choice = choose({"reference": encoder(clock), "fast": lambda: encode}, clock)
    assert (choice.encoder, choice.trials["fast"].reason) == ("reference", "RuntimeError: compiler")


def test_excluded_ones_are_not_tried() -> None:
    clock = Clock()
    tried: list[str] = []
    makers = {"reference": encoder(clock, 2), "hangs": encoder(clock, 0.1)}
    choice = choose(makers, clock, excluded={"hangs": "hung", "unknown": "gone"}, on_trial=tried.append)
    assert (choice.encoder, tried) == ("reference", ["reference"])
    assert choice.trials["hangs"] == Trial(reason="hung")
    assert "unknown" not in choice.trials


def test_without_the_reference_another_is_chosen_in_float32_and_none_in_bfloat16() -> None:
    clock = Clock()
    makers = {"reference": encoder(clock, 2, raising(RuntimeError("no"))), "fast": encoder(clock)}
    assert choose(makers, clock).encoder == "fast"
    with pytest.raises(NoEncoderError, match=r"reference: RuntimeError: no; fast: there is no reference"):
        choose(makers, clock, dtype=torch.bfloat16)


def test_weights_that_are_no_numbers() -> None:
    clock = Clock()
    with pytest.raises(NoEncoderError, match="not finite"):
        choose({"reference": encoder(clock, 1, not_a_number)}, clock)


@pytest.mark.parametrize(("offset", "chosen"), [(0.012, "fast"), (0.013, "reference")])
def test_in_bfloat16_the_reference_is_the_measure(offset: float, chosen: str) -> None:
    clock = Clock()
    makers = {"reference": encoder(clock, 2, add(0.01)), "fast": encoder(clock, 1, add(-offset))}
    choice = choose(makers, clock, dtype=torch.bfloat16)
    assert (choice.encoder, choice.dtype) == (chosen, "bfloat16")
    assert choice.trials["fast"].largest_difference == pytest.approx(offset, rel=1e-3)
    assert choice.trials["fast"].rms_difference == pytest.approx(offset, rel=1e-3)


def test_the_reference_is_tried_with_fewer_tokens_where_memory_runs_out() -> None:
    clock = Clock()

    def encode(pairs: EncodedPairs, rows: Any) -> torch.Tensor:
        if len(rows) * pairs.lengths[rows].max() > 320:
            raise torch.OutOfMemoryError
        clock.now += 1
        return logits_of(pairs, rows)

    choice = choose({"reference": lambda: encode, "other": lambda: encode}, clock)
    assert (choice.encoder, choice.max_tokens_per_batch) == ("reference", 320)
    assert choice.trials["other"].reason == "OutOfMemoryError: "


def test_after_the_time_no_candidate_begins() -> None:
    clock = Clock()
    tried: list[str] = []
    makers = {"reference": encoder(clock, 100), "fast": encoder(clock, 0.1)}
    choice = choose(makers, clock, seconds=50, on_trial=tried.append)
    assert (choice.encoder, tried) == ("reference", ["reference"])
    assert choice.trials["reference"] == Trial(0.0, 0.0, None, 640)  # compared in any case, not measured
    assert choice.trials["fast"] == Trial(reason=OUT_OF_TIME)


def test_a_slow_candidate_is_stopped_between_batches_and_leaves_others_their_share() -> None:
    clock = Clock()
    makers = {"reference": encoder(clock), "compiles": encoder(clock, 150), "last": encoder(clock, 0.5)}
    choice = choose(makers, clock, seconds=400)
    assert choice.encoder == "last"
    assert choice.trials["reference"].pairs_per_second == 20 / 2
    assert choice.trials["compiles"] == Trial(max_tokens_per_batch=640, reason=OUT_OF_TIME)
    assert choice.seconds < 400


def test_a_reference_that_is_slow_to_measure_leaves_others_their_share() -> None:
    clock = Clock()
    choice = choose({"reference": encoder(clock, 20), "fast": encoder(clock, 0.5)}, clock, seconds=500)
    assert choice.encoder == "fast"
    assert choice.seconds < 500


def test_candidates_get_nothing_when_one_has_taken_all() -> None:
    clock = Clock()
    makers = {"reference": encoder(clock), "compiles": encoder(clock, 1_000), "last": encoder(clock, 0.5)}
    choice = choose(makers, clock, seconds=400)
    assert choice.encoder == "reference"
    assert choice.trials["last"] == Trial(reason=OUT_OF_TIME)
    assert choice.seconds < 400 + 1_000


def test_the_encoder_that_is_chosen_can_consume_the_model() -> None:
    model = make_model()
    pairs = make_pairs([5, 90, 17])
    expected = ReferenceEncoder(model)(pairs, all_rows(pairs))
    chosen = candidates(model, max_length=200, max_tokens=1_024, consume=True)["packed-torch"]()
    np.testing.assert_allclose(chosen(pairs, all_rows(pairs)), expected, atol=1e-5, rtol=0)
    with pytest.raises(RuntimeError, match="weights belong to a Scorer"):
        ReferenceEncoder(model)(pairs, all_rows(pairs))


def test_a_device_that_fails_for_good_ends_the_trials() -> None:
    clock = Clock()
    makers = {"reference": encoder(clock, 1, raising(RuntimeError("illegal access")))}
    with pytest.raises(DeviceFailedError, match=r"'reference'.*excluded.*illegal access"):
        choose(makers, clock, device=torch.device("meta"))  # which computes nothing


def test_the_pairs_of_a_trial() -> None:
    pairs = trial_pairs(512, 32_128)
    lengths = set(pairs.lengths.tolist())
    assert {1, 2, 127, 128, 129, 255, 256, 257, 383, 384, 385, 511, 512} <= lengths
    assert lengths <= {*range(1, 513)}
    again = trial_pairs(512, 32_128)
    assert (pairs.input_ids == again.input_ids).all()
    assert pairs.input_ids[:6].tolist() == [3, 12_322, 24_642, 4_837, 17_157, 29_477]
    assert 3 <= pairs.input_ids.min() < 100
    assert 32_000 < pairs.input_ids.max() < 32_128
    assert len({pairs.row(row).tobytes() for row in all_rows(pairs)}) == len(pairs)
    assert trial_pairs(5, 2).lengths.tolist() == [1, 2, 3, 4, 5] * 4 + [5, 5]


def test_the_reference_is_computed_in_float32_alone() -> None:
    model = make_model()
    pairs = make_pairs([5, 90, 17])
    expected = ReferenceEncoder(model)(pairs, all_rows(pairs))
    np.testing.assert_allclose(float32_logits(model, pairs), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"expected torch\.float32"):
        float32_logits(model.to(torch.bfloat16), pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_candidates_of_this_machine_are_right(dtype: torch.dtype) -> None:
    model = make_model()
    expected = Expected.of(model, 200)
    makers = candidates(model.to(dtype), max_length=200, max_tokens=2_048)
    options: Any = {"device": torch.device("cpu"), "dtype": dtype, "max_tokens": 2_048, "seconds": 300}
    choice, chosen = try_encoders(makers, expected, make_pairs([30, 90, 60] * 30), **options)
    assert list(choice.trials) == ["reference", "packed", "packed-torch"]
    assert choice.encoder in choice.trials
    for trial in choice.trials.values():
        assert trial.reason is None
        assert trial.pairs_per_second is not None
    assert isinstance(chosen, PackedEncoder | ReferenceEncoder)


@NO_WARNING
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_candidates_for_cuda_are_right_where_nothing_is_compiled(dtype: torch.dtype) -> None:
    model = make_model()
    expected = Expected.of(model, 200)
    model = model.to(dtype)
    limits: Any = {"max_length": 200, "max_tokens": 1_024}
    makers = candidates(model, **limits) | compiled_candidates(model, **limits, compile_layer=lambda layer: layer)
    del makers["packed-torch"]
    assert list(makers) == ["reference", "packed", "padded"]
    options: Any = {"device": torch.device("cpu"), "dtype": dtype, "max_tokens": 1_024, "seconds": 300}
    choice, _ = try_encoders(makers, expected, make_pairs([30, 90, 60] * 10), **options)
    assert {name: trial.reason for name, trial in choice.trials.items()} == dict.fromkeys(makers)


def test_candidates_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: Any = {"max_length": 200, "max_tokens": 1_024}
    assert list(candidates(make_model(feed_forward_proj="relu"), **limits)) == ["reference"]
    model = make_model()
    assert list(candidates(model, **limits)) == ["reference", "packed", "packed-torch"]
    with monkeypatch.context() as on_cuda:
        on_cuda.setattr(type(model), "device", torch.device("cuda"))
        makers = candidates(model, **limits)
    assert list(makers) == ["reference", "padded", "packed"]
    assert isinstance(makers["packed"](), CompiledEncoder)


def test_the_projections_of_a_packed_encoder_can_be_chosen() -> None:
    model = make_model()
    made: list[torch.Tensor] = []

    def make(weight: torch.Tensor) -> TorchProjection:
        made.append(weight)
        return TorchProjection(weight)

    pairs = make_pairs([5, 90, 17])
    found = PackedEncoder(model, projection=make)(pairs, all_rows(pairs))
    np.testing.assert_allclose(found, ReferenceEncoder(model)(pairs, all_rows(pairs)), atol=1e-5, rtol=0)
    assert (
        len(made) == 3 * 5
    )  # of three layers: queries, keys and values (in the last, queries alone), o, wi_0, wi_1, wo


class Budgeted:
    """An encoder that takes, for each batch, a fixed time and some for each token; above ``most`` memory runs out."""

    def __init__(self, clock: Clock, by_batch: float, by_token: float, most: int = 1 << 30) -> None:
        self.clock, self.by_batch, self.by_token, self.most = clock, by_batch, by_token, most
        self.seen: set[int] = set()

    def __call__(self, pairs: EncodedPairs, rows: Any) -> torch.Tensor:
        tokens = len(rows) * int(pairs.lengths[rows].max())
        if tokens > self.most:
            raise torch.OutOfMemoryError
        self.seen.add(tokens)
        self.clock.now += self.by_batch + self.by_token * tokens * (1 + tokens / 1_000)
        return logits_of(pairs, rows)


def budget_of(
    by_batch: float,
    by_token: float,
    most_that_fits: int = 1 << 30,
    *,
    least: int = 8,
    most: int = 4_096,
    **options: Any,
) -> int:
    clock = Clock()
    made = Budgeted(clock, by_batch, by_token, most_that_fits)
    limits: dict[str, Any] = {"least": least, "most": most, "seconds": 1e9, "clock": clock, **options}
    return find_budget(made, make_pairs([8] * 1_024), 256, **limits)


def test_budgets_by_hand() -> None:
    assert budget_of(1, 0) == 4_096  # batches cost, tokens do not: as many as allowed
    assert budget_of(0, 1) == 8  # large batches cost more by token
    assert budget_of(1, 0, 1_024) == 1_024  # memory ends the doubling
    assert budget_of(1, 0, 100) == 64  # it does not begin where the first budget did not fit
    assert budget_of(10, 1) == 128  # by token 10 / n + n / 1000 is least near 100
    assert budget_of(0, 1, least=64) == 64
    assert budget_of(1, 0, most=500) == 256
    # by token 256 at once take 140 / 256 + 1.256 = 1.80, 512 take 1.79: too little; with 200, 2.04 and 1.90
    assert budget_of(140, 1, most=512) == 256
    assert budget_of(200, 1, most=512) == 512


def test_a_budget_has_a_time_bound() -> None:
    assert budget_of(1, 0, seconds=0) == 256
    # four passes of 32 batches, of 64, of 16, then time is up
    assert budget_of(1, 0, seconds=4 * (32 + 64 + 16) + 5) == 512


def test_a_budget_that_can_be_no_smaller() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="8 tokens at once"):
        budget_of(1, 0, 7)


def test_what_fails_otherwise_at_a_larger_budget_is_not_taken() -> None:
    clock = Clock()
    made = Budgeted(clock, 1, 0)

    def encode(pairs: EncodedPairs, rows: Any) -> torch.Tensor:
        if len(rows) > 64:
            raise RuntimeError("index out of 32 bits")
        return made(pairs, rows)

    limits: Any = {"least": 8, "most": 4_096, "seconds": 1e9, "clock": clock}
    assert find_budget(encode, make_pairs([8] * 1_024), 256, **limits) == 512
    with pytest.raises(RuntimeError, match="32 bits"):
        find_budget(encode, make_pairs([8] * 1_024), 1_024, **limits)
