"""jobs.mine_negatives from its configuration to its exit code: score if need be, bring the texts back, mine, report.

The score store has no texts. They are prepared again from the input of the scored run, into this run's ``_work``:
preparing is deterministic, so a chunk has the rows that its scores belong to. Then a bucket of queries is a unit.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tart_ray.config import MineConfig
from tart_ray.config.paths import check_output, input_paths, with_absolute_paths
from tart_ray.engine.cluster import room_for_replicas
from tart_ray.engine.outcome import Outcome
from tart_ray.engine.session import Needs, Session, at_work, nothing_to_do, tell
from tart_ray.errors import ExitCode, InputError
from tart_ray.input.columns import Naming, check_used
from tart_ray.input.judgements import check_grades, check_ids
from tart_ray.input.sources import Source, inspect_source, notes_of
from tart_ray.mining.negatives import MINING_VERSION
from tart_ray.mining.report import counts, nothing_mined, report, told, totals
from tart_ray.mining.settings import Settings, check_columns, check_settings, remarks_on
from tart_ray.mining.stages import MINE, Mined, Work, bring_texts, mine_buckets, rows_schema
from tart_ray.mining.stages_figures import by_filter, margins
from tart_ray.mining.trainer_files import FORMATS
from tart_ray.runs.balance import Balance
from tart_ray.runs.directory import MANIFEST
from tart_ray.runs.run import Run
from tart_ray.runs.stage import total
from tart_ray.scores import estimate
from tart_ray.scores.plan import BYTES_PER_BUCKET, Plan, bucket_count, files_identity, make_plan
from tart_ray.scores.prepare import read_stage, split_names
from tart_ray.scores.replica import LoadScorer, load_scorer
from tart_ray.scores.spec import ScoringSpec
from tart_ray.scores.store import ScoreStore, StoredRun, find_run
from tart_ray.scores.within import identity_of, score_within
from tart_ray.storage import Storage

log = logging.getLogger(__name__)

SCORING = "scoring"  # under output.path: the run that scores first


@dataclass(frozen=True)
class Task:
    """What is mined, checked.

    Attributes:
        stored: the finished run whose scores are mined; None where ``spec`` scores the candidates of ``plan`` first.
        qrels: judgements, where they are not in a column of the candidates.
        corpus: of positives that are no candidates, where the scored run did not read one.
        warnings: of what cannot be settled before the work.
    """

    config: MineConfig
    storage: Storage
    settings: Settings
    plan: Plan
    stored: StoredRun | None
    spec: ScoringSpec | None
    qrels: Source | None
    corpus: Source | None
    warnings: Sequence[str]

    @property
    def scoring(self) -> Run:
        """The run that scores first."""
        path = f"{self.config.output.path.rstrip('/')}/{SCORING}"
        return Run.at(self.storage, path, self.config.limits.max_attempts_per_chunk)

    @property
    def scores_identity(self) -> Mapping[str, Any]:
        """Of the run whose scores are mined."""
        if self.stored is not None:
            return self.stored.identity
        assert self.spec is not None
        return identity_of(self.plan, self.spec, self.scoring)

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a rerun to continue a run."""
        settings = self.settings
        return {
            "job": "mine_negatives",
            "scored": self.scores_identity,
            "positives": {
                "files": files_identity(self.qrels) if self.qrels else None,
                "corpus": files_identity(self.corpus) if self.corpus else None,
                "columns": self.config.positives.columns,
                "label_column": settings.label_column,
                "min_relevance": settings.min_relevance,
            },
            "mining": {
                "policies": [policy.model_dump() for policy in settings.policies],
                "twins": settings.twins,
            },
            "versions": {"mining": MINING_VERSION},
            "trainer": {"formats": list(settings.formats), **dataclasses.asdict(settings.options)},
        }

    @property
    def notes(self) -> dict[str, list[str]]:
        """What is left out or changed of what is read."""
        return notes_of({**self.plan.sources, **self.positives})

    @property
    def positives(self) -> dict[str, Source]:
        """What positives are read from, by what it is."""
        sources = {"qrels": self.qrels, "corpus of positives": self.corpus}
        return {name: source for name, source in sources.items() if source is not None}

    @property
    def needs(self) -> Needs:
        """What the job needs of its cluster."""
        cluster = self.config.cluster
        reads = {
            **self.plan.reads,
            "model.path": [self.spec.model.path] if self.spec else [],
            "input.run": [self.stored.run.url(MANIFEST)] if self.stored else [],
            "positives.qrels": [file.url for file in self.qrels.files] if self.qrels else [],
            "positives.corpus": [file.url for file in self.corpus.files] if self.corpus else [],
        }
        return Needs(cluster.address, room_for_replicas(cluster) if self.spec else None, reads)


