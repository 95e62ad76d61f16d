"""Figures of scores: of whole buckets up to a number of pairs, with what is good to know."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tart_ray.runs.run import Run
from tart_ray.scores.figures import Sample, figures_of, remarks, sample
from tart_ray.scores.scored import Scored
from tart_ray.scores.store import ScoreStore
from tart_ray.storage import Storage
from tart_ray.tables.ranking import rank
from tart_ray.tables.schemas import SCORES


def scores(query_id: str, margins: list[float], instruction: str | None) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "query_id": query_id, "doc_id": f"d{place}", "instruction": instruction, "score": 0.5, "margin": margin,
                "first_stage_rank": place + 1, "tokens": 10 + place, "truncated": place == 0,
            }
            for place, margin in enumerate(margins)
        ],
        schema=SCORES,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.at(Storage(), str(tmp_path / "run"), 1).begin({"job": "rerank"}, {})


def test_a_sample_is_of_whole_buckets_and_says_so(run: Run) -> None:
    chunks = {}
    for bucket, query in (("00000", "a"), ("00001", "b"), ("00002", "c")):
        run.write_table(scores(query, [0.0, 2.0, 1.0], "Find"), "scores", f"{bucket}-00000.parquet")
        chunks[bucket] = {f"{bucket}-00000": 3}
    store = ScoreStore(run, chunks)
    part = sample(store, 6)
    assert part.table.select(["query_id", "doc_id", "rank"]).to_pylist() == [
        {"query_id": query, "doc_id": doc, "rank": place + 1}
        for query in ("a", "b")
        for place, doc in enumerate(("d1", "d2", "d0"))
    ]
    assert part.note == "Of a sample of 6 of 9 pairs."
    assert sample(store).note == ""
    assert len(sample(store, 2).table) == 0  # no bucket is that small
    assert figures_of(run, sample(store, 2), []) == {}


def seen(*tables: pa.Table) -> Sample:
    table = pa.concat_tables([rank(table) for table in tables])
    return Sample(table, [], len(table))


def test_margins_by_instruction_where_there_are_few(run: Run) -> None:
    few = seen(scores("a", [0.0, 2.0, 1.0], "Find"), scores("b", [4.0], None))
    work = Scored(
        rows=4,
        quarantined=0,
        truncated=2,
        tokens=40,
        padded_tokens=48,
        windows=4,
        seconds=2.0,
        began=9.0,
        replica="r:1",
    )
    found = figures_of(run, few, [work])
    assert [figure.title for figure in found["Margins"]] == ["Find", "no instruction"]
    assert [sum(figure.counts[""]) for figure in found["Margins"]] == [3, 1]
    assert found["Margins"][0].edges == found["Margins"][1].edges
    assert found["Lengths"][0].note == "2 of 4 pairs were truncated."
    assert [figure.title for figure in found["Speed"]] == ["Throughput over time", "Replicas"]
    many = seen(*(scores(f"q{n}", [float(n)], f"Find {n}") for n in range(6)))
    assert [figure.title for figure in figures_of(run, many, [])["Margins"]] == ["All pairs"]


def test_what_is_good_to_know() -> None:
    fine = seen(scores("a", [0.0, 2.0], "Find"), scores("b", [1.0, 3.0], "Look"))
    nothing = {"scored": 100, "truncated": 5, "duplicates": 0}
    assert remarks(fine, nothing, 512) == []
    flat = seen(scores("a", [0.0, 0.05], None))
    said = remarks(flat, {"scored": 100, "truncated": 6, "duplicates": 2}, 512)
    assert [text.partition(":")[0] for text in said] == [
        "6 of 100 pairs (6.0%) were truncated to model.max_length 512",
        "2 rows repeat an earlier query_id and doc_id",
        "No pair has an instruction.",
        "Scores hardly differ",
    ]
    assert remarks(seen(scores("a", [0.0, 2.0], "Find")), nothing, 512) == ["All pairs have the same instruction."]
