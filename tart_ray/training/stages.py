"""The two stages of a training run: its examples are read, one role a unit, and its model is trained, in one unit.

The state of training is one object in storage, replaced as a whole. So a worker, a node or the driver may be lost: the
next start goes on from the last state.
"""

from __future__ import annotations

import functools
import json
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tart_ray.config import TrainConfig
from tart_ray.engine.stages import run_stage
from tart_ray.engine.training import Worker, run_workers
from tart_ray.errors import (
    STAYS,
    CheckpointChangedError,
    CheckpointError,
    InputFailedError,
    RunFailedError,
    TrainingError,
)
from tart_ray.reports.figures import evenly
from tart_ray.runs.directory import WORK
from tart_ray.runs.lease import confirm_driver
from tart_ray.runs.run import Run
from tart_ray.runs.stage import Record, Stage, named
from tart_ray.storage import FileInfo
from tart_ray.training.examples import Query
from tart_ray.training.files import Examples, read_examples
from tart_ray.training.merging import Negatives
from tart_ray.training.pinned_start import load_start
from tart_ray.training.query_files import decode_queries, encode_queries

EXAMPLES, CHECKPOINT = "examples", "checkpoint"  # folders of a run
TRAINED = "train"  # the name of a stage and of its only unit
STATE = "state.pt"
LOSSES = 200  # that a report has at most
TRAIN, EVALUATION = "train", "evaluation"  # the roles of an input, and the units that read them

log = logging.getLogger(__name__)


class ReadExamples(Record):
    """The examples of one role: how many records (``rows``) were read, and what became of them.

    ``skipped``: URLs of files that hold no examples.
    """

    rows: int
    queries: int
    used: int
    duplicates: int
    quarantined: int
    blank_instructions: int = named("blank instructions")
    skipped: tuple[str, ...]


class Trained(Record):
    """The trained model: its figures on the held-out queries, None without any, and how long training took.

    Attributes:
        losses: of `tart_ray.training.loop.Trained`, `LOSSES` of them at most; none in runs of older releases.
    """

    steps: int
    best_step: int = named("best step")
    ndcg_at_10: float | None = named("nDCG@10")
    accuracy: float | None
    pairs: int
    training_seconds: float = named("training seconds")
    pairs_per_second: float | None = named("pairs/s")
    history: list[Any]
    losses: list[list[float]] = []


READ_EXAMPLES = Stage(EXAMPLES, ReadExamples)
TRAIN_MODEL = Stage(TRAINED, Trained)


@dataclass(frozen=True)
class Work:
    """Everything that the units and the workers need. It is pickled for them.

    Attributes:
        config: with the model that `pin_start` pinned.
        instructions: the instructions of each task, if ``input.instructions`` names any.
        start: the fingerprint of what training starts from (see `pin_start`).
    """

    run: Run
    config: TrainConfig
    instructions: Mapping[str, list[str]] | None
    start: str

    def read(self, role: str, files: Sequence[FileInfo]) -> Examples:
        """Read the examples of a role; what a query must have depends on how it is used."""
        settings = self.config.training
        negatives: Negatives = "own"
        if role == TRAIN and settings.preset == "tart":
            negatives = "optional"
        elif role == TRAIN and max(settings.random_negatives) > 0:
            negatives = "random"
        return read_examples(
            self.run.storage,
            urls_of_roles(self.config)[role],
            self.instructions,
            columns=self.config.input.columns,
            negatives=negatives,
            needs_scores=role == TRAIN and settings.distils,
            files=files,
        )

    def load_queries(self, role: str) -> list[Query]:
        """The queries of a role, as the first stage kept them."""
        return decode_queries(self.run.storage.read(self.run.url(EXAMPLES, f"{role}.parquet")))

    @property
    def failure_path(self) -> tuple[str, str]:
        """Where the workers of this start of the driver write why they cannot go on."""
        return WORK, f"failure-{self.run.session}.json"


def urls_of_roles(config: TrainConfig) -> dict[str, str]:
    """Where the examples of each role are."""
    urls = {TRAIN: config.input.train, EVALUATION: config.input.evaluation}
    return {role: url for role, url in urls.items() if url is not None}


