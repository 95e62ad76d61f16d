"""jobs.relabel from its configuration to its exit code: prepare, score what changed, label, compare, switch.

Every run is a version of the labels, complete in itself (`tart_ray.runs.versions`). Its scores hold a key of what each
pair was when it was scored, so the next run finds out which pairs still are what they were.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tart_ray.config import RelabelConfig, StorageConfig
from tart_ray.config.paths import check_output, input_paths, with_absolute_paths
from tart_ray.engine.cluster import room_for_replicas
from tart_ray.engine.outcome import Outcome
from tart_ray.engine.session import Needs, Session, at_work, nothing_to_do, tell
from tart_ray.engine.stopping import leased, stoppable, stopped_by_signals
from tart_ray.errors import ConfigurationError, ExitCode, RunConflictError, RunFailedError, StorageError
from tart_ray.input.sources import Source, notes_of
from tart_ray.locations import absolute
from tart_ray.relabeling import stages
from tart_ray.relabeling.checks import check_columns, check_columns_as_read, choose_partitions, find_judgements
from tart_ray.relabeling.known import Provenance
from tart_ray.relabeling.labels import LABELLING_VERSION
from tart_ray.relabeling.stages_labels import fit, label_pairs
from tart_ray.relabeling.stages_outcome import Done, too_many_changed
from tart_ray.runs.directory import MANIFEST, Directory
from tart_ray.runs.run import Run
from tart_ray.runs.stage import total
from tart_ray.runs.versions import BASE, Versions
from tart_ray.scores import estimate
from tart_ray.scores.plan import Plan, check_partitions, files_identity, make_plan
from tart_ray.scores.prepare import prepare, shuffle
from tart_ray.scores.replica import LoadScorer, load_scorer
from tart_ray.scores.spec import ScoringSpec
from tart_ray.scores.store import StoredRun, find_run, prepare_again
from tart_ray.storage import Storage
from tart_ray.tables.schemas import WINDOWS

log = logging.getLogger(__name__)

WITHOUT_WINDOWS = f"of long documents, {', '.join(WINDOWS.names)} are not carried into scores/ and labels/"
PREVIOUS = "previous"  # of output.switch_to
MEND = "what is scored stays: mend the input or the configuration, and give the same output.path"


@dataclass(frozen=True)
class Task:
    """What is labelled, and how, checked.

    Attributes:
        spec: by which pairs are scored that no run has scored, or ``stored``, the run whose scores are taken over.
    """

    config: RelabelConfig
    plan: Plan
    spec: ScoringSpec | None
    stored: StoredRun | None
    qrels: Source | None
    partition_by: tuple[str, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for a rerun to continue a run, beside the run that it builds upon."""
        labels, files = self.config.labels, files_identity(self.qrels) if self.qrels else None
        fitted = labels.calibration.model_dump(exclude={"qrels"}) | {"files": files}
        return {
            "job": "relabel",
            "scores": self.scores,
            "run": self.stored.run.path if self.stored else None,
            "labels": {
                **labels.model_dump(exclude={"calibration"}),
                "calibration": fitted if labels.by == "calibrated" else None,
            },
            "partition_by": self.partition_by,
            "versions": {"labelling": LABELLING_VERSION},
        }

    @property
    def scores(self) -> Mapping[str, Any]:
        """The identity of the scores."""
        if self.stored is not None:
            return self.stored.identity
        assert self.spec is not None
        return {"model": self.spec.identity, **self.plan.identity}

    @property
    def notes(self) -> dict[str, list[str]]:
        """What is left out or changed of what is read."""
        notes = notes_of({**self.plan.sources, **({"qrels": self.qrels} if self.qrels else {})})
        return notes | ({"scores": [WITHOUT_WINDOWS]} if self.plan.windows else {})

    @property
    def needs(self) -> Needs:
        """What the job needs of its cluster."""
        reads = {
            **self.plan.reads,
            "model.path": [self.spec.model.path] if self.spec else [],
            "input.run": [self.stored.run.url(MANIFEST)] if self.stored else [],
            "labels.calibration.qrels": [file.url for file in self.qrels.files] if self.qrels else [],
        }
        cluster = self.config.cluster
        return Needs(cluster.address, room_for_replicas(cluster) if self.spec else None, reads)


