"""Stages on Ray: units of work that each run as one task, end in one commit, and are done once.

A row of the Ray dataset is a unit or a list of units, whatever they stand for, so Ray can neither split nor merge what
is committed together. Results reach the driver as small records, one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, Dataset

from tart_ray.engine.deaths import begin_attempt
from tart_ray.engine.progress import Progress
from tart_ray.engine.stopping import held_lease
from tart_ray.runs.directory import Directory
from tart_ray.runs.segments import SegmentWriter
from tart_ray.runs.stage import R, Record, Stage

Row = dict[str, Any]  # of a Ray dataset
MOST_UNITS_AT_ONCE = 32


def run_stage(directory: Directory, stage: Stage[R], units: Iterable[str], work: Callable[[str], R]) -> dict[str, R]:
    """Do every unit that is not committed, and return the records of all, in the order of ``units``.

    Args:
        work: does a unit, writes its files, and returns its record. Runs on any node.
    """

    def work_and_commit(row: Row) -> Row:
        with begin_attempt(directory, stage.name, row["unit"]) as attempt:
            attempt.check()
            record = directory.commit(stage, row["unit"], work(row["unit"]))
        return {"unit": row["unit"], "record": record.model_dump_json(by_alias=True)}

    def transform(waiting: list[str]) -> Dataset:
        rows = [{"unit": unit} for unit in waiting]
        return ray.data.from_items(rows, override_num_blocks=len(rows)).map(work_and_commit)

    return _drain(directory, stage, units, transform)


@dataclass(frozen=True)
class Pool:
    """Actors that do units of work, each of which ends in a commit.

    Attributes:
        actor: a class whose instances turn a list of units into their records, one by one and in this order. A list
            that an actor died at goes to another one, from its beginning: units of it may be committed.
        arguments: of its constructor; small ones, as an evicted argument cannot be rebuilt on a restart.
        least, most: actors.
        cpus, gpus: of an actor.
    """

    actor: Callable[..., Callable[[list[str]], Iterator[Record]]]
    arguments: tuple[Any, ...]
    least: int
    most: int
    cpus: float
    gpus: float


class PoolWorker:
    """An actor of a pool as Ray Data calls it: a row of units in, rows of their records out."""

    def __init__(self, actor: Callable[..., Callable[[list[str]], Iterator[Record]]], *arguments: Any) -> None:
        self._actor = actor(*arguments)

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        (units,) = batch["units"].to_pylist()
        for unit, record in zip(units, self._actor(units), strict=True):
            yield pa.table({"unit": [unit], "record": [record.model_dump_json(by_alias=True)]})


def run_pool(directory: Directory, stage: Stage[R], units: Iterable[str], pool: Pool, pairs: int) -> dict[str, R]:
    """Do every unit that is not committed through a pool of actors; the records of all, in the order of ``units``.

    An actor gets several units at once while there are many, so that it can prepare the next one ahead and the driver
    has less to do, and single ones towards the end, so that none has much left while another has nothing.

    Args:
        pairs: of all units, to report their rate.
    """

    def transform(waiting: list[str]) -> Dataset:
        rows = shares(waiting, pool.most)
        return ray.data.from_items([{"units": row} for row in rows], override_num_blocks=len(rows)).map_batches(
            PoolWorker,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(pool.actor, *pool.arguments),
            compute=ActorPoolStrategy(
                min_size=min(pool.least, len(rows)),
                max_size=min(pool.most, len(rows)),
                max_tasks_in_flight_per_actor=1,
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
        )

    return _drain(directory, stage, units, transform, pairs)


def shares(units: Sequence[str], workers: int) -> list[list[str]]:
    """The units in order, in lists that get shorter: each a quarter of what a worker has still to expect, or one.

    By guided self-scheduling (Polychronopoulos and Kuck, 1987), with a bound for the longest.
    """
    rows, start = [], 0
    while start < len(units):
        size = max(min((len(units) - start) // (4 * workers), MOST_UNITS_AT_ONCE), 1)
        rows.append([*units[start : start + size]])
        start += size
    return rows


def _drain(
    directory: Directory,
    stage: Stage[R],
    units: Iterable[str],
    transform: Callable[[list[str]], Dataset],
    pairs: int | None = None,
) -> dict[str, R]:
    """Send the units that are not committed through ``transform``, which commits them, and collect all records.

    A driver that has a lease also writes segments of what is committed.

    Args:
        transform: from units to a dataset with a column ``unit`` and ``record`` (JSON), a row for each.
    """
    units = list(units)
    records = directory.committed(stage, units)
    waiting = [unit for unit in units if unit not in records]
    lease = held_lease()
    segments = SegmentWriter(directory, stage, units, records, lease.confirm) if lease else None
    with Progress(stage.name, len(units), len(units) - len(waiting), pairs) as progress:
        if waiting:
            for row in transform(waiting).iter_rows():
                record = stage.parse(json.loads(row["record"]))
                records[row["unit"]] = record
                if segments:
                    segments.add(row["unit"])
                progress.step(getattr(record, "rows", 0))
    return {unit: records[unit] for unit in units}
