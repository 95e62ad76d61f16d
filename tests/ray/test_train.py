"""jobs.train on a two-node cluster: the loop of training and mining, resumed, refused, alike for any workers."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.job_files import WORDS, read_output, report_of, write_jsonl
from support.shown import shown

from tart_ray import Scorer
from tart_ray.config import MineConfig, TrainConfig
from tart_ray.errors import CheckpointError, ExitCode, InputError, RunConflictError, RunFailedError
from tart_ray.mining.job import mine_negatives
from tart_ray.model.place import CheckpointPlace
from tart_ray.storage import Storage
from tart_ray.training.job import describe, train

pytestmark = pytest.mark.usefixtures("cluster")

INSTRUCTION = "Find it"
GEOMETRY = {"num_layers": 2, "d_model": 32, "num_heads": 4, "d_kv": 8, "d_ff": 64}
TRAINING: dict[str, Any] = {
    "queries_per_step": 8,
    "max_steps": 40,
    "learning_rate": 3e-3,
    "dtype": "float32",
    "dropout": 0.0,
}
Make = Callable[..., TrainConfig]


@pytest.fixture
def make(tmp_path: Path, tiny_checkpoint: Path) -> Make:
    """Configurations of small training jobs on CPUs, with sections of one's own on top."""

    def make_config(**sections: Any) -> TrainConfig:
        base: dict[str, Any] = {
            "model": {"vocabulary": str(tiny_checkpoint), "geometry": GEOMETRY},
            "input": {"train": str(tmp_path / "train.jsonl")},
            "output": {"path": str(tmp_path / "trained")},
            "training": TRAINING,
            "cluster": {"gpus_per_worker": 0},
        }
        for name, section in sections.items():
            base[name] = section if name == "model" else base.get(name, {}) | section
        return TrainConfig.model_validate(base)

    return make_config


def write_collection(folder: Path, queries: int = 40) -> None:
    """Queries of two words, each with one document that has both and eleven that lack one."""
    draw = random.Random(0)
    candidates, pairs, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    every = draw.sample([*itertools.combinations(WORDS, 2)], queries)
    for number, (first, second) in enumerate(every):
        others = [word for word in WORDS if word not in (first, second)]
        texts = [" ".join([first, second, *draw.sample(others, 4)])]
        texts += [" ".join([draw.choice([first, second]), *draw.sample(others, 5)]) for _ in range(11)]
        for place, text in enumerate(texts):
            row = {"query_id": f"q{number}", "query": f"{first} {second}", "doc_id": f"d{number}.{place}", "text": text}
            candidates.append(row | {"instruction": INSTRUCTION})
            if place < 5:
                query = f"{INSTRUCTION} [SEP] {first} {second}"
                pairs.append({"query": query, "document": text, "label": int(place == 0)})
        qrels.append(f"q{number}\td{number}.0\t1")
    write_jsonl(folder / "candidates.jsonl", candidates)
    write_jsonl(folder / "train.jsonl", pairs)
    (folder / "qrels.tsv").write_text("\n".join(qrels))


def in_this_process(config: TrainConfig) -> dict[str, torch.Tensor]:
    """The weights that the loop ends in without Ray."""
    from tart_ray.training.files import read_examples
    from tart_ray.training.loop import train as run_loop
    from tart_ray.training.start import start_fresh, start_from_checkpoint

    torch.set_num_threads(1)
    if config.model.path:
        model, tokenizer = start_from_checkpoint(CheckpointPlace(config.model.path))
    else:
        model, tokenizer = start_fresh(str(config.model.vocabulary), config.model.geometry)
    run_loop(model, tokenizer, read_examples(Storage(), config.input.train).queries, config.training)
    return model.state_dict()


def first_ranks(rows: list[dict[str, Any]], margins: list[float]) -> float:
    """Share of the queries whose positive comes first."""
    best: dict[str, tuple[float, str]] = {}
    for row, margin in zip(rows, margins, strict=True):
        best[row["query_id"]] = max(best.get(row["query_id"], (-math.inf, "")), (margin, row["doc_id"]))
    return sum(name.endswith(".0") for _, name in best.values()) / len(best)


