"""Replicas that fail as real ones do: by rows that hold ``<extra_id_i>``, or where a test tells them to."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FAULTS = ("exit", "kill", "cuda", "memory", "raise", "nan", "infinite", "hang")


def marker(fault: str) -> str:
    """What a text must hold for its row to have this fault."""
    return f"<extra_id_{FAULTS.index(fault)}>"


def die(*_: Any) -> Any:
    """Never returns."""
    os.kill(os.getpid(), signal.SIGKILL)


def load_faulty(config: Any) -> FaultyScorer:
    """A replica for which some rows are poison."""
    from tart_ray.scores.replica import load_scorer

    return FaultyScorer(load_scorer(config))


class FaultyScorer:
    """A real Scorer, until a marked row comes."""

    def __init__(self, scorer: Any) -> None:
        self._scorer = scorer
        self._ids = {fault: token_id(scorer.tokenizer, marker(fault)) for fault in FAULTS}
        self._context_is_lost = False
        self.max_tokens_per_batch = scorer.max_tokens_per_batch

    def score_encoded(self, pairs: Any) -> Any:
        marked = {
            fault: [bool((pairs.row(i) == id_).any()) for i in range(len(pairs))] for fault, id_ in self._ids.items()
        }
        if any(marked["exit"]):
            os._exit(13)
        if any(marked["hang"]):
            threading.Event().wait()
        if any(marked["kill"]):
            die()  # as the kernel does when memory runs out
        if any(marked["memory"]):
            exhaust_memory()
        self._context_is_lost |= any(marked["cuda"])
        if self._context_is_lost:  # as every call does after a kernel failed
            raise RuntimeError("CUDA error: device-side assert triggered")
        if any(marked["raise"]):
            raise ValueError("this row is not to my liking")
        scores = self._scorer.score_encoded(pairs)
        scores.logits[np.array(marked["nan"], dtype=bool)] = np.nan
        scores.logits[np.array(marked["infinite"], dtype=bool), -1] = np.inf
        return scores


def token_id(tokenizer: Any, token: str) -> int:
    """The id of a special token, whatever the family of the model."""
    if hasattr(tokenizer, "sentinel_end"):
        return int(tokenizer.sentinel_end) - 1 - int(token.removeprefix("<extra_id_").removesuffix(">"))
    return int(tokenizer.model.tokenizer.convert_tokens_to_ids(token))


def exhaust_memory() -> None:
    """Take memory until there is none, under a limit that spares the machine."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), limits[1]))
    taken = []
    try:
        while True:
            taken.append(np.ones(16 << 20, dtype=np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


class Gate:
    """Where replicas report and wait, for a test to do something at a known moment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def load(self, after: int = 0) -> Callable[[Any], GatedScorer]:
        """Loads replicas that come to the gate when they have scored so many chunks."""
        return partial(load_gated, self, after)

    def wait(self) -> None:
        """In a replica: say that it is here, and go on once the gate is open."""
        import ray

        (self._folder / f"{os.getpid()}-{ray.get_runtime_context().get_node_id()}").touch()
        while not (self._folder / "open").exists():
            time.sleep(0.02)  # the test opens it

    def waiting(self, count: int = 1, node: str = "*") -> list[int]:
        """In the test: the processes of replicas (on a node), once so many of them wait."""
        deadline = time.monotonic() + 120
        while len(found := sorted(self._folder.glob(f"*-{node}"))) < count:
            assert time.monotonic() < deadline, f"only {found} came"
            time.sleep(0.02)  # replicas are starting
        return [int(path.name.split("-")[0]) for path in found]

    @contextmanager
    def closed_during(self, job: Callable[[], object]) -> Iterator[None]:
        """Run a job beside the block; at the block's end open the gate and wait for the job."""
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(job)
            try:
                yield
            finally:
                (self._folder / "open").touch()
            done.result()


def load_gated(gate: Gate, after: int, config: Any) -> GatedScorer:
    from tart_ray.scores.replica import load_scorer

    return GatedScorer(gate, after, load_scorer(config))


class GatedScorer:
    """A real Scorer that waits at the gate with a chunk."""

    def __init__(self, gate: Gate, after: int, scorer: Any) -> None:
        self._gate, self._left, self._scorer = gate, after, scorer
        self.max_tokens_per_batch = scorer.max_tokens_per_batch

    def score_encoded(self, pairs: Any) -> Any:
        if len(pairs) > 1:  # a chunk, not the look at a new replica
            if self._left <= 0:
                self._gate.wait()
            self._left -= 1
        return self._scorer.score_encoded(pairs)
