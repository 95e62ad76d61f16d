"""How many tokens go through an encoder at once: found by trying."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import torch

from tart_ray.model.encoded import EncodedPairs
from tart_ray.scoring.memory import free_unused_memory
from tart_ray.scoring.reference import Encoder
from tart_ray.scoring.timing import OutOfTimeError, fastest

log = logging.getLogger(__name__)

WORTHWHILE = 1.03  # times as fast: less does not pay for twice the memory


def find_budget(
    encoder: Encoder,
    pairs: EncodedPairs,
    budget: int,
    *,
    least: int,
    most: int,
    seconds: float,
    on_batch: Callable[[], None] = lambda: None,
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
        on_batch: called before each batch.

    Raises:
        torch.OutOfMemoryError: not even ``least`` fits.
        Exception: what the encoder raises at ``budget``.
    """
    ends = clock() + seconds

    def check() -> None:
        on_batch()
        if clock() >= ends:
            raise OutOfTimeError

    def measure(tokens: int) -> float:
        """Seconds; infinite where that many tokens do not go through."""
        try:
            return fastest(encoder, pairs, tokens, clock, check)
        except OutOfTimeError:
            raise
        except Exception as error:
            if tokens == budget and not isinstance(error, torch.OutOfMemoryError):
                raise
            log.info("%d tokens at once do not go through: %s", tokens, error)
        free_unused_memory()  # only here: the exception holds what the batch had allocated
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
    except OutOfTimeError:
        log.info("no more time to find the tokens of a batch: it has %d", best)
    return best
