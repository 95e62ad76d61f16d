"""Judgements that no calibration can be fitted to are refused before any work: no Ray, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.job_files import write_jsonl

from tart_ray.config import LabelsConfig, RelabelConfig
from tart_ray.errors import ConfigurationError, InputError
from tart_ray.relabeling.job import describe


@pytest.mark.parametrize(
    ("relevances", "query", "message"),
    [
        ([0, 0, 0, 0], "q0", r"calibration\.qrels .*: none of its 4 judgements is at least 1"),
        ([1, 1, 1, 1], "q0", r"got 4 relevant and 0 irrelevant judgements, expected 2 or more of each"),
        ([1, 0, 0, 0], "q0", r"got 1 relevant and 3 irrelevant judgements, expected 2 or more of each"),
        ([1, 1, 0, 0], "Q0", r"none of the 1 queries .*judged \['Q0'\], in the candidates \['q0'\]"),
        ([1, 1, 0, 0], "q0", None),
    ],
)
@pytest.mark.parametrize("labelled", [False, True])
def test_judgements_of_a_calibration(
    labelled: bool, relevances: list[int], query: str, message: str | None, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    if labelled and query != "q0":
        pytest.skip("labels in a column are those of the candidates")
    candidates = [
        {"query_id": "q0", "query": "flow", "doc_id": f"d{i}", "text": f"text {i}", "clicked": relevance}
        for i, relevance in enumerate(relevances)
    ]
    write_jsonl(tmp_path / "candidates.jsonl", candidates)
    lines = [f"{query}\td{i}\t{relevance}\n" for i, relevance in enumerate(relevances)]
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    source = {"label_column": "clicked"} if labelled else {"qrels": str(tmp_path / "qrels.tsv")}
    if message is None:
        assert "labels: 0 to 1 by calibrated" in "\n".join(describe(config(tmp_path, tiny_checkpoint, source)))
        return
    if labelled and not any(relevances):
        message = r"label_column clicked: got 0 relevant and 4 irrelevant judgements, expected 2 or more of each"
    with pytest.raises(InputError, match=message):
        list(describe(config(tmp_path, tiny_checkpoint, source)))
    assert not (tmp_path / "labelled").exists()


def test_lists_have_no_labels(tmp_path: Path, tiny_checkpoint: Path) -> None:
    row = {"query_id": "q0", "query": "flow", "clicked": 1, "candidates": [{"doc_id": "d0", "text": "text"}]}
    write_jsonl(tmp_path / "candidates.jsonl", [row])
    with pytest.raises(ConfigurationError, match="got 'clicked' and candidates as lists"):
        list(describe(config(tmp_path, tiny_checkpoint, {"label_column": "clicked"})))


def test_columns_of_windows_that_labels_do_not_carry_are_told(tmp_path: Path, tiny_checkpoint: Path) -> None:
    row = {"query_id": "q0", "query": "flow", "doc_id": "d0", "text": "wing", "instruction": "Find it"}
    write_jsonl(tmp_path / "candidates.jsonl", [row])
    whole = config(tmp_path, tiny_checkpoint, {}).model_copy(update={"labels": LabelsConfig(cuts=[0.5])})
    in_windows = whole.model_copy(update={"model": whole.model.model_copy(update={"long_documents": "maxp"})})
    note = "  note: of long documents, best_window, num_windows, window_start, window_end are not carried into"
    assert [sum(line.startswith(note) for line in describe(settings)) for settings in (whole, in_windows)] == [0, 1]


def config(folder: Path, model: Path, source: dict[str, Any]) -> RelabelConfig:
    if not source:
        source = {"label_column": "clicked"}
    return RelabelConfig.model_validate(
        {
            "input": {"candidates": str(folder / "candidates.jsonl")},
            "labels": {"by": "calibrated", "cuts": [0.5], "calibration": {"min_labels": 1, **source}},
            "output": {"path": str(folder / "labelled")},
            "model": {"path": str(model), "max_length": 64},
            "cluster": {"gpus_per_replica": 0},
        }
    )
