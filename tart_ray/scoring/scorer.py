"""Scorer: one replica of an EncT5 that scores (instruction, query, document) on one device."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.tokenizer import DEFAULT_MAX_LENGTH, EncodedPairs, EncT5Tokenizer, Truncation, join_instruction
from tart_ray.scoring.batching import default_max_tokens, plan_batches
from tart_ray.scoring.reference import Encoder, ReferenceEncoder

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Scores:
    """Scores of n pairs, in the order of the input.

    ``logits``: float32 (n, 2), or (n, 1) for a one-label model.
    """

    logits: npt.NDArray[np.float32]

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


class Scorer:
    """Score pairs: tokenise, sort by length, encode under a token budget, return results in input order.

    Args:
        model: the checkpoint, on its device, in evaluation mode.
        tokenizer: its tokenizer.
        max_length: tokens of a pair, longer ones are cut.
        truncation: ``longest_first`` (as the original) or ``only_document``.
        max_tokens_per_batch: padded tokens that go through the encoder at once. Running out of CUDA memory
            halves it and goes on.
        encoder: in place of the reference encoder.
    """

    def __init__(
        self,
        model: EncT5ForSequenceClassification,
        tokenizer: EncT5Tokenizer,
        *,
        max_length: int = DEFAULT_MAX_LENGTH,
        truncation: Truncation = "longest_first",
        max_tokens_per_batch: int | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation = truncation
        self.max_tokens_per_batch = max_tokens_per_batch or default_max_tokens(model.device.type)
        self._encoder = encoder or ReferenceEncoder(model)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        truncation: Truncation = "longest_first",
        split_special_tokens: bool = False,
        max_tokens_per_batch: int | None = None,
    ) -> Scorer:
        """Load a checkpoint from a hub id, a local directory or ``s3://…``.

        Args:
            device: by default CUDA where there is one, else the CPU.
            dtype: ``float32`` (the reference), ``bfloat16``, or ``auto`` / None: bfloat16 on CUDA, float32 on the CPU.

        Raises:
            CheckpointError: the checkpoint cannot be found or used.
            ValueError: a dtype that T5 does not survive.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        where: dict[str, Any] = {"revision": revision, "storage_options": storage_options}
        tokenizer = EncT5Tokenizer.from_pretrained(path, split_special_tokens=split_special_tokens, **where)
        model = EncT5ForSequenceClassification.from_pretrained(path, dtype=resolve_dtype(dtype, device), **where)
        return cls(
            model.to(device).eval(),
            tokenizer,
            max_length=max_length,
            truncation=truncation,
            max_tokens_per_batch=max_tokens_per_batch,
        )

    def score(
        self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None] | str | None = None
    ) -> Scores:
        """Score ``documents[i]`` for ``queries[i]`` under ``instructions[i]``, or under one instruction for all.

        Raises:
            ValueError: lists of unequal length.
        """
        return self.score_encoded(self.encode(queries, documents, instructions))

    def encode(
        self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None] | str | None = None
    ) -> EncodedPairs:
        """Token ids of the pairs that `score` would score.

        Raises:
            ValueError: lists of unequal length.
        """
        if instructions is None or isinstance(instructions, str):
            instructions = [instructions] * len(queries)
        if not len(queries) == len(documents) == len(instructions):
            raise ValueError(
                f"got {len(queries)} queries, {len(documents)} documents and {len(instructions)} instructions; "
                "expected as many of each"
            )
        return self.tokenizer.encode_pairs(
            list(map(join_instruction, instructions, queries)),
            documents,
            max_length=self.max_length,
            truncation=self.truncation,
        )

    def score_encoded(self, pairs: EncodedPairs) -> Scores:
        """Score pairs that are token ids already.

        Raises:
            torch.OutOfMemoryError: a single pair does not fit.
        """
        logits = np.zeros((len(pairs), self.model.config.num_labels), dtype=np.float32)
        waiting = plan_batches(pairs.lengths, self.max_tokens_per_batch)[::-1]
        while waiting:
            rows = waiting.pop()
            try:
                logits[rows] = self._encoder(pairs, rows).cpu().numpy()
            except torch.OutOfMemoryError:
                if len(rows) == 1:
                    raise
                self.max_tokens_per_batch //= 2
                log.warning(
                    "out of memory at %d pairs; max_tokens_per_batch is now %d", len(rows), self.max_tokens_per_batch
                )
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                left = np.concatenate([rows, *waiting[::-1]])
                plan = plan_batches(pairs.lengths[left], self.max_tokens_per_batch)
                waiting = [left[batch] for batch in plan][::-1]
        return Scores(logits)


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype to compute in; ``auto`` and None mean bfloat16 on CUDA, float32 elsewhere.

    Raises:
        ValueError: anything else than float32 and bfloat16 (T5's activations overflow in float16).
    """
    if dtype is None or dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    resolved = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if resolved is None or resolved not in DTYPES.values():
        raise ValueError(f"dtype: got {dtype!r}, expected one of auto, {', '.join(DTYPES)}; T5 overflows in float16")
    return resolved
