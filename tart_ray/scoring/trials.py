"""Which encoder a replica takes: each one that its device could run is tried, and the fastest that is right is chosen.

An encoder may not compile on a device that it has never run on, may be wrong there, or slower than the reference. So
a replica tries them with its own model, compares their logits with those of the float32 reference, and measures them on
pairs like its own. A trial that fails leaves the reference in place.

What cannot be found out from within is a trial that hangs, or that kills the process: the caller writes down which one
begins (``on_trial``) and excludes it the next time.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.scoring.batching import default_max_tokens
from tart_ray.scoring.candidates import Maker, device_name
from tart_ray.scoring.choice import REFERENCE, Choice, DeviceFailedError, NoEncoderError, Trial
from tart_ray.scoring.cuda import LENGTH_STEP
from tart_ray.scoring.memory import free_unused_memory
from tart_ray.scoring.reference import Encoder, ReferenceEncoder
from tart_ray.scoring.timing import OutOfTimeError, encode_all, fastest

log = logging.getLogger(__name__)

FLOAT32_TOLERANCE = 1e-5  # of a logit, or of its size where that is more than 1
BFLOAT16_FACTOR = 1.25  # how far from float32, in distances of the reference in bfloat16
LONGEST_AT_ONCE = 4  # in the small batches of the trial, which have lengths of their own
LONGEST_REASON = 500  # characters
OUT_OF_TIME = "time was up before its speed was measured"


class _WrongLogitsError(Exception):
    """The encoder computes something else than the model."""


def trial_pairs(max_length: int, vocabulary_size: int) -> EncodedPairs:
    """Pairs that the candidates are compared on: the same ones for the same arguments.

    Every length up to 40, four times, the lengths around every multiple of 128 up to ``max_length``, and ``max_length``
    itself, twice. Many pairs, since the largest of few differences in bfloat16 is a matter of luck.
    """
    short = [*range(1, 41)] * 4
    around = [step + off for step in range(LENGTH_STEP, max_length + 2, LENGTH_STEP) for off in (-1, 0, 1)]
    lengths = [length for length in [*short, *around] if length <= max_length] + [max_length] * 2
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    first = min(3, vocabulary_size - 1)  # behind the special tokens
    mixed = np.arange(offsets[-1], dtype=np.uint64) * np.uint64(2_654_435_761) >> np.uint64(9)
    ids = (mixed % np.uint64(vocabulary_size - first)).astype(np.int32) + np.int32(first)
    return EncodedPairs(ids, offsets, np.zeros(len(lengths), np.bool_))


def float32_logits(model: EncT5ForSequenceClassification, pairs: EncodedPairs) -> npt.NDArray[np.float32]:
    """What every candidate is compared with: the reference's logits, float32 (n, num_labels).

    Args:
        model: in float32, before it is cast to another dtype, so that memory never holds both.

    Raises:
        ValueError: the model is in another dtype.
    """
    if model.dtype != torch.float32:
        raise ValueError(
            f"got a model in {model.dtype}, expected torch.float32, which the candidates are compared with"
        )
    return encode_all(ReferenceEncoder(model), pairs, default_max_tokens("cpu"), lambda: None)


@dataclass(frozen=True)
class Expected:
    """What every candidate is compared with: `float32_logits` of pairs, (n, num_labels)."""

    pairs: EncodedPairs
    logits: npt.NDArray[np.float32]

    @classmethod
    def of(cls, model: EncT5ForSequenceClassification, max_length: int) -> Expected:
        """The logits of `trial_pairs`, by a model in float32."""
        pairs = trial_pairs(max_length, model.config.vocab_size)
        return cls(pairs, float32_logits(model, pairs))


def try_encoders(
    makers: Mapping[str, Maker],
    expected: Expected,
    speed_pairs: EncodedPairs | None,
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_tokens: int,
    seconds: float,
    excluded: Mapping[str, str] | None = None,
    on_trial: Callable[[str], None] = lambda name: None,
    on_batch: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Choice, Encoder]:
    """Try all candidates, one after the other, the reference first; the fastest that is right is chosen.

    A candidate is out that raises, runs out of memory, gives other logits than the reference, or logits that are not
    finite; a warning says so. Where memory runs out the reference is tried again with half the tokens, and the others
    too if none is measured.

    Args:
        makers: as `candidates` gives them.
        expected: in float32 a logit may be 1e-5 off, relative to those beyond 1; in bfloat16 the largest difference may
            be 1.25 times that of the reference in bfloat16.
        speed_pairs: pairs with the lengths of those that will be scored, enough of them for several batches. None
            measures nothing, and takes the first candidate that is right.
        device: of the model.
        dtype: of the model, float32 or bfloat16.
        max_tokens: padded tokens of a batch.
        seconds: after them no candidate begins, no further round of a measurement, and no further batch but those that
            the reference is checked with. Each candidate has an equal share of what the ones before it have left.
        excluded: candidates that are not tried, each with the reason, because they hung or killed the process before.
        on_trial: called with the name of each candidate before it is made.
        on_batch: called before each batch.

    Raises:
        NoEncoderError: none is right, not even the reference.
        DeviceFailedError: after a trial nothing can be computed any more. The candidate is to be excluded, and the
            process to be started again.
    """
    excluded = excluded or {}
    started = clock()
    ends = started + seconds
    trying = _Trying(expected, speed_pairs, device, dtype, max_tokens, ends, clock, on_batch)
    trials = {name: Trial(reason=reason) for name, reason in excluded.items() if name in makers}
    best: tuple[str, Encoder] | None = None
    names = sorted((name for name in makers if name not in trials), key=lambda name: name != REFERENCE)
    for index, name in enumerate(names):
        left = ends - clock()
        if name != REFERENCE and left <= 0:
            trials[name] = Trial(reason=OUT_OF_TIME)
            continue
        trying.ends = clock() + left / (len(names) - index)
        on_trial(name)
        trials[name], encoder = trying.attempt(name, makers[name])
        if encoder is not None and (best is None or _rank(makers, trials, name) > _rank(makers, trials, best[0])):
            best = name, encoder
        encoder = None
        gc.collect()  # a compiled layer and its encoder know each other
        free_unused_memory()
    for name, trial in trials.items():
        if trial.reason is not None:
            log.warning("encoder %s is not considered: %s", name, trial.reason)
    if best is None:
        raise NoEncoderError(
            "no encoder is right on this device: "
            + "; ".join(f"{name}: {trial.reason}" for name, trial in trials.items())
            + ". Are the model's weights numbers, and does it fit the device's memory?"
        )
    name, encoder = best
    choice = Choice(
        encoder=name,
        device=device_name(device),
        dtype=str(dtype).removeprefix("torch."),
        max_tokens_per_batch=trials[name].max_tokens_per_batch or max_tokens,
        seconds=clock() - started,
        trials={name: trials[name] for name in makers},
    )
    return choice, encoder


def _rank(makers: Mapping[str, Maker], trials: Mapping[str, Trial], name: str) -> tuple[float, int]:
    """Pairs a second; the first of the candidates where they are equal, or were not measured."""
    return trials[name].pairs_per_second or 0.0, -[*makers].index(name)


@dataclass
class _Trying:
    """What all candidates of one choice are tried with."""

    expected: Expected
    speed_pairs: EncodedPairs | None
    device: torch.device
    dtype: torch.dtype
    max_tokens: int
    ends: float
    clock: Callable[[], float]
    on_batch: Callable[[], None]
    allowed_difference: float | None = None  # in bfloat16: known once the reference was tried

    def attempt(self, name: str, make: Maker) -> tuple[Trial, Encoder | None]:
        """What came of a candidate, and its encoder if it is right."""
        longest = int(
            max(pairs.lengths.max() for pairs in (self.expected.pairs, self.speed_pairs) if pairs is not None)
        )
        budget = self.max_tokens
        while True:
            try:
                return self._attempt(name, make, budget)
            except Exception as error:  # whatever a compiler, a driver or a kernel may raise
                check_device(self.device, name, error)
                reason = f"{type(error).__name__}: {error}"[:LONGEST_REASON]
                can_shrink = name == REFERENCE or self.speed_pairs is None
                if not can_shrink or not isinstance(error, torch.OutOfMemoryError) or budget <= longest:
                    log.info("encoder %s failed", name, exc_info=True)
                    return Trial(max_tokens_per_batch=budget, reason=reason), None
            budget //= 2
            free_unused_memory()

    def _attempt(self, name: str, make: Maker, budget: int) -> tuple[Trial, Encoder | None]:
        encoder = make()
        trial = Trial(max_tokens_per_batch=budget)
        try:
            found = self._logits(name, encoder, budget)
            difference = np.stack([self._difference(logits) for logits in found])
            largest = float(np.abs(difference).max())
            if not math.isfinite(largest):
                raise _WrongLogitsError("the float32 reference itself gives logits that are not finite")
            rms = float(np.sqrt(np.square(difference, dtype=np.float64).mean()))
            trial = dataclasses.replace(trial, largest_difference=largest, rms_difference=rms)
            self._judge(name, difference, largest)
            trial = dataclasses.replace(trial, pairs_per_second=self._pairs_per_second(encoder, budget))
        except _WrongLogitsError as error:
            return dataclasses.replace(trial, reason=str(error)), None
        except OutOfTimeError:
            if name != REFERENCE:  # which can be taken without a speed
                return dataclasses.replace(trial, reason=OUT_OF_TIME), None
        return trial, encoder

    def _logits(self, name: str, encoder: Encoder, budget: int) -> list[npt.NDArray[np.float32]]:
        """Of the trial's pairs, in small batches of several lengths, and in batches as large as they come."""
        check = self.on_batch if name == REFERENCE else self._check_time
        pairs = self.expected.pairs
        small = LONGEST_AT_ONCE * int(pairs.lengths.max())
        return [encode_all(encoder, pairs, size, check) for size in sorted({min(small, budget), budget})]

    def _difference(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if logits.shape != self.expected.logits.shape:
            raise _WrongLogitsError(f"gives logits of shape {logits.shape}, expected {self.expected.logits.shape}")
        if bad := int((~np.isfinite(logits)).any(axis=1).sum()):
            raise _WrongLogitsError(f"gives logits that are not finite for {bad} of {len(logits)} pairs")
        return logits - self.expected.logits

    def _judge(self, name: str, difference: npt.NDArray[np.float32], largest: float) -> None:
        if self.dtype == torch.float32:
            allowed_NC = FLOAT32_TOLERANCE * np.maximum(1, np.abs(self.expected.logits))
            if (np.abs(difference) > allowed_NC).any():
                raise _WrongLogitsError(
                    f"its logits are up to {largest:.3g} from the reference's, expected at most "
                    f"{FLOAT32_TOLERANCE:g}, relative to logits beyond 1"
                )
            return
        if name == REFERENCE:
            self.allowed_difference = BFLOAT16_FACTOR * largest
        if self.allowed_difference is None:
            raise _WrongLogitsError(f"there is no reference in {self.dtype} that it could be compared with")
        if largest > self.allowed_difference:
            raise _WrongLogitsError(
                f"its logits are up to {largest:.3g} from float32, expected at most {self.allowed_difference:.3g}, "
                f"{BFLOAT16_FACTOR} times the distance of the reference in this dtype"
            )

    def _pairs_per_second(self, encoder: Encoder, budget: int) -> float | None:
        if self.speed_pairs is None:
            return None
        return len(self.speed_pairs) / fastest(encoder, self.speed_pairs, budget, self.clock, self._check_time)

    def _check_time(self) -> None:
        self.on_batch()
        if self.clock() >= self.ends:
            raise OutOfTimeError


def check_device(device: torch.device, name: str, error: Exception) -> None:
    """Raise if the device computes nothing any more: after an illegal access every later call fails as well."""
    try:
        torch.ones(1, device=device).sum().item()
    except RuntimeError as later:
        if isinstance(later, torch.OutOfMemoryError):
            return
        raise DeviceFailedError(
            f"after trying the encoder {name!r} the device {device} fails: {later}. Start the process again, with this "
            f"encoder excluded. It had failed with {type(error).__name__}: {error}"
        ) from error
