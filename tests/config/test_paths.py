"""Where a run may be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tart_ray.config import EvaluateConfig, MineConfig, ModelConfig, RelabelConfig, StartConfig, TrainConfig
from tart_ray.config.paths import check_output, with_absolute_paths
from tart_ray.errors import ConfigurationError
from tart_ray.evaluation import job as evaluate
from tart_ray.mining import job as mine
from tart_ray.relabeling import job as relabel
from tart_ray.reranking import job as reranking
from tart_ray.training import job as train


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("s3://b/in", "s3://b/in"),
        ("s3://b/in/", "s3://b/in/run"),
        ("s3a://b/in", "s3://b/in/run"),
        ("s3://b", "s3://b/run"),
        ("s3://b/in/*", "s3://b/in/run"),
        ("s3://b/in/*", "s3://b/in/deep/run"),
        ("s3://b/*/data", "s3://b/x/data/run"),
        ("s3://b/in/r?n", "s3://b/in/run"),
        ("s3://b/in/[rs]un", "s3://b/in/run"),
        ("s3://b/**/*.parquet", "s3://b/in/run"),
        ("s3://b/in/**", "s3://b/in/a/b"),
        ("s3://b/in/*.json", "s3://b/in"),
        ("s3://b/in/*/*.parquet", "s3://b/in/run"),
        ("/data/in", "/data/in/run"),
        ("/data/in", "file:///data/in/run"),
        ("/data/in/../in", "/data/in/run"),
        ("/data/*/x", "/data/y/x/run"),
    ],
)
def test_an_output_that_the_input_takes_in_is_refused(source: str, output: str) -> None:
    with pytest.raises(ConfigurationError, match=r"which input.candidates .* takes in: .*expected a directory beside"):
        check_output(output, {"input.candidates": source, "input.corpus": None})


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("s3://b/in", "s3://b/in2"),
        ("s3://b/in", "s3://c/in"),
        ("s3://b/in", "gs://b/in/run"),
        ("s3://b/in", "/b/in/run"),
        ("s3://b/in/*.jsonl", "s3://b/in/run"),
        ("s3://b/*/candidates.jsonl", "s3://b/run"),
        ("s3://b/in/part-*", "s3://b/in/run"),
        ("/data/in", "/data/run"),
        ("/data/in/*.parquet", "/data/in/run"),
    ],
)
def test_an_output_beside_the_input_is_not(source: str, output: str) -> None:
    check_output(output, {"input.candidates": source})


def test_links_are_followed(tmp_path: Path) -> None:
    for name in ("in/deep", "elsewhere/runs", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    (tmp_path / "in/deep/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/further").symlink_to(tmp_path / "other")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "in")
    for source in ("in", "alias", "in/*", "i?"):
        for output in ("alias/deep/run", "elsewhere/runs/new", "other/run", "in/deep/link/run"):
            with pytest.raises(ConfigurationError, match="takes in"):
                check_output(str(tmp_path / output), {"input.queries": str(tmp_path / source)})
    check_output(str(tmp_path / "run"), {"input.queries": str(tmp_path / "in")})
    check_output(str(tmp_path / "elsewhere/runs/new"), {"input.queries": str(tmp_path / "in/*.jsonl")})


def test_ray_s_copy_of_the_working_directory_is_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "session_x/runtime_resources/working_dir_files/_ray_pkg_0123"
    package.mkdir(parents=True)
    monkeypatch.chdir(package)
    for output in ("run", "./out/run", str(package / "run"), "file:" + str(package / "run")):
        with pytest.raises(ConfigurationError, match=r"in the copy of the working directory .* expected a URL"):
            check_output(output, {})
    check_output("s3://bucket/run", {"input.candidates": "pairs.jsonl"})
    check_output(str(tmp_path / "run"), {"input.candidates": "pairs.jsonl"})


def test_every_job_and_every_role(make_config: Any) -> None:
    inside = {"path": "/data/in/run"}
    scored = {"candidates": "/data/c.jsonl"}
    beir = {"name": "t", "path": "/data/beir"}
    configs: list[tuple[Any, Any]] = [
        (reranking.describe, make_config(input={"candidates": "/data/in"}, output=inside)),
        (reranking.describe, make_config(input={"candidates": "/data/c", "queries": "/data/in"}, output=inside)),
        (reranking.describe, make_config(input={"candidates": "/data/c", "corpus": "/data/in/*"}, output=inside)),
        (mine.describe, MineConfig(input=scored, positives={"qrels": "/data/in"}, output=inside)),
        (mine.describe, MineConfig(input=scored, positives={"qrels": "/q", "corpus": "/data/*"}, output=inside)),
        (mine.describe, MineConfig(input={"run": "/data/in"}, positives={"qrels": "/q"}, output=inside)),
        (relabel.describe, RelabelConfig(input={"candidates": "/data/in"}, labels={"cuts": [0]}, output=inside)),
        (train.describe, TrainConfig(model={"path": "x/y"}, input={"train": "/data/in"}, output=inside)),
        (
            train.describe,
            TrainConfig(model={"path": "x/y"}, input={"train": "/t", "evaluation": "/data/**"}, output=inside),
        ),
        *(
            (evaluate.describe, EvaluateConfig(input={"tasks": [beir | {key: value}]}, output=inside))
            for key, value in {"first_stage": "/data/in", "compare_with": "/data/in/*", "scores": ["/data/in"]}.items()
        ),
    ]
    for describe, config in configs:
        with pytest.raises(ConfigurationError, match=r"output\.path: got /data/in/run, which .* takes in"):
            list(describe(config))


def test_the_model_of_the_package_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("demo", "mine"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    paths = ("demo", "./demo", "mine", "owner/name")
    made = [with_absolute_paths(ModelConfig(path=path)).path for path in paths]
    assert made == ["demo", f"{tmp_path}/demo", f"{tmp_path}/mine", "owner/name"]
    assert with_absolute_paths(StartConfig(path="demo")).path == "demo"
