"""An actor of the pool: a replica, with chunks that are tokenised ahead of it and written behind it.

The next chunks are read and tokenised in processes of their own, on the replica's node, while it scores; the last one
is written in a thread, and what is handed to Ray in another. So a chunk crosses no other node, and the device waits for
none of them.

A process that dies takes the chunk along that is written, and those that are tokenised, which had no part in it. So
around a chunk at which a process has died before nothing else is at work.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

from tart_ray.engine import ahead
from tart_ray.runs.attempts import Attempt
from tart_ray.runs.directory import Directory
from tart_ray.scores.encode import ENCODE_MEMORY, EncodedChunk, encode_chunk
from tart_ray.scores.plan import Plan
from tart_ray.scores.replica import LoadScorer, Replica, load_at
from tart_ray.scores.scored import SCORE_CHUNKS, Scored, write_scores
from tart_ray.scores.spec import ScoringSpec

AHEAD = 2  # chunks


class ReplicaActor:
    """Scores lists of chunks, and commits each.

    Args:
        run: whose chunks they are.
        releases: of the libraries on the driver's node.
    """

    def __init__(
        self, run: Directory, plan: Plan, spec: ScoringSpec, releases: Mapping[str, str], load: LoadScorer
    ) -> None:
        self._run, self._plan = run, plan
        self._tokenise = functools.partial(encode_chunk, run, spec, releases)
        self._memory = ahead.at_most(ENCODE_MEMORY)
        self._scoring, self._writing = ThreadPoolExecutor(1, "score"), ThreadPoolExecutor(1, "write")
        self._waiting: deque[str] = deque()
        self._encoded: deque[Callable[[], EncodedChunk] | Scored] = deque()
        self._written: Future[Scored] | None = None
        self._failure: Exception | None = None  # raised by the first call: Ray loses the cause of one raised here
        try:
            self._replica = Replica(run, spec, functools.partial(load_at, releases, load))
        except Exception as error:
            self._failure = error

    def __call__(self, chunks: list[str]) -> Iterator[Scored]:
        if self._failure:
            raise self._failure
        self._waiting, self._encoded = deque(chunks), deque()
        scoring = [self._scoring.submit(self._score_next, chunk) for chunk in chunks]
        try:
            for scored in scoring:
                yield scored.result()()
        finally:
            for scored in scoring:
                scored.cancel()
            wait(scoring)  # of a call that raised, before another comes

    def _score_next(self, chunk: str) -> Callable[[], Scored]:
        """Score a chunk, unless it is committed; what is returned waits until it is written."""
        self._encode(1)
        found = self._encoded.popleft()
        if isinstance(found, Scored):
            return lambda: found
        scored = self._replica.score(chunk, found(), self._begin)
        of_chunk = chunk, scored.table, scored.reasons, scored.work
        self._written = self._writing.submit(write_scores, self._run, self._plan, *of_chunk)
        return self._written.result

    def _begin(self, attempt: Attempt) -> None:
        if not attempt.evidence:
            self._encode(AHEAD)
        elif self._written:
            wait([self._written])

    def _encode(self, count: int) -> None:
        """See that so many chunks are on their way; of one that an actor before this one has scored, its commit."""
        while self._waiting and len(self._encoded) < count:
            chunk = self._waiting.popleft()
            committed = self._run.record(SCORE_CHUNKS, chunk)
            self._encoded.append(committed or ahead.start(self._tokenise, chunk, memory=self._memory))
