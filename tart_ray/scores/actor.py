"""An actor of the pool: a replica, with chunks that are tokenised ahead of it and written behind it.

The next chunks are read and tokenised in processes of their own, on the replica's node, while it scores; the last one
is written in a thread. So a chunk crosses no other node, and the device waits for neither.

A process that dies takes the chunk along that is written, and those that are tokenised, which had no part in it. So
around a chunk at which a process has died before nothing else is at work.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from tart_ray.engine import ahead
from tart_ray.runs.attempts import Attempt
from tart_ray.runs.directory import Directory
from tart_ray.scores.encode import ENCODE_MEMORY, EncodedChunk, encode_chunk
from tart_ray.scores.plan import Plan
from tart_ray.scores.replica import LoadScorer, Replica, load_at
from tart_ray.scores.scored import SCORE_CHUNKS, Scored, write_chunk
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
        self._encode = functools.partial(encode_chunk, run, spec, releases)
        self._writer = ThreadPoolExecutor(1, "write")
        self._failure: Exception | None = None  # raised by the first call: Ray loses the cause of one raised here
        try:
            self._replica = Replica(run, spec, functools.partial(load_at, releases, load))
        except Exception as error:
            self._failure = error

    def __call__(self, chunks: list[str]) -> Iterator[Scored]:
        if self._failure:
            raise self._failure
        waiting = deque(chunks)
        encoded: deque[Callable[[], EncodedChunk] | Scored] = deque()
        written: Future[Scored] | None = None

        def encode(count: int) -> None:
            while waiting and len(encoded) < count:
                encoded.append(self._begin(waiting.popleft()))

        def begin(attempt: Attempt) -> None:
            if not attempt.evidence:
                encode(AHEAD)
            elif written:
                written.result()

        for chunk in chunks:
            encode(1)
            found = encoded.popleft()
            scored = None if isinstance(found, Scored) else self._replica.score(chunk, found(), begin)
            if written:
                yield written.result()
                written = None
            if isinstance(found, Scored):
                yield found
            elif scored:
                done = (scored.table, scored.reasons, scored.work)
                written = self._writer.submit(write_chunk, self._run, self._plan, chunk, *done)
        if written:
            yield written.result()

    def _begin(self, chunk: str) -> Callable[[], EncodedChunk] | Scored:
        """The chunk on its way, or what its commit says: an actor that died may have got so far."""
        return self._run.record(SCORE_CHUNKS, chunk) or ahead.start(self._encode, chunk, memory=ENCODE_MEMORY)
