"""`python -m jobs.rerank` as a user types it: exit codes, the dry run, progress."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.job_files import WORDS, write_jsonl

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A job of 60 pairs, for CPUs."""
    rows = [
        {"query_id": f"q{q}", "query": WORDS[q], "doc_id": f"d{d}", "text": " ".join(WORDS[:d]), "colour": "red"}
        for q in range(3)
        for d in range(1, 21 if q else 18)
    ]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    sections = {
        "model": {"path": str(tiny_checkpoint)},
        "input": {"candidates": str(tmp_path / "candidates.jsonl")},
        "output": {"path": str(tmp_path / "run")},
        "cluster": {"address": "local", "gpus_per_replica": 0},
    }
    (tmp_path / "rerank.yaml").write_text(yaml.safe_dump(sections))
    return tmp_path / "rerank.yaml"


def run(config: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.rerank", "--config", str(config), *options]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False, timeout=300)


def test_a_job_reports_progress_and_ends_with_0(config: Path, tmp_path: Path) -> None:
    done = run(config)
    assert done.returncode == 0, done.stderr
    assert "score: 1/1 chunks · 57 pairs" in done.stderr
    assert "read 57 = scored 57 + duplicates 0 + quarantined 0" in done.stderr
    assert (tmp_path / "run" / "_SUCCESS").exists()
    assert "scored 57" in (tmp_path / "run" / "report.html").read_text()
    warning = "57 of 57 pairs have no instruction, or an empty one"
    assert done.stderr.index(warning) < done.stderr.index("score: 1/1 chunks")  # before the GPUs are used
    assert warning in (tmp_path / "run" / "report.html").read_text()
    (told,) = json.loads((tmp_path / "run" / "report.json").read_text())["warnings"]
    assert told.startswith(warning)
    assert "started Ray on this machine, for this job alone" in done.stderr


def test_a_dry_run_says_nothing_of_an_instruction_that_is_not_meant(config: Path) -> None:
    done = run(config, "--dry-run", "--input.instruction", "")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stdout


def test_a_dry_run_prints_the_plan_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    options = ["--plan.pairs_per_second", "2", "--plan.dollars_per_gpu_hour", "3", "--cluster.replicas.max", "1"]
    done = run(config, "--dry-run", "--cluster.gpus_per_replica", "1", *options)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines["candidates"].startswith("1 files, jsonl")
    assert lines["  carried through"] == "colour"
    assert lines["warning"].startswith("in the sample, 57 of 57 pairs have no instruction, or an empty one")
    assert lines["pairs"] == "about 57 in about 1 chunks of whole queries"
    assert "0.0% truncated at 512" in lines["tokens"]
    assert lines["time"] == "28.5s with 1 replicas at 2 pairs/s each"
    assert lines["cost"] == "$0.02 for 0.01 GPU-hours at $3.00"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cluster.gpus_per_replica", "1000"], "expected 1 CPUs and 1000 GPUs at least, got"),
        (["--cluster.address", "localhost:1"], "cluster.address: localhost:1: no Ray cluster there"),
        (["--input.candidates", "/nowhere"], "/nowhere: no file there"),
        (["--input.column", "x"], "input.column"),
        (["--output.partition_by", "[size]"], "got ['size'], available, once each:"),
    ],
)
def test_bad_configuration_ends_with_2_before_any_work(
    options: list[str], message: str, config: Path, tmp_path: Path
) -> None:
    done = run(config, *options)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_output_path_that_is_a_file_ends_with_2(config: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("precious")
    done = run(config)
    assert done.returncode == 2
    assert "is a file, expected a directory" in done.stderr
    assert (tmp_path / "run").read_text() == "precious"


def test_a_failure_ends_with_1_and_says_what_to_do(config: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    whole = load_file(broken / "model.safetensors")
    (broken / "model.safetensors").unlink()
    torch.save(whole, broken / "pytorch_model.bin", _use_new_zipfile_serialization=False)  # says nothing in front
    weights = (broken / "pytorch_model.bin").read_bytes()
    (broken / "pytorch_model.bin").write_bytes(weights[: len(weights) // 2])
    done = run(config, "--model.path", str(broken))
    assert done.returncode == 1, done.stderr
    assert "no weights that can be read" in done.stderr
    assert "mend the input or the configuration, and run it again; the same output.path will do" in done.stderr
    assert (tmp_path / "run" / "manifest.json").exists()
    assert not (tmp_path / "run" / "_SUCCESS").exists()


def test_cut_weights_end_with_2_before_any_work(config: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "cut")
    weights = (tiny_checkpoint / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    done = run(config, "--model.path", str(tmp_path / "cut"))
    assert done.returncode == 2, done.stderr
    assert "model.safetensors" in done.stderr
    assert "again" not in done.stderr
    assert not (tmp_path / "run").exists()
