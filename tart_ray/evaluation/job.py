"""jobs.evaluate from its configuration to its exit code: find candidates, score them all in one store, measure, report.

    retrieve    BM25 of a corpus or of a pool's corpora          runs of first stages
    collect     a task: queries, judgements, first stages        candidates/, documents/
    (score)     all tasks, one score store                       scoring/
    spread      a bucket of the store                            the scored pairs of each part of a task
    measure     a part of a task's queries                       values, runs
    summarise   a task                                           per_query/, runs/, its part of metrics.json

Tasks whose scores are there already are measured from the score store of their runs.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tart_ray.config import EvaluateConfig, InputConfig
from tart_ray.config.paths import BM25, check_output, with_absolute_paths
from tart_ray.engine.cluster import room_for_replicas
from tart_ray.engine.outcome import Outcome
from tart_ray.engine.session import Needs, Session, at_work, nothing_to_do, tell
from tart_ray.errors import ConfigurationError, ExitCode
from tart_ray.evaluation import summary
from tart_ray.evaluation.datasets import find_tasks
from tart_ray.evaluation.matching import check_matches
from tart_ray.evaluation.measuring import EVALUATION_VERSION
from tart_ray.evaluation.notes import notes_after, notes_before
from tart_ray.evaluation.protocols import hold_to_protocol
from tart_ray.evaluation.stages import Work, retrieve
from tart_ray.evaluation.stages_collect import CANDIDATES, CORPUS, Collected, collect, files_to_score
from tart_ray.evaluation.stages_measure import Measured, measure_parts, summarise
from tart_ray.evaluation.tasks import Task
from tart_ray.reports.figures import Table
from tart_ray.reports.pictures import draw
from tart_ray.runs.balance import Balance
from tart_ray.runs.directory import MANIFEST
from tart_ray.runs.run import Run
from tart_ray.runs.stage import total
from tart_ray.scores.estimate import cost
from tart_ray.scores.plan import FORMAT_VERSION, files_identity, make_plan
from tart_ray.scores.replica import LoadScorer, load_scorer
from tart_ray.scores.spec import ScoringSpec
from tart_ray.scores.store import ScoreStore, open_finished
from tart_ray.scores.within import score_within
from tart_ray.storage import Storage, join_url
from tart_ray.tables.printing import aligned

SCORING = "scoring"  # under output.path: the run that scores
PAIRS_PER_PART = 200_000
MAX_PARTS = 64  # of a task
NOTHING_SCORED = {"read": 0, "scored": 0, "duplicates": 0, "quarantined": 0}


@dataclass(frozen=True)
class Plan:
    """What is evaluated, checked.

    Attributes:
        spec: how pairs are scored; None where the scores of all tasks are there.
        identity: what must be equal for a rerun to continue a run.
    """

    config: EvaluateConfig
    run: Run
    work: Work
    spec: ScoringSpec | None
    identity: Mapping[str, Any]

    @property
    def scoring(self) -> Run:
        """The run that scores."""
        return Run.at(self.run.storage, self.run.url(SCORING), self.run.max_attempts)

    @property
    def needs(self) -> Needs:
        """What the job needs of its cluster."""
        cluster = self.config.cluster
        reads = {f"input.tasks: {name}": _files_of(task) for name, task in self.work.tasks.items()}
        model = {"model.path": [self.config.model.path]}
        return Needs(cluster.address, room_for_replicas(cluster) if self.spec else None, reads | model)


def evaluate(config: EvaluateConfig, *, load: LoadScorer = load_scorer, ends_process: bool = False) -> ExitCode:
    """Run the job; a rerun of the same configuration continues where an earlier one stopped.

    Args:
        ends_process: as of `rerank`.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError, RunConflictError: before any work.
        RunFailedError: the run began and could not end.
    """
    plan = look(config)
    run = plan.run
    tell({name: task.all_notes for name, task in plan.work.tasks.items()})
    if run.check(plan.identity) and run.is_complete():
        return nothing_to_do(run)
    with (
        at_work(run, plan.needs, ends_process=ends_process) as session,
        session.begun(run, plan.identity, plan.config) as run,
    ):
        if run.is_complete():  # by another driver, meanwhile
            return nothing_to_do(run)
        return _execute(session, plan, run, load)


def _files_of(task: Task) -> list[str]:
    """What workers read of a task."""
    files = [*(file for source in task.sources.values() for file in source.files), *task.answers]
    return [*(file.url for file in files), *(join_url(path, MANIFEST) for path in task.scores)]


def describe(config: EvaluateConfig) -> Iterator[str]:
    """Lines that say what the job would do.

    Raises:
        the errors of `evaluate`, for the same reasons.
    """
    plan = look(config)
    config, work = plan.config, plan.work
    for task in work.tasks.values():
        stage = "that of its scores" if not task.has_own_first_stage else task.first_stage and task.first_stage.url
        yield (
            f"{task.name}: {task.kind}, about {task.corpus.rows:,} documents, {task.queries.rows:,} queries; "
            f"{', '.join(task.setups)}; first stage {stage or BM25}; measures {', '.join(task.measures)}"
        )
        yield from (f"  note: {note}" for note in notes_before(task))
        if task.scores:
            yield f"  scores that are there: {', '.join(task.scores)}"
            continue
        for variant in task.variants:
            of_query = variant.column and f"each query's {variant.column}"
            yield f"  {variant.name}: {variant.instruction or of_query or 'no instruction'}"
    if plan.spec is None:
        return
    pairs = sum(task.pairs for task in work.scored_here)
    yield f"pairs to score: at most about {pairs:,}; queries without a judgement are left out"
    if config.model.long_documents == "maxp":
        yield "windows: not counted here; the time is that of one window a pair"
    yield from cost(plan.spec, config.plan, pairs)


def look(config: EvaluateConfig) -> Plan:
    """Look at all that is read, and check the settings.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError: something is not there, or not as configured.
    """
    config = with_absolute_paths(config)
    check_output(config.output.path, _runs_that_are_read(config))
    storage = Storage(config.storage)
    attempts = config.limits.max_attempts_per_chunk
    all_tasks = find_tasks(storage, config.input)
    tasks = {task.name: task for task in all_tasks}
    if len(tasks) < len(all_tasks):
        raise ConfigurationError(
            f"input.tasks: got names {[task.name for task in all_tasks]}, expected each once, forums included"
        )
    opened = {
        name: [open_finished(Run.at(storage, path, attempts), f"input.tasks: {name}: scores") for path in task.scores]
        for name, task in tasks.items()
    }
    manifests = {name: [manifest for manifest, _ in runs] for name, runs in opened.items()}
    stores = {name: tuple(store for _, store in runs) for name, runs in opened.items()}
    models = {
        name: str(of_task[0]["config"]["model"]["path"]) if of_task else config.model.path
        for name, of_task in manifests.items()
    }
    pairs = {name: _stored(of_task) if of_task else tasks[name].pairs for name, of_task in stores.items()}
    parts = {name: min(max(math.ceil(number / PAIRS_PER_PART), 1), MAX_PARTS) for name, number in pairs.items()}
    run = Run.at(storage, config.output.path, attempts)
    work = Work(run, tasks, parts, stores, models, config.metrics)
    for task in all_tasks:
        tasks[task.name] = hold_to_protocol(config, task)
        scored = {store.directory.path: store.tables(["query_id", "doc_id"]) for store in stores[task.name]}
        check_matches(storage, task, work.of_pool(task.pool), scored)
    spec = None
    if work.scored_here:
        to_score = _to_score(config, run)
        spec = ScoringSpec.resolve(config.model, config.cluster, config.limits, config.storage, to_score)
        config = config.model_copy(update={"model": spec.model})
        turned = [task.name for task in config.input.tasks if task.template == "query_first" and not task.scores]
        if turned and spec.family != "enct5":
            raise ConfigurationError(
                f"input.tasks: {', '.join(turned)}: template: got query_first, which is how an EncT5 is asked; "
                f"{config.model.path} is asked as model.template says: expected instruction_first"
            )
    identity = {
        "job": "evaluate",
        "format_version": FORMAT_VERSION,
        "versions": {"evaluation": EVALUATION_VERSION},
        "tasks": [_task_identity(task, parts[task.name]) for task in tasks.values()],
        "scores": {name: [run["identity"] for run in of_task] for name, of_task in manifests.items() if of_task},
        "metrics": config.metrics.model_dump(),
        "model": spec.identity if spec else None,
        "empty_documents": config.input.empty_documents,
    }
    return Plan(config, run, work, spec, identity)


def _runs_that_are_read(config: EvaluateConfig) -> dict[str, str | None]:
    """By the keys of the configuration. Of a collection only files with fixed names are read."""
    runs: dict[str, str | None] = {}
    for task in config.input.tasks:
        paths = {name: getattr(task, name) for name in ("first_stage", "pooled_first_stage", "compare_with")}
        paths |= {f"scores[{index}]": path for index, path in enumerate(task.scores)}
        runs |= {f"input.tasks: {task.name}: {name}": path for name, path in paths.items() if path != BM25}
    return runs


def _task_identity(task: Task, parts: int) -> dict[str, Any]:
    settings = ("name", "kind", "group", "template", "pool", "scores", "top_k", "measures", "ignore_identical_ids")
    return {
        **{name: getattr(task, name) for name in settings},
        "variants": [dataclasses.asdict(variant) for variant in task.variants],
        "files": {name: files_identity(source) for name, source in task.sources.items()},
        "columns": {name: dict(source.columns) for name, source in task.sources.items()},
        "answers": [[file.url, file.size, file.version] for file in task.answers],
        "own_first_stage": task.has_own_first_stage,
        "parts": parts,
    }


def _to_score(config: EvaluateConfig, run: Run) -> InputConfig:
    """What is scored: the candidates of all tasks."""
    return InputConfig(
        candidates=run.url(CANDIDATES),
        corpus=run.url(CORPUS),
        instruction="",  # those of tasks are in a column; where there is none, that is meant
        empty_documents=config.input.empty_documents,
    )


def _execute(session: Session, plan: Plan, run: Run, load: LoadScorer) -> ExitCode:
    """All stages of a run that has begun."""
    config, work = plan.config, dataclasses.replace(plan.work, run=run)
    with session.timed("retrieve"):
        retrieve(work)
    with session.timed("collect"):
        collected = collect(work)
    scored: Mapping[str, int] = NOTHING_SCORED
    if total(collected.values(), "pairs"):
        assert plan.spec is not None
        with session.timed("score"):
            files = {role: [run.url(name) for name in names] for role, names in files_to_score(collected).items()}
            windows = config.model.long_documents == "maxp"
            pairs = make_plan(run.storage, _to_score(config, run), windows=windows, files=files)
            within = score_within(session, plan.scoring, pairs, plan.spec, load)
        if within.code != ExitCode.DONE:
            return within.code
        work, scored = dataclasses.replace(work, store=within.store), within.counts
    with session.timed("measure"):
        measured = measure_parts(work)
    with session.timed("summarise"):
        summaries = summarise(work)
    counts, balances = reconcile(collected.values(), scored, measured.values(), sum(map(_stored, work.stores.values())))
    counts_of = {name: _counts(work, name, collected[name], measured) for name in work.tasks}
    tasks = {name: {**record.summary, "counts": counts_of[name]} for name, record in summaries.items()}
    rows = [row for name, task in tasks.items() for row in summary.rows_of(name, task)]
    table = summary.with_averages(rows, config.model.path)
    results = {"model": config.model.path if work.scored_here else None, "table": table, "tasks": tasks}
    cells, compared = summary.as_text(table), summary.compared(table)
    text = aligned(cells)
    for name, content in (
        ("metrics.json", json.dumps(results, indent=2)),
        ("metrics.svg", draw(compared, "metrics", alone=True)),
        ("table.txt", f"{text}\n"),
    ):
        run.write(content.encode(), name, confirm=session.lease.confirm)
    print(text)  # noqa: T201
    notes = {name: notes_after(task, counts_of[name]) for name, task in work.tasks.items()}
    outcome = Outcome(
        "evaluate",
        config,
        counts,
        balances,
        told=[summary.told(table, config.model.path if work.scored_here else None)],
        figures={"Results": [compared, Table("Metrics", cells[0], cells[1:])]},
        notes=notes,
    )
    return session.finish(run, outcome)


def reconcile(
    collected: Iterable[Collected], scored: Mapping[str, int], measured: Iterable[Measured], stored: int
) -> tuple[dict[str, int], list[Balance]]:
    """Counts, after every pair is accounted for.

    Args:
        scored: counts of the run that scored.
        stored: pairs in the score stores of runs that were there.

    Raises:
        ReconciliationError: a pair to score did not reach the scoring, or a scored one was not seen when measuring.
    """
    collected = list(collected)
    counts = {
        "read": total(collected, "read"),
        "quarantined": total(collected, "quarantined"),
        "pairs to score": total(collected, "pairs"),
        **{name: scored[name] for name in ("scored", "duplicates")},
        "quarantined pairs": scored["quarantined"],
        "pairs of runs that were there": stored,
        "measured": total(measured, "rows"),
    }
    became = {name: counts[name] for name in ("scored", "duplicates", "quarantined pairs")}
    of_runs = {name: counts[name] for name in ("scored", "pairs of runs that were there")}
    rows = {"used": counts["read"] - counts["quarantined"], "quarantined": counts["quarantined"]}
    return counts, [
        Balance("pairs to score", counts["pairs to score"], became),
        Balance("measured", counts["measured"], of_runs),
        Balance("rows of queries, judgements and runs", counts["read"], rows),
    ]


def _stored(stores: Iterable[ScoreStore]) -> int:
    """Pairs in the score stores of finished runs."""
    return sum(store.rows for store in stores)


def _counts(work: Work, name: str, collected: Collected, measured: Mapping[str, Measured]) -> dict[str, int]:
    """Counts of a task."""
    records = [measured[str(part)] for part in work.parts_of(name)]
    return {
        **collected.model_dump(exclude={"files"}, exclude_none=True),
        **{key: total(records, key) for key in ("incomplete", "queries_left_out_of_p_mrr")},
    }
