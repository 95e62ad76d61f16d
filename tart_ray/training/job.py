"""jobs.train from its configuration to its exit code: read the examples, train on Ray Train's workers, report.

The loop is `tart_ray.training.loop`; here is what it needs to run on a cluster. Its state is one object in storage,
replaced as a whole, so that a worker, a node or the driver may be lost: what starts again goes on from there.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tart_ray.config import PUBLISHED_RECIPE, TrainConfig, TrainingConfig
from tart_ray.config.paths import check_output, with_absolute_paths
from tart_ray.engine.session import Needs, Outcome, Session, at_work, nothing_to_do, tell
from tart_ray.engine.stages import run_stage
from tart_ray.engine.training import Worker, room_for_workers, run_workers
from tart_ray.errors import (
    STAYS,
    CheckpointChangedError,
    CheckpointError,
    ExitCode,
    InputFailedError,
    RunFailedError,
)
from tart_ray.model.checkpoint import (
    PUT_BACK,
    VOCAB_FILE,
    fingerprint_checkpoint,
    resolve_checkpoint,
    resolve_revision,
)
from tart_ray.model.fitness import check_checkpoint
from tart_ray.runs.balance import Balance
from tart_ray.runs.directory import WORK
from tart_ray.runs.lease import confirm_driver
from tart_ray.runs.run import Run
from tart_ray.runs.stage import Record, Stage, named, total
from tart_ray.scores.releases import versions_of_scores
from tart_ray.storage import FileInfo, Storage
from tart_ray.training import TRAINING_VERSION
from tart_ray.training.examples import Query

EXAMPLES, CHECKPOINT = "examples", "checkpoint"  # folders
TRAINED = "train"  # a stage, and its one unit
STATE = "state.pt"
TRAIN, EVALUATION = "train", "evaluation"  # roles of the input
COUNTED = ("used", "duplicates", "quarantined", "blank_instructions")
FREE = {"log_every", "checkpoint_every"}  # settings that a rerun may change

log = logging.getLogger(__name__)


class ReadExamples(Record):
    """The examples of a role."""

    rows: int
    queries: int
    used: int
    duplicates: int
    quarantined: int
    blank_instructions: int = named("blank instructions")
    skipped: tuple[str, ...]  # files without examples


class Trained(Record):
    """How training went."""

    steps: int
    best_step: int = named("best step")
    ndcg_at_10: float | None = named("nDCG@10")
    accuracy: float | None
    pairs: int
    training_seconds: float = named("training seconds")
    pairs_per_second: float | None = named("pairs/s")
    history: list[Any]


READ_EXAMPLES = Stage(EXAMPLES, ReadExamples)
TRAIN_MODEL = Stage(TRAINED, Trained)


@dataclass(frozen=True)
class Work:
    """Everything that a worker needs. Pickles into every worker."""

    run: Run
    config: TrainConfig
    instructions: Mapping[str, list[str]] | None
    start: str = ""  # fingerprint of the checkpoint that training starts from, or SHA-256 of the vocabulary

    @property
    def model_storage(self) -> dict[str, Any]:
        """Options of the storage that the start is read from."""
        return self.config.storage.fsspec_options(self.config.model.path or self.config.model.vocabulary or "")


@dataclass(frozen=True)
class Plan:
    """What would be done, checked: files of each role, the run's identity, and what is left out of each role."""

    work: Work
    files: Mapping[str, list[FileInfo]]
    identity: Mapping[str, Any]
    notes: Mapping[str, list[str]]


def train(config: TrainConfig, *, ends_process: bool = False) -> ExitCode:
    """Run the job; a rerun of the same configuration continues where an earlier one stopped.

    Args:
        ends_process: as of `rerank`.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError, RunConflictError: before any work.
        RunFailedError: the run began and could not end.
    """
    plan = make_plan(config)
    run, config = plan.work.run, plan.work.config
    tell(plan.notes)
    if run.check(plan.identity) and run.is_complete():
        return nothing_to_do(run)
    files = {f"input.{role}": [file.url for file in files] for role, files in plan.files.items()}
    reads = {**files, "model.path": [config.model.path or config.model.vocabulary or ""]}
    needs = Needs(config.cluster.address, room_for_workers(config.cluster), reads)
    with (
        at_work(run, needs, ends_process=ends_process) as session,
        session.begun(run, plan.identity, config) as run,
    ):
        if run.is_complete():  # by another driver, meanwhile
            return nothing_to_do(run)
        plan = dataclasses.replace(plan, work=dataclasses.replace(plan.work, run=run))
        return session.finish(run, _execute(plan, session))


