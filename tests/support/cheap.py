"""A scorer that costs next to nothing, for jobs whose model does not matter."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np


class CheapScorer:
    """In place of a Scorer: a pair's margin is a hash of its token ids, from -8 to 8."""

    max_tokens_per_batch = 1 << 20

    def score_encoded(self, pairs: Any) -> Any:
        """Scores of encoded pairs."""
        from tart_ray.scoring.scores import Scores

        hashes = np.array([zlib.crc32(pairs.row(i)) for i in range(len(pairs))], dtype=np.float64)
        margin = hashes / 2**28 - 8
        return Scores(np.stack([np.zeros_like(margin), margin], axis=1).astype(np.float32))


def load_cheap_scorer(_: Any) -> CheapScorer:
    """Loads at once."""
    return CheapScorer()
