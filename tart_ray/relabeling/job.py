"""jobs.relabel from its configuration to its exit code: prepare, score what changed, label, compare, switch.

Every run is a version of the labels, complete in itself (`tart_ray.runs.versions`). Its scores hold a key of what each
pair was when it was scored, so the next run finds out which pairs still are what they were:

candidates ──prepare──▶ chunks ──match──▶ pairs whose score holds ───────────┐
scores of earlier runs ──by query_id──┘ └▶ changed and new ones ──score──▶ collect ──label──▶ scores/ labels/ diff/
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import tart_ray
from tart_ray.config import CalibrationConfig, LabelsConfig, OutputConfig, RelabelConfig, RerankConfig, StorageConfig
from tart_ray.engine.cluster import room_for_replicas
from tart_ray.engine.session import (
    Clock,
    ReconciliationError,
    as_figures,
    at_work,
    continue_run,
    finish,
    nothing_to_do,
    tell,
)
from tart_ray.engine.stages import run_stage
from tart_ray.engine.stopping import leased, stoppable, stopped_by_signals
from tart_ray.errors import (
    CalibrationError,
    ConfigurationError,
    ExitCode,
    InputError,
    RunConflictError,
    RunFailedError,
    StorageError,
)
from tart_ray.input.columns import Naming, check_used
from tart_ray.input.judgements import check_grades, check_ids
from tart_ray.input.quarantine import SCORE, Quarantine
from tart_ray.input.sources import Source, inspect_source, notes_of
from tart_ray.relabeling import calibration
from tart_ray.relabeling.calibration import Calibration
from tart_ray.relabeling.labels import (
    LABEL,
    LABELLED,
    LABELLING_VERSION,
    PAIR,
    PROBABILITY,
    THRESHOLD,
    Labelling,
    add_counts,
    count_parts,
    diff,
    find_places,
    label,
    thresholds_at,
)
from tart_ray.reranking.job import files_read, with_absolute_paths
from tart_ray.runs.fragments import encode_fragment, read_bucket
from tart_ray.runs.lease import Lease
from tart_ray.runs.output_path import check_output
from tart_ray.runs.run import MANIFEST, WORK, Record, Run
from tart_ray.runs.versions import BASE, Current, Versions
from tart_ray.scores import estimate as dry_run
from tart_ray.scores.chunks import cut
from tart_ray.scores.plan import (
    FORMAT_VERSION,
    Plan,
    check_partitions,
    files_identity,
    identity,
    input_identity,
    make_plan,
    pin_model,
    scores_schema,
)
from tart_ray.scores.prepare import (
    Chunk,
    Prepared,
    fragment_path,
    fragment_url,
    prepare,
    read_chunk,
    read_shuffled,
    shuffle,
    unit_name,
    write_chunk,
)
from tart_ray.scores.score import SCORES as SCORING
from tart_ray.scores.score import LoadScorer, load_scorer, score
from tart_ray.scores.store import Scored, ScoreStore, find_run, scored_chunks
from tart_ray.storage import Storage, absolute
from tart_ray.tables.grades import can_be_grades, grades
from tart_ray.tables.hive import partition_rules, partitionable, partitions
from tart_ray.tables.keys import bucket_of, content_keys, positions, random_keys
from tart_ray.tables.parquet import read_parquet
from tart_ray.tables.schemas import ORIGIN, SCORES

log = logging.getLogger(__name__)

KNOWN, MATCHED, COLLECTED, LABELS = "known", "match", "collect", "label"
COUNTED, PLACED, RECOUNTED, THRESHOLDS = "count", "place", "recount", "thresholds"
SAMPLED, CALIBRATED = "sample", "calibrate"
ALL = "all"  # the one unit of a stage that looks at all buckets together
PENDING = "pending"  # under _work: a run of its own, of the pairs that must be scored
PREVIOUS = "previous"  # of output.switch_to
GIVEN = "_given"  # the column of labels until now, while labels are compared
MAX_OLD_LABELS = 100  # values; more are no grades

CONTENT = pa.field("content", pa.string())
SCORED_BY = pa.field("scored_by", pa.string())  # id of the run that scored the pair, or the path of a jobs.rerank
SCORED_AT = pa.field("scored_at", pa.timestamp("ms", "UTC"))  # when that run began
OLD_LABEL = pa.field("old_label", pa.int32())
RESULT = pa.schema([SCORES.field(name) for name in ("score", "margin", "tokens", "truncated")] + [SCORED_BY, SCORED_AT])
KNOWN_SCHEMA = pa.schema(
    [*(SCORES.field(name) for name in PAIR), CONTENT, *RESULT, LABEL, pa.field("is_base", pa.bool_())]
)
ADDED = {GIVEN, *(field.name for field in (CONTENT, SCORED_BY, SCORED_AT, OLD_LABEL, LABEL, THRESHOLD, PROBABILITY))}
MEND = "what is scored stays: mend the input or the configuration, and give the same output.path"


@dataclass(frozen=True)
class Task:
    """What is labelled, and how, checked."""

    config: RelabelConfig
    scoring: RerankConfig
    plan: Plan
    scored: Scored | None  # the run whose scores are taken over
    qrels: Source | None
    partition_by: tuple[str, ...]
    identity: Mapping[str, Any]

    @property
    def notes(self) -> dict[str, list[str]]:
        """What is left out or changed of what is read."""
        return notes_of({**self.plan.sources, **({"qrels": self.qrels} if self.qrels else {})})


@dataclass(frozen=True)
class Work:
    """Everything that a unit needs. Pickles into every worker."""

    versions: Versions
    run: Run
    id: str
    base: str | None
    began: datetime
    plan: Plan
    labels: LabelsConfig
    partition_by: tuple[str, ...]
    scored: Scored | None
    scored_at: datetime | None  # when that run began
    qrels: Source | None
    scored_with: bytes
    chunks: Mapping[str, list[str]]  # of each bucket of queries
    known: tuple[str, ...]  # units of `KNOWN`

    @property
    def pending(self) -> Run:
        """The run of the pairs that must be scored."""
        return _pending(self.run)

    @property
    def extras(self) -> list[pa.Field]:
        """The columns of the candidates that are carried through."""
        return [field for field in self.plan.candidates.extras if field.name != self.labels.old_column]


def relabel(config: RelabelConfig, *, load: LoadScorer = load_scorer, ends_process: bool = False) -> ExitCode:
    """Run the job; a rerun of the same configuration over the same input continues where an earlier one stopped.

    Args:
        ends_process: as of `rerank`.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError, RunConflictError: before any work.
        RunFailedError: the run began and could not end.
    """
    config, versions = _open(config)
    if config.output.switch_to is not None:
        return _switch(versions, config.output.switch_to, ends_process=ends_process)
    task = look(versions.storage, config)
    tell(task.notes)
    if _nothing_to_do(versions, task):
        versions.mend()
        return ExitCode.DONE
    _base(versions)  # or it cannot be built upon
    room = room_for_replicas(config.cluster) if task.scored is None else None
    reads = {
        **files_read(task.plan, task.scoring),
        "input.run": [task.scored.run.url(MANIFEST)] if task.scored else [],
        "labels.calibration.qrels": [file.url for file in task.qrels.files] if task.qrels else [],
    }
    with at_work(versions.place, config.cluster.address, room, reads, ends_process=ends_process) as lease:
        if _nothing_to_do(versions, task):  # by another driver, meanwhile
            return ExitCode.DONE
        before, base = versions.current(), _base(versions)
        id_ = versions.id_of(task.identity, base)
        run = versions.run(id_)
        who = {**task.identity, BASE: base}
        code = continue_run(
            run, who, config, lambda begun: _execute(task, versions, begun, id_, base, lease, load), mend=MEND
        )
        if code == ExitCode.DONE:
            lease.confirm()
            try:
                versions.switch(id_, before)
            except (StorageError, RunConflictError) as error:
                raise RunFailedError(f"run {id_} is done, and could not be made the current one: {error}") from error
            log.info("%s: the current run is %s", versions.path, id_)
        return code


def newest_run(path: str, storage: StorageConfig) -> str:
    """The directory of the run that began last, whether it is the current one or not."""
    versions = Versions(Run.at(Storage(storage), absolute(path), 1))
    return versions.run(versions.ids()[-1]).path


def show(config: RelabelConfig) -> ExitCode:
    """Print what the job would do, line by line as it is known; starts nothing."""
    for line in describe(config):
        print(line)  # noqa: T201
    return ExitCode.DONE


def describe(config: RelabelConfig) -> Iterator[str]:
    """Lines that say what the job would do.

    Raises:
        the errors of `relabel`, for the same reasons.
    """
    config, versions = _open(config)
    if config.output.switch_to is not None:
        current = versions.current()
        yield f"switches from {current and current.run} to {_target(versions, config.output.switch_to)}"
        return
    task = look(versions.storage, config)
    base = _base(versions)
    yield f"current run: {base or 'none'}; this one: {versions.id_of(task.identity, base)}"
    if _nothing_to_do(versions, task):
        yield "nothing to do"
        return
    if task.scored is None:
        yield "pairs, of which those are scored that changed since the runs before:"
        yield from dry_run.describe(task.scoring)
    else:
        pairs = ScoreStore.of(task.scored.run, task.scored.identity).rows
        yield f"scores: {pairs:,} pairs, none is scored again: {task.scored.run.path}"
        yield from (f"  note: {name}: {note}" for name, notes in task.notes.items() for note in notes)
    labels = config.labels
    number = "the calibrated probability" if labels.by == "calibrated" else labels.score
    yield f"labels: 0 to {len(labels.cuts)} by {labels.by} {[*labels.cuts]} of {number}"
    yield f"partitions: {', '.join(task.partition_by) or 'none'}"


def look(storage: Storage, config: RelabelConfig) -> Task:
    """Look at the input and check the settings.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError: something is not there, or not as configured.
    """
    labels = config.labels
    if config.input.run is not None:
        scored = find_run(storage, config.input.run, config.storage, config.limits.max_attempts_per_chunk)
        scoring, plan, scores = scored.config, scored.plan, scored.identity
    else:
        scored = None
        shared = {name: getattr(config, name) for name in ("model", "cluster", "limits", "storage", "plan")}
        scoring = with_absolute_paths(
            RerankConfig(input=config.input.to_score(), output=OutputConfig(path=config.output.path), **shared)
        )
        plan = make_plan(storage, scoring)
        scoring = scoring.model_copy(update={"model": pin_model(scoring.model, scoring.storage)})
        scores = {"model": identity(plan, scoring)["model"], **input_identity(plan, scoring)}
    read = {f"input.{name}": getattr(scoring.input, name) for name in ("candidates", "queries", "corpus")}
    more = {"input.run": config.input.run, "labels.calibration.qrels": labels.calibration.qrels}
    check_output(config.output.path, {**read, **more})
    _check_columns(plan, labels)
    partition_by = _partition_by(plan, config)
    chosen = labels.calibration
    naming = Naming.of(chosen.columns, "qrels", "labels.calibration.columns")
    qrels = inspect_source(storage, chosen.qrels, "qrels", naming) if chosen.qrels else None
    if qrels is not None:
        check_used(naming.key, chosen.columns, {"qrels": (qrels.columns, qrels.names)})
    _check_judgements(storage, plan, labels.calibration, qrels)
    fitted = {**chosen.model_dump(exclude={"qrels"}), "files": files_identity(qrels) if qrels else None}
    return Task(
        config, scoring, plan, scored, qrels, partition_by,
        {
            "job": "relabel",
            "scores": scores,
            "run": scored.run.path if scored else None,
            "labels": {
                **labels.model_dump(exclude={"calibration"}),
                "calibration": fitted if labels.by == "calibrated" else None,
            },
            "partition_by": partition_by,
            "versions": {"labelling": LABELLING_VERSION},
        },
    )  # fmt: skip


def _check_columns(plan: Plan, labels: LabelsConfig) -> None:
    extras = plan.candidates.extras
    for place, name in (
        ("old_column", labels.old_column),
        ("calibration.label_column", labels.calibration.label_column),
    ):
        if name is None:
            continue
        kind = extras.field(name).type if name in extras.names else None
        if kind is None or not can_be_grades(kind):
            found = {field.name: str(field.type) for field in extras}
            raise ConfigurationError(
                f"labels.{place}: got {name!r}, expected an integer or boolean column; available: {found}"
            )
    clash = sorted(ADDED & {*extras.names} - {labels.old_column})
    if clash:
        raise ConfigurationError(
            f"{plan.candidates.url}: columns {clash} have a name that the output uses; rename them by input.columns, "
            "leave them out by input.drop_columns, or name the one with the labels until now in labels.old_column"
        )


def _check_judgements(storage: Storage, plan: Plan, chosen: CalibrationConfig, qrels: Source | None) -> None:
    """Refuse to calibrate by judgements of other queries, or by too few of either kind, before anything is scored.

    Raises:
        ConfigurationError, InputError: no calibration can be fitted to them, whatever the scores are.
    """
    of_each = 2 * chosen.min_labels  # to fit on, and as many held out
    if qrels is not None:
        key = "labels.calibration.qrels"
        warning = check_ids(storage, qrels, [plan.candidates], key, chosen.min_relevance)
        if warning:
            log.warning("%s", warning)
        check_grades(storage, qrels, key, chosen.min_relevance, of_each=of_each)
    elif chosen.label_column is not None:
        if plan.candidates.shape == "lists":
            raise ConfigurationError(
                f"labels.calibration.label_column: got {chosen.label_column!r} and candidates as lists, of which "
                "columns say something of the query, not of each document; expected candidates as pairs, or "
                "labels.calibration.qrels"
            )
        key, column = "labels.calibration.label_column", chosen.label_column
        check_grades(storage, plan.candidates, key, chosen.min_relevance, of_each=of_each, column=column)


def _check_columns_as_read(plan: Plan, labels: LabelsConfig) -> None:
    """The same check, of columns that the sample of the input did not show, or showed otherwise.

    Raises:
        InputError: a column is of another type, or has a name that the output uses.
    """
    try:
        _check_columns(plan, labels)
    except ConfigurationError as error:
        raise InputError(str(error)) from None


def _partition_by(plan: Plan, config: RelabelConfig) -> tuple[str, ...]:
    """The columns of the directories of labels/: those that are configured, or else those of the input."""
    available = [name for name in (*PAIR, *partitionable(plan.candidates.extras)) if name != config.labels.old_column]
    if config.output.partition_by is None:
        keys = dict.fromkeys(key for file in plan.candidates.files for key, _ in file.keys)
        return tuple(key for key in keys if key in available)
    if config.labels.old_column in config.output.partition_by:
        raise ConfigurationError(
            f"output.partition_by: got {config.labels.old_column!r}, which is labels.old_column; available: {available}"
        )
    check_partitions(plan, config.output.partition_by)
    return tuple(config.output.partition_by)


def _open(config: RelabelConfig) -> tuple[RelabelConfig, Versions]:
    config = _with_absolute_paths(config)
    storage = Storage(config.storage)
    versions = Versions(Run.at(storage, config.output.path, config.limits.max_attempts_per_chunk))
    versions.check()
    return config, versions


def _base(versions: Versions) -> str | None:
    current = versions.current()
    if current is None:
        return None
    if not _is_readable(versions, current.run):
        raise RunConflictError(
            f"output.path {versions.path}: its current run {current.run} was written by another release (tart-ray "
            f"{versions.manifest(current.run).get('tart_ray')}), whose scores and labels this one does not take over; "
            "go on with that release, or choose another output.path"
        )
    return current.run


def _nothing_to_do(versions: Versions, task: Task) -> bool:
    """Whether the current run is what is wanted, or a person has switched away from one that is."""
    current = versions.current()
    if current is None:
        return False
    if versions.is_at(current.run, task.identity):
        nothing_to_do(versions.run(current.run))
        return True
    left = next((id_ for id_ in versions.ids() if id_ in current.left and versions.is_at(id_, task.identity)), None)
    if left is not None:
        log.warning(
            "%s: this would be run %s again, which was switched away from: nothing to do. "
            "--output.switch_to %s makes it current", versions.path, left, left,
        )  # fmt: skip
    return left is not None


def _switch(versions: Versions, wanted: str, *, ends_process: bool) -> ExitCode:
    """Make another run current, as a person wants it."""
    _target(versions, wanted)  # or nothing is touched
    with stoppable(ends_process=ends_process) as stop, leased(versions.place, stop) as lease, stopped_by_signals(stop):
        target = _target(versions, wanted)
        current = versions.current()
        assert current is not None
        lease.confirm()
        left = {*current.left, current.run} if target < current.run else {*current.left}  # forward, nothing is left
        versions.switch(target, current, tuple(sorted(left - {target})))
    log.info("%s: the current run was %s, it is %s", versions.path, current.run, target)
    return ExitCode.DONE


def _target(versions: Versions, wanted: str) -> str:
    """The run that `output.switch_to` names.

    Raises:
        ConfigurationError: there is no such run, or it is not complete.
    """
    current: Current | None = versions.current()
    complete = [id_ for id_ in versions.ids() if versions.run(id_).is_complete()]
    base = versions.manifest(current.run)["identity"][BASE] if current else None
    target = base if wanted == PREVIOUS else wanted
    if current is None or target not in complete:
        told = "no run before the current one" if wanted == PREVIOUS and target is None else f"got {target!r}"
        raise ConfigurationError(f"output.switch_to: {told}; finished runs at {versions.path}: {complete}")
    return target


def _execute(
    task: Task, versions: Versions, run: Run, id_: str, base: str | None, lease: Lease, load: LoadScorer
) -> ExitCode:
    """All stages of a run that has begun."""
    clock, plan = Clock(), task.plan
    with clock.timed("prepare"):
        chunks_by = task.scored.config.output.partition_by if task.scored else task.partition_by
        prepared = prepare(run, plan, task.scoring.input.instruction, chunks_by)
        plan = prepared.plan
        _check_columns_as_read(plan, task.config.labels)
        judged = shuffle(run, task.qrels, "query_id", plan.query_buckets) if task.qrels is not None else {}
        work = _work(task, versions, run, id_, base, prepared)
        base_rows = run_stage(run, KNOWN, work.known, functools.partial(_spread_known, work))
        buckets = list(work.chunks)
        matched = run_stage(run, MATCHED, buckets, functools.partial(_match_bucket, work))
    with clock.timed("score"):
        scored: dict[str, Record] = {}
        if set(buckets) - set(run.committed(COLLECTED)):
            pending = [Chunk(*chunk) for record in matched.values() for chunk in record["chunks"]]
            scored = score(work.pending, _plan_of_pending(plan), task.scoring, pending, load)
        collect = functools.partial(_collect_bucket, work, matched, scored)
        collected = run_stage(run, COLLECTED, buckets, collect)
    with clock.timed("label"):
        fitted = _fit(work, buckets)
        labelled = run_stage(run, LABELS, buckets, functools.partial(_label_bucket, work))
    counts = reconcile(prepared, base_rows.values(), matched.values(), collected.values(), labelled.values())
    counts["quarantined_judgements"] = sum(record["quarantined"] for record in judged.values())
    report = _make_report(task, id_, base, counts, collected.values(), labelled.values(), fitted, clock.seconds)
    report["warnings"] = list(prepared.warnings)
    report["columns"] = prepared.columns
    summary = (
        "read {read:,} = labelled {labelled:,} (scored {scored:,}, scored before {reused:,}) + duplicates "
        "{duplicates:,} + quarantined {quarantined:,}; labels changed {changed:,}, new {new:,}, gone {gone:,}"
    )
    figures = {
        **{f"label {name}": pairs for name, pairs in report["labels"].items()},
        **{f"label {old} → {new}": pairs for old, new, pairs in report["flips"]},
        **{f"seconds: {stage}": seconds for stage, seconds in report["seconds"].items()},
        **as_figures(task.notes),
        **{f"column {line}": "" for line in prepared.columns},
    }
    if fitted:
        figures["Brier score, held out"] = round(fitted["held_out"]["brier"], 4)
    limits = task.config.limits
    return finish(
        run, lease, report, summary.format_map(counts), figures,
        allowed_bad=limits.max_quarantined_fraction,
        held=_too_many_changed(run, base, counts, limits.max_changed_fraction),
    )  # fmt: skip


def _work(task: Task, versions: Versions, run: Run, id_: str, base: str | None, prepared: Prepared) -> Work:
    """What units need to know.

    Raises:
        ReconciliationError: the input of the scored run gave other chunks than when it was scored.
    """
    chunks = {bucket: [chunk.id for chunk in found] for bucket, found in prepared.buckets.items()}
    scored_at = None
    if task.scored is not None:
        before = {bucket: [*found] for bucket, found in scored_chunks(task.scored.run, task.scored.identity).items()}
        if before != chunks:
            raise ReconciliationError(f"{task.scored.run.path}: its input was prepared again, and gave other chunks")
        scored_at = _moment(json.loads(versions.storage.read(task.scored.run.url(MANIFEST)))["created"])
    return Work(
        versions=versions,
        run=run,
        id=id_,
        base=base,
        began=_moment(versions.manifest(id_)["created"]),
        plan=prepared.plan,
        labels=task.config.labels,
        partition_by=task.partition_by,
        scored=task.scored,
        scored_at=scored_at,
        qrels=task.qrels,
        scored_with=json.dumps(task.identity["scores"]["model"], sort_keys=True).encode(),
        chunks=chunks,
        known=tuple(_known_units(versions, id_, base)),
    )


def _pending(run: Run) -> Run:
    return run.within(WORK, PENDING)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _is_readable(versions: Versions, id_: str) -> bool:
    """Whether this release wrote a run's files, or one that wrote them alike."""
    return bool(versions.manifest(id_)["identity"]["scores"].get("format_version") == FORMAT_VERSION)


