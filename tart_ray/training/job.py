"""jobs.train from its configuration to its exit code: look at the examples and the start, read, train, report."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tart_ray.config import PUBLISHED_RECIPE, TrainConfig, TrainingConfig
from tart_ray.config.paths import check_output, with_absolute_paths
from tart_ray.engine.outcome import Outcome
from tart_ray.engine.session import Needs, Session, at_work, nothing_to_do, tell
from tart_ray.engine.training import room_for_workers
from tart_ray.errors import ExitCode, InputFailedError
from tart_ray.reports.figures import Curve, Figure
from tart_ray.reports.wording import number_of
from tart_ray.runs.balance import Balance
from tart_ray.runs.run import Run
from tart_ray.runs.stage import total
from tart_ray.scores.releases import versions_of_scores
from tart_ray.storage import FileInfo, Storage
from tart_ray.training import TRAINING_VERSION
from tart_ray.training.examples import Query
from tart_ray.training.files import check_fields, read_instructions
from tart_ray.training.pinned_start import pin_start
from tart_ray.training.stages import TRAIN, Work, read_roles, train_model, urls_of_roles

COUNTED = ("used", "duplicates", "quarantined", "blank_instructions")
FREE = {"log_every", "checkpoint_every"}  # settings that a rerun may change

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What the job does, checked.

    Attributes:
        files: the files of each role.
        identity: what must be equal for a rerun to continue a run.
        notes: what is not read, by role.
    """

    work: Work
    files: Mapping[str, Sequence[FileInfo]]
    identity: Mapping[str, Any]
    notes: Mapping[str, list[str]]


def train(config: TrainConfig, *, ends_process: bool = False) -> ExitCode:
    """Run the job; a rerun of the same configuration continues where an earlier one stopped.

    Args:
        ends_process: as in `tart_ray.reranking.job.rerank`.

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


def describe(config: TrainConfig) -> Iterator[str]:
    """Lines that say what the job would do; starts nothing.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError: for the same reasons as `train`.
    """
    plan = make_plan(config)
    config = plan.work.config
    start, settings = config.model, config.training
    yield f"start: {start.path or f'new, {start.initialisation}, {start.geometry}, vocabulary {start.vocabulary}'}"
    for role in plan.files:
        yield from _describe_examples(plan, role)
    if settings.preset:
        values = ", ".join(f"{name} {getattr(settings, name)}" for name in PUBLISHED_RECIPE)
        yield f"preset {settings.preset}: {values}"
    yield f"workers: {config.cluster.workers}, {config.cluster.gpus_per_worker} GPUs each, {settings.dtype}"


def _describe_examples(plan: Plan, role: str) -> Iterator[str]:
    """Lines that say what a role's examples are; reads them all."""
    files, settings = plan.files[role], plan.work.config.training
    url = urls_of_roles(plan.work.config)[role]
    yield f"{role}: {len(files):,} files, {sum(file.size for file in files) / 1e6:,.1f} MB: {url}"
    yield from (f"  note: {note}" for note in plan.notes.get(role, ()))
    examples = plan.work.read(role, files)
    positives = sum(len(query.positives) for query in examples.queries)
    tasks = len({query.task for query in examples.queries})
    made = f"{len(examples.queries):,} queries of {tasks:,} tasks, {positives:,} positives"
    yield f"  {examples.counts['read']:,} records: {made}"
    yield from (f"  skipped, no examples in it: {skipped}" for skipped in examples.skipped)
    if examples.blank_instructions:
        yield f"  blank instructions: {examples.blank_instructions:,}, taken for none: their task's are drawn from"
    if examples.quarantine.rows:
        first = examples.quarantine.rows[0]
        yield f"  bad records: {len(examples.quarantine):,}, the first in {first['source']}: {first['reason']}"
    if role == TRAIN:
        yield f"  {_describe_steps(examples.queries, settings)}, loss {settings.loss}"


