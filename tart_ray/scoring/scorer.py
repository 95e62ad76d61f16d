"""Scorer: one replica of an EncT5 that scores (instruction, query, document) on one device."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tart_ray.model.checkpoint import check_label_count
from tart_ray.model.encoded import BestWindows, EncodedPairs
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.texts import check_texts, join_instruction
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.model.truncation import DEFAULT_MAX_LENGTH, LongDocuments, QueryTooLongError, Truncation
from tart_ray.scoring.batching import default_max_tokens, fitting_max_tokens, plan_batches
from tart_ray.scoring.cuda import bytes_per_token
from tart_ray.scoring.encoder import PackedEncoder, has_gated_gelu
from tart_ray.scoring.reference import Encoder, ReferenceEncoder

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PAIRS_AHEAD = 4_096  # tokenised together, while those before them are encoded


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


class Scorer:
    """Score pairs: tokenise, sort by length, encode under a token budget, return results in input order.

    Args:
        model: the checkpoint, on its device, in evaluation mode.
        tokenizer: its tokenizer.
        max_length: tokens of a pair, or of a window of it.
        long_documents: ``truncate`` cuts longer pairs; ``maxp`` reads the whole document in windows, and the best
            window's score is the pair's.
        truncation: ``longest_first`` (as the original) or ``only_document``.
        max_tokens_per_batch: padded tokens that go through the encoder at once; by default what suits the device and
            its free memory. Running out of CUDA memory halves it, or splits the batch alone if that one was of half of
            it at most, and goes on.
        encoder: in place of the fastest one for the model and its device.

    Raises:
        CheckpointError: the model has more than two labels, so that no one number is a pair's relevance.
    """

    def __init__(
        self,
        model: EncT5ForSequenceClassification,
        tokenizer: EncT5Tokenizer,
        *,
        max_length: int = DEFAULT_MAX_LENGTH,
        long_documents: LongDocuments = "truncate",
        truncation: Truncation = "longest_first",
        max_tokens_per_batch: int | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        check_label_count(model.config.num_labels, model.name_or_path or type(model).__name__)
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.long_documents = long_documents
        self.truncation = truncation
        self.max_tokens_per_batch = max_tokens_per_batch or suitable_max_tokens(model)
        self._encoder = encoder or fastest_encoder(model)
        self.on_batch: Callable[[], None] = lambda: None  # called as batches go through, for who watches over them

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
        long_documents: LongDocuments = "truncate",
        truncation: Truncation = "longest_first",
        split_special_tokens: bool = False,
        max_tokens_per_batch: int | None = None,
        fingerprint: str | None = None,
    ) -> Scorer:
        """Load a checkpoint from a hub id, a local directory or ``s3://…``.

        Args:
            device: by default CUDA where there is one, else the CPU.
            dtype: ``float32`` (the reference), ``bfloat16``, or ``auto`` / None: bfloat16 on CUDA, float32 on the CPU.
            fingerprint: of the checkpoint that must be there, as a run's ``manifest.json`` names it.

        Raises:
            CheckpointError: the checkpoint cannot be found or used.
            CheckpointChangedError: it has another fingerprint.
            ValueError: a dtype that T5 does not survive.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        where: dict[str, Any] = {"revision": revision, "storage_options": storage_options, "fingerprint": fingerprint}
        tokenizer = EncT5Tokenizer.from_pretrained(path, split_special_tokens=split_special_tokens, **where)
        model = EncT5ForSequenceClassification.from_pretrained(path, dtype=resolve_dtype(dtype, device), **where)
        model = model.to(device).eval()
        scorer = cls(
            model,
            tokenizer,
            max_length=max_length,
            long_documents=long_documents,
            truncation=truncation,
            max_tokens_per_batch=max_tokens_per_batch,
            encoder=fastest_encoder(model, consume=True),
        )
        if device.type == "cuda":
            scorer.calibrate()
        return scorer

    def calibrate(self) -> None:
        """Score one batch as large as they come, which halves a budget that does not fit."""
        count = max(self.max_tokens_per_batch // self.max_length, 1)
        ids = np.full(count * self.max_length, self.tokenizer.eos_token_id, np.int32)
        offsets = np.arange(count + 1, dtype=np.int64) * self.max_length
        self.score_encoded(EncodedPairs(ids, offsets, np.zeros(count, np.bool_)))

    def score(
        self, queries: Sequence[str], documents: Sequence[str], instructions: Sequence[str | None] | str | None = None
    ) -> Scores:
        """Score ``documents[i]`` for ``queries[i]`` under ``instructions[i]``, or under one instruction for all.

        Raises:
            TypeError: something else than a text in a list (None and NaN are none), or a text in place of a list.
            ValueError: lists of unequal length, or a text that is no Unicode. Both name argument and position.
        """
        check_texts("queries", queries)
        check_texts("documents", documents)
        if instructions is None or isinstance(instructions, str):
            check_texts("instructions", [instructions or ""])
            instructions = [instructions] * len(queries)
        else:
            check_texts("instructions", instructions, optional=True)
        if not len(queries) == len(documents) == len(instructions):
            raise ValueError(
                f"got {len(queries)} queries, {len(documents)} documents and {len(instructions)} instructions; "
                "expected as many of each"
            )
        for name, texts in (("queries", queries), ("documents", documents)):
            if empty := self.tokenizer.without_tokens(texts):
                log.warning(
                    "%d %s encode to no token and are scored as empty texts; the first is %s[%d]",
                    len(empty), name, name, empty[0],
                )  # fmt: skip
        joined = list(map(join_instruction, instructions, queries))
        if self.long_documents == "truncate":
            return Scores(
                np.concatenate([self.score_encoded(pairs).logits for pairs in self._tokenise(joined, documents)])
            )
        limits: Any = {"max_length": self.max_length, "truncation": self.truncation}
        windows = self.tokenizer.encode_windows(joined, documents, **limits)
        scores = self.score_encoded(windows.rows)
        best = windows.best(scores.margin)
        return Scores(scores.logits[best], windows.describe(best))

    def _tokenise(self, texts: list[str], documents: Sequence[str]) -> Iterator[EncodedPairs]:
        """Pairs in the order of the input, tokenised in a thread ahead of who takes them."""

        def encode(start: int) -> EncodedPairs:
            end = start + PAIRS_AHEAD
            options: dict[str, Any] = {"max_length": self.max_length, "truncation": self.truncation}
            try:
                return self.tokenizer.encode_pairs(texts[start:end], documents[start:end], **options)
            except QueryTooLongError as error:
                raise QueryTooLongError([start + row for row in error.rows], self.max_length) from None

        if len(texts) <= PAIRS_AHEAD:
            yield encode(0)
            return
        with ThreadPoolExecutor(1, "tokenise") as thread:
            starts = range(0, len(texts), PAIRS_AHEAD)
            following = thread.submit(encode, 0)
            for start in itertools.islice(starts, 1, None):
                ready, following = following, thread.submit(encode, start)
                yield ready.result()
            yield following.result()

    def score_encoded(self, pairs: EncodedPairs) -> Scores:
        """Score pairs that are token ids already.

        Raises:
            torch.OutOfMemoryError: a single pair does not fit.
        """
        logits = np.zeros((len(pairs), self.model.config.num_labels), dtype=np.float32)
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
            if torch.cuda.is_available():  # only here: the exception holds what the batch had allocated
                torch.cuda.empty_cache()
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


def fastest_encoder(model: EncT5ForSequenceClassification, *, consume: bool = False) -> Encoder:
    """The fastest encoder for the model and its device, of those that have run there.

    `tart_ray.scoring.cuda.CompiledEncoder` has not: it is given to a Scorer by hand.

    Args:
        consume: the model's own forward pass is not needed any more; see `PackedEncoder`.
    """
    if model.device.type != "cpu" or not has_gated_gelu(model):
        return ReferenceEncoder(model)
    return PackedEncoder(model, consume=consume)


def suitable_max_tokens(model: EncT5ForSequenceClassification) -> int:
    """Tokens of a batch for the model's device; on CUDA as many as go into half of the memory that is free."""
    most = default_max_tokens(model.device.type)
    if model.device.type != "cuda":
        return most
    return fitting_max_tokens(most, torch.cuda.mem_get_info(model.device)[0], bytes_per_token(model))


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