def _known_units(versions: Versions, id_: str, base: str | None) -> Iterator[str]:
    """Tables with scores that may still hold: ``<run>.<kind>.<name>``.

    They are those of the current run, and those of others that did not become current: interrupted, held back or
    switched away from.
    """
    for other in sorted({*versions.ids(since=base), *([base] if base else [])}):  # a listing may lag
        if other == id_ or not _is_readable(versions, other):
            continue
        run = versions.run(other).opened()
        if run.is_complete():  # its buckets have all of its scores; their names do not depend on a listing
            buckets = versions.manifest(other)["identity"]["scores"]["plan"]["query_buckets"]
            yield from (f"{other}.bucket.{unit_name(bucket)}" for bucket in range(buckets))
            continue
        yield from (f"{other}.bucket.{bucket}" for bucket in run.committed(LABELS))
        pending = _pending(run)
        there = {*pending.storage.names(pending.url("scores"))}  # a kill may have come while they were removed
        yield from (
            f"{other}.chunk.{chunk}"
            for chunk, record in pending.committed(SCORING).items()
            if record["rows"] and f"{chunk}.parquet" in there
        )


def _spread_known(work: Work, unit: str) -> Record:
    """Scores of an earlier run, sent to this run's buckets of queries: it may have had another number of them."""
    other, kind, name = unit.split(".")
    run, is_base = work.versions.run(other).opened(), other == work.base
    if kind == "bucket":
        rows = _read(run, "scores", f"{name}.parquet")
    else:
        scores = _read(_pending(run), "scores", f"{name}.parquet")
        rows = _scored_by(scores, other, _moment(work.versions.manifest(other)["created"]))
        rows = rows.append_column(LABEL, pa.nulls(len(rows), LABEL.type))
    rows = rows.append_column("is_base", pa.repeat(pa.scalar(is_base), len(rows))).select(KNOWN_SCHEMA.names)
    rows = rows.cast(KNOWN_SCHEMA)
    buckets = work.plan.query_buckets
    fragment = encode_fragment(rows, bucket_of(rows["query_id"], buckets), buckets)
    work.run.write(fragment, *fragment_path(KNOWN, unit))
    return {"rows": len(rows), "of_base": len(rows) if is_base else 0}