def _describe_steps(queries: Sequence[Query], settings: TrainingConfig) -> str:
    """How many steps of the optimizer there are, and what each of them sees."""
    if settings.preset == "tart":
        from tart_ray.training.published import PAIRS_PER_STEP, PairSampler

        return f"steps: {PairSampler(queries, settings).steps:,} of {PAIRS_PER_STEP} pairs"
    positives = sum(len(query.positives) for query in queries)
    steps = settings.max_steps or -(-positives // settings.queries_per_step) * settings.epochs
    return f"steps: {steps:,} of {settings.queries_per_step:,} positives"


def make_plan(config: TrainConfig) -> Plan:
    """Look at the input and at what training starts from, without reading either as a whole.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError: the input or the start is not there, or not as
            configured.
    """
    config = with_absolute_paths(config)
    paths = {name: getattr(config.input, name) for name in ("train", "evaluation", "instructions")}
    check_output(config.output.path, {f"input.{name}": path for name, path in paths.items()})
    storage = Storage(config.storage)
    url = config.input.instructions
    instructions = read_instructions(storage, url) if url else None
    listings = check_fields(storage, urls_of_roles(config), config.input.columns)
    run = Run.at(storage, config.output.path, config.limits.max_attempts_per_chunk)
    model, start = pin_start(config.model, config.storage)
    work = Work(run, config.model_copy(update={"model": model}), instructions, start)
    files = {role: listing.files for role, listing in listings.items()}
    notes = {role: [*listing.notes] for role, listing in listings.items() if listing.notes}
    return Plan(work, files, _identity(work, files), notes)


def _identity(work: Work, files: Mapping[str, Sequence[FileInfo]]) -> dict[str, Any]:
    """What must be equal for a rerun to continue a run: everything that the weights depend on."""
    config = work.config
    return {
        "job": "train",
        "input": {
            "files": {role: [[f.url, f.size, f.version] for f in of_role] for role, of_role in files.items()},
            "instructions": work.instructions,
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


def _execute(plan: Plan, session: Session) -> Outcome:
    """Do the stages of a run that has begun, and say what came of them.

    Raises:
        InputFailedError: no query of a role can be used.
    """
    work, config = plan.work, plan.work.config
    with session.timed("read"):
        examples = read_roles(work, plan.files)
    counts = {
        "read": total(examples.values(), "rows"),
        **{name.replace("_", " "): total(examples.values(), name) for name in COUNTED},
    }
    trained: dict[str, Any] = {}
    if counts["quarantined"] <= config.limits.max_quarantined_fraction * counts["read"]:  # else the run fails anyway
        for role, record in examples.items():
            if not record.queries:
                raise InputFailedError(f"input.{role}: no usable query in it; see {work.run.url('quarantine')}")
        with session.timed("train"):
            trained = train_model(work).model_dump(by_alias=True)
    for url in (url for record in examples.values() for url in record.skipped):
        log.warning("%s was skipped: it holds no examples", url)
    parts = {name: counts[name] for name in ("used", "duplicates", "quarantined")}
    return Outcome(
        "train",
        config,
        counts | {f"{role} queries": record.queries for role, record in examples.items()},
        [Balance("read", counts["read"], parts)],
        report={"trained": trained},
        told=_told(config, counts, trained),
        figures={"Training": _curves(trained)},
        facts={name: value for name, value in trained.items() if name not in ("history", "losses")},
        notes=plan.notes,
    )


def _told(config: TrainConfig, counts: Mapping[str, int], trained: Mapping[str, Any]) -> list[str]:
    """What was trained on what, and how good it became, in sentences."""
    if not trained:
        return ["It trained nothing: too many records were quarantined."]
    start = config.model.path or f"a new {config.model.geometry} model"
    best = trained["nDCG@10"]
    good = "" if best is None else f", with nDCG@10 {best:.3f} on the held-out queries at step {trained['best step']:,}"
    return [
        f"It trained {start} on {number_of(counts['used'], 'record')} for {number_of(trained['steps'], 'step')}{good}.",
        "The model is in checkpoint/.",
    ]


def _curves(trained: Mapping[str, Any]) -> list[Figure]:
    """The loss, and the figures of each evaluation on the held-out queries, where there were any."""
    history, losses = trained.get("history"), trained.get("losses")
    names = {"nDCG@10": "ndcg_at_10", "accuracy": "accuracy"}
    curves: list[Figure] = []
    if losses:
        curves.append(Curve("Loss", "step", "mean loss of a step", {"": [(step, loss) for step, loss in losses]}))
    if history:
        lines = {name: [(found["step"], found[key]) for found in history] for name, key in names.items()}
        curves.append(Curve("Held-out queries", "step", "nDCG@10, accuracy", lines))
    return curves
