"""A stage: units of work that each run as one Ray task, end in one commit, and are done once.

A row of the Ray dataset is a unit, whatever it stands for, so Ray can neither split nor merge what is committed
together. Results reach the driver as small records, one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import ray.data
from ray.data import Dataset

from tart_ray.engine.deaths import begin_attempt
from tart_ray.engine.progress import Progress
from tart_ray.runs.run import Record, Run

Work = Callable[[str], Record]


def run_stage(run: Run, stage: str, units: Iterable[str], work: Work) -> dict[str, Record]:
    """Do every unit that no earlier run has committed, and return the records of all, in the order of ``units``.

    Args:
        work: does a unit, writes its files, and returns its record: a small JSON object. Runs on any node.
    """

    def work_and_commit(row: dict[str, Any]) -> dict[str, str]:
        with begin_attempt(run, stage, row["unit"]) as attempt:
            attempt.check()
            record = run.commit(stage, row["unit"], work(row["unit"]))
        return {"unit": row["unit"], "record": json.dumps(record)}

    return drain(run, stage, units, lambda waiting: waiting.map(work_and_commit))


def drain(
    run: Run,
    stage: str,
    units: Iterable[str],
    transform: Callable[[Dataset], Dataset],
    pairs: int | None = None,
) -> dict[str, Record]:
    """Send the units that are not committed through ``transform``, which commits them, and collect all records.

    Args:
        transform: from a dataset with a column ``unit`` to one with ``unit`` and ``record`` (JSON), row by row.
        pairs: of the whole stage, to report their rate.
    """
    units = list(units)
    records = run.committed(stage)
    waiting = [unit for unit in units if unit not in records]
    with Progress(stage, len(units), len(units) - len(waiting), pairs) as progress:
        if waiting:
            dataset = ray.data.from_items([{"unit": unit} for unit in waiting], override_num_blocks=len(waiting))
            for row in transform(dataset).iter_rows():
                record = json.loads(row["record"])
                records[row["unit"]] = record
                progress.step(record.get("rows", 0))
    return {unit: records[unit] for unit in units}