def _known(work: Work, unit: str) -> pa.Table:
    """What earlier runs know of one bucket of queries: `KNOWN_SCHEMA`, rows of the current run first."""
    fragments = [fragment_url(work.run, KNOWN, known) for known in work.known]
    return read_bucket(work.run.storage, fragments, int(unit), KNOWN_SCHEMA).sort_by([("is_base", "descending")])


def _match_bucket(work: Work, unit: str) -> Record:
    """Find the pairs of one bucket whose score holds; the others become chunks to score.

    Whatever is joined with them later, the rows here are those of the label set, without their texts.
    """
    tables = [read_chunk(work.run, chunk) for chunk in work.chunks[unit]]
    if not tables:
        return {"rows": 0, "reused": 0, "quarantined": 0, "chunks": []}
    quarantine = Quarantine(SCORE)
    rows = pa.concat_tables(tables).unify_dictionaries()
    rows = quarantine.sift(work.plan.candidates, rows, list(partition_rules(rows, work.partition_by)))
    rows = rows.append_column(CONTENT, content_keys(rows, work.scored_with))
    known = _known(work, unit) if work.scored is None else _scores_of(work, work.scored, unit, rows)
    at = positions(rows, known, (*PAIR, CONTENT.name))
    if work.scored is not None:
        told = f"has no score in {work.scored.run.path}; its quarantine says why"
        rows, at = quarantine.sift(work.plan.candidates, rows, [(at < 0, told)]), at[at >= 0]
    parts = cut(rows.filter(pa.array(at < 0)), work.plan.pairs_per_chunk)
    chunks = [(f"{unit}-{unit_name(index)}", part) for index, part in enumerate(parts)]
    for name, part in chunks:
        write_chunk(work.pending, name, part)
    texts = [name for name in ("query", "text", "title", *ORIGIN.names) if name in rows.schema.names]
    matched = rows.drop_columns(texts)
    taken = known.take(pa.array(at, mask=at < 0))
    for field in RESULT:
        matched = matched.append_column(field, taken[field.name])
    work.run.write_table(matched, WORK, MATCHED, f"{unit}.parquet")
    return {
        "rows": len(rows),
        "reused": int((at >= 0).sum()),
        "quarantined": work.run.write_quarantine(quarantine, MATCHED, unit),
        "chunks": [[name, len(part)] for name, part in chunks],
    }


