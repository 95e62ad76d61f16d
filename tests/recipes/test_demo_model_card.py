"""What is published: the files of a model, and a card with the figures that were measured."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from recipes.demo_model.publish import publish
from recipes.demo_model.train import TRAINING
from tart_ray.scoring.scorer import Scorer


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """What the steps before publishing write."""
    shutil.copytree(tiny_checkpoint, tmp_path / "run" / "model")
    interval = {"mean": 0.4321, "low": 0.4, "high": 0.46, "count": 600}
    trained = {
        "steps": 700,
        "best_step": 600,
        "seconds": 5400,
        "parameters": 3_738_114,
        "pieces": 8_001,
        "config": TRAINING.model_dump(mode="json"),
        "max_length": 112,
    }
    written = {
        "sources.json": {"entries": {"train": 9, "dev": 2, "test": 3}, "fetched": ["a-1.whl", "b_1.deb"]},
        "run/training.json": trained,
        "run/test.json": {"code: model": interval, "following (unseen): all tasks": interval},
    }
    for name, content in written.items():
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_the_card_has_the_figures_and_the_model_loads(folder: Path) -> None:
    place = folder / "place"
    size = publish(folder, "run", place)
    assert size == sum(path.stat().st_size for path in (folder / "run" / "model").iterdir())
    card = (place / "README.md").read_text()
    assert "| code: model | 0.432 | 0.400 to 0.460 | 600 |" in card
    assert "| following (unseen wordings): all tasks | 0.432 |" in card
    assert "3,738,114 parameters" in card
    assert "67,200 pairs in all, 1.5 hours" in card  # 700 steps of 16 queries with 6 documents
    assert len(Scorer.from_pretrained(place).score(["a"], ["b"]).margin) == 1


def test_a_model_above_the_budget_is_not_published(folder: Path) -> None:
    os.truncate(folder / "run" / "model" / "model.safetensors", 10_000_001)
    with pytest.raises(ValueError, match="expected 10,000,000 at most"):
        publish(folder, "run", folder / "place")
    assert not (folder / "place").exists()