def show(config: TrainConfig) -> ExitCode:
    """Print what the job would do; starts nothing."""
    for line in describe(config):
        print(line)  # noqa: T201
    return ExitCode.DONE


def describe(config: TrainConfig) -> Iterator[str]:
    """Lines that say what the job would do.

    Raises:
        the errors of `train`, for the same reasons.
    """
    from tart_ray.training.files import read_examples

    plan = make_plan(config)
    config = plan.work.config
    start, settings = config.model, config.training
    yield f"start: {start.path or f'new, {start.initialisation}, {start.geometry}, vocabulary {start.vocabulary}'}"
    for role, url in roles(config).items():
        files = plan.files[role]
        yield f"{role}: {len(files):,} files, {sum(file.size for file in files) / 1e6:,.1f} MB: {url}"
        yield from (f"  note: {note}" for note in plan.notes.get(role, ()))
        found = read_examples(
            plan.work.run.storage,
            url,
            plan.work.instructions,
            columns=config.input.columns,
            files=files,
            **needs(config, role),
        )
        counts, positives = found.counts, sum(len(query.positives) for query in found.queries)
        tasks = len({query.task for query in found.queries})
        made = f"{len(found.queries):,} queries of {tasks:,} tasks, {positives:,} positives"
        yield f"  {counts['read']:,} records: {made}"
        yield from (f"  skipped, no examples in it: {url}" for url in found.skipped)
        if found.blank_instructions:
            yield f"  blank instructions: {found.blank_instructions:,}, taken for none: their task's are drawn from"
        if found.quarantine.rows:
            first = found.quarantine.rows[0]
            yield f"  bad records: {len(found.quarantine):,}, the first in {first['source']}: {first['reason']}"
        if role == TRAIN:
            yield f"  {_steps(found.queries, settings)}, loss {settings.loss}"
    if settings.preset:
        told = {name: getattr(settings, name) for name in PUBLISHED_RECIPE}
        yield f"preset {settings.preset}: {', '.join(f'{name} {value}' for name, value in told.items())}"
    yield f"workers: {config.cluster.workers}, {config.cluster.gpus_per_worker} GPUs each, {settings.dtype}"