def _scores_of(work: Work, scored: Scored, unit: str, rows: pa.Table) -> pa.Table:
    """The scores of a finished jobs.rerank for the rows of one bucket, whose texts are those that it scored."""
    urls = [scored.run.url("scores", f"{chunk}.parquet") for chunk in work.chunks[unit]]
    files = [url for url in urls if scored.run.storage.exists(url)]  # a chunk without any good row has none
    tables = [read_parquet(file) for file in scored.run.storage.read_many(files)]
    scores = pa.concat_tables([scores_schema(scored.plan).empty_table(), *tables])
    at = positions(scores, rows, PAIR)
    found = scores.filter(pa.array(at >= 0)).append_column(CONTENT, rows["content"].take(pa.array(at[at >= 0])))
    assert work.scored_at is not None
    return _scored_by(found, scored.run.path, work.scored_at)


def _scored_by(scores: pa.Table, run: str, began: datetime) -> pa.Table:
    for field, value in ((SCORED_BY, run), (SCORED_AT, began)):
        scores = scores.append_column(field, pa.repeat(pa.scalar(value, field.type), len(scores)))
    return scores


def _plan_of_pending(plan: Plan) -> Plan:
    """The plan with the columns that scores of pending pairs carry: what they are the scores of, and nothing else."""
    return dataclasses.replace(plan, candidates=dataclasses.replace(plan.candidates, extras=pa.schema([CONTENT])))


