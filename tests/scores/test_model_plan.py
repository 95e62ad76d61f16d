"""A checkpoint that cannot be scored with ends every job in its plan, with exit code 2 and before Ray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file, save_file

from tart_ray.config import EvaluateConfig, MineConfig, RelabelConfig, RerankConfig, TrainConfig
from tart_ray.engine.session import exit_code_of
from tart_ray.errors import ExitCode
from tart_ray.evaluation import job as evaluate
from tart_ray.mining import job as mine
from tart_ray.relabeling import job as relabel
from tart_ray.reranking import job as rerank
from tart_ray.training import job as train


@pytest.fixture
def broken(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint with one weight that is no number."""
    model = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    weights = {name: np.array(weight) for name, weight in load_file(model / "model.safetensors").items()}
    weights["encoder.final_layer_norm.weight"][0] = np.nan
    save_file(weights, model / "model.safetensors")
    return model


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    (folder / "beir" / "qrels").mkdir(parents=True)

    def write(name: str, *rows: dict[str, Any]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("pairs.jsonl", {"query_id": "q", "query": "wing", "doc_id": "d", "text": "flow", "label": 1})
    write("train.jsonl", {"query": "wing", "positives": ["flow"], "negatives": ["heat"]})
    write("beir/queries.jsonl", {"_id": "q", "text": "wing"})
    write("beir/corpus.jsonl", {"_id": "d", "title": "", "text": "flow"})
    (folder / "beir" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    return folder


Start = Callable[[dict[str, Any], Path], Any]
INSTRUCTED = {"instruction": "Find it"}
JOBS: dict[str, Start] = {
    "rerank": lambda base, inputs: rerank.rerank(
        RerankConfig.model_validate(base | {"input": {"candidates": str(inputs / "pairs.jsonl")} | INSTRUCTED})
    ),
    "rerank --dry-run": lambda base, inputs: list(
        rerank.describe(
            RerankConfig.model_validate(base | {"input": {"candidates": str(inputs / "pairs.jsonl")} | INSTRUCTED})
        )
    ),
    "mine_negatives": lambda base, inputs: mine.mine_negatives(
        MineConfig.model_validate(
            base
            | {
                "input": {"candidates": str(inputs / "pairs.jsonl")} | INSTRUCTED,
                "positives": {"label_column": "label"},
            }
        )
    ),
    "relabel": lambda base, inputs: relabel.relabel(
        RelabelConfig.model_validate(
            base | {"input": {"candidates": str(inputs / "pairs.jsonl")} | INSTRUCTED, "labels": {"cuts": [0.0]}}
        )
    ),
    "evaluate": lambda base, inputs: evaluate.evaluate(
        EvaluateConfig.model_validate(
            base | {"input": {"tasks": [{"name": "t", "path": str(inputs / "beir"), "instructions": ["Find it"]}]}}
        )
    ),
    "evaluate --dry-run": lambda base, inputs: list(
        evaluate.describe(
            EvaluateConfig.model_validate(
                base | {"input": {"tasks": [{"name": "t", "path": str(inputs / "beir"), "instructions": ["Find it"]}]}}
            )
        )
    ),
    "train": lambda base, inputs: train.train(
        TrainConfig.model_validate(
            {name: base[name] for name in ("model", "output")} | {"input": {"train": str(inputs / "train.jsonl")}}
        )
    ),
}


@pytest.mark.parametrize("start", JOBS.values(), ids=JOBS)
def test_no_job_begins_with_it(
    start: Start, broken: Path, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"model": {"path": str(broken)}, "output": {"path": str(tmp_path / "run")}}
    was_running = ray.is_initialized()
    assert exit_code_of(lambda: start(base, inputs)) == ExitCode.BAD_CONFIGURATION
    told = capsys.readouterr().err
    assert f"configuration error: {broken}: NaN or infinite numbers in the weights encoder.final_layer_norm" in told
    assert "again" not in told
    assert ray.is_initialized() == was_running
    assert not (tmp_path / "run").exists()
