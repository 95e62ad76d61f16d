"""Which encoder a replica takes: each one that its device could run is tried, and the fastest that is right is chosen.

An encoder may not compile on a device that it has never run on, may be wrong there, or slower than the reference. So
a replica tries them with its own model, compares their logits with those of the float32 reference, and measures them on
pairs like its own. A trial that fails leaves the reference in place.

What cannot be found out from within is a trial that hangs, or that kills the process: the caller writes down which one
begins (``on_trial``) and excludes it the next time.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.scoring.batching import default_max_tokens, plan_batches
from tart_ray.scoring.cuda import LENGTH_STEP, CompiledEncoder, PackedAttention, PaddedAttention
from tart_ray.scoring.encoder import PackedEncoder, has_gated_gelu
from tart_ray.scoring.projections import TorchProjection
from tart_ray.scoring.reference import Encoder, ReferenceEncoder

log = logging.getLogger(__name__)

REFERENCE = "reference"
FLOAT32_TOLERANCE = 1e-5  # of a logit, or of its size where that is more than 1
BFLOAT16_FACTOR = 1.25  # how far from float32, in distances of the reference in bfloat16
LONGEST_AT_ONCE = 4  # in the small batches of the trial, which have lengths of their own
ROUNDS = 3  # of a measurement, of which the fastest counts
WORTHWHILE = 1.03  # times as fast: less does not pay for twice the memory
LONGEST_REASON = 500  # characters
OUT_OF_TIME = "time was up before its speed was measured"

Maker = Callable[[], Encoder]


class NoEncoderError(RuntimeError):
    """No candidate gives the logits of the float32 reference."""


class DeviceFailedError(RuntimeError):
    """A trial has left the device in a state in which this process can compute nothing more on it."""


class _OutOfTimeError(Exception):
    """The time that was given is over."""


class _WrongLogitsError(Exception):
    """The encoder computes something else than the model."""


@dataclass(frozen=True)
class Trial:
    """What came of one candidate.

    ``largest_difference``: of a logit from the float32 reference; None where there are no logits to compare.
    ``rms_difference``: the root of the mean square of these differences, which decides nothing.
    ``pairs_per_second``: None where it was not measured. ``max_tokens_per_batch``: padded tokens, as it was tried.
    ``reason``: why it is out; None for one that is right.
    """

    largest_difference: float | None = None
    rms_difference: float | None = None
    pairs_per_second: float | None = None
    max_tokens_per_batch: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Choice:
    """The encoder that a replica takes, and why.

    ``encoder``: name of a candidate. ``device``: what it is, by name. ``dtype``: ``float32`` or ``bfloat16``.
    ``max_tokens_per_batch``: padded tokens. ``seconds``: that the trials took. ``trials``: by name of the candidate.
    """

    encoder: str
    device: str
    dtype: str
    max_tokens_per_batch: int
    seconds: float
    trials: Mapping[str, Trial]

    def to_json(self) -> str:
        """One line that `from_json` reads."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Choice:
        """The choice that `to_json` wrote.

        Raises:
            ValueError: the text is none.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            trials = {name: Trial(**trial) for name, trial in fields.pop("trials").items()}
            return cls(**fields, trials=trials)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"got {text[:200]!r}, expected a choice of an encoder as JSON: {error!r}") from error


def candidates(
    model: EncT5ForSequenceClassification, *, max_length: int, max_tokens: int, consume: bool = False
) -> dict[str, Maker]:
    """What could encode for this model on its device, by name; nothing is made or compiled yet.

    Args:
        model: on its device, in its dtype, in evaluation mode.
        max_length: tokens of the longest pair there can be.
        max_tokens: the most padded tokens of a batch.
        consume: for the encoder that is chosen, once nothing else is tried with the model; see `PackedEncoder`.
    """
    reference: dict[str, Maker] = {REFERENCE: partial(ReferenceEncoder, model)}
    if not has_gated_gelu(model):
        return reference
    if model.device.type == "cuda":
        return reference | compiled_candidates(model, max_length=max_length, max_tokens=max_tokens)
    return reference | {
        "packed": partial(PackedEncoder, model, consume=consume),
        "packed-torch": partial(PackedEncoder, model, consume=consume, projection=TorchProjection),
    }


def compiled_candidates(
    model: EncT5ForSequenceClassification, *, max_length: int, max_tokens: int, **options: Any
) -> dict[str, Maker]:
    """Those for CUDA, which run on CPUs too where ``compile_layer`` leaves the layer as it is.

    Args:
        options: of `CompiledEncoder`.
    """
    compiled = partial(CompiledEncoder, model, max_length=max_length, max_tokens=max_tokens, **options)
    return {
        "padded": partial(compiled, attention=PaddedAttention),
        "packed": partial(compiled, attention=PackedAttention),
    }


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
    return _encode(ReferenceEncoder(model), pairs, default_max_tokens("cpu"), lambda: None)


def try_encoders(
    makers: Mapping[str, Maker],
    expected: npt.NDArray[np.float32],
    pairs: EncodedPairs,
    speed_pairs: EncodedPairs,
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_tokens: int,
    seconds: float,
    excluded: Mapping[str, str] | None = None,
    on_trial: Callable[[str], None] = lambda name: None,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """Try all candidates, one after the other, the reference first; the fastest that is right is chosen.

    A candidate is out that raises, runs out of memory, gives other logits than the reference, or logits that are not
    finite; a warning says so. The reference alone is tried again with half the tokens where memory runs out.

    Args:
        makers: as `candidates` gives them.
        expected: `float32_logits` of ``pairs``, (n, num_labels).
        pairs: `trial_pairs`. In float32 a logit may be 1e-5 off, relative to those beyond 1; in bfloat16 the largest
            difference from ``expected`` may be 1.25 times that of the reference in bfloat16.
        speed_pairs: pairs with the lengths of those that will be scored, enough of them for several batches.
        device: of the model.
        dtype: of the model, float32 or bfloat16.
        max_tokens: padded tokens of a batch.
        seconds: after them no candidate begins, no further round of a measurement, and no further batch but those that
            the reference is checked with. Each candidate has an equal share of what the ones before it have left.
        excluded: candidates that are not tried, each with the reason, because they hung or killed the process before.
        on_trial: called with the name of each candidate before it is made.

    Raises:
        NoEncoderError: none is right, not even the reference.
        DeviceFailedError: after a trial nothing can be computed any more. The candidate is to be excluded, and the
            process to be started again.
    """
    excluded = excluded or {}
    started = clock()
    ends = started + seconds
    trying = _Trying(expected, pairs, speed_pairs, device, dtype, max_tokens, ends, clock)
    trials = {name: Trial(reason=reason) for name, reason in excluded.items() if name in makers}
    names = sorted((name for name in makers if name not in trials), key=lambda name: name != REFERENCE)
    for index, name in enumerate(names):
        left = ends - clock()
        if name != REFERENCE and left <= 0:
            trials[name] = Trial(reason=OUT_OF_TIME)
            continue
        trying.ends = clock() + left / (len(names) - index)
        on_trial(name)
        trials[name] = trying.attempt(name, makers[name])
        gc.collect()  # a compiled layer and its encoder know each other
        _free_unused_memory(device)
    for name, trial in trials.items():
        if trial.reason is not None:
            log.warning("encoder %s is not considered: %s", name, trial.reason)
    return Choice(
        encoder=(best := _best(trials)),
        device=device_name(device),
        dtype=str(dtype).removeprefix("torch."),
        max_tokens_per_batch=trials[best].max_tokens_per_batch or max_tokens,
        seconds=clock() - started,
        trials={name: trials[name] for name in makers},
    )


def _best(trials: Mapping[str, Trial]) -> str:
    measured = {name: trial.pairs_per_second or 0.0 for name, trial in trials.items() if trial.reason is None}
    if measured:
        return max(measured, key=lambda name: measured[name])
    raise NoEncoderError(
        "no encoder is right on this device: "
        + "; ".join(f"{name}: {trial.reason}" for name, trial in trials.items())
        + ". Are the model's weights numbers, and does it fit the device's memory?"
    )


@dataclass
class _Trying:
    """What all candidates of one choice are tried with."""

    expected: npt.NDArray[np.float32]
    pairs: EncodedPairs
    speed_pairs: EncodedPairs
    device: torch.device
    dtype: torch.dtype
    max_tokens: int
    ends: float
    clock: Callable[[], float]
    allowed_difference: float | None = None  # in bfloat16: known once the reference was tried

    def attempt(self, name: str, make: Maker) -> Trial:
        longest = int(max(self.pairs.lengths.max(), self.speed_pairs.lengths.max()))
        budget = self.max_tokens
        while True:
            try:
                return self._attempt(name, make, budget)
            except Exception as error:  # whatever a compiler, a driver or a kernel may raise
                _check_device(self.device, name, error)
                reason = f"{type(error).__name__}: {error}"[:LONGEST_REASON]
                if name != REFERENCE or not isinstance(error, torch.OutOfMemoryError) or budget <= longest:
                    log.info("encoder %s failed", name, exc_info=True)
                    return Trial(max_tokens_per_batch=budget, reason=reason)
            budget //= 2
            _free_unused_memory(self.device)

    def _attempt(self, name: str, make: Maker, budget: int) -> Trial:
        encoder = make()
        measured: dict[str, Any] = {"max_tokens_per_batch": budget}
        try:
            found = self._logits(name, encoder, budget)
            difference = np.stack([self._difference(logits) for logits in found])
            measured["largest_difference"] = largest = float(np.abs(difference).max())
            if not math.isfinite(largest):
                del measured["largest_difference"]
                raise _WrongLogitsError("the float32 reference itself gives logits that are not finite")
            measured["rms_difference"] = float(np.sqrt(np.square(difference, dtype=np.float64).mean()))
            self._judge(name, difference, largest)
            measured["pairs_per_second"] = self._pairs_per_second(encoder, budget)
        except _WrongLogitsError as error:
            return Trial(**measured, reason=str(error))
        except _OutOfTimeError:  # the reference can be taken without a speed
            return Trial(**measured, reason=None if name == REFERENCE else OUT_OF_TIME)
        return Trial(**measured)

    def _logits(self, name: str, encoder: Encoder, budget: int) -> list[npt.NDArray[np.float32]]:
        """Of the trial's pairs, in small batches of several lengths, and in batches as large as they come."""
        check = (lambda: None) if name == REFERENCE else self._check_time
        small = LONGEST_AT_ONCE * int(self.pairs.lengths.max())
        return [_encode(encoder, self.pairs, size, check) for size in sorted({min(small, budget), budget})]

    def _difference(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if logits.shape != self.expected.shape:
            raise _WrongLogitsError(f"gives logits of shape {logits.shape}, expected {self.expected.shape}")
        if bad := int((~np.isfinite(logits)).any(axis=1).sum()):
            raise _WrongLogitsError(f"gives logits that are not finite for {bad} of {len(logits)} pairs")
        return logits - self.expected

    def _judge(self, name: str, difference: npt.NDArray[np.float32], largest: float) -> None:
        if self.dtype == torch.float32:
            allowed_NC = FLOAT32_TOLERANCE * np.maximum(1, np.abs(self.expected))
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

    def _pairs_per_second(self, encoder: Encoder, budget: int) -> float:
        return len(self.speed_pairs) / _fastest(encoder, self.speed_pairs, budget, self.clock, self._check_time)

    def _check_time(self) -> None:
        if self.clock() >= self.ends:
            raise _OutOfTimeError


def find_budget(
    encoder: Encoder,
    pairs: EncodedPairs,
    budget: int,
    *,
    least: int,
    most: int,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """The number of padded tokens at once with which the encoder is fastest, between ``least`` and ``most``.

    Halves are tried as long as they are faster, or memory runs out; if none is, doubles as long as they gain 3 %.

    Args:
        encoder: the chosen one; a `CompiledEncoder` splits batches beyond its own ``max_tokens``, so make it for
            ``most``.
        pairs: like those that will be scored, several times ``most`` tokens.
        budget: padded tokens to begin with.
        seconds: after them nothing more is tried, and the best yet is taken.

    Raises:
        torch.OutOfMemoryError: not even ``least`` fits.
        Exception: what the encoder raises at ``budget``.
    """
    ends = clock() + seconds

    def check() -> None:
        if clock() >= ends:
            raise _OutOfTimeError

    def measure(tokens: int) -> float:
        """Seconds; infinite where that many tokens do not go through."""
        try:
            return _fastest(encoder, pairs, tokens, clock, check)
        except _OutOfTimeError:
            raise
        except Exception as error:
            if tokens == budget and not isinstance(error, torch.OutOfMemoryError):
                raise
            log.info("%d tokens at once do not go through: %s", tokens, error)
        if torch.cuda.is_available():  # only here: the exception holds what the batch had allocated
            torch.cuda.empty_cache()
        return math.inf

    best = budget
    try:
        taken = measure(best)
        while math.isinf(taken) and best // 2 >= least:
            best //= 2
            taken = measure(best)
        if math.isinf(taken):
            raise torch.OutOfMemoryError(f"{best} tokens at once, of at least {least}, do not fit into the memory")
        while best // 2 >= least and (half := measure(best // 2)) < taken:
            best, taken = best // 2, half
        while budget <= best <= most // 2 and (double := measure(2 * best)) * WORTHWHILE <= taken:
            best, taken = 2 * best, double
    except _OutOfTimeError:
        log.info("no more time to find the tokens of a batch: it has %d", best)
    return best


def _fastest(
    encoder: Encoder, pairs: EncodedPairs, budget: int, clock: Callable[[], float], check: Callable[[], None]
) -> float:
    """Seconds for the pairs, of the fastest of some rounds after a warm-up.

    Raises:
        _OutOfTimeError: of ``check``, before a first round was over.
    """
    _encode(encoder, pairs, budget, check)
    fastest = math.inf
    for _ in range(ROUNDS):
        try:
            check()
            started = clock()
            _encode(encoder, pairs, budget, check)
        except _OutOfTimeError:
            if math.isinf(fastest):
                raise
            break
        fastest = min(fastest, clock() - started)
    return max(fastest, 1e-9)


def _encode(encoder: Encoder, pairs: EncodedPairs, budget: int, check: Callable[[], None]) -> npt.NDArray[np.float32]:
    """Logits in the order of the pairs; it returns when the device is done."""
    plan = plan_batches(pairs.lengths, budget)
    parts = []
    for rows in plan:
        check()
        parts.append(encoder(pairs, rows))
    found = torch.cat(parts).float().cpu().numpy()
    logits = np.empty_like(found)
    logits[np.concatenate(plan)] = found
    return logits


def device_name(device: torch.device) -> str:
    """What the device is, for people and for comparing."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _check_device(device: torch.device, name: str, error: Exception) -> None:
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


def _free_unused_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