@pytest.mark.matrix
def test_train_mine_train_score(tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    write_collection(tmp_path)
    assert train(make(output={"path": str(tmp_path / "first"), "dtype": "bfloat16"})) == ExitCode.DONE
    scoring = {
        "model": {"path": str(tmp_path / "first/checkpoint"), "max_length": 48},
        "cluster": {"gpus_per_replica": 0, "replicas": {"min": 1, "max": 2}},
    }
    mining = MineConfig.model_validate(
        {
            "input": {"candidates": str(tmp_path / "candidates.jsonl")},
            "positives": {"qrels": str(tmp_path / "qrels.tsv")},
            "output": {"path": str(tmp_path / "mined")},
            "mining": {"policies": [{"name": "hard", "num_negatives": 6}]},
            "trainer": {"formats": ["labeled-list"]},
            **scoring,
        }
    )
    assert mine_negatives(mining) == ExitCode.DONE
    scored = read_output(tmp_path / "mined/scoring", "scores")
    before = first_ranks(scored, [row["margin"] for row in scored])

    config = make(
        model={"path": str(tmp_path / "first/checkpoint")},
        input={"train": str(tmp_path / "mined/trainer/labeled-list"), "evaluation": str(tmp_path / "train.jsonl")},
        output={"path": str(tmp_path / "second")},
        training=TRAINING | {"loss": "listwise", "max_steps": 80, "evaluate_every": 20, "learning_rate": 5e-3},
        cluster={"gpus_per_worker": 0, "workers": 2},
    )
    assert train(config) == ExitCode.DONE
    report = report_of(tmp_path / "second")
    assert report["counts"] == {
        "read": 240, "used": 240, "duplicates": 0, "quarantined": 0, "blank instructions": 0,
        "train queries": 40, "evaluation queries": 40,
    }  # fmt: skip
    trained = report["trained"]
    assert (trained["steps"], trained["pairs"]) == (80, 80 * 8 * 5)
    assert [entry["step"] for entry in trained["history"]] == [20, 40, 60, 80]
    steps, losses = zip(*trained["losses"], strict=True)
    assert (steps[-1], sorted(steps)) == (80, [*steps])
    assert losses[-1] < losses[0]
    told = [line.split() for line in shown(capsys, "show", tmp_path / "second")]
    assert ["steps", "80"] in told
    assert [line[0] for line in told[told.index(["step", "ndcg_at_10", "accuracy"]) + 1 :][:4]] == [
        "20",
        "40",
        "60",
        "80",
    ]
    assert trained["nDCG@10"] == max(entry["ndcg_at_10"] for entry in trained["history"])

    scorer = Scorer.from_pretrained(tmp_path / "second/checkpoint", max_length=48)
    rows = [json.loads(line) for line in (tmp_path / "candidates.jsonl").read_text().splitlines()]
    texts = [[row[name] for row in rows] for name in ("query", "text", "instruction")]
    after = first_ranks(rows, scorer.score(*texts).margin.tolist())
    assert after > before + 0.1, (before, after)
    assert after > 0.5


@pytest.mark.matrix
def test_two_workers_end_in_the_weights_of_one(tmp_path: Path, make: Make) -> None:
    write_collection(tmp_path, queries=11)
    few = TRAINING | {"max_steps": 4, "queries_per_step": 3, "optimizer": "adafactor"}
    config = make(training=few, cluster={"gpus_per_worker": 0, "workers": 2})
    assert train(config) == ExitCode.DONE
    assert train(config) == ExitCode.DONE, "nothing to do"
    expected = in_this_process(config)
    assert difference(tmp_path / "trained/checkpoint", expected) < 1e-4
    assert not (tmp_path / "trained/_work").exists()
    with pytest.raises(RunConflictError, match=r"training\.seed: 0 → 1"):
        train(make(training=few | {"seed": 1}))


MANY_STEPS = TRAINING | {"max_steps": 150, "queries_per_step": 2, "checkpoint_every": 1, "dropout": 0.1}


def start_job(config: TrainConfig, folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """jobs.train in a process of its own, as soon as it has kept a state, and its log."""
    (folder / "train.yaml").write_text(json.dumps(config.model_dump(mode="json", exclude_defaults=True)))
    log = folder / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "jobs.train", "--config", str(folder / "train.yaml")]
        driver = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ)
    deadline = time.monotonic() + 120
    while not any(Path(config.output.path).glob("_work/*/state.pt")):
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)  # between looks at a process that works
    return driver, log


def difference(checkpoint: Path, expected: dict[str, torch.Tensor]) -> float:
    found = load_file(checkpoint / "model.safetensors")
    return max(float((found[name] - expected[name]).abs().max()) for name in found)