def look(storage: Storage, config: RelabelConfig) -> Task:
    """Look at the input and the model, and check the settings.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError: something is not there, or not as configured.
    """
    given, output, calibration = config.input, config.output.path, config.labels.calibration
    check_output(output, {**input_paths(given), "input.run": given.run, "labels.calibration.qrels": calibration.qrels})
    spec = stored = None
    if given.run is not None:
        stored = find_run(storage, given.run, config.storage, config.limits.max_attempts_per_chunk)
        plan = stored.plan
        check_output(output, input_paths(plan.input))
    else:
        plan = make_plan(storage, given.to_score(), windows=config.model.long_documents == "maxp")
        spec = ScoringSpec.resolve(config.model, config.cluster, config.limits, config.storage, plan.input)
    check_columns(plan.candidates, config.labels)
    partition_by = choose_partitions(plan.candidates, config)
    check_partitions(plan, config.output.partition_by or ())
    qrels = find_judgements(storage, plan.candidates, calibration)
    return Task(config, plan, spec, stored, qrels, partition_by)


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
    with at_work(versions.place, task.needs, ends_process=ends_process) as session:
        if _nothing_to_do(versions, task):  # by another driver, meanwhile
            return ExitCode.DONE
        before, base = versions.current(), _base(versions)
        id_ = versions.id_of(task.identity, base)
        with session.begun(versions.run(id_), {**task.identity, BASE: base}, config, mend=MEND) as run:
            if run.is_complete():
                code = nothing_to_do(run)
            else:
                code = session.finish(run, _execute(task, versions, run, id_, base, session, load))
        if code == ExitCode.DONE:
            session.lease.confirm()
            try:
                versions.switch(id_, before)
            except (StorageError, RunConflictError) as error:
                raise RunFailedError(f"run {id_} is done, and could not be made the current one: {error}") from error
            log.info("%s: the current run is %s", versions.path, id_)
        return code


def newest_run(path: str, storage: StorageConfig) -> str:
    """The directory of the run that began last, whether it is the current one or not."""
    versions = Versions(Directory.at(Storage(storage), absolute(path), 1))
    return versions.run(versions.ids()[-1]).path


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
    if task.spec is not None:
        yield "pairs, of which those are scored that changed since the runs before:"
        yield from estimate.describe(versions.storage, task.plan, task.spec, config.plan)
    if task.stored is not None:
        yield f"scores: {task.stored.store.rows:,} pairs, none is scored again: {task.stored.run.path}"
        yield from (f"  note: {name}: {note}" for name, notes in task.notes.items() for note in notes)
    elif task.plan.windows:
        yield f"  note: {WITHOUT_WINDOWS}"
    labels = config.labels
    number = "the calibrated probability" if labels.by == "calibrated" else labels.score
    yield f"labels: 0 to {len(labels.cuts)} by {labels.by} {[*labels.cuts]} of {number}"
    yield f"partitions: {', '.join(task.partition_by) or 'none'}"


def _open(config: RelabelConfig) -> tuple[RelabelConfig, Versions]:
    config = with_absolute_paths(config)
    place = Directory.at(Storage(config.storage), config.output.path, config.limits.max_attempts_per_chunk)
    versions = Versions(place)
    versions.check()
    return config, versions


