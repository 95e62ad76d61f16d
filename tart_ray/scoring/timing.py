"""Pairs through an encoder, and how long that takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from tart_ray.model.encoded import EncodedPairs
from tart_ray.scoring.batching import plan_batches
from tart_ray.scoring.reference import Encoder

ROUNDS = 3  # of a measurement, of which the fastest counts


class OutOfTimeError(Exception):
    """The time that was given is over."""


def encode_all(
    encoder: Encoder, pairs: EncodedPairs, budget: int, check: Callable[[], None]
) -> npt.NDArray[np.float32]:
    """Logits in the order of the pairs; it returns when the device is done.

    Args:
        budget: padded tokens of a batch.
        check: called before each batch.
    """
    plan = plan_batches(pairs.lengths, budget)
    parts = []
    for rows in plan:
        check()
        parts.append(encoder(pairs, rows))
    found = torch.cat(parts).float().cpu().numpy()
    logits = np.empty_like(found)
    logits[np.concatenate(plan)] = found
    return logits


def fastest(
    encoder: Encoder, pairs: EncodedPairs, budget: int, clock: Callable[[], float], check: Callable[[], None]
) -> float:
    """Seconds for the pairs, of the fastest of some rounds after a warm-up.

    Raises:
        OutOfTimeError: of ``check``, before a first round was over.
    """
    encode_all(encoder, pairs, budget, check)
    fastest = math.inf
    for _ in range(ROUNDS):
        try:
            check()
            started = clock()
            encode_all(encoder, pairs, budget, check)
        except OutOfTimeError:
            if math.isinf(fastest):
                raise
            break
        fastest = min(fastest, clock() - started)
    return max(fastest, 1e-9)
