"""From the score store to figures: scores sent to the parts of tasks, rankings of a part, a task put together."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tart_ray.engine.stages import run_stage
from tart_ray.evaluation import summary
from tart_ray.evaluation.measuring import (
    SCORED,
    VALUES,
    incomplete,
    left_out_of_p_mrr,
    make_rankings,
    measure,
)
from tart_ray.evaluation.pools import with_full_ids, without_full_ids
from tart_ray.evaluation.stages import Part, Work
from tart_ray.evaluation.tasks import CLOSED, Task
from tart_ray.evaluation.trec_runs import have_blanks, trec_lines
from tart_ray.runs.directory import WORK
from tart_ray.runs.fragments import encode_fragment
from tart_ray.runs.stage import Record, Stage
from tart_ray.scores.prepare import fragment_path, read_fragments
from tart_ray.tables.keys import bucket_of

PLACE = ("task", "part")  # columns of the store that say where a pair belongs
OF_STORE = pa.schema(  # columns of the store that become PLACE and those of SCORED
    [
        ("task", pa.string()),
        ("part", pa.int32()),
        ("variant", pa.string()),
        ("task_query_id", pa.string()),
        ("doc_id", pa.string()),
        ("margin", pa.float32()),
    ]
)


class Spread(Record):
    """A bucket of the score store, sent to the parts of tasks."""

    rows: int


class Measured(Record):
    """A part of a task's queries.

    Attributes:
        rankings: setup and name of each.
        incomplete: pairs without a score under some instruction.
    """

    rows: int
    rankings: tuple[tuple[str, str], ...]
    incomplete: int
    queries_left_out_of_p_mrr: int


class Summarised(Record):
    """A task, as metrics.json tells it."""

    summary: dict[str, Any]


SPREAD = Stage("spread", Spread)
MEASURE = Stage("measure", Measured)
SUMMARISE = Stage("summarise", Summarised)


def measure_parts(work: Work) -> dict[str, Measured]:
    """Send scores to the parts of tasks, and measure these."""
    first_parts, parts = {}, list[str]()
    for task in work.tasks:
        first_parts[task] = len(parts)
        parts += map(str, work.parts_of(task))
    if work.store is not None:
        run_stage(work.run, SPREAD, list(work.store.chunks), functools.partial(_spread, work, first_parts))
    return run_stage(work.run, MEASURE, parts, functools.partial(_measure, work, first_parts))


def summarise(work: Work) -> dict[str, Summarised]:
    """Put the parts of each task together."""
    return run_stage(work.run, SUMMARISE, work.tasks, functools.partial(_summarise, work))


def _spread(work: Work, first_parts: Mapping[str, int], bucket: str) -> Spread:
    """The scored pairs of a bucket of queries, sent to the parts of tasks that they are of.

    Args:
        first_parts: the number of each task's first part among the parts of all tasks.
    """
    assert work.store is not None
    rows = work.store.bucket(bucket, OF_STORE)
    tasks = rows["task"].combine_chunks().dictionary_encode()
    first_of_each = np.array([first_parts[task] for task in tasks.dictionary.to_pylist()], np.int64)
    numbers = first_of_each[tasks.indices.to_numpy()] + rows["part"].to_numpy()
    scored = pa.table(rows.drop_columns([*PLACE]).columns, schema=SCORED)
    fragment = encode_fragment(scored, numbers, sum(work.parts.values()))
    work.run.write(fragment, *fragment_path(SPREAD.name, bucket))
    return Spread(rows=len(rows))


def _scores_of(work: Work, number: int) -> pa.Table:
    """The pairs that this run has scored of one of all parts: `SCORED`."""
    if work.store is None:
        return SCORED.empty_table()
    return read_fragments(work.run, SPREAD.name, work.store.chunks, number, SCORED)


def _measure(work: Work, first_parts: Mapping[str, int], unit: str) -> Measured:
    """Rankings of a part of a task's queries, and their values."""
    part, run = Part.parse(unit), work.run
    name, task = part.task, work.tasks[part.task]

    def of_part(table: pa.Table) -> pa.Table:
        return table.filter(pa.array(bucket_of(table["query_id"], work.parts[name]) == part.number))

    judgements = {
        judged_by: of_part(run.read_table(WORK, "judgements", name, f"{judged_by}.parquet"))
        for judged_by in task.judged_by
    }
    whole = {setup: run.read_table(WORK, "first_stage", name, f"{setup}.parquet") for setup in task.setups}
    ranked = not any(table["score"].null_count for table in whole.values())
    compared = run.read_table(WORK, "compare_with", f"{name}.parquet") if task.compare_with else None
    separator = "\t" if have_blanks([*whole.values(), *([] if compared is None else [compared])]) else " "
    compared = None if compared is None else of_part(compared)
    if task.scores:
        scored = _scores_of_runs(work, task, of_part)
    else:
        scored = _scores_of(work, first_parts[name] + part.number)
    rankings = make_rankings(task, {setup: of_part(t) for setup, t in whole.items()}, compared, scored, ranked=ranked)
    run.write_table(measure(task, judgements, rankings), WORK, "values", f"{unit}.parquet")
    for ranking in rankings:
        table = without_full_ids(ranking.table, name) if ranking.setup == CLOSED else ranking.table
        lines = "".join(trec_lines(table, f"tart-ray-{ranking.name}", separator))
        run.write(lines.encode(), WORK, "runs", unit, ranking.setup, ranking.name)
    return Measured(
        rows=len(scored),
        rankings=tuple((ranking.setup, ranking.name) for ranking in rankings),
        incomplete=incomplete(task, scored),
        queries_left_out_of_p_mrr=left_out_of_p_mrr(task, judgements, rankings),
    )


def _scores_of_runs(work: Work, task: Task, of_part: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Those of the scored pairs of the runs that a task names that ``of_part`` keeps: `SCORED`, one variant per run."""
    tables = []
    for variant, store in zip(task.variants, work.stores[task.name], strict=True):
        for table in map(of_part, store.tables(["query_id", "doc_id", "margin"])):
            variants = pa.repeat(pa.scalar(variant.name), len(table))
            tables.append(pa.table([variants, *table.columns], schema=SCORED))
    return with_full_ids(pa.concat_tables([SCORED.empty_table(), *tables]), task.name)


def _summarise(work: Work, unit: str) -> Summarised:
    """Put the parts of a task together: its runs, its values per query, and what metrics.json says of it."""
    task, run = work.tasks[unit], work.run
    parts = [str(part) for part in work.parts_of(unit)]
    tables = [run.read_table(WORK, "values", f"{part}.parquet") for part in parts]
    values = pa.concat_tables([VALUES.empty_table(), *tables])
    order = [(name, "ascending") for name in ("setup", "run", "judged_by", "measure", "query_id")]
    values = values.sort_by(order)
    run.write_table(values, "per_query", f"{unit}.parquet")
    rankings = {part: record.rankings for part, record in run.records(MEASURE, parts).items()}
    for setup, name in dict.fromkeys(itertools.chain.from_iterable(rankings.values())):
        urls = [run.url(WORK, "runs", part, setup, name) for part in parts if (setup, name) in rankings[part]]
        run.write(b"".join(run.storage.read_many(urls)), "runs", unit, setup, f"{name}.trec")
    return Summarised(summary=summary.summarise(task, values, work.metrics, work.models[unit]))
