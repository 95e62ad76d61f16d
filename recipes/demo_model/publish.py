"""Put a trained and measured model into the package, with its card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from recipes.demo_model.entries import KEY_WORDS
from recipes.demo_model.tasks import TASKS

PLACE = Path(__file__).parents[2] / "tart_ray" / "demo" / "model"
CARD_NAME = "README.md"
LARGEST = 10_000_000  # bytes of all its files
CARD = Path(__file__).with_name("card.md")  # with places for what was counted and measured
NAMES = {"instructions": "wordings trained with", "unseen": "unseen wordings"}


def publish(folder: Path, run: str, place: Path = PLACE) -> int:
    """Copy ``folder/run/model`` to ``place`` and write its card; returns the bytes of all files.

    Raises:
        ValueError: the files are larger than they may be.
    """
    model = folder / run / "model"
    files = [path for path in sorted(model.iterdir()) if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    if size > LARGEST:
        raise ValueError(f"{model}: got {size:,} bytes, expected {LARGEST:,} at most")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(model, place)
    (place / CARD_NAME).write_text(write_card(folder, run, size), encoding="utf-8")
    return size


def write_card(folder: Path, run: str, size: int) -> str:
    """The model card, from what the steps of the recipe wrote."""
    sources = json.loads((folder / "sources.json").read_text())
    trained = json.loads((folder / run / "training.json").read_text())
    config: dict[str, Any] = trained["config"]
    return CARD.read_text(encoding="utf-8").format(
        parameters=trained["parameters"],
        pieces=trained["pieces"],
        megabytes=size / 1e6,
        wheels=sum(name.endswith(".whl") for name in sources["fetched"]),
        entries=sources["entries"],
        key_words=KEY_WORDS,
        wordings=min(len(task.instructions) for task in TASKS.values()),
        unseen=min(len(task.unseen) for task in TASKS.values()),
        steps=trained["steps"],
        hours=trained["seconds"] / 3600,
        pairs=trained["steps"] * config["queries_per_step"] * (1 + config["num_negatives"]),
        unfollowing=config["max_unfollowing_fraction"],
        figures=_table(json.loads((folder / run / "test.json").read_text())),
        max_length=trained["max_length"],
        **{name: config[name] for name in ("queries_per_step", "num_negatives")},
    )


def _table(figures: dict[str, dict[str, float]]) -> str:
    rows = ["| what | mean | 95 % interval | queries |", "|---|---|---|---|"]
    for name, found in figures.items():
        for wording, words in NAMES.items():
            name = name.replace(f"({wording})", f"({words})")
        interval = f"{found['low']:.3f} to {found['high']:.3f}"
        rows.append(f"| {name} | {found['mean']:.3f} | {interval} | {found['count']:,} |")
    return "\n".join(rows)
