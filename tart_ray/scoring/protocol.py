"""What a replica asks of a model: anything that scores encoded pairs will do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tart_ray.model.encoded import EncodedPairs

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
