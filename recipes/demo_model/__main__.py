"""`python -m recipes.demo_model STEP`: a step reads what the one before wrote under --folder; `all` makes all."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from pathlib import Path

from recipes.demo_model import data, evaluate, publish, train
from recipes.demo_model.entries import read_entries
from recipes.demo_model.vocabulary import MAX_LENGTH
from tart_ray.scoring.scorer import Scorer

STEPS = ("data", "vocabulary", "start", "mine", "train", "evaluate", "publish")


def main() -> int:
    """Run one step, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=[*STEPS, "all"])
    parser.add_argument("--folder", type=Path, default=Path("demo-model"))
    parser.add_argument("--cache", type=Path, help="of downloads; by default below the folder")
    parser.add_argument("--blocks", type=int, default=20, help=f"of {train.BLOCK:,} entries to train on")
    parser.add_argument("--steps", type=int, default=train.TRAINING.max_steps, help="of the optimizer")
    parser.add_argument("--learning-rate", type=float, default=train.TRAINING.learning_rate, help="at its peak")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", default="run", help="folder of the training run, below the folder")
    parser.add_argument("--split", choices=("dev", "test"), default="test", help="that is evaluated on")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for step in STEPS if arguments.step == "all" else (arguments.step,):
        _run(step, arguments)
    return 0


def _run(step: str, arguments: argparse.Namespace) -> None:
    folder: Path = arguments.folder
    if step == "data":
        data.build(folder, arguments.cache or folder / "cache")
    elif step == "vocabulary":
        train.make_vocabulary(folder)
    elif step == "start":
        train.make_first_weights(folder)
    elif step == "mine":
        train.mine(folder, arguments.blocks)
    elif step == "train":
        names = ("run", "blocks", "steps", "learning_rate", "threads")
        train.train_model(folder, **{name: getattr(arguments, name) for name in names})
    elif step == "publish":
        size = publish.publish(folder, arguments.run)
        logging.info("%s: %d bytes", publish.PLACE, size)
    else:
        scorer = Scorer.from_pretrained(folder / arguments.run / "model", max_length=MAX_LENGTH)
        assert isinstance(scorer, Scorer)
        measured = evaluate.evaluate(scorer, read_entries(folder / f"{arguments.split}.parquet"))
        path = folder / arguments.run / f"{arguments.split}.json"
        path.write_text(json.dumps({name: dataclasses.asdict(value) for name, value in measured.items()}, indent=2))


if __name__ == "__main__":
    sys.exit(main())