def look(config: MineConfig) -> Task:
    """Look at the input and check the settings.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError: something is not there, or not as configured.
    """
    config = with_absolute_paths(config)
    storage, limits = Storage(config.storage), config.limits
    settings = check_settings(config)
    positives = {f"positives.{name}": getattr(config.positives, name) for name in ("qrels", "corpus")}
    check_output(config.output.path, {"input.run": config.input.run, **input_paths(config.input), **positives})
    stored, spec = None, None
    if config.input.run is not None:
        stored = find_run(storage, config.input.run, config.storage, limits.max_attempts_per_chunk)
        plan = stored.plan
    else:
        given = config.input.to_score()
        plan = make_plan(storage, given, windows=config.model.long_documents == "maxp")
        spec = ScoringSpec.resolve(config.model, config.cluster, limits, config.storage, given)
    check_columns(rows_schema(plan), plan.candidates, settings)
    qrels, corpus = _inspect_positives(storage, config, plan)
    warnings = _check_positives(storage, config, plan, qrels, corpus)
    return Task(config, storage, settings, plan, stored, spec, qrels, corpus, warnings)


def mine_negatives(config: MineConfig, *, load: LoadScorer = load_scorer, ends_process: bool = False) -> ExitCode:
    """Run the job; a rerun of the same configuration continues where an earlier one stopped.

    Args:
        ends_process: as of `rerank`.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError, RunConflictError: before any work.
        RunFailedError: the run began and could not end.
    """
    task = look(config)
    identity = task.identity
    for warning in task.warnings:
        log.warning("%s", warning)
    run = Run.at(task.storage, task.config.output.path, task.config.limits.max_attempts_per_chunk)
    tell(task.notes)
    if run.check(identity) and run.is_complete():
        return nothing_to_do(run)
    with (
        at_work(run, task.needs, ends_process=ends_process) as session,
        session.begun(run, identity, task.config) as run,
    ):
        if run.is_complete():  # by another driver, meanwhile
            return nothing_to_do(run)
        if task.stored is not None:
            return _mine(session, task, run, task.plan, task.stored.store, task.stored.warnings)
        assert task.spec is not None
        with session.timed("score"):
            within = score_within(session, task.scoring, task.plan, task.spec, load)
        if within.code != ExitCode.DONE:
            log.error("scoring ended with exit code %d: nothing is mined", within.code)
            return within.code
        check_columns(rows_schema(within.plan), within.plan.candidates, task.settings)
        return _mine(session, task, run, within.plan, within.store, within.warnings)


def _mine(session: Session, task: Task, run: Run, plan: Plan, store: ScoreStore, warned: Sequence[str]) -> ExitCode:
    """All stages after scoring, which gave these warnings."""
    corpus, qrels = task.corpus, task.qrels
    document_buckets = bucket_count(corpus.nbytes / BYTES_PER_BUCKET) if corpus else plan.document_buckets
    work = Work(run, store, plan, task.settings, qrels, corpus, document_buckets)
    with session.timed("prepare"):
        if set(store.chunks) - set(run.committed(MINE, store.chunks)):
            bring_texts(work, list(task.stored.partition_by) if task.stored else [])
        read = run.records(read_stage("qrels"), split_names(qrels)) if qrels else {}
    with session.timed("mine"):
        by_bucket = mine_buckets(work)
    mined = list(by_bucket.values())
    judgements = total(read.values(), "rows") if qrels else total(mined, "judgements")
    quarantined = total(read.values(), "quarantined")
    for warning in warned:
        log.warning("%s", warning)
    warnings = [*task.warnings, *warned]
    outcome = make_outcome(task, mined, store.rows, judgements, quarantined, warnings)
    policies = [*by_filter(outcome.report["policies"]), *margins(run, by_bucket, task.settings)]
    _tell_of_trainer_files(outcome.report, task.settings)
    return session.finish(run, dataclasses.replace(outcome, figures={"Policies": policies}))


def describe(config: MineConfig) -> Iterator[str]:
    """Lines that say what the job would do.

    Raises:
        the errors of `mine_negatives`, for the same reasons.
    """
    task = look(config)
    settings, qrels = task.settings, task.qrels
    if task.stored is None:
        assert task.spec is not None
        yield f"scores first, into {task.scoring.path}:"
        yield from estimate.describe(task.storage, task.plan, task.spec, task.config.plan)
    else:
        pairs, place = task.stored.store.rows, task.stored.run.path
        yield f"scores: {pairs:,} pairs in {task.plan.query_buckets:,} buckets of queries: {place}"
    if qrels is None:
        yield f"positives: {settings.label_column} of the candidates, at least {settings.min_relevance}"
    else:
        rows = f"about {qrels.rows:,} judgements"
        yield f"positives: {len(qrels.files):,} files, {rows}, at least {settings.min_relevance}: {qrels.url}"
    notes = task.notes if task.stored else notes_of(task.positives)
    yield from (f"  note: {name}: {note}" for name, found in notes.items() for note in found)
    for policy in settings.policies:
        changed = policy.model_dump(exclude_defaults=True, exclude={"name"})
        yield f"policy {policy.name}: {policy.num_negatives} negatives a query; {changed or 'all else by default'}"
    yield f"trainer files: {', '.join(settings.formats) or 'none'}"
    for name in settings.formats:
        yield f"  {name}: {'; '.join(remarks_on(name, settings.options))}"
    yield from task.warnings


