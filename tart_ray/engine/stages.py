"""Stages on Ray: units of work that each run as one task, end in one commit, and are done once.

A row of the Ray dataset is a unit, whatever it stands for, so Ray can neither split nor merge what is committed
together. Results reach the driver as small records, one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, Dataset

from tart_ray.engine.deaths import begin_attempt
from tart_ray.engine.progress import Progress
from tart_ray.runs.directory import Directory
from tart_ray.runs.stage import R, Stage

Row = dict[str, Any]  # of a Ray dataset
WRITE_CPUS = 0.5  # a task that writes mostly waits for storage


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

    return _drain(directory, stage, units, lambda waiting: waiting.map(work_and_commit))


@dataclass(frozen=True)
class Pool:
    """Actors between tasks that feed them and tasks that write what they made; each unit is one row all the way.

    Attributes:
        read: makes a row, with a column ``unit``, of a unit.
        memory: bytes that it needs, which also keep Ray from fusing it into the actor.
        actor: a class whose instances turn such a row into another, as Arrow tables of one row.
        arguments: of its constructor; small ones, as an evicted argument cannot be rebuilt on a restart.
        write: writes what a row holds, commits the unit, and returns its record.
        least, most: actors; none waits for a unit while another has two.
        cpus, gpus: of an actor.
    """

    read: Callable[[str], Row]
    memory: int
    actor: Callable[..., Callable[[pa.Table], pa.Table]]
    arguments: tuple[Any, ...]
    write: Callable[[Row], Any]
    least: int
    most: int
    cpus: float
    gpus: float


def run_pool(directory: Directory, stage: Stage[R], units: Iterable[str], pool: Pool, pairs: int) -> dict[str, R]:
    """Do every unit that is not committed through a pool of actors; the records of all, in the order of ``units``.

    Args:
        pairs: of all units, to report their rate.
    """

    def write(row: Row) -> Row:
        return {"unit": row["unit"], "record": pool.write(row).model_dump_json(by_alias=True)}

    def transform(waiting: Dataset) -> Dataset:
        most = waiting.count()  # one actor for each unit at most
        made = waiting.map(lambda row: pool.read(row["unit"]), memory=pool.memory).map_batches(
            pool.actor,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=pool.arguments,
            compute=ActorPoolStrategy(
                min_size=min(pool.least, most), max_size=min(pool.most, most), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
        )
        return made.map(write, num_cpus=WRITE_CPUS)

    return _drain(directory, stage, units, transform, pairs)


def _drain(
    directory: Directory,
    stage: Stage[R],
    units: Iterable[str],
    transform: Callable[[Dataset], Dataset],
    pairs: int | None = None,
) -> dict[str, R]:
    """Send the units that are not committed through ``transform``, which commits them, and collect all records.

    Args:
        transform: from a dataset with a column ``unit`` to one with ``unit`` and ``record`` (JSON), row by row.
    """
    units = list(units)
    records = directory.committed(stage)
    waiting = [unit for unit in units if unit not in records]
    with Progress(stage.name, len(units), len(units) - len(waiting), pairs) as progress:
        if waiting:
            dataset = ray.data.from_items([{"unit": unit} for unit in waiting], override_num_blocks=len(waiting))
            for row in transform(dataset).iter_rows():
                record = stage.parse(json.loads(row["record"]))
                records[row["unit"]] = record
                progress.step(getattr(record, "rows", 0))
    return {unit: records[unit] for unit in units}
