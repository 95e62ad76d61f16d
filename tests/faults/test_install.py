"""The wheel in a fresh environment, as others install it: without constraints, extras or the repository beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.job_files import read_output, report_of, write_jsonl

ROOT = Path(__file__).parents[2]
TORCH = "torch==2.13.0"  # as in constraints.txt; first and by itself, as README.md has it for machines without a GPU
JOBS = ["rerank", "relabel", "mine_negatives", "evaluate", "train", "demo"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command in an empty directory, from which nothing of the repository can be imported."""
    (tmp_path / "empty").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run_there(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*map(str, command)], cwd=tmp_path / "empty", env=environment, capture_output=True, text=True, check=False
        )

    return run_there


@pytest.mark.matrix
@pytest.mark.timeout(1800)
def test_a_plain_install_reranks(run: Run, tmp_path: Path) -> None:
    def succeed(*command: str | Path) -> str:
        done = run(*command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    source = tmp_path / "source"  # a copy: a build leaves files, and takes up those that an earlier one left
    shutil.copytree(ROOT / "tart_ray", source / "tart_ray", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    succeed(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "dist", source)
    (wheel,) = (tmp_path / "dist").glob("tart_ray-*.whl")
    succeed(sys.executable, "-m", "venv", tmp_path / "venv")
    programs = tmp_path / "venv" / "bin"
    python, pip, tart_ray = programs / "python", programs / "pip", programs / "tart-ray"
    succeed(pip, "install", "--quiet", TORCH)
    succeed(pip, "install", "--quiet", wheel)
    succeed(pip, "check")
    installed = Path(succeed(python, "-c", "import tart_ray; print(tart_ray.__file__)").strip()).parent
    assert installed.is_relative_to(tmp_path / "venv")
    assert (installed / "py.typed").exists()

    said = succeed(tart_ray, "--help")
    assert re.findall(r"^  (\w+) ", said, re.MULTILINE) == JOBS
    for job in JOBS:
        assert f"usage: tart-ray {job}" in succeed(tart_ray, job, "--help")
    refused = run(tart_ray, "demo")
    assert refused.returncode == 2
    assert refused.stderr.endswith("pip install 'tart-ray[demo]'\n")
    succeed(python, "-c", "import tart_ray.training.job, tart_ray.training.loop, ray.train.torch")

    rows = [
        {"query_id": "q", "query": "part a url", "doc_id": f"d{i}", "text": f"def f{i}(url): ..."} for i in range(5)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    succeed(
        tart_ray, "rerank", "--model.path", installed / "demo" / "model", "--model.max_length", "112",
        "--input.candidates", tmp_path / "pairs.jsonl", "--input.instruction", "Find the code that does this",
        "--output.path", tmp_path / "run", "--cluster.address", "local", "--cluster.gpus_per_replica", "0",
        "--cluster.replicas.max", "1",
    )  # fmt: skip
    assert report_of(tmp_path / "run")["counts"]["scored"] == 5
    assert sorted(row["rank"] for row in read_output(tmp_path / "run")) == [1, 2, 3, 4, 5]
    assert (tmp_path / "run" / "_SUCCESS").exists()
