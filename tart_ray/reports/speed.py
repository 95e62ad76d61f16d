"""How fast pairs were scored: over time, and by replica."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tart_ray.reports.figures import Cell, Curve, Table

STEPS = 60  # of time
REPLICAS = 20  # in the table
UNITS = ((172_800, 86_400, "days"), (7_200, 3_600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))


class Work(NamedTuple):
    """A chunk that a replica scored: from when, in seconds since 1970, for how many seconds, and how much it was."""

    began: float
    seconds: float
    pairs: int
    tokens: int
    replica: str


def over_time(work: Sequence[Work]) -> Curve | None:
    """Pairs a second of all replicas together; None where nothing took any time.

    The pairs of a chunk are spread evenly over the time that it took.
    """
    busy = [done for done in work if done.seconds > 0]
    if not busy:
        return None
    start, end = min(done.began for done in busy), max(done.began + done.seconds for done in busy)
    edges = np.linspace(start, end, STEPS + 1)
    pairs = np.zeros(STEPS)
    for done in busy:
        overlap = np.minimum(edges[1:], done.began + done.seconds) - np.maximum(edges[:-1], done.began)
        pairs += np.maximum(overlap, 0) * done.pairs / done.seconds
    step = (end - start) / STEPS
    _, unit, name = next(found for found in UNITS if end - start >= found[0])
    middles = (edges[:-1] + edges[1:]) / 2 - start
    points = [(round(at / unit, 4), round(n / step, 2)) for at, n in zip(middles.tolist(), pairs.tolist(), strict=True)]
    note = "A stretch of 0 is a time without any replica at work, as between two starts of the job."
    return Curve("Throughput over time", f"{name} since the first chunk", "pairs/s", {"": points}, note=note)


def by_replica(work: Sequence[Work]) -> Table:
    """What each replica did, the one with most pairs first; those beyond `REPLICAS` in one row."""
    of: dict[str, list[Work]] = defaultdict(list)
    for done in work:
        of[done.replica].append(done)
    ordered = sorted(of.items(), key=lambda item: (-sum(done.pairs for done in item[1]), item[0]))
    shown = ordered[:REPLICAS]
    if others := [done for _, found in ordered[REPLICAS:] for done in found]:
        shown.append((f"{len(ordered) - REPLICAS:,} others", others))
    header = ["replica", "chunks", "pairs", "tokens", "busy seconds", "pairs/s", "tokens/s"]
    return Table("Replicas", header, [_row(name, found) for name, found in shown])


def _row(name: str, work: Sequence[Work]) -> list[Cell]:
    seconds = sum(done.seconds for done in work)
    pairs, tokens = sum(done.pairs for done in work), sum(done.tokens for done in work)
    speeds = (pairs / seconds, tokens / seconds) if seconds else (None, None)
    return [name, len(work), pairs, tokens, round(seconds, 2), *speeds]
