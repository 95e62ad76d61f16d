"""A chunk that was scored: its files, and what its commit says."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.engine.deaths import begin_attempt
from tart_ray.input.quarantine import SCORE as SCORING
from tart_ray.input.quarantine import Quarantine, find_reasons
from tart_ray.runs.directory import Directory
from tart_ray.runs.stage import Record, Stage
from tart_ray.scores.plan import Plan, scores_schema
from tart_ray.scores.prepare import read_chunk

SCORES = "scores"  # the folder
SCORE = "score"  # the stage that replicas work in


class Work(Record):
    """What a replica did with a chunk.

    Attributes:
        padded_tokens: that went through the model.
        seconds: that the replica was busy; ``began`` in seconds since 1970.
        replica: ``host:pid``.
        encoder: that scored it; None for a model that has one alone, and in runs of older releases.
        fallback: why that is another one than was chosen for the run.
    """

    tokens: int
    padded_tokens: int
    windows: int
    seconds: float
    began: float
    replica: str
    encoder: str | None = None
    fallback: str | None = None


class Scored(Work):
    """A chunk whose scores are there.

    Attributes:
        rows: that have a score.
    """

    rows: int
    quarantined: int
    truncated: int


SCORE_CHUNKS = Stage(SCORE, Scored)


def write_scores(
    directory: Directory, plan: Plan, chunk: str, table: pa.Table, reasons: dict[int, str], work: Work
) -> Scored:
    """Write the scores of a chunk, quarantine what has none, then commit.

    Args:
        table: the chunk without its texts, with ``_row``, ``score`` and ``margin``; NaN where there is no score.
        reasons: why rows have none, by their position in the chunk.
    """
    with begin_attempt(directory, "write", chunk) as attempt:
        attempt.check(tries=2)  # a process may have died of the chunk that was scored meanwhile
        finite = np.isfinite(table["score"].to_numpy()) & np.isfinite(table["margin"].to_numpy())
        good, positions = find_reasons(table, [(~finite, "the model's output is NaN or infinite")])
        found = dict(reasons)
        for position, reason in positions.items():
            found.setdefault(table["_row"][position].as_py(), reason)
        quarantine = Quarantine(SCORING)
        if found:
            quarantine.add_rows(plan.candidates, read_chunk(directory, chunk), dict(sorted(found.items())))
        if len(good):
            schema = scores_schema(plan)
            directory.write_table(good.select(schema.names).cast(schema), SCORES, f"{chunk}.parquet")
        record = Scored(
            rows=len(good),
            quarantined=directory.write_quarantine(quarantine, SCORE, chunk),
            truncated=pc.sum(good["truncated"]).as_py() or 0,
            **work.model_dump(),
        )
        return directory.commit(SCORE_CHUNKS, chunk, record)
