"""From scores to rankings and their values per query: pure functions on Arrow tables.

A ranking has a setup (`closed` or `pooled`), which is the first stage that its documents come from, and a name:
`first_stage`, `compare_with`, a variant of the instruction, or `ensemble`, all of them together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.evaluation.first_stage import in_trec_order
from tart_ray.evaluation.metrics import P_MRR, p_mrr
from tart_ray.evaluation.tasks import ALL, CHANGED, CLOSED, ORIGINAL, Task
from tart_ray.evaluation.trec_runs import RUN
from tart_ray.retrieval.measures import per_query

FIRST_STAGE, COMPARE_WITH, ENSEMBLE = "first_stage", "compare_with", "ensemble"
# of an evaluation: goes up when the same collection gives other candidates, runs or values of measures
EVALUATION_VERSION = 1
QUERIES_AT_ONCE = 1_000  # bounds what is held as Python objects

SCORED = pa.schema(  # one scored pair of a task
    [("variant", pa.string()), ("query_id", pa.string()), ("doc_id", pa.string()), ("margin", pa.float32())]
)
VALUES = pa.schema(
    [
        ("task", pa.string()),
        ("setup", pa.string()),
        ("run", pa.string()),
        ("judged_by", pa.string()),
        ("query_id", pa.string()),
        ("measure", pa.string()),
        ("value", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Ranking:
    """One ranking of a task: `RUN` with ``rank``, sorted by query and rank; ``judged_by``: sets it is measured with."""

    setup: str
    name: str
    judged_by: tuple[str, ...]
    table: pa.Table


def make_rankings(
    task: Task,
    first_stages: Mapping[str, pa.Table],
    compared: pa.Table | None,
    scored: pa.Table,
    *,
    ranked: bool = True,
) -> list[Ranking]:
    """Every ranking of a task, or of some queries of it.

    The ensemble's score is the mean margin over all instructions; documents without a score under one of them, which
    quarantine tells, are not in it.

    Args:
        first_stages: setup → `RUN`.
        compared: the run to compare with, or None.
        scored: `SCORED`.
        ranked: False where the first stage tells which pairs are candidates, and not how they rank.
    """
    rankings = []
    for setup, first_stage in first_stages.items():
        if ranked:
            rankings.append(Ranking(setup, FIRST_STAGE, task.judged_by, in_trec_order(first_stage)))
        if compared is not None and setup == CLOSED:
            rankings.append(Ranking(setup, COMPARE_WITH, task.judged_by, in_trec_order(compared)))
        pairs = scored.join(first_stage.select(["query_id", "doc_id"]), ["query_id", "doc_id"], join_type="left semi")
        for variant in task.variants:
            run = _as_run(pairs.filter(pc.equal(pairs["variant"], variant.name)), "margin")
            rankings.append(Ranking(setup, variant.name, (variant.judged_by,), in_trec_order(run)))
        if len(task.variants) > 1 and task.judged_by == (ALL,):
            grouped = pairs.group_by(["query_id", "doc_id"]).aggregate([("margin", "mean"), ("margin", "count")])
            whole = grouped.filter(pc.equal(grouped["margin_count"], len(task.variants)))
            rankings.append(Ranking(setup, ENSEMBLE, (ALL,), in_trec_order(_as_run(whole, "margin_mean"))))
    return rankings


def measure(task: Task, judgements: Mapping[str, pa.Table], rankings: list[Ranking]) -> pa.Table:
    """Values of every ranking for every judged query: `VALUES`."""
    parts = [VALUES.empty_table()]
    for ranking in rankings:
        for judged_by in ranking.judged_by:
            parts += _values(task, ranking, judged_by, judgements[judged_by])
    if task.judged_by == (ORIGINAL, CHANGED):
        by_run = {(ranking.setup, ranking.name): ranking.table for ranking in rankings}
        parts += [
            _p_mrr(task, setup, by_run[setup, ORIGINAL], by_run[setup, CHANGED], judgements) for setup in task.setups
        ]
    return pa.concat_tables(parts)


def left_out_of_p_mrr(task: Task, judgements: Mapping[str, pa.Table], rankings: list[Ranking]) -> int:
    """FollowIR's queries with documents that became irrelevant, which one of the two rankings lacks altogether."""
    if task.judged_by != (ORIGINAL, CHANGED):
        return 0
    ranked = [{*ranking.table["query_id"].to_pylist()} for ranking in rankings if ranking.name in task.judged_by]
    return len(_made_irrelevant(judgements).keys() - set.intersection(*ranked))


def incomplete(task: Task, scored: pa.Table) -> int:
    """Pairs that some instruction has no score for."""
    of_pair = scored.group_by(["query_id", "doc_id"]).aggregate([("margin", "count")])["margin_count"]
    return int(pc.sum(pc.less(of_pair, len(task.variants))).as_py() or 0)


def _as_run(pairs: pa.Table, score: str) -> pa.Table:
    columns = [pairs["query_id"], pairs["doc_id"], pairs[score].cast(pa.float64())]
    return pa.table(columns, schema=RUN)


def _values(task: Task, ranking: Ranking, judged_by: str, judgements: pa.Table) -> Iterator[pa.Table]:
    queries = judgements["query_id"].unique()
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        some = queries[start : start + QUERIES_AT_ONCE]
        qrels = _by_query(_of(judgements, some), "relevance")
        by_measure = per_query(task.measures, qrels, _by_query(_of(ranking.table, some), "score"))
        for name, values in by_measure.items():
            yield _table(task, ranking.setup, ranking.name, judged_by, name, values)


def _p_mrr(
    task: Task, setup: str, original: pa.Table, changed: pa.Table, judgements: Mapping[str, pa.Table]
) -> pa.Table:
    old, new = (_by_query(table, "rank") for table in (original, changed))
    lost = _made_irrelevant(judgements)
    values = {query: p_mrr(old[query], new[query], docs) for query, docs in lost.items() if query in old.keys() & new}
    return _table(task, setup, CHANGED, CHANGED, P_MRR, values)


def _made_irrelevant(judgements: Mapping[str, pa.Table]) -> dict[str, list[str]]:
    """FollowIR's queries, and the documents of each that its changed instruction makes irrelevant: one at least."""
    before, after = (_by_query(judgements[name], "relevance") for name in (ORIGINAL, CHANGED))
    lost = {
        query: [doc for doc, grade in relevant.items() if grade > 0 and after[query].get(doc, 1) <= 0]
        for query, relevant in before.items()
        if query in after
    }
    return {query: documents for query, documents in lost.items() if documents}


def _table(
    task: Task, setup: str, run: str, judged_by: str, measure_name: str, values: Mapping[str, float]
) -> pa.Table:
    same = {"task": task.name, "setup": setup, "run": run, "judged_by": judged_by, "measure": measure_name}
    columns = {name: pa.repeat(pa.scalar(text), len(values)) for name, text in same.items()}
    columns |= {"query_id": pa.array(values.keys(), pa.string()), "value": pa.array(values.values(), pa.float64())}
    return pa.table(columns).select(VALUES.names).cast(VALUES)


def _of(table: pa.Table, queries: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table["query_id"], value_set=queries))


def _by_query(table: pa.Table, value: str) -> dict[str, dict[str, Any]]:
    """Query → document → value; a row without a document is a query without any."""
    by_query: dict[str, dict[str, Any]] = {}
    columns = (table[name].to_pylist() for name in ("query_id", "doc_id", value))
    for query_id, doc_id, number in zip(*columns, strict=True):
        of_query = by_query.setdefault(query_id, {})
        if doc_id is not None:
            of_query[doc_id] = number
    return by_query