def _collect_bucket(work: Work, matched: Mapping[str, Record], scored: Mapping[str, Record], unit: str) -> Record:
    """All scores of one bucket, old and new, and what thresholds or a calibration are found from."""
    chunks = [chunk for chunk, _ in matched[unit]["chunks"]]
    records = [scored[chunk] for chunk in chunks]
    for chunk, record in zip(chunks, records, strict=True):
        if record["quarantined"]:
            name = f"{SCORING}-{chunk}.parquet"
            work.run.write(work.run.storage.read(work.pending.url("quarantine", name)), "quarantine", name)
    quarantined = sum(record["quarantined"] for record in records)
    told = {
        name: sum(record[name] for record in records) for name in ("truncated", "tokens", "padded_tokens", "seconds")
    }
    if not matched[unit]["rows"]:
        return {"rows": 0, "scored": 0, "quarantined": quarantined, **told}
    rows = _read(work.run, WORK, MATCHED, f"{unit}.parquet")
    fresh = [
        _read(work.pending, "scores", f"{chunk}.parquet")
        for chunk, record in zip(chunks, records, strict=True)
        if record["rows"]
    ]
    if fresh:
        new = _scored_by(pa.concat_tables(fresh), work.id, work.began)
        at = positions(rows, new, PAIR)
        taken = new.take(pa.array(at, mask=at < 0))
        for field in RESULT:
            index = rows.schema.get_field_index(field.name)
            rows = rows.set_column(index, field, pc.coalesce(rows[field.name], taken[field.name]))
    rows = rows.filter(pc.is_valid(rows["margin"]))
    work.run.write_table(rows, WORK, COLLECTED, f"{unit}.parquet")
    return {
        "rows": len(rows),
        "scored": sum(record["rows"] for record in records),
        "quarantined": quarantined,
        **told,
    }


