"""Batches under a token budget, one after the other through an encoder, whatever the model behind it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from tart_ray.model.encoded import EncodedPairs
from tart_ray.scoring.batching import plan_batches
from tart_ray.scoring.memory import free_unused_memory
from tart_ray.scoring.reference import Encoder
from tart_ray.scoring.scores import Scores

log = logging.getLogger(__name__)


class BatchedScorer:
    """Score encoded pairs: sort by length, encode under a token budget, return results in the order of the pairs.

    Args:
        encoder: gives the logits of some of the pairs.
        labels: of the model, that is columns of the logits.
        max_tokens_per_batch: padded tokens that go through the encoder at once. Running out of CUDA memory halves it,
            or splits the batch alone if that one was of half of it at most, and goes on.
    """

    def __init__(self, encoder: Encoder, labels: int, max_tokens_per_batch: int) -> None:
        self._encoder = encoder
        self._labels = labels
        self.max_tokens_per_batch = max_tokens_per_batch
        self.on_batch: Callable[[], None] = lambda: None  # called as batches go through, for who watches over them

    def calibrate(self, max_length: int, token: int) -> None:
        """Score one batch as large as they come, which halves a budget that does not fit.

        Args:
            max_length: tokens of each of its pairs.
            token: the id that they consist of.
        """
        count = max(self.max_tokens_per_batch // max_length, 1)
        ids = np.full(count * max_length, token, np.int32)
        offsets = np.arange(count + 1, dtype=np.int64) * max_length
        self.score_encoded(EncodedPairs(ids, offsets, np.zeros(count, np.bool_)))

    def score_encoded(self, pairs: EncodedPairs) -> Scores:
        """Score pairs that are token ids already.

        Raises:
            torch.OutOfMemoryError: a single pair does not fit.
        """
        logits = np.zeros((len(pairs), self._labels), dtype=np.float32)
        waiting = plan_batches(pairs.lengths, self.max_tokens_per_batch)[::-1]
        on_its_way: tuple[npt.NDArray[np.int64], Callable[[], npt.NDArray[np.float32]]] | None = None
        while waiting:
            rows = waiting.pop()
            try:
                started = rows, _start_fetching(self._encoder(pairs, rows))
                if on_its_way:
                    logits[on_its_way[0]] = on_its_way[1]()
                on_its_way = started
                self.on_batch()
                continue
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
            free_unused_memory()  # only here: the exception holds what the batch had allocated
            waiting = self._in_smaller_batches(pairs.lengths, rows, waiting)
        if on_its_way:
            logits[on_its_way[0]] = on_its_way[1]()
        return Scores(logits)

    def _in_smaller_batches(
        self, lengths: npt.NDArray[np.int64], failed: npt.NDArray[np.int64], waiting: list[npt.NDArray[np.int64]]
    ) -> list[npt.NDArray[np.int64]]:
        """The batches left, the next one last, after ``failed`` did not fit.

        A batch of up to half the budget says little about the budget: it is cut in two, the others stay. A larger one
        halves the budget.
        """
        if 2 * lengths[failed].max() * len(failed) <= self.max_tokens_per_batch:
            half = len(failed) // 2
            log.warning(
                "out of memory at %d pairs, which are split; max_tokens_per_batch is still %d",
                len(failed),
                self.max_tokens_per_batch,
            )
            return [*waiting, failed[half:], failed[:half]]
        self.max_tokens_per_batch //= 2
        log.warning("out of memory at %d pairs; max_tokens_per_batch is now %d", len(failed), self.max_tokens_per_batch)
        left = np.concatenate([failed, *waiting[::-1]])
        plan = plan_batches(lengths[left], self.max_tokens_per_batch)
        return [left[batch] for batch in plan][::-1]


def _start_fetching(logits: torch.Tensor) -> Callable[[], npt.NDArray[np.float32]]:
    """Begin to copy results to the host; the function returned waits for them, and for nothing that came later."""
    if logits.device.type != "cuda":
        return logits.cpu().numpy
    host = logits.to("cpu", non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(logits.device))

    def wait() -> npt.NDArray[np.float32]:
        arrived.synchronize()
        return host.numpy()

    return wait
