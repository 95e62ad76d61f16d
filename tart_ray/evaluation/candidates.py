"""What is scored for a task: each pair once per instruction, whichever setups it is a candidate of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.evaluation.first_stage import best
from tart_ray.evaluation.instructions import instructed
from tart_ray.evaluation.pools import full_ids
from tart_ray.evaluation.tasks import Task
from tart_ray.tables.groups import first_rows
from tart_ray.tables.keys import bucket_of

CANDIDATES = pa.schema(
    [
        ("query_id", pa.string()),  # {task}/{variant}/{the task's query_id}: unique over all that is scored
        ("query", pa.large_string()),
        ("doc_id", pa.string()),
        ("instruction", pa.large_string()),
        ("score", pa.float64()),
        ("task", pa.string()),
        ("part", pa.int32()),
        ("variant", pa.string()),
        ("task_query_id", pa.string()),
    ]
)


def first_stage_of(task: Task, run: pa.Table, judged: pa.ChunkedArray, texts: pa.ChunkedArray) -> pa.Table:
    """The rows of a run that are measured: those of judged queries that have a text, the best ``top_k`` of each.

    Args:
        run: `RUN`, with full ids.
        judged, texts: ids of the queries that have judgements, and that are in the queries.
    """
    wanted = pc.and_(pc.is_in(run["query_id"], judged), pc.is_in(run["query_id"], texts))
    kept = without_identical(task, run.filter(wanted))
    return best(kept, task.top_k) if task.has_own_first_stage else kept  # else all that was scored


def without_identical(task: Task, run: pa.Table) -> pa.Table:
    """The run without documents that have their query's id, where the task leaves them out."""
    if not task.ignore_identical_ids:
        return run
    return run.filter(pc.not_equal(full_ids(run["query_id"], task.name), run["doc_id"]))


def union(first_stages: Mapping[str, pa.Table]) -> pa.Table:
    """Every pair of any setup, once; the score is that of the first setup that has it."""
    return first_rows(pa.concat_tables(first_stages.values()), "query_id", "doc_id")


def candidates_of(task: Task, pairs: pa.Table, queries: pa.Table, parts: int) -> Iterator[pa.Table]:
    """The rows to score: `CANDIDATES`, a table per variant of the instruction.

    Args:
        pairs: `union` of the setups.
        queries: ``query_id, query`` and the columns of instructions.
        parts: over which queries are spread, to be measured one by one.
    """
    at = pc.index_in(pairs["query_id"], value_set=queries["query_id"].combine_chunks())
    for variant in task.variants:
        of_queries = queries[variant.column].to_pylist() if variant.column else [variant.instruction] * len(queries)
        given = [
            instructed(task.template, instruction, query)
            for instruction, query in zip(of_queries, queries["query"].to_pylist(), strict=True)
        ]
        ids = pc.binary_join_element_wise(pa.scalar(f"{task.name}/{variant.name}/"), pairs["query_id"], "")
        columns = {
            "query_id": ids,
            "query": pa.array([query for _, query in given], pa.large_string()).take(at),
            "doc_id": pairs["doc_id"],
            "instruction": pa.array([instruction for instruction, _ in given], pa.large_string()).take(at),
            "score": pairs["score"],
            "task": pa.repeat(pa.scalar(task.name), len(pairs)),
            "part": pa.array(bucket_of(pairs["query_id"], parts), pa.int32()),
            "variant": pa.repeat(pa.scalar(variant.name), len(pairs)),
            "task_query_id": pairs["query_id"],
        }
        yield pa.table(columns, schema=CANDIDATES)
