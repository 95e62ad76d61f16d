"""FollowIR's files, read and measured: the values worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.collections import (
    write_followir,
    write_run,
)
from support.evaluating import STORAGE, evaluated, find, values_of

from tart_ray.config import MetricsConfig
from tart_ray.evaluation.candidates import candidates_of
from tart_ray.evaluation.datasets import read_judgements, read_queries
from tart_ray.evaluation.measuring import SCORED, left_out_of_p_mrr, make_rankings, measure
from tart_ray.evaluation.pools import with_full_ids
from tart_ray.evaluation.summary import summarise
from tart_ray.evaluation.trec_runs import RUN
from tart_ray.input.quarantine import READ, Quarantine


def test_p_mrr_of_followir_by_hand(tmp_path: Path) -> None:
    write_followir(tmp_path / "news")
    write_run(tmp_path / "run.trec", {query: {f"d{i}": 9.0 - i for i in range(1, 5)} for query in ("t1", "t2")})
    (task,) = find(
        {"name": "news", "kind": "followir", "path": str(tmp_path / "news"), "first_stage": str(tmp_path / "run.trec")}
    )
    # t1: original d1 d2 d3 d4, changed d2 d1 d3 d4; t2: original d1 d2 d3 d4, changed d3 d4 d2 d1
    orders = {
        ("original", "t1"): "1234",
        ("changed", "t1"): "2134",
        ("original", "t2"): "1234",
        ("changed", "t2"): "3421",
    }

    def margins(variant: str, rows: pa.Table) -> list[int]:
        pairs = zip(rows["task_query_id"].to_pylist(), rows["doc_id"].to_pylist(), strict=True)
        return [-orders[variant, query].index(doc[-1]) for query, doc in pairs]

    table, rankings = evaluated(task, Quarantine(READ), margins)
    t1 = 1 - 1 / 2  # d1 falls from 1 to 2
    t2 = (1 - 1 / 4 + 1 / 3 - 1) / 2  # d1 falls from 1 to 4, d3 rises from 3 to 1
    assert values_of(table, "changed", "p-MRR") == pytest.approx({"t1": t1, "t2": t2})
    assert {ranking.name for ranking in rankings} == {"first_stage", "original", "changed"}
    # each ranking is measured with the judgements that belong to its instruction
    assert values_of(table, "changed", "nDCG@5")["t1"] == 1
    assert values_of(table, "changed", "nDCG@5")["t2"] == 0
    assert values_of(table, "original", "nDCG@5")["t1"] == 1
    found = summarise(task, table, MetricsConfig(resamples=10), "x")["setups"]["closed"]
    assert found["reranked"]["p-MRR"]["mean"] == pytest.approx((t1 + t2) / 2)
    assert set(found["runs"]) == {"first_stage", "first_stage (changed)", "original", "changed"}


def test_p_mrr_is_of_queries_that_both_rankings_have(tmp_path: Path) -> None:
    write_followir(tmp_path / "news")
    (task,) = find({"name": "n", "kind": "followir", "path": str(tmp_path / "news")})
    judgements = {name: read.table for name, read in read_judgements(STORAGE, task, Quarantine(READ)).items()}
    first = with_full_ids(pa.table([["t1", "t1", "t2"], ["d1", "d2", "d1"], [3.0, 2.0, 1.0]], schema=RUN), "n")
    # every pair has a score under the first instruction; under the changed one, none of t2's has
    margins = {"original": [2.0, 1.0, 1.0], "changed": [1.0, 2.0]}
    scored = [
        pa.table([[name] * len(m), first["query_id"][: len(m)], first["doc_id"][: len(m)], m], schema=SCORED)
        for name, m in margins.items()
    ]
    rankings = make_rankings(task, {"closed": first}, None, pa.concat_tables(scored))
    table = measure(task, judgements, rankings)
    # of t1, d1 falls from rank 1 to 2: 1 - (1/2) / (1/1); t2 is no query whose document fell to the bottom
    assert values_of(table, "changed", "p-MRR") == {"t1": 0.5}
    assert left_out_of_p_mrr(task, judgements, rankings) == 1
    swapped = [replace(r, table=r.table.slice(0, 0)) if r.name == "original" else r for r in rankings]
    assert left_out_of_p_mrr(task, judgements, swapped) == 2
    assert not len(measure(task, judgements, swapped).filter(pc.field("measure") == "p-MRR"))


def test_instructions_of_followir_reach_the_model_in_either_order(tmp_path: Path) -> None:
    write_followir(tmp_path / "news")
    rows = {}
    for template in ("instruction_first", "query_first"):
        (task,) = find({"name": "n", "kind": "followir", "path": str(tmp_path / "news"), "template": template})
        queries = read_queries(STORAGE, task, Quarantine(READ)).table
        pairs = pa.table([["t2"], ["n:d1"], [1.0]], schema=RUN)
        tables = list(candidates_of(task, pairs, queries, 1))
        rows[template] = [
            (t["query_id"][0].as_py(), t["query"][0].as_py(), t["instruction"][0].as_py()) for t in tables
        ]
    assert rows["instruction_first"] == [
        ("n/original/t2", "flow of t2", "instruction_og of t2"),
        ("n/changed/t2", "flow of t2", "instruction_changed of t2"),
    ]
    assert rows["query_first"] == [
        ("n/original/t2", "flow of t2 [SEP] instruction_og of t2", None),
        ("n/changed/t2", "flow of t2 [SEP] instruction_changed of t2", None),
    ]
