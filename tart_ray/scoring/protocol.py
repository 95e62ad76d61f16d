"""What a replica asks of a model: anything that scores encoded pairs will do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tart_ray.model.encoded import EncodedPairs
from tart_ray.scoring.choice import Choice

if TYPE_CHECKING:
    from tart_ray.scoring.scores import Scores


class PairScorer(Protocol):
    """A model on a device.

    Attributes:
        max_tokens_per_batch: padded tokens that go through it at once.
        on_batch: called as batches go through, for who watches over them.
    """

    max_tokens_per_batch: int
    on_batch: Callable[[], None]

    def score_encoded(self, pairs: EncodedPairs) -> Scores:
        """Logits, margins and probabilities, in the order of the pairs."""
        ...


@runtime_checkable
class ChoosesEncoder(PairScorer, Protocol):
    """One that has several encoders; see `tart_ray.scoring.choosing.ChoosingScorer`."""

    choice: Choice | None
    encoder: str | None
    fallback: str | None

    def choose(
        self, pairs: EncodedPairs, *, excluded: Mapping[str, str] | None = None, on_trial: Callable[[str], None] = ...
    ) -> Choice:
        """Try the candidates, and take the fastest that is right."""
        ...

    def follow(self, choice: Choice, *, distrusted: str | None = None) -> None:
        """Take the encoder that another process chose."""
        ...

    def distrusted(self, reason: str) -> AbstractContextManager[None]:
        """A block in which the reference scores."""
        ...
