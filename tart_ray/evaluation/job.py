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
from tart_ray.engine.session import Needs, Outcome, Session, at_work, nothing_to_do, tell
from tart_ray.errors import ConfigurationError, ExitCode
from tart_ray.evaluation import summary
from tart_ray.evaluation.datasets import Task, find_tasks
from tart_ray.evaluation.instructions import published
from tart_ray.evaluation.matching import check_matches
from tart_ray.evaluation.measuring import EVALUATION_VERSION
from tart_ray.evaluation.picture import draw
from tart_ray.evaluation.protocols import TART, departures
from tart_ray.evaluation.stages import (
    CANDIDATES,
    CORPUS,
    Collected,
    Measured,
    Work,
    collect,
    files_to_score,
    measure_parts,
    retrieve,
    summarise,
)
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

SCORING = "scoring"  # under output.path: the run that scores
PAIRS_PER_PART = 200_000
MAX_PARTS = 64  # of a task
NOTHING_SCORED = {"read": 0, "scored": 0, "duplicates": 0, "quarantined": 0}
TOLD = {  # what is told of a task where it is not 0, and the count that it is part of
    "queries_without_judgements": ("queries without a judgement in this split, left out", "queries"),
    "judged_queries_without_text": ("judged queries that the queries do not have, counted as 0", "judged_queries"),
    "judged_queries_without_candidates": ("judged queries without any candidate, counted as 0", "judged_queries"),
    "judged_queries_without_relevant": ("judged queries without a relevant document, counted as 0", "judged_queries"),
    "judged_queries_without_compared": ("judged queries that compare_with lacks, counted as 0", "judged_queries"),
    "queries_left_out_of_p_mrr": ("queries that a ranking lacks, left out of p-MRR", "judged_queries"),
    "relevant_documents_not_judged_again": (
        "relevant documents not judged under the changed instruction, not in p-MRR",
        None,
    ),
    "judged_documents_not_in_corpus": ("judged documents that the corpus does not have", "judged_documents"),
    "candidates_not_in_corpus": ("candidate documents that the corpus does not have, not scored", "candidates"),
    "other_queries_in_run": ("queries of the first stage's run without judgement or text, left out", None),
    "incomplete": ("pairs without a score under some instruction, not in the ensemble", None),
    "quarantined": ("bad rows of queries, judgements and runs, in quarantine", "read"),
    "quarantined_documents": ("bad rows of the corpus, in quarantine", None),
}


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
    tell({name: task.told for name, task in plan.work.tasks.items()})
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


def show(config: EvaluateConfig) -> ExitCode:
    """Print what the job would do, line by line as it is known; starts nothing."""
    for line in describe(config):
        print(line)  # noqa: T201
    return ExitCode.DONE


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
        yield from (f"  note: {note}" for note in [*task.told, *_bare(task)])
        if task.scores:
            yield f"  scores that are there: {', '.join(task.scores)}"
            continue
        for variant in task.variants:
            said = variant.instruction or (variant.column and f"each query's {variant.column}") or "no instruction"
            yield f"  {variant.name}: {said}"
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
    found = find_tasks(storage, config.input)
    tasks = {task.name: task for task in found}
    if len(tasks) < len(found):
        raise ConfigurationError(
            f"input.tasks: got names {[task.name for task in found]}, expected each once, forums included"
        )
    opened = {
        name: [open_finished(Run.at(storage, path, attempts), f"input.tasks: {name}: scores") for path in task.scores]
        for name, task in tasks.items()
    }
    manifests = {name: [manifest for manifest, _ in runs] for name, runs in opened.items()}
    stores = {name: tuple(store for _, store in runs) for name, runs in opened.items()}
    models = {
        name: str(found[0]["config"]["model"]["path"]) if found else config.model.path
        for name, found in manifests.items()
    }
    pairs = {name: _stored(found) if found else tasks[name].pairs for name, found in stores.items()}
    parts = {name: min(max(math.ceil(number / PAIRS_PER_PART), 1), MAX_PARTS) for name, number in pairs.items()}
    run = Run.at(storage, config.output.path, attempts)
    work = Work(run, tasks, parts, stores, models, config.metrics)
    for task in found:
        tasks[task.name] = _held_to_protocol(config, task)
        named = {store.directory.path: store.tables(["query_id", "doc_id"]) for store in stores[task.name]}
        check_matches(storage, task, work.of_pool(task.pool), named)
    spec = None
    if work.scored_here:
        given = _to_score(config, run)
        spec = ScoringSpec.resolve(config.model, config.cluster, config.limits, config.storage, given)
        config = config.model_copy(update={"model": spec.model})
    identity = {
        "job": "evaluate",
        "format_version": FORMAT_VERSION,
        "versions": {"evaluation": EVALUATION_VERSION},
        "tasks": [_task_identity(task, parts[task.name]) for task in tasks.values()],
        "scores": {name: [manifest["identity"] for manifest in found] for name, found in manifests.items() if found},
        "metrics": config.metrics.model_dump(),
        "model": spec.identity if spec else None,
        "empty_documents": config.input.empty_documents,
    }
    return Plan(config, run, work, spec, identity)