def _base(versions: Versions) -> str | None:
    """The id of the current run, which the next one builds upon.

    Raises:
        RunConflictError: another release wrote it.
    """
    current = versions.current()
    if current is None:
        return None
    if not stages.is_readable(versions, current.run):
        release = versions.run(current.run).read_manifest().get("tart_ray")
        raise RunConflictError(
            f"output.path {versions.path}: its current run {current.run} was written by another release (tart-ray "
            f"{release}), whose scores and labels this one does not take over; "
            "go on with that release, or choose another output.path"
        )
    return current.run


def _nothing_to_do(versions: Versions, task: Task) -> bool:
    """Whether the current run is what is wanted, or a person has switched away from one that is."""
    current, identity = versions.current(), task.identity
    if current is None:
        return False
    if versions.is_at(current.run, identity):
        nothing_to_do(versions.run(current.run))
        return True
    left = next((id_ for id_ in versions.ids() if id_ in current.left and versions.is_at(id_, identity)), None)
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
    current = versions.current()
    complete = [id_ for id_ in versions.ids() if versions.run(id_).is_complete()]
    base: str | None = versions.run(current.run).read_manifest()["identity"][BASE] if current else None
    target = base if wanted == PREVIOUS else wanted
    if current is None or target not in complete:
        problem = "no run before the current one" if wanted == PREVIOUS and target is None else f"got {target!r}"
        raise ConfigurationError(f"output.switch_to: {problem}; finished runs at {versions.path}: {complete}")
    return target


def _execute(
    task: Task, versions: Versions, run: Run, id_: str, base: str | None, session: Session, load: LoadScorer
) -> Outcome:
    """All stages of a run that has begun."""
    config, stored = task.config, task.stored
    with session.timed("prepare"):
        if stored is None:
            prepared = prepare(run, task.plan, task.partition_by, task.spec)
        else:
            prepared = prepare_again(run, task.plan, stored.partition_by, stored.store)
        check_columns_as_read(prepared.plan.candidates, config.labels)
        judged = shuffle(run, task.qrels, "query_id", prepared.plan.query_buckets) if task.qrels else {}
        work = stages.Work(
            versions=versions,
            run=run,
            base=base,
            plan=prepared.plan,
            labels=config.labels,
            partition_by=task.partition_by,
            stored=stored,
            stored_by=Provenance.of(stored.run.path, stored.run.read_manifest()["created"]) if stored else None,
            scored_by=Provenance.of(id_, run.read_manifest()["created"]),
            scored_with=json.dumps(task.scores["model"], sort_keys=True).encode(),
            qrels=task.qrels,
            chunks=prepared.buckets,
            known=tuple(stages.known_tables(versions, id_, base)),
        )
        spread = stages.spread_known(work)
        matched = stages.match_pairs(work)
    with session.timed("score"):
        collected = stages.collect_scores(work, matched, stages.score_pending(work, matched, task.spec, load))
    with session.timed("label"):
        calibrated = fit(work)
        labelled = label_pairs(work)
    bad_judgements = total(judged.values(), "quarantined")
    done = Done(
        prepared,
        spread,
        matched,
        collected,
        labelled,
        calibrated,
        bad_judgements,
        stages.report_encoder(work, collected),
    )
    return make_outcome(task, run, id_, base, done)


def make_outcome(task: Task, run: Run, id_: str, base: str | None, done: Done) -> Outcome:
    """Counts of rows, after every one of them is accounted for, and what the report says."""
    model = task.stored.model if task.stored else task.config.model.path
    instruction = task.plan.input.instruction
    under = f", under the instruction “{instruction}” where a row has none of its own" if instruction else ""
    return Outcome(
        "relabel",
        task.config,
        done.counts,
        done.balances,
        report={"run": id_, "base": base, "model": task.scores["model"], **done.report},
        told=[f"{model} gave the scores{under}.", done.told],
        figures=done.figures,
        facts=done.facts,
        notes=task.notes,
        warnings=[*done.prepared.warnings, *done.encoder.warnings],
        held=too_many_changed(run, base, done.counts, task.config.limits.max_changed_fraction),
    )