def read_roles(work: Work, files: Mapping[str, Sequence[FileInfo]]) -> dict[str, ReadExamples]:
    """Read the examples of every role; the usable ones are kept beside the checkpoint, the others in quarantine."""
    return run_stage(work.run, READ_EXAMPLES, files, functools.partial(_read_role, work, files))


def _read_role(work: Work, files: Mapping[str, Sequence[FileInfo]], role: str) -> ReadExamples:
    examples = work.read(role, files[role])
    work.run.write(encode_queries(examples.queries), EXAMPLES, f"{role}.parquet")
    work.run.write_quarantine(examples.quarantine, EXAMPLES, role)
    return ReadExamples(
        rows=examples.counts["read"],
        queries=len(examples.queries),
        **{name: examples.counts[name] for name in ("used", "duplicates", "quarantined")},
        blank_instructions=examples.blank_instructions,
        skipped=examples.skipped,
    )


def train_model(work: Work) -> Trained:
    """Train on the workers of the cluster, unless the run already has its checkpoint.

    Raises:
        InputFailedError: a worker found that training cannot go on with this input or configuration.
        RunFailedError: the checkpoint that training started from was replaced, or workers died too often.
    """
    run, cluster = work.run, work.config.cluster
    committed = run.record(TRAIN_MODEL, TRAINED)
    if committed is not None:
        return committed
    log.info("starting %d workers; each loads the model first", cluster.workers)
    max_failures = work.config.limits.max_attempts_per_chunk - 1
    run_workers(_work_or_write_why_not, work, cluster, run.session, max_failures)
    failure = run.url(*work.failure_path)
    if run.storage.exists(failure):
        content = json.loads(run.storage.read(failure))
        if content["start_was_replaced"]:
            raise RunFailedError(content["message"], STAYS)  # the message says what to do
        raise InputFailedError(content["message"])
    return run.records(TRAIN_MODEL, [TRAINED])[TRAINED]


def _work_or_write_why_not(work: Work) -> None:
    """Be one worker of Ray Train.

    Ray Train starts the workers again when one of them raises. So an error that would come again is written to a file,
    for the driver.
    """
    try:
        _train_in_worker(work)
    except (CheckpointError, TrainingError) as error:
        content = {"message": str(error), "start_was_replaced": isinstance(error, CheckpointChangedError)}
        work.run.storage.write(work.run.url(*work.failure_path), json.dumps(content).encode())


def _train_in_worker(work: Work) -> None:
    """Train together with the other workers; that of rank 0 writes the checkpoint and commits it."""
    import torch

    from tart_ray.training.loop import train
    from tart_ray.training.start import save_checkpoint
    from tart_ray.training.state import StateFile
    from tart_ray.training.workers import Workers

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    run, config, worker = work.run, work.config, Worker.this()
    torch.set_num_threads(config.cluster.cpus_per_worker)
    queries = {role: work.load_queries(role) for role in urls_of_roles(config)}
    as_published = config.training.preset == "tart"
    model, tokenizer = load_start(
        config.model, config.storage, work.start, seed=config.training.seed, as_published=as_published
    )
    tokenizer.num_threads = config.cluster.cpus_per_worker
    model.to(worker.device)
    trained = train(
        model,
        tokenizer,
        queries[TRAIN],
        config.training,
        evaluation=queries.get(EVALUATION, ()),
        state=StateFile(run.storage, run.url(WORK, STATE), functools.partial(confirm_driver, run)),
        workers=Workers(worker.rank, worker.size),
        max_length=config.model.max_length,
    )
    if worker.rank != 0:
        return
    confirm_driver(run)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(model, tokenizer, folder, dtype=getattr(torch, config.output.dtype))
        for file in sorted(Path(folder).iterdir()):
            run.write(file.read_bytes(), CHECKPOINT, file.name)
    record = Trained(
        steps=trained.steps,
        best_step=trained.best_step,
        ndcg_at_10=trained.best_ndcg_at_10,
        accuracy=trained.best_accuracy,
        pairs=trained.pairs,
        training_seconds=trained.seconds,
        pairs_per_second=trained.pairs / trained.seconds if trained.seconds else None,
        history=trained.history,
        losses=evenly(trained.losses, LOSSES),
    )
    run.commit(TRAIN_MODEL, TRAINED, record)