def _fit(work: Work, buckets: list[str]) -> dict[str, Any] | None:
    """Find what the labelling needs to know of all pairs together; what the report says of it."""
    run = work.run
    if work.labels.by == "quantiles":
        run_stage(run, COUNTED, buckets, functools.partial(_count_bucket, work, COUNTED))
        run_stage(run, PLACED, [ALL], lambda _: _place_quantiles(work, buckets))
        run_stage(run, RECOUNTED, buckets, functools.partial(_count_bucket, work, RECOUNTED))
        run_stage(run, THRESHOLDS, [ALL], lambda _: _write_thresholds(work, buckets))
    if work.labels.by == "calibrated":
        run_stage(run, SAMPLED, buckets, functools.partial(_sample_bucket, work))
        return run_stage(run, CALIBRATED, [ALL], lambda _: _calibrate(work, buckets))[ALL]
    return None


def _count_bucket(work: Work, stage: str, unit: str) -> Record:
    """The numbers of one bucket, counted: their upper halves first, then the whole ones near the quantiles."""
    places = _read(work.run, WORK, f"{PLACED}.parquet") if stage == RECOUNTED else None
    counts = count_parts(_collected(work, unit), work.labels.score, places)
    work.run.write_table(counts, WORK, stage, f"{unit}.parquet")
    return {"counted": len(counts)}


def _place_quantiles(work: Work, buckets: Sequence[str]) -> Record:
    """Where the quantiles of each instruction lie."""
    counts = add_counts(_read(work.run, WORK, COUNTED, f"{unit}.parquet") for unit in buckets)
    places = find_places(counts, work.labels.cuts)
    work.run.write_table(places, WORK, f"{PLACED}.parquet")
    return {"instructions": len(places)}


def _write_thresholds(work: Work, buckets: Sequence[str]) -> Record:
    counts = add_counts(_read(work.run, WORK, RECOUNTED, f"{unit}.parquet") for unit in buckets)
    found = thresholds_at(_read(work.run, WORK, f"{PLACED}.parquet"), counts)
    work.run.write_table(found, "thresholds.parquet")
    return {"instructions": len(found)}