def _held_to_protocol(config: EvaluateConfig, task: Task) -> Task:
    """The task, with what keeps its figures from being compared with the TART paper's.

    Raises:
        ConfigurationError: its settings are not those of the protocol that it names.
    """
    if task.protocol and (wrong := departures(task.protocol, config, task)):
        raise ConfigurationError(f"input.tasks: {task.name}: protocol {task.protocol}: {'; '.join(wrong)}")
    found = tuple(departures(TART, config, task))
    has_figure = any(published(config.model.path, variant.preset) for variant in task.variants)
    told = (f"the published figure is not shown: {'; '.join(found)}",) if found and has_figure else ()
    return dataclasses.replace(task, departures=found, notes=(*task.notes, *told))


def _runs_that_are_read(config: EvaluateConfig) -> dict[str, str | None]:
    """By the keys of the configuration. Of a collection only files with fixed names are read."""
    found: dict[str, str | None] = {}
    for task in config.input.tasks:
        named = {name: getattr(task, name) for name in ("first_stage", "pooled_first_stage", "compare_with")}
        named |= {f"scores[{index}]": path for index, path in enumerate(task.scores)}
        found |= {f"input.tasks: {task.name}: {name}": path for name, path in named.items() if path != BM25}
    return found


def _task_identity(task: Task, parts: int) -> dict[str, Any]:
    told = ("name", "kind", "group", "template", "pool", "scores", "top_k", "measures", "ignore_identical_ids")
    return {
        **{name: getattr(task, name) for name in told},
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
    scored = NOTHING_SCORED
    if total(collected.values(), "pairs"):
        assert plan.spec is not None
        with session.timed("score"):
            files = {role: [run.url(name) for name in names] for role, names in files_to_score(collected).items()}
            windows = config.model.long_documents == "maxp"
            pairs = make_plan(run.storage, _to_score(config, run), windows=windows, files=files)
            code, store = score_within(session, plan.scoring, pairs, plan.spec, load)
        if code != ExitCode.DONE:
            return code
        work = dataclasses.replace(work, store=store)
        scored = json.loads(store.directory.read("report.json"))["counts"]
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
    picture, cells = draw(table), summary.as_text(table)
    text = summary.plain(cells)
    for name, content in (
        ("metrics.json", json.dumps(results, indent=2)),
        ("metrics.svg", picture),
        ("table.txt", f"{text}\n"),
    ):
        run.write(content.encode(), name, confirm=session.lease.confirm)
    print(text)  # noqa: T201
    notes = {name: [*task.told, *_bare(task), *_notes(counts_of[name])] for name, task in work.tasks.items()}
    return session.finish(run, Outcome("evaluate", config, counts, balances, notes=notes, table=cells, picture=picture))


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


def _bare(task: Task) -> list[str]:
    """What to say of a task whose queries are scored without an instruction."""
    is_bare = any(not variant.instruction and not variant.column for variant in task.variants)
    return ["no instruction: queries are scored bare"] if is_bare and not task.scores else []


def _notes(counts: Mapping[str, int]) -> list[str]:
    found = [(counts[name], text, of) for name, (text, of) in TOLD.items() if counts.get(name)]
    return [f"{count:,}{f' of {counts[of]:,}' if of else ''} {text}" for count, text, of in found]
