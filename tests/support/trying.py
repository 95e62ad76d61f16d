"""Replicas on CPUs that choose their encoder by trying, among candidates that fail as those of a GPU may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from support.deadly import die
from tart_ray import EncT5ForSequenceClassification, EncT5Tokenizer
from tart_ray.scoring.choice import Choice
from tart_ray.scoring.encoder import PackedEncoder
from tart_ray.scoring.reference import Encoder, ReferenceEncoder
from tart_ray.scoring.scorer import Scorer
from tart_ray.scoring.trials import Expected

FAILING = ("wrong", "raises", "memory", "dies", "hangs")


def load_trying(names: tuple[str, ...], config: Any) -> TryingScorer:
    """A replica with the reference, slowed down, and these candidates."""
    model = EncT5ForSequenceClassification.from_pretrained(config.model.path).eval()
    tokenizer = EncT5Tokenizer.from_pretrained(config.model.path)
    longest = config.model.max_length
    scorer = TryingScorer(model, tokenizer, max_length=longest, expected=Expected.of(model, longest))
    scorer.names = names
    return scorer


class TryingScorer(Scorer):
    """A real Scorer with candidates of its own."""

    names: tuple[str, ...]

    def candidates(self, max_tokens: int) -> dict[str, Callable[[], Encoder]]:
        return {"reference": lambda: self._slowly} | {name: partial(self._make, name) for name in self.names}

    def _slowly(self, pairs: Any, rows: Any) -> torch.Tensor:
        for _ in range(9):
            ReferenceEncoder(self.model)(pairs, rows)
        return ReferenceEncoder(self.model)(pairs, rows)

    def _make(self, name: str) -> Encoder:
        right = PackedEncoder(self.model)

        def encode(pairs: Any, rows: Any) -> torch.Tensor:
            match name:
                case "raises":
                    raise RuntimeError("no kernel image is available")
                case "memory":
                    raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")
                case "dies":
                    die()
                case "hangs":
                    threading.Event().wait()
            return right(pairs, rows) + (0.1 if name == "wrong" else 0.0)

        return encode


def load_one_of_two(folder: Path, fault: str, config: Any) -> OneOfTwo:
    """Replicas of which only the first has a device that the candidate is right on; on the others it has a fault."""
    scorer = load_trying(("fast",), config)
    scorer.__class__ = OneOfTwo
    scorer.folder = folder
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        scorer.names = (fault,)
        while not (folder / "chosen").exists():
            time.sleep(0.02)  # the first is at it
    return scorer


class OneOfTwo(TryingScorer):
    """The first scores nothing before the second has followed its choice."""

    folder: Path

    def choose(self, *arguments: Any, **options: Any) -> Choice:
        choice = super().choose(*arguments, **options)
        (self.folder / "chosen").touch()
        return choice

    def follow(self, choice: Choice, *, distrusted: str | None = None) -> None:
        super().follow(choice, distrusted=distrusted)
        (self.folder / "followed").touch()

    def candidates(self, max_tokens: int) -> dict[str, Callable[[], Encoder]]:
        makers = super().candidates(max_tokens)
        (name,) = self.names
        return makers | {"fast": makers[name]}

    def score_encoded(self, pairs: Any) -> Any:
        while self.choice is not None and not (self.folder / "followed").exists():
            self.on_batch()  # it does not hang
            time.sleep(0.02)  # the other replica starts
        return super().score_encoded(pairs)


def load_following(config: Any) -> TryingScorer:
    """A replica that must find the choice made."""
    scorer = load_trying(("fast",), config)
    scorer.__class__ = Following
    return scorer


class Following(TryingScorer):
    def choose(self, *_: Any, **__: Any) -> Choice:
        raise AssertionError("this run has its encoder already")
