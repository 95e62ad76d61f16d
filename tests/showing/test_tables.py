"""What is said of queries, bad rows and versions, worked out by hand; and where bad rows and texts come from."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.job_files import write_jsonl

from tart_ray.config import InputConfig
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.readers import read_split
from tart_ray.relabeling.labels import LABELLED, diff
from tart_ray.runs.bad_rows import content_of
from tart_ray.runs.run import Run
from tart_ray.runs.stage import Stage
from tart_ray.scores.plan import make_plan
from tart_ray.showing import tables
from tart_ray.showing.bad_rows import bad_rows, place_of
from tart_ray.showing.state import Told
from tart_ray.showing.texts import Texts, find_texts
from tart_ray.showing.versions import EXAMPLES, Comparison
from tart_ray.storage import Storage


@pytest.mark.parametrize(("before", "now", "text"), [(4, 1, "↑3"), (1, 12, "↓11"), (2, 2, "="), (None, 2, "")])
def test_how_far_a_document_moved(before: int | None, now: int, text: str) -> None:
    assert tables.move(before, now) == text


def row(doc_id: str, rank: int, first: int | None, **more: Any) -> dict[str, Any]:
    shared = {"query_id": "q", "instruction": "Find it", "score": 0.5, "margin": 2.0 - rank}
    return shared | {"doc_id": doc_id, "rank": rank, "first_stage_rank": first} | more


def test_a_ranking() -> None:
    rows = [row("d7", 1, 3), row("d1", 2, 1), row("d9", 3, None)]
    texts = Texts("a wing", {"d7": "Wings. " + "lift " * 40, "d1": "flow"}, "the text of 1 of 3 is nowhere")
    assert [*tables.tell_ranking("q", rows, texts, 90)] == [
        "query q: a wing",
        "under “Find it”",
        "rank  move  margin  score  first  document",
        "   1  ↑2    +1.000  0.500  3      d7        Wings. lift lift lift lift lift lift lift…",
        "   2  ↓1    +0.000  0.500  1      d1        flow",
        "   3        -1.000  0.500         d9",
        "the text of 1 of 3 is nowhere",
    ]


def test_texts_that_the_output_holds_are_shown_without_its_input() -> None:
    rows = [row("d7", 1, 3, title="Wings", text="lift")]
    told = [*tables.tell_ranking("q", rows, Texts(missing="the input is gone"), 90)]
    assert told[-1].endswith("d7        Wings lift")


def test_labels_beside_those_before() -> None:
    rows = [
        row("d7", 1, 3, label=2, status="changed", old_label=0),
        row("d1", 2, 1, label=1, status=None, old_label=None),
        row("d9", 3, 2, label=0, status="new", old_label=None),
    ]
    told = [*tables.tell_ranking("q", rows, Texts(), 90)]
    assert [line.split()[5:-1] for line in told[3:]] == [["0", "→", "2"], ["1"], ["new:", "0"]]


def test_what_was_mined_of_a_query() -> None:
    shared = {"query_id": "q", "instruction": None, "first_stage_rank": 2, "rank": 1, "margin": 1.5}
    found = {
        "positives": [shared | {"doc_id": "d5", "positive_by": "judged", "text": "the answer", "title": None}],
        "negatives": [shared | {"doc_id": "d3", "policy": "hard", "margin": -1.0, "rank": 4}],
        "shortfalls": [{"query_id": "q", "policy": "hard", "wanted": 2, "chosen": 1, "reason": "too few"}],
        "left_out": [{"query_id": "q", "doc_id": "d9", "reason": "it is the query", "left_out_of": "negatives"}],
    }
    assert [*tables.tell_mined("q", found, Texts(missing="the input is gone"), 90)] == [
        "query q",
        "                   rank  margin  first  document",
        "positive (judged)  1     +1.500  2      d5        the answer",
        "hard               4     -1.000  2      d3",
        "policy hard: 1 of 2 negatives: too few",
        "left out of negatives: document d9: it is the query",
        "the input is gone",
    ]


def labels(**of_documents: tuple[int, float]) -> pa.Table:
    rows = [
        {"query_id": "q", "doc_id": name, "label": label, "margin": margin, "content": str(margin)}
        for name, (label, margin) in of_documents.items()
    ]
    return pa.Table.from_pylist(rows, schema=LABELLED)


def test_a_comparison_counts_everything_and_shows_a_few() -> None:
    old = {f"d{d}": (0, 1.0) for d in range(EXAMPLES + 2)} | {"same": (1, 2.0), "goes": (1, 2.0)}
    new = {f"d{d}": (1, 3.0) for d in range(EXAMPLES + 2)} | {"same": (1, 2.0), "comes": (0, 0.5)}
    found = Comparison("00001-a", "00002-b")
    found.add(diff(labels(**old), labels(**new)))
    found.add(diff(labels(other=(0, 1.0)), labels(other=(1, 1.0))))
    assert found.counts == Counter(unchanged=1, changed=EXAMPLES + 3, new=1, gone=1)
    assert [*tables.tell_comparison(found)] == [
        "labels of 00002-b beside those of 00001-a",
        "  unchanged 1, changed 6, new 1, gone 1",
        "0 → 1: 6 pairs",
        "  query q  document d0  margin +1.000 → +3.000, its content or the model changed",
        "  query q  document d1  margin +1.000 → +3.000, its content or the model changed",
        "  query q  document d2  margin +1.000 → +3.000, its content or the model changed",
        "gone, 1 → none:",
        "  query q  document goes  margin +2.000 → none",
        "new, none → 0:",
        "  query q  document comes  margin none → +0.500",
    ]


GOOD = {"query_id": "q0", "query": "a wing", "doc_id": "d0", "title": "Wings", "text": "lift"}
BAD = ["{broken", {**GOOD, "query_id": ""}, *({**GOOD, "query": " ", "doc_id": f"d{d}"} for d in range(5))]


def quarantined(place: Any, url: str) -> tuple[Run, dict[str, Any]]:
    """A run that read an input, and its identity."""
    plan = make_plan(place.storage, InputConfig(candidates=url), windows=False)
    identity = json.loads(json.dumps({"job": "rerank", **plan.identity}))
    run = Run.at(place.storage, place.at("run"), 1).begin(identity, {"config": {"input": {"candidates": url}}})
    stage = Stage("read-candidates", Told)
    for split in plan.candidates.splits:
        quarantine = Quarantine("read")
        rows = sum(map(len, read_split(place.storage, plan.candidates, split, quarantine)))
        unit = f"{split.index:05d}"
        run.commit(stage, unit, Told(rows=rows, quarantined=run.write_quarantine(quarantine, stage.name, unit)))
    return run, identity


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_bad_rows_by_reason_with_the_lines_that_they_were_in(place: Any, name: str) -> None:
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in (GOOD, *BAD)).encode()
    url = place.put(f"in/{name}", gzip.compress(text) if name.endswith("gz") else text)
    run, identity = quarantined(place, url)
    found = bad_rows(run)
    assert [(rows.stage, rows.reason.partition(":")[0], rows.number, len(rows.samples)) for rows in found] == [
        ("read", "query is empty", 5, 3),
        ("read", "query_id is empty", 1, 1),
        ("read", "undecodable line", 1, 1),
    ]
    lines = [[place_of(run.storage, identity, row).rpartition("/")[2] for row in rows.samples] for rows in found]
    assert lines == [[f"{name} line {n}" for n in (4, 5, 6)], [f"{name} line 3"], [f"{name} line 2"]]
    assert content_of(found[2].samples[0]) == "{broken"
    assert json.loads(content_of(found[1].samples[0]))["doc_id"] == "d0"

    # the file is another one now: its lines may be others
    place.put(f"in/{name}", (gzip.compress(b"{}\n" + text)) if name.endswith("gz") else b"{}\n" + text)
    assert " byte " in place_of(run.storage, identity, found[0].samples[0])


def test_rows_of_parquet_and_candidates_of_lists_are_told_by_number(place: Any) -> None:
    lists = [
        {"query_id": "q", "query": "wing", "candidates": [{"doc_id": "a", "text": "x"}, {"doc_id": "b", "text": " "}]}
    ]
    url = place.put("in/a.parquet", pa.Table.from_pylist(lists))
    run, identity = quarantined(place, url)
    ((rows,),) = [bad_rows(run)]
    assert rows.reason == "empty document"
    assert place_of(run.storage, identity, rows.samples[0]).endswith("a.parquet row 1, candidate 2")


def test_bad_rows_of_a_unit_that_is_not_committed_are_not_counted_yet(place: Any) -> None:
    url = place.put("in/a.jsonl", json.dumps(GOOD) + "\n{broken\n")
    run, _ = quarantined(place, url)
    assert len(bad_rows(run)) == 1
    run.storage.remove(run.url("_commits", "read-candidates", "00000.json"))
    assert bad_rows(run) == []
    run.finish({}, "", success=True)  # jobs.relabel removes the commits of its scoring
    assert len(bad_rows(run)) == 1


def test_reasons_beyond_those_shown_are_counted() -> None:
    reasons = [("read", f"reason {i}", 30 - i, [("a.jsonl line 1", "{}")]) for i in range(tables.REASONS + 2)]
    told = [*tables.tell_bad_rows(reasons, 80)]
    assert told[0] == f"quarantine: {sum(30 - i for i in range(tables.REASONS + 2))} rows"
    assert told[1:4] == ["30 rows: reason 0 (read)", "  a.jsonl line 1", "    {}"]
    assert told[-1] == f"and {30 - tables.REASONS + 30 - tables.REASONS - 1} rows for 2 other reasons"
    assert [*tables.tell_bad_rows([], 80)] == ["quarantine: no row"]


def manifest_of(**given: Any) -> dict[str, Any]:
    plan = make_plan(Storage(), InputConfig(**given), windows=False)
    return {"identity": json.loads(json.dumps({"job": "rerank", **plan.identity})), "config": {"input": given}}


def test_texts_are_read_again_from_candidates_or_from_what_they_are_joined_with(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [{**GOOD, "query_id": f"q{q}"} for q in range(3)])
    manifest = manifest_of(candidates=str(tmp_path / "pairs.jsonl"))
    assert find_texts(Storage(), manifest, "q2", ["d0"]) == Texts("a wing", {"d0": "Wings lift"})
    (tmp_path / "a.trec").write_text("q1 Q0 d1 1 2.0 x\nq1 Q0 d2 2 1.0 x\n")
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": f"d{d}", "title": "T", "text": f"text {d}"} for d in range(2)])
    (tmp_path / "queries.tsv").write_text("q0\tflow\nq1\theat\n")
    names = {"candidates": "a.trec", "corpus": "corpus.jsonl", "queries": "queries.tsv"}
    manifest = manifest_of(**{role: str(tmp_path / name) for role, name in names.items()})
    found = find_texts(Storage(), manifest, "q1", ["d1", "d2"])
    assert (found.query, found.documents) == ("heat", {"d1": "T text 1"})
    assert found.missing == "the text of 1 of 2 is not in the first 256 MB of the input"


def test_texts_that_cannot_be_had_are_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    write_jsonl(file, [GOOD])
    manifest = manifest_of(candidates=str(file))
    write_jsonl(file, [{**GOOD, "text": "another one"}])
    assert find_texts(Storage(), manifest, "q0", ["d0"]).missing.startswith("texts are not shown: the input has chang")
    file.unlink()
    found = find_texts(Storage(), manifest, "q0", ["d0"])
    assert found.documents == {}
    assert found.missing.startswith(f"texts are not shown: the input cannot be read: {file}: no file there")
