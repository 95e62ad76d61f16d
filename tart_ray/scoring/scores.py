"""Scores: what a model says of pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tart_ray.model.encoded import BestWindows


@dataclass(frozen=True)
class Scores:
    """Scores of n pairs, in the order of the input.

    ``logits``: float32 (n, 2), or (n, 1) for a one-label model. ``windows``: under ``long_documents="maxp"`` which
    window of each pair they are of.
    """

    logits: npt.NDArray[np.float32]
    windows: BestWindows | None = None

    @property
    def margin(self) -> npt.NDArray[np.float32]:
        """``logits[:, 1] - logits[:, 0]``, float32 (n,): what to rank by, it does not saturate.

        The raw output of a one-label model, which is what the original implementation returns for it.
        """
        return self.logits[:, 0] if self.logits.shape[1] == 1 else self.logits[:, 1] - self.logits[:, 0]

    @property
    def score(self) -> npt.NDArray[np.float32]:
        """Probability of "relevant", float32 (n,): ``softmax(logits)[:, 1]``, that is ``sigmoid(margin)``.

        The same formula maps the raw output of a one-label model into (0, 1), so that a score means
        one thing in every output; the raw number stays in `logits` and `margin`.
        """
        margin = self.margin.astype(np.float64)
        shrunk = np.exp(-np.abs(margin))  # of a negative number: cannot overflow
        return (np.where(margin >= 0, 1.0, shrunk) / (1.0 + shrunk)).astype(np.float32)
