"""A cross-encoder of sentence-transformers in jobs.rerank, beside the library alone and Ray Data by hand.

    python -m benchmarks.cross_encoder                    # MiniLM-L6's geometry, random weights; about ten minutes
    python -m benchmarks.cross_encoder --parts commands   # what is measured of whole commands alone

- library: pairs/s of `CrossEncoder.predict` at several batch sizes, each in one go over all pairs.
- scorer: pairs/s of `Scorer.from_pretrained(...).score` on the same pairs, tokenising included, in the same process.
- job: jobs.rerank with one replica: pairs/s of the score stage on the wall, and of the whole command.
- by hand: `benchmarks.by_hand`, what a user would write with Ray Data: pairs/s of the whole command, lines of code.
- killed: both commands are killed (SIGKILL) after three quarters of the time that they took, and started again: scored
  pairs that were kept, what the second start took, and pairs that are missing or there twice at the end.

Rates are of pairs whose documents have the lengths of a web corpus: 20 to 250 words, a token each.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.random_models import make_word_pieces
from tart_ray import Scorer

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
BATCH_SIZES = (4, 8, 16, 32)
PARTS = IN_PROCESS, COMMANDS = "in-process", "commands"
BY_HAND = [sys.executable, "-m", "benchmarks.by_hand"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_200)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--threads", type=int, default=1, help="of the library, the scorer and each replica")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = make_model(root / "model")
        source = make_pairs(root / "pairs.parquet", arguments.pairs)
        results: dict[str, Any] = {}
        for part in arguments.parts:
            done = (
                in_process(model, source)
                if part == IN_PROCESS
                else whole_commands(root, model, source, arguments.threads)
            )
            print(json.dumps(done, indent=2), flush=True)
            results |= done
    print(json.dumps({**vars(arguments), **results}))


def make_model(folder: Path) -> Path:
    """MiniLM's geometry with random weights and a vocabulary of the words of `make_pairs`."""
    tokenizer = make_word_pieces(WORDS, vocab_size=12_000, max_length=512)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), num_labels=1, initializer_range=0.1, **MINILM)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


_draw = random.Random(0)  # noqa: S311
WORDS = ["".join(_draw.choices("abcdefghijklmnoprstuvw", k=_draw.randint(2, 9))) for _ in range(2_000)]


def make_pairs(path: Path, count: int) -> Path:
    """100 candidates of each query, in the order of a retriever: not by length."""
    draw = np.random.default_rng(0)

    def text(words: int) -> str:
        return " ".join(WORDS[i] for i in draw.integers(0, len(WORDS), words))

    queries = [text(int(draw.integers(3, 12))) for _ in range(-(-count // 100))]
    lengths = np.exp(draw.uniform(np.log(20), np.log(250), count)).astype(int)
    columns = {
        "query_id": [f"q{i // 100}" for i in range(count)],
        "query": [queries[i // 100] for i in range(count)],
        "doc_id": [f"d{i}" for i in range(count)],
        "text": [text(int(words)) for words in lengths],
    }
    pq.write_table(pa.table(columns), path, row_group_size=200)
    return path


def in_process(model: Path, source: Path) -> dict[str, Any]:
    from sentence_transformers import CrossEncoder

    table = ds.dataset(source).to_table(columns=["query", "text"])
    queries, texts = table["query"].to_pylist(), table["text"].to_pylist()
    pairs = list(zip(queries, texts, strict=True))
    library = CrossEncoder(str(model), device="cpu", max_length=512)
    identity = torch.nn.Identity()

    predicted: list[Any] = []

    def predict(size: int) -> None:
        options: dict[str, Any] = {"activation_fn": identity, "show_progress_bar": False}
        predicted.append(library.predict(pairs, batch_size=size, **options))

    library.predict(pairs[:64], show_progress_bar=False)  # warm
    rates = {str(size): rate(lambda size=size: predict(size), len(pairs)) for size in BATCH_SIZES}
    scorer = Scorer.from_pretrained(model, device="cpu")
    margins: list[Any] = []
    ours = rate(lambda: margins.append(scorer.score(queries, texts).margin), len(pairs))
    best = max(rates.values())
    difference = float(np.abs(margins[0] - predicted[-1]).max())
    return {
        "library": rates,
        "scorer": ours,
        "scorer / library at its best": round(ours / best, 3),
        "largest difference of a margin": difference,
    }


def rate(work: Callable[[], Any], pairs: int) -> float:
    """Pairs per second."""
    started = time.perf_counter()
    work()
    return round(pairs / (time.perf_counter() - started), 1)


def job(model: Path, source: Path, output: Path, threads: int = 1) -> list[str]:
    return [
        sys.executable, "-m", "jobs.rerank", "--model.path", str(model), "--input.candidates", str(source),
        "--input.instruction", "", "--output.path", str(output), "--cluster.address", "local",
        "--cluster.gpus_per_replica", "0", "--cluster.cpus_per_replica", str(threads), "--cluster.replicas.max", "1",
    ]  # fmt: skip


def whole_commands(root: Path, model: Path, source: Path, threads: int) -> dict[str, Any]:
    count = pq.read_metadata(source).num_rows

    def commands(folder: str) -> dict[str, tuple[list[str], Path]]:
        run, by_hand = root / folder / "run", root / folder / "by-hand"
        return {
            "job": (job(model, source, run, threads), run),
            "by hand": ([*BY_HAND, str(source), str(model), str(by_hand)], by_hand),
        }

    took = {name: seconds_of(command) for name, (command, _) in commands("whole").items()}
    report = json.loads((root / "whole/run/report.json").read_text())
    import benchmarks.by_hand

    code = [line for line in inspect.getsource(benchmarks.by_hand).split('"""', 2)[2].splitlines() if line.strip()]
    return {
        "job, score stage": round(count / report["seconds"]["score"], 1),
        "job, a busy replica": round(report["pairs_per_replica_second"], 1),
        **{f"{name}, whole command": round(count / seconds, 1) for name, seconds in took.items()},
        "lines by hand": len(code),
        "killed": {name: killed(root, *how, took[name]) for name, how in commands("killed").items()},
    }


def seconds_of(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def killed(root: Path, command: list[str], output: Path, seconds: float) -> dict[str, Any]:
    """What a command that is killed after three quarters of its time leaves, and what the same command makes of it."""
    expected = pq.read_metadata(root / "pairs.parquet").num_rows
    log = subprocess.DEVNULL
    with subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log) as driver:
        with suppress(subprocess.TimeoutExpired):
            driver.wait(0.75 * seconds)
        os.killpg(driver.pid, signal.SIGKILL)
    kept = scored_pairs(output)
    again = seconds_of(command)
    documents = in_output(output)
    return {
        "kept at the kill": kept,
        "the same command again, of its time undisturbed": round(again / seconds, 2),
        "missing at the end": expected - len({*documents}),
        "twice at the end": len(documents) - len({*documents}),
    }


def scored_pairs(output: Path) -> int:
    """Pairs that a rerun need not score again, or that a reader finds."""
    commits = [json.loads(path.read_text()) for path in output.glob("_commits/score/*.json")]
    return sum(commit["rows"] for commit in commits) if commits else len(in_output(output))


def in_output(output: Path) -> list[str]:
    """Documents of what is there to be read."""
    folder = output / "reranked" if (output / "manifest.json").exists() else output
    files = [str(path) for path in folder.rglob("*.parquet")]
    return ds.dataset(files).to_table(columns=["doc_id"])["doc_id"].to_pylist() if files else []


if __name__ == "__main__":
    main()
