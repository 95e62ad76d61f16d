"""The configurations in configs/: each is planned, and the cheap ones are run, with the model of the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.job_files import report_of
from support.shown import shown

import tart_ray
from tart_ray.config.yaml_text import read_yaml

pytestmark = pytest.mark.usefixtures("cluster")

ROOT = Path(__file__).parents[2]
ON_CPUS = {
    "model": {"path": "demo", "max_length": 112},
    "cluster": {"gpus_per_replica": 0, "replicas": {"min": 1, "max": 1}},
}
JOBS = {"rerank": "rerank", "mine": "mine_negatives", "relabel": "relabel", "evaluate": "evaluate"}


def example(name: str, tmp_path: Path, **more: Any) -> dict[str, Any]:
    config = read_yaml((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {**config, "output": {"path": str(tmp_path / name)}, **more}


def test_the_example_of_training_is_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = example("train", tmp_path, model={"path": "demo"}, cluster={"gpus_per_worker": 0})
    assert "4 queries of 1 tasks, 4 positives" in tart_ray.plan(config, job="train")


@pytest.mark.parametrize("name", JOBS)
def test_an_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    run = getattr(tart_ray, JOBS[name])(example(name, tmp_path, **ON_CPUS))
    assert run.complete
    assert report_of(Path(run.path))["counts"]["quarantined"] == 0
    assert f"jobs.{JOBS[name]}: finished" in shown(capsys, "show", tmp_path / name)
