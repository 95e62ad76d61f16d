"""What jobs.mine_negatives says and refuses before any work: no Ray, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.job_files import write_jsonl

from tart_ray.command_line import ConfigurationError
from tart_ray.config import MineConfig
from tart_ray.pipeline.mine import describe

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
