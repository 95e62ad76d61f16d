"""The benchmark for a GPU, small and on a CPU: every part runs, without Ray; and what becomes of parts that do not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.parts import OutOfTimeError, Part, Runner, to_json

ROOT = Path(__file__).parents[2]
PARTS = {
    "machine",
    "matmul",
    *(f"correctness_{size}_{dtype}" for size in ("small", "large") for dtype in ("float32", "bfloat16")),
    "speed",
    "speed_texts",
    "chunk_gap",
    "calibration",
    "out_of_memory",
    "compile_time",
    "loading_small",
    "loading_large",
    "choice",
}
ENCODERS = ["reference", "packed", "packed-torch", "cuda-padded", "cuda-packed"]  # on a CPU
WITHOUT_RAY = """
import runpy, sys
for name in ("ray", "scipy", "bm25s", "pydantic", "orjson", "s3fs"):
    sys.modules[name] = None
sys.argv[0] = "benchmarks.gpu"
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""


def run(*arguments: str) -> tuple[str, dict[str, Any]]:
    """The output and the JSON on its last line."""
    command = [sys.executable, "-c", WITHOUT_RAY, "--device", "cpu", "--scale", "tiny", *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3_000:] + ran.stderr[-3_000:]
    return ran.stdout, json.loads(ran.stdout.splitlines()[-1])


SLOW = {"compile_time", "correctness_small_bfloat16", "correctness_large_bfloat16"}


@pytest.mark.parametrize("parts", [PARTS - SLOW, pytest.param(PARTS, marks=pytest.mark.matrix)], ids=["most", "all"])
def test_every_part_on_a_cpu_without_ray(parts: set[str], tmp_path: Path) -> None:
    output, results = run("--output", str(tmp_path / "gpu.json"), "--parts", *sorted(parts))
    assert json.loads((tmp_path / "gpu.json").read_text()) == results
    assert (results["device"], results["scale"], results["compiled"], results["finished"]) == (
        "cpu",
        "tiny",
        False,
        True,
    )
    found = results["parts"]
    assert {name: part["status"] for name, part in found.items()} == dict.fromkeys(parts, "ok"), output[-5_000:]
    assert found["machine"]["versions"].keys() >= {"torch", "transformers", "numpy", "sentencepiece", "pyarrow"}
    assert all(found["matmul"][f"{kind}_bfloat16"] > 0 for kind in ("square", "own_shapes"))
    for size in ("small", "large"):
        part = found[f"correctness_{size}_float32"]
        assert part["out"] == {}  # in bfloat16 the largest of few differences may put out one that is right
        assert list(part["choice"]["trials"]) == ENCODERS
    for name in ("speed", "speed_texts"):
        for kind in ("mix", "8", "16", "40", "64"):
            for encoder in ENCODERS:
                keys = {"pairs_per_second", "tokens_per_second", "share_of_square", "share_of_own_shapes"}
                assert found[name][f"{kind} {encoder}"].keys() >= keys
    assert all(found["chunk_gap"][name]["gap_seconds"] >= 0 for name in ENCODERS)
    assert all(found["calibration"][name]["to"] == 2_048 for name in ENCODERS)
    assert found["out_of_memory"]["simulated"]
    for name in ENCODERS:
        assert found["out_of_memory"][name]["halved"]
        assert found["out_of_memory"][name]["right"]
    if "compile_time" in parts:
        compiled = found["compile_time"]
        assert compiled["cold"].keys() == compiled["warm"].keys() == {*ENCODERS, "process_seconds"}
    assert all(found[f"loading_{size}"]["finite"] for size in ("small", "large"))
    assert 512 <= found["choice"]["budget"]["to"] <= 4_096


def test_parts_that_were_run_are_not_run_again(tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    before.write_text(json.dumps({"parts": {"matmul": {"status": "failed"}}, "seconds": 100.0}))
    output, results = run("--resume", str(before), "--parts", "machine", "matmul")
    assert results["parts"]["matmul"] == {"status": "failed"}
    assert results["parts"]["machine"]["status"] == "ok"
    assert "[ 100.0 s] machine: begins" in output
    assert results["seconds"] > 100


def nothing(part: Part) -> None:
    part.found["value"] = float("nan")


def failing(part: Part) -> None:
    raise KeyError("no such thing")


def test_what_fails_is_kept_and_the_rest_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    runner = Runner({}, 100, output)
    runner.run("first", failing, most=10, least=0)
    assert json.loads(output.read_text())["parts"]["first"]["error"] == "KeyError: 'no such thing'"
    runner.run("second", nothing, most=10, least=0)
    runner.run("third", nothing, most=500, least=200)
    runner.finish()
    results = json.loads(output.read_text())
    assert [part["status"] for part in results["parts"].values()] == ["failed", "ok", "skipped"]
    assert results["parts"]["first"]["traceback"][-1] == "KeyError: 'no such thing'"
    assert any("in failing" in line for line in results["parts"]["first"]["traceback"])
    assert results["parts"]["second"]["value"] is None
    assert results["parts"]["third"]["why"].startswith("it needs 200 s, and ")


def test_a_part_that_is_measured_in_part() -> None:
    def measure(part: Part) -> None:
        part.attempt("good", lambda: 1.5)
        part.attempt("bad", lambda: [][1])
        part.attempt("last", out_of_time)
        part.found["end"] = True

    def out_of_time() -> None:
        raise OutOfTimeError

    runner = Runner({}, 100, None)
    runner.run("part", measure, most=10, least=0)
    runner.run("late", lambda part: part.check(), most=0, least=0)
    found = runner.parts["part"]
    assert (found["status"], found["good"], found["end"]) == ("partly", 1.5, True)
    assert found["bad"]["error"] == "IndexError: list index out of range"
    assert found["last"] == {"skipped": "the part's time was over"}
    assert runner.parts["late"]["status"] == "partly"
    runner.finish()


@pytest.mark.parametrize("works", [True, False])
def test_a_device_that_fails_is_begun_anew_with(works: bool) -> None:
    restarts: list[int] = []
    runner = Runner({}, 100, None, lambda: works, lambda: restarts.append(len(runner.parts)))
    runner.run("first", nothing, most=10, least=0)
    runner.run("second", failing, most=10, least=0)
    runner.run("third", nothing, most=10, least=0)
    assert restarts == ([] if works else [2])
    runner.finish()


def test_a_part_that_hangs_is_cut_off(tmp_path: Path) -> None:
    code = """
import sys, threading
from pathlib import Path
from benchmarks import parts
parts.GRACE = 0.5
runner = parts.Runner({}, 0.5, Path(sys.argv[1]))
runner.run("good", lambda part: part.found.update(value=1), most=10, least=0)
runner.run("hangs", lambda part: threading.Event().wait(), most=10, least=0)
"""
    output = tmp_path / "results.json"
    ran = subprocess.run(
        [sys.executable, "-c", code, str(output)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 3, ran.stderr
    results = json.loads(ran.stdout.splitlines()[-1])
    assert results == json.loads(output.read_text())
    assert not results["finished"]
    assert {name: part["status"] for name, part in results["parts"].items()} == {"good": "ok", "hangs": "cut off"}
    assert "in wait" in ran.stderr  # where it hung


def test_numbers_that_are_none_become_null() -> None:
    assert (
        to_json({"a": float("inf"), "b": (1, float("nan")), 3: {"c": True}})
        == '{"a": null, "b": [1, null], "3": {"c": true}}'
    )
