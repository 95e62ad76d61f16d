"""One encoder scores all chunks of a run, whatever its candidates do, and whoever comes later."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.job_files import read_output, report_of, write_jsonl
from support.trying import FAILING, load_following, load_one_of_two, load_trying

from tart_ray.errors import ExitCode
from tart_ray.reranking.job import rerank

pytestmark = pytest.mark.usefixtures("cluster")


REASONS = {
    "wrong": "its logits are up to 0.1 from the reference's",
    "raises": "RuntimeError: no kernel image is available",
    "memory": "OutOfMemoryError: tried to allocate 20.00 GiB",
    "dies": "the process that tried it died",
    "hangs": "no answer within 10 s",
}
QUICK = ("wrong",)  # a process that dies costs seconds


def choice_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "_commits" / "encoder" / "choice.json").read_text())["choice"]
    return found


def encoders_of(run: Path) -> list[str]:
    """Of each chunk."""
    return [json.loads(path.read_text())["encoder"] for path in sorted((run / "_commits" / "score").iterdir())]


def warnings_of(run: Path) -> list[str]:
    """Those of the report that are about encoders."""
    return [warning for warning in report_of(run)["warnings"] if "encoder" in warning]


def forget_most(run: Path) -> None:
    """As if the driver had died after its first chunk."""
    (run / "_SUCCESS").unlink()
    for commit in sorted((run / "_commits" / "score").iterdir())[1:]:
        commit.unlink()
        (run / "scores" / f"{commit.stem}.parquet").unlink()
    for stage in ("rank", "chunk", "read-*"):
        for folder in run.glob(f"_commits/{stage}"):
            shutil.rmtree(folder)


@pytest.mark.parametrize("failing", [QUICK, pytest.param(FAILING, marks=pytest.mark.matrix)], ids=["some", "all"])
def test_two_replicas_and_a_rerun_have_the_encoder_that_was_chosen_once(
    failing: tuple[str, ...], pairs: Any, undisturbed: Any, assert_same: Any, tmp_path: Path, make_config: Any
) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", pairs)
    run = tmp_path / "run"
    config = make_config(
        cluster={"replicas": {"min": 2, "max": 2}}, limits={"max_seconds_per_batch": 10, "max_attempts_per_chunk": 1}
    )
    assert rerank(config, load=functools.partial(load_trying, (*failing, "fast"))) == ExitCode.DONE
    assert_same(read_output(run), undisturbed)
    choice, report = choice_of(run), report_of(run)
    assert choice["encoder"] == "fast"
    trials = choice["trials"]
    assert trials.keys() == {"reference", "fast", *failing}
    assert (trials["reference"]["reason"], trials["fast"]["reason"]) == (None, None)
    for name in failing:
        assert trials[name]["reason"].startswith(REASONS[name])
    assert encoders_of(run) == ["fast"] * 6
    assert report["encoder"] == choice
    assert report["chunks_by_encoder"] == {"fast": 6}
    assert warnings_of(run) == [f"encoder {name} was left out: {trials[name]['reason']}" for name in failing]
    assert f"encoder tried: {failing[-1]}" in (run / "report.html").read_text()

    forget_most(run)
    assert rerank(config, load=load_following) == ExitCode.DONE
    assert_same(read_output(run), undisturbed)
    assert choice_of(run) == choice
    assert encoders_of(run) == ["fast"] * 6


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("wrong", REASONS["wrong"]),
        pytest.param("dies", "1 processes died on this node as they took the encoder fast", marks=pytest.mark.matrix),
        pytest.param("hangs", "1 processes died on this node as they took the encoder fast", marks=pytest.mark.matrix),
    ],
)
def test_where_the_choice_is_wrong_on_another_device_the_reference_scores_and_is_counted(
    fault: str, reason: str, pairs: Any, undisturbed: Any, assert_same: Any, tmp_path: Path, make_config: Any
) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", pairs)
    config = make_config(cluster={"replicas": {"min": 2, "max": 2}}, limits={"max_seconds_per_batch": 10})
    assert rerank(config, load=functools.partial(load_one_of_two, tmp_path, fault)) == ExitCode.DONE
    run = tmp_path / "run"
    assert_same(read_output(run), undisturbed)
    assert choice_of(run)["encoder"] == "fast"
    by_reference = encoders_of(run).count("reference")
    assert 1 <= by_reference <= 5
    report = report_of(run)
    assert report["chunks_by_encoder"] == {"fast": 6 - by_reference, "reference": by_reference}
    (warning,) = warnings_of(run)
    assert warning.startswith(f"{by_reference} chunks were not scored by the encoder fast: {reason}")


def test_on_cpus_the_kind_of_device_decides_and_the_choice_is_kept(
    pairs: Any, tmp_path: Path, make_config: Any
) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", pairs[:400])
    run = tmp_path / "run"
    assert rerank(make_config()) == ExitCode.DONE
    choice = choice_of(run)
    assert choice["encoder"].startswith("packed")
    assert (choice["dtype"], choice["max_tokens_per_batch"], choice["trials"]) == ("float32", 2048, {})
    assert report_of(run)["encoder"] == choice
    assert warnings_of(run) == []