def _calibrate(work: Work, buckets: Sequence[str]) -> Record:
    """Fit a calibration to the labelled pairs of some queries, and assess it on those of the others."""
    config = work.labels.calibration
    sample = pa.concat_tables([_read(work.run, WORK, SAMPLED, f"{unit}.parquet") for unit in buckets])
    score, margin = (np.asarray(sample[name].to_numpy(), np.float64) for name in ("score", "margin"))
    relevant, held_out = (
        np.asarray(sample[name].to_numpy(zero_copy_only=False), bool) for name in ("relevant", "held_out")
    )
    try:
        calibration.check_labels(relevant[~held_out], config.min_labels, "to fit on")
        calibration.check_labels(relevant[held_out], config.min_labels, "held out")
        found = calibration.fit(config.method, margin[~held_out], relevant[~held_out])
    except CalibrationError as error:
        raise InputError(str(error)) from error
    probability = found.probability(margin)
    assessed = {
        "fitted": (probability, ~held_out),
        "held_out": (probability, held_out),
        "held_out_uncalibrated": (score, held_out),
    }
    return {
        "calibration": dataclasses.asdict(found),
        **{
            name: {
                "pairs": int(rows.sum()),
                "relevant": int(relevant[rows].sum()),
                **calibration.assess(numbers[rows], relevant[rows]),
            }
            for name, (numbers, rows) in assessed.items()
        },
    }


def _sample_bucket(work: Work, unit: str) -> Record:
    """``margin, score, relevant, held_out`` of the pairs of one bucket whose relevance is known."""
    config, rows = work.labels.calibration, _collected(work, unit)
    if work.qrels is None:
        assert config.label_column is not None
        try:
            relevance = grades(config.label_column, rows[config.label_column])
        except ValueError as error:
            raise InputError(f"labels.calibration.label_column: {error}") from error
    else:
        judged = read_shuffled(work.run, work.qrels, int(unit))
        at = positions(rows, judged, PAIR)
        relevance = judged["relevance"].take(pa.array(at, mask=at < 0))
    rows = rows.select([*PAIR, "margin", "score"]).append_column("relevance", relevance)
    rows = rows.filter(pc.is_valid(rows["relevance"]))
    held_out = random_keys(config.seed, rows["query_id"], rows["query_id"]) < config.held_out_fraction
    relevant = pc.greater_equal(rows["relevance"], config.min_relevance)
    sample = rows.select(["margin", "score"]).append_column("relevant", relevant)
    sample = sample.append_column("held_out", pa.array(held_out))
    work.run.write_table(sample, WORK, SAMPLED, f"{unit}.parquet")
    return {"labelled": len(sample)}


def _labelling(work: Work) -> Labelling:
    """How scores become labels, once everything for it is found."""
    labels = work.labels
    if labels.by == "quantiles":
        table = _read(work.run, "thresholds.parquet")
        found = zip(table["instruction"].to_pylist(), table["thresholds"].to_pylist(), strict=True)
        return Labelling(labels.score, (), {instruction: tuple(cuts) for instruction, cuts in found})
    if labels.by == "calibrated":
        fitted = work.run.records(CALIBRATED, [ALL])[ALL]["calibration"]
        return Labelling("margin", labels.cuts, calibration=Calibration(**fitted))
    return Labelling(labels.score, labels.cuts)


def _label_bucket(work: Work, unit: str) -> Record:
    """Label the pairs of one bucket, compare with the labels until now, and write all three."""
    known = _known(work, unit)
    base = known.filter(known["is_base"]).select(LABELLED.names)
    rows = _collected(work, unit)
    if work.labels.old_column is not None:
        rows = rows.rename_columns({work.labels.old_column: GIVEN})  # it may be called label
    rows = label(rows, _labelling(work))
    given = _given_labels(work, rows, base)
    compared = diff(pa.concat_tables([base, given]), rows.select(LABELLED.names))
    rows = rows.append_column(OLD_LABEL, compared.old_labels)
    extras = [field.name for field in work.extras]
    stored = [*SCORES.names, CONTENT.name, SCORED_BY.name, SCORED_AT.name, LABEL.name, *extras]
    work.run.write_table(rows.select(stored), "scores", f"{unit}.parquet")
    numbers = [name for name in ("score", "margin", PROBABILITY.name, THRESHOLD.name) if name in rows.schema.names]
    shown = [*PAIR, LABEL.name, OLD_LABEL.name, *numbers, "instruction", SCORED_BY.name, SCORED_AT.name, *extras]
    for folder, part in partitions(rows.select(shown), work.partition_by):
        if len(part):
            work.run.write_table(part, "labels", *folder, f"{unit}.parquet")
    if len(compared.rows):
        work.run.write_table(compared.rows, "diff", f"{unit}.parquet")
    return {
        "rows": len(rows),
        "given": len(given),
        "labels": Counter(map(str, rows[LABEL.name].to_pylist())),
        "flips": [[*pair, pairs] for pair, pairs in compared.flips.items()],
        **compared.counts,
    }


def _given_labels(work: Work, rows: pa.Table, base: pa.Table) -> pa.Table:
    """The labels that the candidates bring, of pairs that the current run has none for: `LABELLED`.

    Raises:
        InputError: they are no grades.
    """
    name = work.labels.old_column
    if name is None:
        return LABELLED.empty_table()
    found = rows.filter(pa.array(positions(rows, base, PAIR) < 0)).filter(pc.is_valid(pc.field(GIVEN)))
    if pa.types.is_floating(found[GIVEN].type):
        found = found.filter(pc.invert(pc.is_nan(pc.field(GIVEN))))
    values = pc.unique(found[GIVEN])
    if len(values) > MAX_OLD_LABELS:
        raise InputError(f"labels.old_column {name!r}: got {len(values):,} different values, expected grades")
    try:
        labels = grades(name, found[GIVEN]).cast(pa.int32())
    except ValueError as error:
        raise InputError(f"labels.old_column: {error}") from error
    columns = {"label": labels, "margin": pa.nulls(len(found)), "content": pa.nulls(len(found))}
    return pa.table({**{key: found[key] for key in PAIR}, **columns}).cast(LABELLED)


