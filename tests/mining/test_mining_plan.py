"""What jobs.mine_negatives says and refuses before any work: no Ray, nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.job_files import write_jsonl

from tart_ray.config import MineConfig
from tart_ray.errors import ConfigurationError, InputError
from tart_ray.input import judgements
from tart_ray.mining.job import describe

CONTRAST = {"name": "breaks it", "source": "contrast", "contrast_low": -1.0, "contrast_high": 1.0}
SEVEN = [{"name": "hard", "num_negatives": 5}, {"name": "fill", "num_negatives": 7, "fill": True}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Candidates of the queries q0 and q1, and what is judged of them."""
    rows = [
        {
            "query_id": query,
            "query": f"flow {query}",
            "doc_id": f"d{i}",
            "text": f"text {i}",
            "clicked": i % 2,
            "note": "x",
        }
        for query in ("q0", "q1")
        for i in range(3)
    ]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td1\t1\nq1\td2\t1\n")
    return tmp_path


def plan(folder: Path, model: Path, **sections: Any) -> str:
    base: dict[str, Any] = {
        "input": {"candidates": str(folder / "candidates.jsonl")},
        "positives": {"qrels": str(folder / "qrels.tsv")},
        "output": {"path": str(folder / "mined")},
        "model": {"path": str(model), "max_length": 64},
        "cluster": {"gpus_per_replica": 0},
    }
    try:
        return "\n".join(describe(MineConfig.model_validate(base | sections)))
    finally:
        assert not (folder / "mined").exists()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"trainer": {"formats": ["triplet", "n-tuple"], "num_negatives": 8}, "mining": {"policies": SEVEN}},
            r"num_negatives: got 8 for \['n-tuple'\], and the policies choose at most 7 for a query",
        ),
        ({"trainer": {"formats": ["colbert"], "num_negatives": 8}}, r"got 8 for \['colbert'\].* at most 7 for a query"),
        (
            {"trainer": {"formats": ["tart-full", "triplet"]}, "mining": {"policies": [CONTRAST]}},
            r"formats: \['triplet'\] have no field .*negatives of \['breaks it'\] may well answer .*join_instruction",
        ),
    ],
)
def test_formats_that_cannot_work_are_refused(
    sections: dict[str, Any], message: str, folder: Path, tiny_checkpoint: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan(folder, tiny_checkpoint, **sections)


def test_the_plan_says_where_the_instruction_goes(folder: Path, tiny_checkpoint: Path) -> None:
    formats = ["triplet", "tart-dual", "flagembedding", "tevatron", "n-tuple"]
    trainer = {"formats": formats, "with_scores": True, "num_negatives": 7}
    told = plan(folder, tiny_checkpoint, trainer=trainer).splitlines()
    assert told[-5:] == [
        "  triplet: queries without their instruction",
        '  tart-dual: queries as "instruction [SEP] query"',
        "  flagembedding: instructions in prompt",
        "  tevatron: queries without their instruction; no scores, for which it has no field",
        "  n-tuple: queries without their instruction",
    ]
    # what a user has decided is done
    for join_instruction in (True, False):
        trainer = {"formats": ["triplet"], "join_instruction": join_instruction}
        told = plan(folder, tiny_checkpoint, trainer=trainer, mining={"policies": [CONTRAST]}).splitlines()
        assert ("instruction [SEP] query" in told[-1]) == join_instruction


@pytest.mark.parametrize("layout", ["jsonl", "parquet", "lists", "lists.parquet", "trec"])
def test_judgements_of_no_query_are_refused(layout: str, folder: Path, tiny_checkpoint: Path) -> None:
    given = as_layout(folder, layout)
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n7\td1\t1\n8\td1\t2\nq0\td1\t0\n")
    message = (
        r"positives\.qrels .*: none of the 2 queries in relevant judgements is among the 2 of the candidates\. "
        r"Ids: judged \['7', '8'\], in the candidates \['q0', 'q1'\]"
    )
    with pytest.raises(InputError, match=message):
        plan(folder, tiny_checkpoint, input=given)
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n7\td1\t1\nq1\td1\t1\n")
    assert "trainer files: none" in plan(folder, tiny_checkpoint, input=given)


def as_layout(folder: Path, layout: str) -> dict[str, str]:
    """The candidates of the folder in another layout."""
    rows = [json.loads(line) for line in (folder / "candidates.jsonl").read_text().splitlines()]
    if layout.startswith("lists"):
        rows = [
            {
                "query_id": query,
                "query": query,
                "candidates": [{"doc_id": r["doc_id"], "text": r["text"]} for r in found],
            }
            for query, found in (("q0", rows[:3]), ("q1", rows[3:]))
        ]
    if layout == "trec":
        lines = [f"{row['query_id']} Q0 {row['doc_id']} 1 1.0 tag\n" for row in rows]
        (folder / "own.run").write_text("".join(lines))
        write_jsonl(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": f"text {i}"} for i in range(3)])
        write_jsonl(folder / "queries.jsonl", [{"_id": "q0", "text": "a"}, {"_id": "q1", "text": "b"}])
        read = {name: str(folder / f"{name}.jsonl") for name in ("corpus", "queries")}
        return {"candidates": str(folder / "own.run"), **read}
    path = folder / ("own.parquet" if layout.endswith("parquet") else "own.jsonl")
    if layout.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    else:
        write_jsonl(path, rows)
    return {"candidates": str(path)}


def test_judgements_without_a_relevant_one_are_refused(folder: Path, tiny_checkpoint: Path) -> None:
    positives = {"qrels": str(folder / "qrels.tsv"), "min_relevance": 2}
    with pytest.raises(InputError, match=r"none of its 2 judgements is at least 2 \(min_relevance\)"):
        plan(folder, tiny_checkpoint, positives=positives)


def test_positives_of_another_corpus_are_refused(folder: Path, tiny_checkpoint: Path) -> None:
    given = as_layout(folder, "trec")
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tMED-1\t1\nq1\tMED-2\t1\n")
    message = (
        r"none of the 2 documents in relevant judgements is among the 3 of the candidates and the corpus\. "
        r"Ids: judged \['MED-1', 'MED-2'\], in the candidates and the corpus \['d0', 'd1', 'd2'\]"
    )
    with pytest.raises(InputError, match=message):
        plan(folder, tiny_checkpoint, input=given)
    # without a corpus they may be documents that nobody wants to see: the negatives are good
    assert "trainer files: none" in plan(folder, tiny_checkpoint)
    # of positives.corpus, too
    write_jsonl(folder / "more.jsonl", [{"_id": "MED-2", "text": "a text"}])
    positives = {"qrels": str(folder / "qrels.tsv"), "corpus": str(folder / "more.jsonl")}
    assert "trainer files: none" in plan(folder, tiny_checkpoint, positives=positives)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0, None], r"label_column clicked: got 0 relevant and 4 irrelevant judgements, expected a relevant one"),
        ([None, None, None], r"clicked of the candidates is (large_)?string|null, expected an integer or a boolean"),
        (["yes", "no", "no"], r"clicked of the candidates is (large_)?string|null, expected an integer or a boolean"),
        ([1.5, 0.0, 0.0], r"clicked: got 1\.5, expected integers"),
        ([False, False, False], r"got 0 relevant and 6 irrelevant judgements"),
        ([0, 1, None], None),
        ([0.0, 1.0, float("nan")], None),
        ([True, False, None], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", ["jsonl", "parquet"])
def test_labels(labels: list[Any], message: str | None, layout: str, folder: Path, tiny_checkpoint: Path) -> None:
    rows = [json.loads(line) for line in (folder / "candidates.jsonl").read_text().splitlines()]
    write_jsonl(folder / "candidates.jsonl", [row | {"clicked": labels[i % 3]} for i, row in enumerate(rows)])
    given: dict[str, Any] = {"input": as_layout(folder, layout), "positives": {"label_column": "clicked"}}
    if message is None:
        assert "positives: clicked of the candidates" in plan(folder, tiny_checkpoint, **given)
        return
    with pytest.raises((InputError, ConfigurationError), match=message):
        plan(folder, tiny_checkpoint, **given)


@pytest.mark.parametrize("layout", ["lists", "lists.parquet"])
def test_lists_have_no_labels(layout: str, folder: Path, tiny_checkpoint: Path) -> None:
    given = as_layout(folder, layout)
    with pytest.raises(
        ConfigurationError, match=r"label_column: got 'clicked' and candidates as lists.*or positives\.qrels"
    ):
        plan(folder, tiny_checkpoint, input=given, positives={"label_column": "clicked"})


def test_what_is_longer_than_is_read_is_not_refused(
    folder: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"x{i}\td1\t1\n" for i in range(9)))
    monkeypatch.setattr(judgements, "ROWS_AT_MOST", 5)  # what is longer cannot be settled, and is not refused
    told = plan(folder, tiny_checkpoint).splitlines()
    assert "no query_id was found that is in the candidates too, and not all were looked at; judged ['x0'" in told[-1]