def _steps(queries: Sequence[Query], settings: TrainingConfig) -> str:
    """How many steps there are, and of what."""
    if settings.preset == "tart":
        from tart_ray.training.published import PAIRS_PER_STEP, PairSampler

        return f"steps: {PairSampler(queries, settings).steps:,} of {PAIRS_PER_STEP} pairs"
    positives = sum(len(query.positives) for query in queries)
    steps = settings.max_steps or -(-positives // settings.queries_per_step) * settings.epochs
    return f"steps: {steps:,} of {settings.queries_per_step:,} positives"


def make_plan(config: TrainConfig) -> Plan:
    """Look at the input and the start without reading either.

    Raises:
        InputError, StorageError, CheckpointError: the input or the start is not there, or not as configured.
    """
    from tart_ray.training.files import check_fields, check_renamed, read_instructions

    config = with_absolute_paths(config)
    read = {name: getattr(config.input, name) for name in ("train", "evaluation", "instructions")}
    check_output(config.output.path, {f"input.{name}": path for name, path in read.items()})
    storage = Storage(config.storage)
    named = config.input.instructions
    instructions = read_instructions(storage, named) if named else None
    listings = {role: check_fields(storage, url, config.input.columns) for role, url in roles(config).items()}
    check_renamed(storage, listings.values(), config.input.columns)
    files = {role: [*found.files] for role, found in listings.items()}
    notes = {role: [*found.notes] for role, found in listings.items() if found.notes}
    run = Run.at(storage, config.output.path, config.limits.max_attempts_per_chunk)
    work = _pin_start(Work(run, config, instructions))
    identity = {
        "job": "train",
        "input": {
            "files": {role: [[f.url, f.size, f.version] for f in found] for role, found in files.items()},
            "instructions": instructions,
            **({"columns": config.input.columns} if config.input.columns else {}),
        },
        "model": {
            "start": work.start,
            **config.model.model_dump(include={"geometry", "initialisation", "max_length"}),
        },
        "training": config.training.model_dump(mode="json", exclude=FREE),
        "dtype": config.output.dtype,
        "versions": {"training": TRAINING_VERSION, **versions_of_scores()},
    }
    return Plan(work, files, identity, notes)


def roles(config: TrainConfig) -> dict[str, str]:
    """Where the examples of each role are."""
    found = {TRAIN: config.input.train, EVALUATION: config.input.evaluation}
    return {role: url for role, url in found.items() if url is not None}


def needs(config: TrainConfig, role: str) -> dict[str, Any]:
    """What a query must have to be of use, as `read_examples` takes it."""
    if role != TRAIN:
        return {}
    if config.training.preset == "tart":
        return {"negatives": "optional"}
    has_random = max(config.training.random_negatives) > 0
    return {"negatives": "random" if has_random else "own", "needs_scores": config.training.loss == "margin_mse"}


def _execute(plan: Plan, session: Session) -> Outcome:
    """All stages of a run that has begun."""
    work, config, run = plan.work, plan.work.config, plan.work.run
    with session.timed("read"):
        found = run_stage(run, READ_EXAMPLES, plan.files, functools.partial(_prepare, work, plan.files))
    counts = {
        "read": total(found.values(), "rows"),
        **{name.replace("_", " "): total(found.values(), name) for name in COUNTED},
    }
    trained: dict[str, Any] = {}
    if counts["quarantined"] <= config.limits.max_quarantined_fraction * counts["read"]:  # else it would be in vain
        for role, record in found.items():
            if not record.queries:
                raise InputFailedError(f"input.{role}: no usable query in it; see {run.url('quarantine')}")
        with session.timed("train"):
            model = run.committed(TRAIN_MODEL).get(TRAINED) or _train(work)
            trained = model.model_dump(by_alias=True)
    for url in (url for record in found.values() for url in record.skipped):
        log.warning("%s was skipped: it holds no examples", url)
    parts = {name: counts[name] for name in ("used", "duplicates", "quarantined")}
    return Outcome(
        "train",
        config,
        counts | {f"{role} queries": record.queries for role, record in found.items()},
        [Balance("read", counts["read"], parts)],
        report={"trained": trained},
        figures={name: value for name, value in trained.items() if name != "history"},
        notes=plan.notes,
    )


def _prepare(work: Work, files: Mapping[str, list[FileInfo]], role: str) -> ReadExamples:
    """Read one role's examples; what is usable of them is kept beside the checkpoint, the rest in quarantine."""
    from tart_ray.training.files import read_examples
    from tart_ray.training.query_files import encode_queries

    url, needed = roles(work.config)[role], needs(work.config, role)
    found = read_examples(
        work.run.storage, url, work.instructions, columns=work.config.input.columns, files=files[role], **needed
    )
    work.run.write(encode_queries(found.queries), EXAMPLES, f"{role}.parquet")
    work.run.write_quarantine(found.quarantine, EXAMPLES, role)
    return ReadExamples(
        rows=found.counts["read"],
        queries=len(found.queries),
        **{name: found.counts[name] for name in ("used", "duplicates", "quarantined")},
        blank_instructions=found.blank_instructions,
        skipped=tuple(found.skipped),
    )


def _train(work: Work) -> Trained:
    """Train on the cluster, and return what was committed.

    Raises:
        RunFailedError: a worker found that it cannot go on, or workers died more often than they may.
    """
    cluster, run = work.config.cluster, work.run
    failure = run.url(*_failure(work))
    log.info("starting %d workers; each loads the model first", cluster.workers)
    max_failures = work.config.limits.max_attempts_per_chunk - 1
    run_workers(_train_worker, work, cluster, run.session, max_failures)
    if run.storage.exists(failure):
        said = json.loads(run.storage.read(failure))
        if said["start_was_replaced"]:
            raise RunFailedError(said["message"], STAYS)  # the message says what to do
        raise InputFailedError(said["message"])
    return run.records(TRAIN_MODEL, [TRAINED])[TRAINED]


def _train_worker(work: Work) -> None:
    """One worker of Ray Train, which has set up torch.distributed.

    Ray Train would start again what raises; what another try cannot mend is written down for the driver instead.
    """
    from tart_ray.errors import TrainingError

    try:
        _train_in_worker(work)
    except (CheckpointError, TrainingError) as error:
        said = {"message": str(error), "start_was_replaced": isinstance(error, CheckpointChangedError)}
        work.run.storage.write(work.run.url(*_failure(work)), json.dumps(said).encode())


def _train_in_worker(work: Work) -> None:
    import torch

    from tart_ray.training import loop, start
    from tart_ray.training.query_files import decode_queries

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    run, config, worker = work.run, work.config, Worker.this()
    torch.set_num_threads(config.cluster.cpus_per_worker)
    queries = {role: decode_queries(run.storage.read(_examples_url(work, role))) for role in roles(config)}
    model, tokenizer = _load_start(work)
    tokenizer.num_threads = config.cluster.cpus_per_worker
    model.to(worker.device)
    trained = loop.train(
        model,
        tokenizer,
        queries[TRAIN],
        config.training,
        evaluation=queries.get(EVALUATION, ()),
        state=loop.StateFile(run.storage, run.url(WORK, STATE), functools.partial(confirm_driver, run)),
        workers=loop.Workers(worker.rank, worker.size),
        max_length=config.model.max_length,
    )
    if worker.rank == 0:
        confirm_driver(run)
        with tempfile.TemporaryDirectory() as folder:
            start.save_checkpoint(model, tokenizer, folder, dtype=getattr(torch, config.output.dtype))
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
        )
        run.commit(TRAIN_MODEL, TRAINED, record)


