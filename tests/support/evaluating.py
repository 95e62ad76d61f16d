"""Tasks found and measured without Ray, for tests of evaluating."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.config import EvaluateInputConfig
from tart_ray.evaluation.candidates import candidates_of, first_stage_of, union
from tart_ray.evaluation.datasets import find_tasks, read_judgements, read_queries
from tart_ray.evaluation.measuring import SCORED, make_rankings, measure
from tart_ray.evaluation.tasks import Task
from tart_ray.evaluation.trec_runs import read_run
from tart_ray.input.quarantine import Quarantine
from tart_ray.storage import Storage

STORAGE = Storage()


def find(*tasks: dict[str, Any], **more: Any) -> list[Task]:
    return find_tasks(STORAGE, EvaluateInputConfig.model_validate({"tasks": tasks, **more}))


def values_of(table: pa.Table, run: str, measured: str) -> dict[str, float]:
    chosen = table.filter(pc.and_(pc.equal(table["run"], run), pc.equal(table["measure"], measured)))
    return dict(zip(chosen["query_id"].to_pylist(), chosen["value"].to_pylist(), strict=True))


def evaluated(task: Task, bad: Quarantine, margins: Any = None) -> tuple[pa.Table, list[Any]]:
    """Values and rankings; ``margins`` gives every candidate's from its rank in the first stage, by variant."""
    queries = read_queries(STORAGE, task, bad).table
    judgements = {name: read.table for name, read in read_judgements(STORAGE, task, bad).items()}
    judged = pa.concat_arrays([c for table in judgements.values() for c in table["query_id"].chunks]).unique()
    assert task.first_stage is not None
    run = read_run(STORAGE, task.first_stage, bad, task.name, ()).table
    first = {"closed": first_stage_of(task, run, judged, queries["query_id"])}
    scored = [SCORED.empty_table()]
    for variant, rows in zip(task.variants, candidates_of(task, union(first), queries, 1), strict=True):
        margin = margins(variant.name, rows) if margins else np.zeros(len(rows))
        columns = [rows["variant"], rows["task_query_id"], rows["doc_id"], pa.array(margin, pa.float32())]
        scored.append(pa.table(columns, schema=SCORED))
    rankings = make_rankings(task, first, None, pa.concat_tables(scored))
    return measure(task, judgements, rankings), rankings
