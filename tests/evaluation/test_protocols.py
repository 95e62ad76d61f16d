"""Figures are published with settings: a task can be held to them, and beside other settings no figure is shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from support.collections import write_beir, write_followir, write_run

from tart_ray.config import EvaluateConfig, MetricsConfig
from tart_ray.errors import ConfigurationError
from tart_ray.evaluation.datasets import find_tasks
from tart_ray.evaluation.instructions import FLAN_T5_XL
from tart_ray.evaluation.job import describe
from tart_ray.evaluation.measuring import VALUES
from tart_ray.evaluation.summary import rows_of, summarise
from tart_ray.storage import Storage

EXAMPLE = Path(__file__).parents[2] / "docs" / "protocols" / "followir.yaml"


@pytest.fixture
def example(tmp_path: Path, tiny_checkpoint: Path) -> dict[str, Any]:
    """The documented configuration, with files to read."""
    config: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    assert config["model"]["path"] == FLAN_T5_XL
    config["model"]["path"] = str(tiny_checkpoint)
    config["output"]["path"] = str(tmp_path / "run")
    for task in config["input"]["tasks"]:
        task["path"] = str(tmp_path / task["path"])
        write_followir(Path(task["path"]))
        task["first_stage"] = str(Path(task["path"]) / "run.trec")
        write_run(Path(task["first_stage"]), {"t1": {"d1": 1.0}})
    return config


def planned(config: dict[str, Any]) -> str:
    return "\n".join(describe(EvaluateConfig.model_validate(config)))


def test_the_documented_configuration_is_followirs_protocol(example: Any) -> None:
    assert "core17: followir" in planned(example)


@pytest.mark.parametrize(
    ("section", "key", "value", "told"),
    [
        ("model", "max_length", 512, "model.max_length: got 512, expected 1024"),
        ("model", "truncation", "longest_first", "model.truncation: got longest_first, expected only_document"),
        ("model", "long_documents", "maxp", "model.long_documents: got maxp, expected truncate"),
        ("input", "empty_documents", "quarantine", "input.empty_documents: got quarantine, expected score"),
        ("task", "template", "instruction_first", "template: got instruction_first, expected query_first"),
        ("task", "first_stage", "bm25", "first_stage: got bm25, expected a run"),
        ("task", "protocol", "tart", "model.max_length: got 1024, expected 512; .*top_k: got 1000, expected 100"),
    ],
)
def test_other_settings_than_the_protocols_are_refused(
    example: Any, section: str, key: str, value: Any, told: str
) -> None:
    (example["input"]["tasks"][1] if section == "task" else example[section])[key] = value
    with pytest.raises(ConfigurationError, match=rf"input.tasks: \w+: protocol \w+: {told}"):
        planned(example)


@pytest.mark.parametrize(("max_length", "shown"), [(512, True), (256, False)])
def test_published_figures_stand_beside_their_own_settings_alone(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, max_length: int, shown: bool
) -> None:
    figures = {"beir/scifact": ("nDCG@10", 77.7)}
    monkeypatch.setattr("tart_ray.evaluation.instructions.PUBLISHED", {str(tiny_checkpoint): figures})
    write_beir(tmp_path / "scifact", {"d1": ("", "x")}, {"q1": "one"}, {"q1": {"d1": 1}})
    write_run(tmp_path / "run.trec", {"q1": {"d1": 1.0}})
    task = {
        "name": "scifact",
        "path": str(tmp_path / "scifact"),
        "first_stage": str(tmp_path / "run.trec"),
        "instructions": [{"preset": "beir/scifact"}],
    }
    config = {
        "model": {"path": str(tiny_checkpoint), "max_length": max_length},
        "input": {"tasks": [task], "empty_documents": "score"},
        "output": {"path": str(tmp_path / "run")},
    }
    told = "the published figure is not shown: model.max_length: got 256, expected 512"
    assert (told in planned(config)) != shown
    (found,) = find_tasks(Storage(), EvaluateConfig.model_validate(config).input)
    held = replace(found, departures=() if shown else ("model.max_length: got 256, expected 512",))
    keys = [
        ("scifact", "closed", run, "all", "q1", measure, 1.0)
        for run in ("first_stage", "reranked-1")
        for measure in held.measures
    ]
    values = pa.Table.from_pylist([dict(zip(VALUES.names, row, strict=True)) for row in keys], schema=VALUES)
    (row,) = rows_of("scifact", summarise(held, values, MetricsConfig(resamples=10), str(tiny_checkpoint)))
    assert (row["published"], row["preset"]) == ((0.777, "beir/scifact") if shown else (None, None))