def _collected(work: Work, unit: str) -> pa.Table:
    """All scores of one bucket, with their content keys and provenance; a bucket may be empty."""
    url = work.run.url(WORK, COLLECTED, f"{unit}.parquet")
    if not work.run.storage.exists(url):
        return pa.schema([*scores_schema(work.plan), CONTENT, SCORED_BY, SCORED_AT]).empty_table()
    return _read(work.run, WORK, COLLECTED, f"{unit}.parquet")


def _read(run: Run, *parts: str) -> pa.Table:
    return read_parquet(run.storage.read(run.url(*parts)))


def reconcile(
    prepared: Prepared,
    known: Iterable[Record],
    matched: Iterable[Record],
    collected: Iterable[Record],
    labelled: Iterable[Record],
) -> dict[str, int]:
    """Counts of rows, after every row of the input and every old label is accounted for.

    Raises:
        ReconciliationError: one is not.
    """
    matched, collected, labelled = list(matched), list(collected), list(labelled)
    old = sum(record["of_base"] for record in known) + sum(record["given"] for record in labelled)
    counts = {
        "read": prepared.read,
        "labelled": sum(record["rows"] for record in labelled),
        "scored": sum(record["scored"] for record in collected),
        "reused": sum(record["reused"] for record in matched),
        "duplicates": prepared.duplicates,
        "quarantined": prepared.quarantined + sum(record["quarantined"] for record in (*matched, *collected)),
        "old": old,
        **{name: sum(record[name] for record in labelled) for name in ("unchanged", "changed", "new", "gone")},
    }
    if counts["read"] != counts["labelled"] + counts["duplicates"] + counts["quarantined"]:
        raise ReconciliationError(f"read ≠ labelled + duplicates + quarantined: {counts}")
    if counts["labelled"] != counts["scored"] + counts["reused"]:
        raise ReconciliationError(f"labelled ≠ scored + reused: {counts}")
    if counts["labelled"] != counts["unchanged"] + counts["changed"] + counts["new"]:
        raise ReconciliationError(f"labelled ≠ unchanged + changed + new: {counts}")
    if old != counts["unchanged"] + counts["changed"] + counts["gone"]:
        raise ReconciliationError(f"old labels ≠ unchanged + changed + gone: {counts}")
    return counts | {
        "quarantined_queries_and_documents": prepared.other_quarantined,
        "duplicate_documents_in_corpus": prepared.corpus_duplicates,
        "duplicate_queries": prepared.query_duplicates,
    }


def _too_many_changed(run: Run, base: str | None, counts: Mapping[str, int], allowed: float) -> str | None:
    """Why this run must not become current by itself; None if it may."""
    moved = counts["changed"] + counts["gone"]
    if moved <= allowed * counts["old"]:
        return None
    return (
        f"{moved:,} of {counts['old']:,} labels changed or are gone, more than limits.max_changed_fraction {allowed} "
        f"allows: see {run.url('diff')}; the current run stays {base or 'none'}"
    )


def _make_report(
    task: Task,
    id_: str,
    base: str | None,
    counts: Mapping[str, int],
    collected: Iterable[Record],
    labelled: Iterable[Record],
    fitted: Mapping[str, Any] | None,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """What ``report.json`` says."""
    labels: Counter[str] = Counter()
    flips: Counter[tuple[int, int]] = Counter()
    for record in labelled:
        labels.update(record["labels"])
        flips.update({(old, new): pairs for old, new, pairs in record["flips"]})
    collected = list(collected)
    told = {name: sum(record[name] for record in collected) for name in ("tokens", "padded_tokens", "seconds")}
    return {
        "job": "relabel",
        "tart_ray": tart_ray.__version__,
        "run": id_,
        "base": base,
        "counts": dict(counts),
        "labels": {name: labels[name] for name in sorted(labels, key=int)},
        "flips": sorted([old, new, pairs] for (old, new), pairs in flips.items()),
        "model": task.identity["scores"]["model"],
        "calibration": fitted,
        "tokens": told["tokens"],
        "padding": 1 - told["tokens"] / told["padded_tokens"] if told["padded_tokens"] else 0.0,
        "replica_seconds": told["seconds"],
        "seconds": dict(seconds),
        "notes": task.notes,
        "config": task.config.model_dump(mode="json"),
    }


def _with_absolute_paths(config: RelabelConfig) -> RelabelConfig:
    """Local paths made absolute: workers have working directories of their own."""
    run = config.input.model_copy(update={"run": absolute(config.input.run)} if config.input.run else {})
    chosen = config.labels.calibration
    chosen = chosen.model_copy(update={"qrels": absolute(chosen.qrels)} if chosen.qrels else {})
    labels = config.labels.model_copy(update={"calibration": chosen})
    output = config.output.model_copy(update={"path": absolute(config.output.path)})
    return config.model_copy(update={"input": run, "labels": labels, "output": output})