@pytest.mark.matrix
def test_a_driver_that_was_stopped_is_continued_to_the_same_weights(tmp_path: Path, make: Make, cluster: str) -> None:
    write_collection(tmp_path, queries=11)
    config = make(training=MANY_STEPS, cluster={"gpus_per_worker": 0, "address": cluster})
    driver, _ = start_job(config, tmp_path)
    driver.send_signal(signal.SIGTERM)  # ends it where it is; of a SIGKILL, the lease would first have to expire
    assert driver.wait() == ExitCode.FAILED
    assert not (tmp_path / "trained/_SUCCESS").exists()
    assert train(config) == ExitCode.DONE
    assert difference(tmp_path / "trained/checkpoint", in_this_process(config)) == 0
    assert report_of(tmp_path / "trained")["trained"]["pairs"] >= 150 * 2


@pytest.mark.matrix
def test_a_worker_that_is_killed_is_started_again_beside_the_other(tmp_path: Path, make: Make, cluster: str) -> None:
    write_collection(tmp_path, queries=11)
    few = MANY_STEPS | {"dropout": 0.0, "optimizer": "adafactor", "max_steps": 40}
    config = make(training=few, cluster={"gpus_per_worker": 0, "address": cluster, "workers": 2})
    driver, log = start_job(config, tmp_path)
    named = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"ray::RayTrainWorker" in path.read_bytes()]
    assert len(named) == 2, named
    os.kill(int(named[1].parent.name), signal.SIGKILL)
    assert driver.wait(300) == ExitCode.DONE, log.read_text()
    assert "going on from step" in log.read_text()
    assert difference(tmp_path / "trained/checkpoint", in_this_process(config)) < 1e-4


@pytest.mark.matrix
def test_what_another_try_cannot_mend_is_not_tried_again(tmp_path: Path, make: Make) -> None:
    write_collection(tmp_path, queries=5)
    with pytest.raises(RunFailedError, match=r"^step \d: the loss or its gradient is not finite; lower") as failed:
        train(make(training=TRAINING | {"learning_rate": 1e30, "warmup_fraction": 0.0, "max_steps": 5}))
    assert "the same output.path will do" in failed.value.advice


def test_too_many_bad_records_stop_it_before_training(tmp_path: Path, make: Make) -> None:
    write_collection(tmp_path, queries=5)
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"query": "Find it [SEP] wing", "document": " ", "label": 1}\n')
    config = make(training=TRAINING | {"max_steps": 2})
    lines = "\n".join(describe(config))
    assert "26 records: 5 queries of 1 tasks, 5 positives" in lines
    assert "bad records: 1, the first in " in lines
    assert "steps: 2 of 8 positives, loss cross_entropy" in lines
    assert train(config) == ExitCode.TOO_MANY_QUARANTINED
    (bad,) = read_output(tmp_path / "trained", "quarantine")
    assert bad["reason"].startswith("document is empty")
    assert bad["source"].endswith("train.jsonl")
    assert not (tmp_path / "trained/checkpoint").exists()
    assert report_of(tmp_path / "trained")["trained"] == {}
    config = make(training=TRAINING | {"max_steps": 2}, limits={"max_quarantined_fraction": 0.1})
    assert train(config) == ExitCode.DONE
    assert report_of(tmp_path / "trained")["trained"]["steps"] == 2
    assert (tmp_path / "trained/_SUCCESS").exists()


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"model": {"path": "/nowhere"}}, CheckpointError, "/nowhere"),
        ({"model": {"vocabulary": "/nowhere"}}, CheckpointError, "/nowhere"),
        ({"model": {"path": "{folder}/empty"}}, CheckpointError, "spiece.model"),
        ({"input": {"evaluation": "{folder}/qrels.jsonl"}}, InputError, r"qrels\.jsonl: got fields \['a'\], expected"),
        ({"input": {"instructions": "{folder}/qrels.jsonl"}}, InputError, r"qrels\.jsonl: 'a': expected"),
    ],
)
def test_bad_configuration_is_refused_before_any_work(
    sections: dict[str, dict[str, str]], error: type[Exception], message: str, tmp_path: Path, make: Make
) -> None:
    write_collection(tmp_path, queries=2)
    write_jsonl(tmp_path / "qrels.jsonl", [{"a": 1}])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text("{}")
    filled = {
        name: {key: value.replace("{folder}", str(tmp_path)) for key, value in section.items()}
        for name, section in sections.items()
    }
    with pytest.raises(error, match=message):
        train(make(**filled))
    assert not (tmp_path / "trained").exists()
