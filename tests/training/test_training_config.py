"""What jobs.train refuses to be configured as."""

from __future__ import annotations

import pytest

from tart_ray.config import TrainConfig
from tart_ray.config.command_line import parse_config
from tart_ray.errors import ExitCode

GIVEN = ["--input.train", "pairs.jsonl", "--output.path", "trained"]
NEW = [*GIVEN, "--model.vocabulary", "spiece.model"]
OLD = [*GIVEN, "--model.path", "t5"]


def test_defaults_and_lists() -> None:
    config, plan_only = parse_config(TrainConfig, "train", [*NEW, "--training.random_negatives", "[1.0, 0.3]"])
    training = config.training
    assert not plan_only
    assert training.random_negatives == (1.0, 0.3)
    assert (training.loss, training.num_negatives, training.epochs) == ("cross_entropy", 4, 1)
    assert (training.preset, training.select_by, config.model.max_length) == (None, "ndcg_at_10", 512)
    assert (training.max_unfollowing_fraction, training.max_unfollowing) == (0.16, 10_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (GIVEN, "model"),
        ([*NEW, "--model.path", "t5"], "got ['path', 'vocabulary'], expected one of path, vocabulary"),
        ([*OLD, "--model.geometry.num_layers", "3"], "got geometry beside model.path, which brings its own"),
        ([*OLD, "--model.initialisation", "t5"], "got initialisation beside model.path, which brings its own"),
        ([*NEW, "--training.patience", "2"], "got training.patience without input.evaluation"),
        ([*NEW, "--cluster.gpus_per_worker", "2"], "gpus_per_worker"),
        ([*NEW, "--model.geometry.d_kv", "512"], "got d_kv 512 above d_model 256"),
        ([*NEW, "--training.loss", "margin_mse", "--training.random_negatives", "[1, 0]"], "a teacher has not scored"),
        ([*NEW, "--training.num_negatives", "null", "--training.random_negatives", "[1, 0]"], "expected num_negatives"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_config(TrainConfig, "train", arguments)
    assert ended.value.code == ExitCode.BAD_CONFIGURATION
    assert message in capsys.readouterr().err
