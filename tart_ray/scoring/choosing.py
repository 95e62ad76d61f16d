"""An EncT5's batches through the encoder that suits the device, and through the reference where that one fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.scoring.batched import BatchedScorer
from tart_ray.scoring.batching import default_max_tokens, fitting_max_tokens
from tart_ray.scoring.budget import find_budget
from tart_ray.scoring.candidates import Maker, candidates, device_name, named
from tart_ray.scoring.choice import REFERENCE, Choice
from tart_ray.scoring.cuda import bytes_per_token
from tart_ray.scoring.reference import Encoder, ReferenceEncoder
from tart_ray.scoring.trials import LONGEST_REASON, Expected, check_device, try_encoders

log = logging.getLogger(__name__)

SECONDS_TO_TRY = 180.0  # of all candidates: a GPU compiles each of them for some shapes
SECONDS_FOR_BUDGET = 30.0
MOST_BY_BUDGET = 2  # tokens of the largest batch that is tried, by those of the first
LEAST_BY_BUDGET = 8


class ChoosingScorer(BatchedScorer):
    """Score encoded pairs with an encoder by name, or with one that is chosen by trying.

    Args:
        model: on its device, in evaluation mode.
        max_length: tokens of the longest pair there can be.
        max_tokens_per_batch: padded tokens; by default what suits the device, or is found by trying.
        encoder: a name among `candidates`, ``auto``, or an encoder of the caller's own. ``auto`` is the reference until
            `choose` or `follow` was called if ``expected`` is given, else what suits the kind of device.
        expected: of the model in float32.
        consume: the model's own forward pass is not needed; see `PackedEncoder`.

    Attributes:
        choice: the encoder that was chosen; None before `choose` or `follow`, and with one of the caller's own.
        encoder: name of the one that scores now; None for one of the caller's own.
        fallback: why that is another one than was chosen; None if it is not.
    """

    def __init__(
        self,
        model: EncT5ForSequenceClassification,
        *,
        max_length: int,
        max_tokens_per_batch: int | None = None,
        encoder: str | Encoder = "auto",
        expected: Expected | None = None,
        consume: bool = False,
    ) -> None:
        budget = max_tokens_per_batch or suitable_max_tokens(model)
        super().__init__(self._encode, model.config.num_labels, budget)
        self.model, self.max_length = model, max_length
        self.choice: Choice | None = None
        self.encoder: str | None = None
        self.fallback: str | None = None
        self._expected, self._budget_is_given = expected, max_tokens_per_batch is not None
        self._reference = None if consume else ReferenceEncoder(model)
        if not isinstance(encoder, str):
            self._now: Encoder = encoder
        elif encoder == "auto" and expected is not None:
            self.encoder, self._now = REFERENCE, ReferenceEncoder(model)
        else:
            makers = candidates(model, max_length=max_length, max_tokens=budget, consume=consume)
            name = suitable_encoder(makers, model.device) if encoder == "auto" else named(makers, encoder)
            dtype = str(model.dtype).removeprefix("torch.")
            self.choice = Choice(name, device_name(model.device), dtype, budget)
            self.encoder, self._now = name, makers[name]()

    def choose(
        self,
        pairs: EncodedPairs,
        *,
        excluded: Mapping[str, str] | None = None,
        on_trial: Callable[[str], None] = lambda name: None,
    ) -> Choice:
        """Try all candidates on pairs like those that will be scored, and take the fastest that is right.

        Args:
            pairs: their lengths count.
            excluded, on_trial: of `try_encoders`.

        Raises:
            ValueError: there is nothing to compare them with.
            NoEncoderError, DeviceFailedError: as `try_encoders`.
        """
        if self._expected is None:
            raise ValueError("got a scorer whose encoder is settled, expected one with the logits of the float32 model")
        started = time.monotonic()
        budget, most = self.max_tokens_per_batch, MOST_BY_BUDGET * self.max_tokens_per_batch
        like_them = sample(pairs, 2 * most)
        choice, encoder = self._try(
            self.candidates(most), self._expected, like_them, budget, excluded=excluded, on_trial=on_trial
        )
        budget = choice.max_tokens_per_batch
        if not self._budget_is_given:
            on_trial(choice.encoder)
            least = max(budget // LEAST_BY_BUDGET, min(budget, self.max_length))
            options: Any = {"least": least, "most": most, "seconds": SECONDS_FOR_BUDGET, "on_batch": self.on_batch}
            try:
                budget = find_budget(encoder, like_them, budget, **options)
            except Exception as error:  # what went well with the trial's pairs
                check_device(self.model.device, choice.encoder, error)
                log.warning("a batch keeps %d tokens: %s: %s", budget, type(error).__name__, error)
        choice = replace(choice, max_tokens_per_batch=budget, seconds=time.monotonic() - started)
        self.choice, self.encoder, self._now = choice, choice.encoder, encoder
        self.max_tokens_per_batch = budget
        return choice

    def follow(self, choice: Choice, *, distrusted: str | None = None) -> None:
        """Take the encoder that another process chose, if it is right on this device, or else the reference.

        A scorer whose encoder is settled keeps it.

        Args:
            distrusted: why the reference is taken in any case.
        """
        budget = self.max_tokens_per_batch if self._budget_is_given else choice.max_tokens_per_batch
        if self._expected is None:
            if self.encoder != choice.encoder:
                self.fallback = f"the encoder {choice.encoder} is not for {self.choice and self.choice.device}"
                log.warning("the encoder %s scores: %s", self.encoder, self.fallback)
            return
        if distrusted:
            self.choice, self.max_tokens_per_batch = choice, budget
            self._fall_back(distrusted)
            return
        makers = self.candidates(MOST_BY_BUDGET * budget)
        both = {name: makers[name] for name in (choice.encoder, REFERENCE) if name in makers}
        found, encoder = self._try(both, self._expected, None, budget)
        self.choice, self.encoder, self._now = choice, found.encoder, encoder
        self.max_tokens_per_batch = min(budget, found.max_tokens_per_batch)
        if found.encoder != choice.encoder:
            trial = found.trials.get(choice.encoder)
            self._fall_back(trial.reason if trial else f"there is no encoder {choice.encoder} for this device")

    def candidates(self, max_tokens: int) -> dict[str, Maker]:
        """What is tried, for batches of up to so many padded tokens."""
        return candidates(self.model, max_length=self.max_length, max_tokens=max_tokens)

    def _try(
        self,
        makers: Mapping[str, Maker],
        expected: Expected,
        speed_pairs: EncodedPairs | None,
        max_tokens: int,
        **options: Any,
    ) -> tuple[Choice, Encoder]:
        return try_encoders(
            makers,
            expected,
            speed_pairs,
            device=self.model.device,
            dtype=self.model.dtype,
            max_tokens=max_tokens,
            seconds=SECONDS_TO_TRY,
            on_batch=self.on_batch,
            **options,
        )

    @property
    def _reference_beside(self) -> Encoder | None:
        """The reference where another encoder was chosen, and the model can go through it still."""
        return None if self.choice is None or self.encoder == REFERENCE else self._reference

    @contextmanager
    def distrusted(self, reason: str) -> Iterator[None]:
        """A block in which the reference scores, if there is one beside the encoder that was chosen."""
        if self._reference_beside is None:
            yield
            return
        name, encoder = self.encoder, self._now
        self._fall_back(reason)
        try:
            yield
        finally:
            self.encoder, self._now, self.fallback = name, encoder, None

    def _encode(self, pairs: EncodedPairs, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        try:
            return self._now(pairs, rows)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if (reference := self._reference_beside) is None:
                raise
            logits = reference(pairs, rows)  # raises where the pairs are at fault, or the device
            self._fall_back(f"{type(error).__name__}: {error}"[:LONGEST_REASON])
            return logits

    def _fall_back(self, reason: str | None) -> None:
        assert self._reference is not None
        self.encoder, self._now, self.fallback = REFERENCE, self._reference, reason
        log.warning("the reference scores in place of the chosen encoder: %s", reason)


def suitable_encoder(makers: Mapping[str, Maker], device: torch.device) -> str:
    """The fastest candidate of those that have run on this kind of device: on a CPU oneDNN's kernels if it has them."""
    order = ("packed", "packed-torch", REFERENCE) if device.type == "cpu" else (REFERENCE,)
    return next(name for name in order if name in makers)


def suitable_max_tokens(model: EncT5ForSequenceClassification) -> int:
    """Tokens of a batch for the model's device; on CUDA as many as go into half of the memory that is free."""
    most = default_max_tokens(model.device.type)
    if model.device.type != "cuda":
        return most
    return fitting_max_tokens(most, torch.cuda.mem_get_info(model.device)[0], bytes_per_token(model))


def sample(pairs: EncodedPairs, tokens: int) -> EncodedPairs:
    """Some of the pairs, or all of them again and again: about so many tokens, of the same lengths."""
    count = max(round(tokens / max(pairs.lengths.mean(), 1)), 1)
    return pairs.take(np.linspace(0, len(pairs), count, endpoint=False).astype(np.int64))