def _load_start(work: Work) -> Any:
    """The model that training starts from, and its tokenizer; those of the manifest, or an error."""
    from tart_ray.training import start

    model, seed = work.config.model, work.config.training.seed
    if model.path is not None:
        return start.start_from_checkpoint(
            model.path,
            seed=seed,
            revision=model.revision,
            storage_options=work.model_storage,
            fingerprint=work.start,
            as_published=work.config.training.preset == "tart",
        )
    mimetic = model.initialisation == "mimetic"
    fresh, tokenizer = start.start_fresh(_vocabulary(work), model.geometry, mimetic=mimetic, seed=seed)
    if hashlib.sha256(tokenizer.vocabulary).hexdigest() != work.start:
        raise CheckpointChangedError(f"{model.vocabulary}: is another vocabulary than the manifest's: {PUT_BACK}")
    return fresh, tokenizer


def _vocabulary(work: Work) -> Path:
    """The local file, or the local directory that ``spiece.model`` is in."""
    model = work.config.model
    assert model.vocabulary is not None
    if Path(model.vocabulary).is_file():
        return Path(model.vocabulary)
    return resolve_checkpoint(
        model.vocabulary, revision=model.revision, storage_options=work.model_storage, weights=False
    )


def _pin_start(work: Work) -> Work:
    """The work with the commit and the fingerprint of what is there to start from now, which changes when it does.

    Raises:
        CheckpointError: it is not there, or its tokenizer cannot be read.
    """
    from tart_ray.model.tokenizer import EncT5Tokenizer

    model = work.config.model
    if model.path is None:
        place = _vocabulary(work)
        tokenizer = EncT5Tokenizer(place / VOCAB_FILE if place.is_dir() else place)
        return dataclasses.replace(work, start=hashlib.sha256(tokenizer.vocabulary).hexdigest())
    revision = resolve_revision(model.path, revision=model.revision)
    where: dict[str, Any] = {"revision": revision, "storage_options": work.model_storage}
    start = fingerprint_checkpoint(model.path, **where)
    check_checkpoint(model.path, fingerprint=start, with_head=False, **where)
    config = work.config.model_copy(update={"model": model.model_copy(update={"revision": revision})})
    return dataclasses.replace(work, config=config, start=start)


def _failure(work: Work) -> tuple[str, str]:
    """Where workers of this start of the driver say why they cannot go on."""
    return WORK, f"failure-{work.run.session}.json"


def _examples_url(work: Work, role: str) -> str:
    return work.run.url(EXAMPLES, f"{role}.parquet")
