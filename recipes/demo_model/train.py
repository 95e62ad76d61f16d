"""Mining and training: hard negatives of every block of entries, then the loop of `tart_ray.training`."""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recipes.demo_model.entries import Entry, read_entries
from recipes.demo_model.examples import make_queries
from recipes.demo_model.start import make_start
from recipes.demo_model.vocabulary import MAX_LENGTH, train_vocabulary
from tart_ray.config import TrainingConfig
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.storage import Storage
from tart_ray.training.examples import Query
from tart_ray.training.loop import train
from tart_ray.training.start import save_checkpoint, start_from_checkpoint
from tart_ray.training.state import StateFile

BLOCK = 8_000  # entries that negatives are looked for in together
SAMPLED = 60_000  # entries that the vocabulary and the first embeddings are learned from
MOST_REPEATS = 5
TRAINING = TrainingConfig(
    loss="listwise",
    num_negatives=5,
    random_negatives=(0.4, 0.1),
    max_unfollowing_fraction=0.2,
    max_unfollowing=1_000_000,
    queries_per_step=16,
    max_steps=5_000,
    max_tokens_per_batch=4_096,
    learning_rate=1e-3,
    schedule="linear",
    warmup_fraction=0.05,
    dropout=0.0,
    checkpoint_every=50,
    log_every=50,
)
SCHEMA = pa.schema(
    [("text", pa.string()), ("task", pa.string())]
    + [(name, pa.list_(pa.string())) for name in ("instructions", "positives", "negatives", "unfollowing")]
)
log = logging.getLogger(__name__)


def make_vocabulary(folder: Path) -> None:
    """Write ``vocabulary/`` from a sample of the training split."""
    train_vocabulary(folder / "vocabulary", _sample(folder))


def make_first_weights(folder: Path) -> None:
    """Write ``start/``, the checkpoint that training starts from."""
    tokenizer = EncT5Tokenizer.from_pretrained(folder / "vocabulary")
    save_checkpoint(make_start(tokenizer, _sample(folder)), tokenizer, folder / "start")


def mine(folder: Path, blocks: int) -> None:
    """Write the first ``queries-NN.parquet``, those that are not there yet."""
    entries = read_entries(folder / "train.parquet")
    random.Random(0).shuffle(entries)  # noqa: S311
    for number in range(blocks):
        path = folder / f"queries-{number:02}.parquet"
        if not path.exists() and (block := entries[number * BLOCK : (number + 1) * BLOCK]):
            queries = list(make_queries(block))
            random.Random(0).shuffle(queries)  # noqa: S311
            write_queries(path, queries)
            log.info("%s: %d queries", path.name, len(queries))


def train_model(folder: Path, *, run: str, blocks: int, steps: int, learning_rate: float, threads: int) -> None:
    """Train from ``folder/start`` on the first blocks; ``folder/run`` holds state, history and, at the end, the model.

    The same call again goes on where the last one stopped.
    """
    torch.set_num_threads(threads)
    target = folder / run
    target.mkdir(parents=True, exist_ok=True)
    queries = balanced(list(read_queries([folder / f"queries-{number:02}.parquet" for number in range(blocks)])))
    model, tokenizer = start_from_checkpoint(CheckpointPlace(folder / "start"))
    config = TRAINING.model_copy(update={"max_steps": steps, "learning_rate": learning_rate})
    log.info("%d queries; %s", len(queries), config)
    with (target / "history.jsonl").open("a", encoding="utf-8") as history:

        def report(figures: dict[str, object]) -> None:
            history.write(json.dumps(figures) + "\n")
            history.flush()

        state = StateFile(Storage(), str(target / "state.pt"))
        trained = train(model, tokenizer, queries, config, state=state, report=report, max_length=MAX_LENGTH)
    save_checkpoint(model, tokenizer, target / "model", dtype=torch.bfloat16)
    record = {
        "steps": trained.steps,
        "seconds": round(trained.seconds),
        "parameters": model.num_parameters(),
        "pieces": len(tokenizer) - 1,
        "queries": len(queries),
        "config": config.model_dump(mode="json"),
        "max_length": MAX_LENGTH,
    }
    (target / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    log.info("wrote %s", target / "model")


def balanced(queries: Sequence[Query]) -> list[Query]:
    """The queries, those of rare tasks repeated up to a tenth of all, `MOST_REPEATS` times at most."""
    counts = Counter(query.task for query in queries)
    times = {task: min(MOST_REPEATS, max(1, round(0.1 * len(queries) / count))) for task, count in counts.items()}
    return [query for query in queries for _ in range(times[query.task])]


def write_queries(path: Path, queries: Sequence[Query]) -> None:
    """Write Parquet."""
    rows = [{name: getattr(query, name) for name in SCHEMA.names} for query in queries]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path, compression="zstd")


def read_queries(paths: Sequence[Path]) -> Iterator[Query]:
    """The queries of all files, in order."""
    for path in paths:
        for row in pq.read_table(path).to_pylist():
            lists = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
            yield Query(text=row["text"], task=row["task"], **lists)


def _sample(folder: Path) -> list[Entry]:
    entries = read_entries(folder / "train.parquet")
    return random.Random(0).sample(entries, min(SAMPLED, len(entries)))  # noqa: S311
