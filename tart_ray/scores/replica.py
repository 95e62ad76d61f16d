"""Replica: one model on one device that scores chunk after chunk, doing nothing but encode."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tart_ray.engine.deaths import begin_attempt
from tart_ray.errors import CheckpointError
from tart_ray.model.encoded import EncodedPairs, EncodedWindows
from tart_ray.runs.attempts import Attempt
from tart_ray.runs.directory import Directory
from tart_ray.scores.deadline import Deadline
from tart_ray.scores.encode import TYPES_OF_TOKENS, WINDOW_COLUMNS, EncodedChunk, windows_of
from tart_ray.scores.isolate import Rows, isolate
from tart_ray.scores.one_encoder import settle_encoder
from tart_ray.scores.releases import check_releases
from tart_ray.scores.scored import SCORE, Work
from tart_ray.scores.spec import ScoringSpec
from tart_ray.scoring.batching import padded_tokens, plan_batches
from tart_ray.scoring.choice import Choice
from tart_ray.scoring.protocol import ChoosesEncoder
from tart_ray.tables.schemas import WINDOWS

if TYPE_CHECKING:  # torch takes seconds to import: only replicas do
    from tart_ray.scoring.protocol import PairScorer

log = logging.getLogger(__name__)

TIMES_TO_LOAD = 4  # a model may come from far away: as much longer than a batch may take
ORDINARY_PAIR = EncodedPairs(np.array([1], np.int32), np.array([0, 1]), np.array([False]))  # </s>, in any vocabulary

Floats = npt.NDArray[np.float32]
LoadScorer = Callable[[ScoringSpec], "PairScorer"]


def load_scorer(spec: ScoringSpec) -> PairScorer:
    """The replica that the spec describes, on this process's device."""
    import torch
    import transformers

    from tart_ray.scoring.scorer import Scorer

    transformers.utils.logging.disable_progress_bar()
    threads = max(int(spec.cluster.cpus_per_replica), 1)
    if spec.device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        advice = "bfloat16 is slower there; take float32" if spec.model.dtype == "bfloat16" else "scoring in float32"
        log.warning("this processor has AVX2, not AVX-512: %s", advice)
    torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS, which torch reads once and others may change
    budget = spec.model.max_tokens_per_batch
    return Scorer.from_pretrained(
        spec.model.path,
        family=spec.family,
        template=spec.template,
        revision=spec.model.revision,
        fingerprint=spec.model.fingerprint,
        storage_options=spec.place.storage_options,
        device=spec.device,
        dtype=spec.model.dtype,
        max_length=spec.model.max_length,
        long_documents=spec.model.long_documents,
        truncation=spec.model.truncation,
        split_special_tokens=spec.model.split_special_tokens,
        max_tokens_per_batch=None if budget == "auto" else budget,
        encoder=spec.model.encoder,
    )


def load_at(releases: Mapping[str, str], load: LoadScorer, spec: ScoringSpec) -> PairScorer:
    """The replica, on a node that has the releases of the run's manifest.

    Raises:
        OtherReleaseError: it has others.
    """
    check_releases(releases)
    return load(spec)


@dataclass(frozen=True)
class ScoredChunk:
    """What a replica made of a chunk.

    Attributes:
        table: the chunk's columns, with ``score`` and ``margin``, float32, NaN where there is none, and those of
            `WINDOWS`.
        reasons: why rows have no score, by their position in the chunk.
        work: what it took.
    """

    table: pa.Table
    reasons: dict[int, str]
    work: Work


