"""What the units of evaluating share, and the first of them: first stages by BM25.

What is scored is in `tart_ray.evaluation.stages_collect`, what is made of the scores in `stages_measure`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow.compute as pc

from tart_ray.config import MetricsConfig
from tart_ray.engine.stages import run_stage
from tart_ray.evaluation.datasets import read_documents, read_judgements, read_queries
from tart_ray.evaluation.first_stage import index, search
from tart_ray.evaluation.matching import judged_queries
from tart_ray.evaluation.tasks import CLOSED, POOLED, Task
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.runs.directory import WORK, Directory
from tart_ray.runs.stage import Record, Stage
from tart_ray.scores.store import ScoreStore


class Retrieved(Record):
    """A first stage that was made."""


RETRIEVE = Stage("retrieve", Retrieved)


@dataclass(frozen=True)
class Part:
    """A part of a task's queries."""

    task: str
    number: int

    @classmethod
    def parse(cls, unit: str) -> Part:
        """Of the name of a unit."""
        task, _, number = unit.rpartition("@")
        return cls(task, int(number))

    def __str__(self) -> str:
        return f"{self.task}@{self.number:05d}"


@dataclass(frozen=True)
class Work:
    """Everything that a unit needs. Pickles into every worker.

    Attributes:
        parts: of each task's queries.
        stores: task → the finished runs that have its scores.
        models: task → the checkpoint that scored it.
        store: of what this run scores, once it is scored.
    """

    run: Directory
    tasks: Mapping[str, Task]
    parts: Mapping[str, int]
    stores: Mapping[str, tuple[ScoreStore, ...]]
    models: Mapping[str, str]
    metrics: MetricsConfig
    store: ScoreStore | None = None

    @property
    def scored_here(self) -> list[Task]:
        """Tasks that this run scores."""
        return [task for task in self.tasks.values() if not task.scores]

    def parts_of(self, task: str) -> list[Part]:
        """The parts of a task, in order."""
        return [Part(task, number) for number in range(self.parts[task])]

    def of_pool(self, pool: str | None) -> list[Task]:
        """Tasks of a pool."""
        return [task for task in self.tasks.values() if pool is not None and task.pool == pool]


def retrieve(work: Work) -> None:
    """Make the first stages that no file has."""
    run_stage(work.run, RETRIEVE, _indexes(work), functools.partial(_retrieve, work))


def retrieved(task: Task, setup: str) -> tuple[str, ...]:
    """Where a first stage is that `retrieve` made."""
    return WORK, "retrieved", task.name, f"{setup}.parquet"


def _indexes(work: Work) -> list[str]:
    """Units, one for each index: a setup and the task, or the pool, whose corpora are in it."""
    tasks = [task for task in work.tasks.values() if task.has_own_first_stage]
    closed = [f"{CLOSED}-{task.name}" for task in tasks if task.first_stage is None]
    pools = dict.fromkeys(task.pool for task in tasks if task.pool and task.pooled_first_stage is None)
    return closed + [f"{POOLED}-{pool}" for pool in pools]


def _retrieve(work: Work, unit: str) -> Retrieved:
    """BM25 of the corpus of a task, or of a pool, for the judged queries of each task that uses it."""
    setup, _, name = unit.partition("-")
    corpora = [work.tasks[name]] if setup == CLOSED else work.of_pool(name)
    storage = work.run.storage
    documents = index(part for task in corpora for part in read_documents(storage, task))
    for task in corpora:
        if setup == POOLED and task.pooled_first_stage is not None:
            continue
        queries = read_queries(storage, task, Quarantine(READ)).table
        judged = judged_queries(read_judgements(storage, task, Quarantine(READ)))
        asked = queries.filter(pc.is_in(queries["query_id"], judged))
        spare = int(task.ignore_identical_ids)  # one may be left out
        work.run.write_table(search(documents, asked, task.top_k + spare), *retrieved(task, setup))
    return Retrieved()