def _inspect_positives(storage: Storage, config: MineConfig, plan: Plan) -> tuple[Source | None, Source | None]:
    """The qrels, and the corpus of positives that are no candidates, where the scored run did not read one."""
    if config.positives.qrels is None:
        return None, None
    unused = plan.input.corpus if plan.corpus is None else None
    url = config.positives.corpus or unused
    columns, of_candidates = config.positives.columns, plan.candidates.columns
    naming = Naming.of(columns, "corpus", "positives.columns", taken=columns)
    if config.positives.corpus is None:
        said = plan.input.columns
        naming = Naming.of(said, "corpus", taken=[ours for ours in said if of_candidates.get(ours) == said[ours]])
    corpus = inspect_source(storage, url, "corpus", naming) if url is not None else None
    key = "positives.columns"
    qrels = inspect_source(storage, config.positives.qrels, "qrels", Naming.of(columns, "qrels", key))
    check_used(key, columns, {"qrels": (qrels.columns, qrels.names)})
    return qrels, corpus


def _check_positives(
    storage: Storage, config: MineConfig, plan: Plan, qrels: Source | None, corpus: Source | None
) -> list[str]:
    """Refuse positives of other queries or another corpus; what is to be said where that cannot be settled.

    Raises:
        InputError: no query of the candidates has a positive, or no positive is among the documents.
    """
    positives = config.positives
    if qrels is None:
        key, column = "positives.label_column", positives.label_column
        check_grades(storage, plan.candidates, key, positives.min_relevance, of_each=0, column=column)
        return []
    key, documents = "positives.qrels", corpus or plan.corpus
    told = [check_ids(storage, qrels, [plan.candidates], key, positives.min_relevance)]
    if documents is not None:
        told.append(check_ids(storage, qrels, [plan.candidates, documents], key, positives.min_relevance, "doc_id"))
    return [warning for warning in told if warning]


def make_outcome(
    task: Task, mined: Sequence[Mined], scored: int, read: int, quarantined: int, warnings: Sequence[str]
) -> Outcome:
    """Counts, after every scored pair, every query and every judgement is accounted for, and what the report says.

    Args:
        scored: pairs in the score store.
        read: judgements; ``quarantined``: of them, the bad ones.

    Raises:
        ReconciliationError: something is not accounted for.
        InputError: no query has a negative.
    """
    counted, settings = counts(mined, read, quarantined), task.settings
    balances = [
        Balance(
            "queries with candidates",
            counted["queries with candidates"],
            {"with negatives": counted["queries with negatives"], "left out": counted["queries left out"]},
        ),
        Balance(
            "judgements read",
            read,
            {name: counted[name] for name in ("positives", "judged lower", "repeated", "quarantined")},
        ),
    ]
    Balance("scored", scored, {"mined": counted["pairs"]})
    queries, lost = totals(mined, "trainer_queries"), totals(mined, "trainer_queries_left_out")
    for name, number in queries.items():
        given = counted["queries with negatives"] if name == "trainer" else queries["trainer"]
        Balance(f"queries of {name}", given, {"written": number, "left out": lost[name]})
    if not counted["queries with negatives"]:
        raise InputError(nothing_mined(mined, settings))
    said = report(mined, settings)
    return Outcome(
        "mine_negatives",
        task.config,
        counted,
        balances,
        report=said,
        told=[told(counted, said, (task.stored.model if task.stored else task.config.model.path))],
        facts={
            **{f"left out: {reason}": number for reason, number in said["left_out"].items()},
            **{f"{name}: rows": number for name, number in said["trainer_rows"].items()},
        },
        notes=task.notes,
        warnings=warnings,
    )


def _tell_of_trainer_files(report: Mapping[str, Any], settings: Settings) -> None:
    for name, written in report["trainer_rows"].items():
        why = {reason: n for reason, n in report["left_out"].items() if reason.startswith((f"{name}: ", "trainer: "))}
        left_out = f"; left out: {why}" if why else ""
        log.log(
            logging.INFO if written else logging.WARNING,
            "trainer/%s: %s rows of %s queries: %s%s", name, f"{written:,}", f"{report['trainer_queries'][name]:,}",
            "; ".join(remarks_on(name, settings.options)), left_out,
        )  # fmt: skip
    bare = [name for name in settings.formats if FORMATS[name].lacks_instruction(settings.options)]
    if bare and report["instructions"]:
        log.warning(
            "trainer files without instructions: %s. Queries were scored under instructions such as %s: give them to "
            "the trainer as a prompt, or set trainer.join_instruction",
            bare, report["instructions"],
        )  # fmt: skip