class Replica:
    """One model on one device, one chunk at a time."""

    def __init__(self, run: Directory, spec: ScoringSpec, load: LoadScorer) -> None:
        self._run, self._max_attempts = run, spec.limits.max_attempts_per_chunk
        self._seconds_per_batch = spec.limits.max_seconds_per_batch
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._choice: Choice | None = None
        with begin_attempt(run, "load", "model") as attempt:
            attempt.check(tries=spec.cluster.replicas.max)
            with Deadline(TIMES_TO_LOAD * self._seconds_per_batch, attempt.add_last_words):
                self._scorer = load(spec)
                logits = self._scorer.score_encoded(ORDINARY_PAIR).logits  # fails here what would for every pair
        if not np.isfinite(logits).all():
            raise CheckpointError(f"{spec.model.path}: its logits for the shortest pair are {logits.tolist()}")

    def score(self, unit: str, chunk: EncodedChunk, begin: Callable[[Attempt], None] = lambda _: None) -> ScoredChunk:
        """Score the pairs of a chunk, but for those that raise, or that processes died at.

        Args:
            begin: called when the chunk is at work, before its first pair is.

        Raises:
            PoisonUnitError: processes go on dying, or pairs go on raising, whatever the rows.
            NoEncoderError: no encoder is right on this device.
        """
        pairs = windows_of(chunk.table)
        scorer = self._scorer
        if isinstance(scorer, ChoosesEncoder) and self._choice is None and len(pairs):
            self._choice = settle_encoder(self._run, scorer, pairs.rows, seconds=self._seconds_per_batch)
        with begin_attempt(self._run, SCORE, unit) as attempt, self._careful(attempt):
            begin(attempt)
            began, started = time.time(), time.perf_counter()
            score, margin, best, failed = self._score(attempt, pairs)
            by = {}
            if isinstance(scorer, ChoosesEncoder) and len(pairs):
                by = {"encoder": scorer.encoder, "fallback": scorer.fallback}
            work = Work(
                tokens=len(pairs.rows.input_ids),
                padded_tokens=padded_tokens(pairs.rows.lengths, scorer.max_tokens_per_batch),
                windows=len(pairs.rows),
                seconds=time.perf_counter() - started,
                began=began,
                replica=self._name,
                **by,
            )
        told = pairs.describe(best)
        added = (score, margin, told.index, told.count, told.start, told.end)
        dropped = [name for name in (*WINDOW_COLUMNS, TYPES_OF_TOKENS) if name in chunk.table.schema.names]
        result = chunk.table.drop_columns(dropped)
        for name, column in zip(("score", "margin", *WINDOWS.names), added, strict=True):
            result = result.append_column(name, pa.array(column))
        origin = chunk.table["_row"].to_pylist()
        return ScoredChunk(result, chunk.reasons | {origin[row]: reason for row, reason in failed.items()}, work)

    def _careful(self, attempt: Attempt) -> AbstractContextManager[None]:
        """A block in which the reference scores if a process died at this chunk: it may have been the encoder."""
        if attempt.evidence and isinstance(self._scorer, ChoosesEncoder):
            return self._scorer.distrusted("a process died at this chunk")
        return nullcontext()

    def _score(self, attempt: Attempt, pairs: EncodedWindows) -> tuple[Floats, Floats, Rows, dict[int, str]]:
        """Score, margin and best window's row of each pair; NaN and the first where there is no score, and why."""
        score = np.full(len(pairs), np.nan, dtype=np.float32)
        margin = score.copy()
        best = pairs.starts[:-1].copy()

        def work(rows: Rows) -> None:
            taken = pairs.take(rows)
            scores = self._scorer.score_encoded(taken.rows)
            found = taken.best(scores.margin)
            score[rows], margin[rows] = scores.score[found], scores.margin[found]
            best[rows] = pairs.starts[rows] + found - taken.starts[:-1]
            deadline.renew()

        batches = plan_batches(pairs.lengths, self._scorer.max_tokens_per_batch)
        limit = self._max_attempts
        with Deadline(self._seconds_per_batch, attempt.add_last_words) as deadline:
            self._scorer.on_batch = deadline.renew
            failed = isolate(attempt, batches, work, max_attempts=limit, is_usable=self._is_usable)
        return score, margin, best, failed

    def _is_usable(self) -> bool:
        try:
            self._scorer.score_encoded(ORDINARY_PAIR)
        except Exception:
            return False
        return True
