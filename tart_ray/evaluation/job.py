"""jobs.evaluate from its configuration to its exit code: find candidates, score them all in one run, measure, report.

    retrieve    BM25 of a corpus or of a pool's corpora          runs of first stages
    collect     a task: queries, judgements, first stages        candidates/, documents/
    (rerank)    all tasks, one run of jobs.rerank                scoring/
    measure     a part of a task's queries                       values, runs
    summarise   a task                                           per_query/, runs/, its part of metrics.json

Tasks whose scores are there already are measured from the score store of their runs.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import tart_ray
from tart_ray.config import EvaluateConfig, InputConfig, MetricsConfig, OutputConfig, RerankConfig, TaskConfig
from tart_ray.engine.cluster import room_for_replicas
from tart_ray.engine.session import Clock, ReconciliationError, execute_run, finish, tell
from tart_ray.engine.stages import run_stage
from tart_ray.errors import ConfigurationError, ExitCode
from tart_ray.evaluation import summary
from tart_ray.evaluation.candidates import candidates_of, first_stage_of, union, without_identical
from tart_ray.evaluation.datasets import (
    BM25,
    CHANGED,
    CLOSED,
    DOCUMENTS,
    ORIGINAL,
    POOLED,
    RUN,
    Task,
    check_ids,
    find_tasks,
    have_blanks,
    of_known_queries,
    read_documents,
    read_judgements,
    read_queries,
    read_run,
    with_full_ids,
    without_full_ids,
)
from tart_ray.evaluation.first_stage import Bm25
from tart_ray.evaluation.instructions import published
from tart_ray.evaluation.matching import (
    check_judgements,
    check_matches,
    refuse_strangers,
    refuse_unknown_documents,
)
from tart_ray.evaluation.measuring import (
    EVALUATION_VERSION,
    SCORED,
    VALUES,
    incomplete,
    left_out_of_p_mrr,
    make_rankings,
    measure,
    trec_lines,
)
from tart_ray.evaluation.picture import draw
from tart_ray.evaluation.protocols import TART, departures
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.reranking.job import rerank, with_absolute_paths
from tart_ray.reranking.stages import ranked_files
from tart_ray.runs.lease import Lease
from tart_ray.runs.output_path import check_output
from tart_ray.runs.run import MANIFEST, WORK, Record, Run
from tart_ray.scores.estimate import cost
from tart_ray.scores.plan import FORMAT_VERSION, files_identity, model_identity, pin_model, replica_dtype
from tart_ray.scores.score import LoadScorer, load_scorer
from tart_ray.scores.store import ScoreStore, manifest_of_scores
from tart_ray.storage import Storage, absolute, join_url
from tart_ray.tables.keys import bucket_of
from tart_ray.tables.parquet import read_parquet

RETRIEVED, COLLECTED, MEASURED, SUMMARISED = "retrieve", "collect", "measure", "summarise"
SCORING = "scoring"  # under output.path: the run of jobs.rerank that scores
CANDIDATES, CORPUS = "candidates", "documents"  # under output.path: its input
PAIRS_PER_PART = 200_000
MAX_PARTS = 64  # of a task
BYTES_PER_FILE = 64 << 20  # of documents
COUNTED = ("read", "quarantined", "pairs")
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
class Work:
    """Everything that a unit needs. Pickles into every worker."""

    run: Run
    scoring: Run
    tasks: Mapping[str, Task]
    parts: Mapping[str, int]  # of each task's queries
    stores: Mapping[str, tuple[ScoreStore, ...]]  # task → the finished runs that have its scores
    models: Mapping[str, str]  # task → the checkpoint that scored it
    metrics: MetricsConfig

    @property
    def scored_here(self) -> list[Task]:
        """Tasks that this run scores."""
        return [task for task in self.tasks.values() if not task.scores]

    def of_pool(self, pool: str | None) -> list[Task]:
        """Tasks of a pool."""
        return [task for task in self.tasks.values() if pool is not None and task.pool == pool]


def evaluate(config: EvaluateConfig, *, load: LoadScorer = load_scorer, ends_process: bool = False) -> ExitCode:
    """Run the job; a rerun of the same configuration continues where an earlier one stopped.

    Args:
        ends_process: as of `rerank`.

    Raises:
        ConfigurationError, InputError, StorageError, CheckpointError, RunConflictError: before any work.
        RunFailedError: the run began and could not end.
    """
    config = _with_absolute_paths(config)
    config, work, who = _plan(config)
    tell({name: task.told for name, task in work.tasks.items()})
    return execute_run(
        work.run,
        who,
        config,
        config.cluster.address,
        room_for_replicas(config.cluster) if work.scored_here else None,
        {
            **{f"input.tasks: {name}": _files_of(task) for name, task in work.tasks.items()},
            "model.path": [config.model.path],
        },
        lambda run, lease: _execute(dataclasses.replace(work, run=run), config, load, lease, ends_process=ends_process),
        ends_process=ends_process,
    )


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
    config = _with_absolute_paths(config)
    config, work, _ = _plan(config)
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
    if not work.scored_here:
        return
    pairs = sum(task.pairs for task in work.scored_here)
    yield f"pairs to score: at most about {pairs:,}; queries without a judgement are left out"
    scoring = _scoring_config(config, work)
    yield f"replicas: {config.cluster.replicas.min} to {config.cluster.replicas.max}, {replica_dtype(scoring)}"
    if config.model.long_documents == "maxp":
        yield "windows: not counted here; the time is that of one window a pair"
    yield from cost(scoring, pairs)


def _plan(config: EvaluateConfig) -> tuple[EvaluateConfig, Work, dict[str, Any]]:
    """The configuration with its model pinned, what will be done, and the run's identity; looks at all that is read.

    Raises:
        the errors of `evaluate` that come before any work.
    """
    check_output(config.output.path, _runs_that_are_read(config))
    storage = Storage(config.storage)
    attempts = config.limits.max_attempts_per_chunk
    found = find_tasks(storage, config.input)
    tasks = {task.name: task for task in found}
    if len(tasks) < len(found):
        raise ConfigurationError(
            f"input.tasks: got names {[task.name for task in found]}, expected each once, forums included"
        )
    runs = {task.name: [Run.at(storage, path, attempts) for path in task.scores] for task in tasks.values()}
    manifests = {
        name: [manifest_of_scores(run, f"input.tasks: {name}: scores") for run in found] for name, found in runs.items()
    }
    stores = {
        name: tuple(ScoreStore.of(run, said["identity"]) for run, said in zip(found, manifests[name], strict=True))
        for name, found in runs.items()
    }
    models = {
        name: str(found[0]["config"]["model"]["path"]) if found else config.model.path
        for name, found in manifests.items()
    }
    pairs = {name: _stored(found) if found else tasks[name].pairs for name, found in stores.items()}
    parts = {name: min(max(math.ceil(number / PAIRS_PER_PART), 1), MAX_PARTS) for name, number in pairs.items()}
    run = Run.at(storage, config.output.path, attempts)
    scoring = Run.at(storage, run.url(SCORING), attempts)
    work = Work(run, scoring, tasks, parts, stores, models, config.metrics)
    for task in found:
        tasks[task.name] = _held_to_protocol(config, task)
        named = {store.run.path: store.tables(["query_id", "doc_id"]) for store in stores[task.name]}
        check_matches(storage, task, work.of_pool(task.pool), named)
    if work.scored_here:
        config = config.model_copy(update={"model": pin_model(config.model, config.storage)})
    who = {
        "job": "evaluate",
        "format_version": FORMAT_VERSION,
        "versions": {"evaluation": EVALUATION_VERSION},
        "tasks": [_task_identity(task, parts[task.name]) for task in tasks.values()],
        "scores": {name: [manifest["identity"] for manifest in found] for name, found in manifests.items() if found},
        "metrics": config.metrics.model_dump(),
        "model": model_identity(_scoring_config(config, work)) if work.scored_here else None,
        "empty_documents": config.input.empty_documents,
    }
    return config, work, who


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


def _scoring_config(config: EvaluateConfig, work: Work) -> RerankConfig:
    """The run of jobs.rerank that scores all tasks."""
    return with_absolute_paths(
        RerankConfig(
            input=InputConfig(
                candidates=work.run.url(CANDIDATES),
                corpus=work.run.url(CORPUS),
                instruction="",  # those of tasks are in a column; where there is none, that is meant
                empty_documents=config.input.empty_documents,
            ),
            output=OutputConfig(path=work.scoring.path, partition_by=["task", "part"]),
            **{name: getattr(config, name) for name in ("model", "cluster", "limits", "storage", "plan")},
        )
    )


def _execute(work: Work, config: EvaluateConfig, load: LoadScorer, lease: Lease, *, ends_process: bool) -> ExitCode:
    """All stages of a run that has begun."""
    clock, run = Clock(), work.run
    with clock.timed("retrieve"):
        run_stage(run, RETRIEVED, _indexes(work), functools.partial(_retrieve, work))
    with clock.timed("collect"):
        collected = run_stage(run, COLLECTED, work.tasks, functools.partial(_collect, work))
    scored: dict[str, int] = {"read": 0, "scored": 0, "duplicates": 0, "quarantined": 0}
    reranked: dict[str, list[str]] = {}
    if sum(record["pairs"] for record in collected.values()):
        written = [name for record in collected.values() for name in record["files"]]
        files = {
            role: [run.url(name) for name in written if name.startswith(f"{folder}/")]
            for role, folder in (("candidates", CANDIDATES), ("corpus", CORPUS))
        }
        with clock.timed("score"):
            code = rerank(_scoring_config(config, work), load=load, files=files, ends_process=ends_process)
        if code != ExitCode.DONE:
            return code
        scored = json.loads(run.storage.read(work.scoring.url("report.json")))["counts"]
        reranked = ranked_files(work.scoring, json.loads(run.storage.read(work.scoring.url(MANIFEST)))["identity"])
    with clock.timed("measure"):
        units = [_unit(task, part) for task in work.tasks for part in range(work.parts[task])]
        measured = run_stage(run, MEASURED, units, functools.partial(_measure, work, reranked))
    with clock.timed("summarise"):
        summaries = run_stage(run, SUMMARISED, work.tasks, functools.partial(_summarise, work))
    counts = reconcile(collected.values(), scored, measured.values(), sum(map(_stored, work.stores.values())))
    told = {name: _told(work, name, collected[name], measured) for name in work.tasks}
    found = {name: {**record["summary"], "counts": told[name]} for name, record in summaries.items()}
    table = summary.with_averages(
        [row for name in found for row in summary.rows_of(name, found[name])], config.model.path
    )
    results = {"model": config.model.path if work.scored_here else None, "table": table, "tasks": found}
    run.write(json.dumps(results, indent=2).encode(), "metrics.json", confirm=lease.confirm)
    picture = draw(table)
    run.write(picture.encode(), "metrics.svg", confirm=lease.confirm)
    cells = summary.as_text(table)
    text = summary.plain(cells)
    run.write(f"{text}\n".encode(), "table.txt", confirm=lease.confirm)
    print(text)  # noqa: T201
    notes = {name: [*task.told, *_bare(task), *_notes(told[name])] for name, task in work.tasks.items()}
    report = {
        "job": "evaluate",
        "tart_ray": tart_ray.__version__,
        "counts": counts,
        "notes": notes,
        "seconds": clock.seconds,
        "config": config.model_dump(mode="json"),
    }
    figures = {
        **{f"{name}: {note}": "" for name, of_task in notes.items() for note in of_task},
        **{f"seconds: {stage}": seconds for stage, seconds in clock.seconds.items()},
    }
    line = (
        "{pairs to score:,} pairs to score = {scored:,} scored + {duplicates:,} duplicates "
        "+ {quarantined pairs:,} quarantined; {read:,} rows of queries, judgements and runs read, "
        "{quarantined:,} of them quarantined"
    ).format_map(counts)
    allowed = config.limits.max_quarantined_fraction
    return finish(run, lease, report, line, figures, allowed_bad=allowed, table=cells, picture=picture)


def reconcile(
    collected: Iterable[Record], scored: Mapping[str, int], measured: Iterable[Record], stored: int
) -> dict[str, int]:
    """Counts, after every pair is accounted for.

    Args:
        scored: counts of the run that scored.
        stored: pairs in the score stores of runs that were there.

    Raises:
        ReconciliationError: a pair to score did not reach the scoring, or a scored one was not seen when measuring.
    """
    total: Counter[str] = Counter()
    for record in collected:
        total.update({name: record[name] for name in COUNTED})
    seen = sum(record["rows"] for record in measured)
    counts = {
        "read": total["read"],
        "quarantined": total["quarantined"],
        "pairs to score": total["pairs"],
        **{name: scored[name] for name in ("scored", "duplicates")},
        "quarantined pairs": scored["quarantined"],
        "pairs of runs that were there": stored,
        "measured": seen,
    }
    if total["pairs"] != scored["scored"] + scored["duplicates"] + scored["quarantined"]:
        raise ReconciliationError(f"pairs to score ≠ scored + duplicates + quarantined: {counts}")
    if seen != scored["scored"] + stored:
        raise ReconciliationError(f"measured {seen} pairs of {scored['scored'] + stored} scored ones")
    return counts


def _indexes(work: Work) -> list[str]:
    """Units of BM25: tasks and pools whose first stage it is."""
    tasks = [task for task in work.tasks.values() if task.has_own_first_stage]
    closed = [f"{CLOSED}-{task.name}" for task in tasks if task.first_stage is None]
    pools = dict.fromkeys(task.pool for task in tasks if task.pool and task.pooled_first_stage is None)
    return closed + [f"{POOLED}-{pool}" for pool in pools]


def _retrieve(work: Work, unit: str) -> Record:
    """BM25 of the corpus of a task, or of a pool, for the judged queries of each task that uses it."""
    setup, _, name = unit.partition("-")
    corpora = [work.tasks[name]] if setup == CLOSED else work.of_pool(name)
    storage = work.run.storage
    index = Bm25(part for task in corpora for part in read_documents(storage, task))
    for task in corpora:
        if setup == POOLED and task.pooled_first_stage is not None:
            continue
        queries = read_queries(storage, task, Quarantine(READ)).table
        judged = _judged(read_judgements(storage, task, Quarantine(READ)))
        asked = queries.filter(pc.is_in(queries["query_id"], judged))
        spare = int(task.ignore_identical_ids)  # one may be left out
        work.run.write_table(index.search(asked, task.top_k + spare), *_retrieved(task, setup))
    return {}


def _collect(work: Work, unit: str) -> Record:
    """Read a task, and write what is to be scored for it, and what its rankings are measured with."""
    task, run = work.tasks[unit], work.run
    bad, bad_documents = Quarantine(READ), Quarantine(READ)
    queries = read_queries(run.storage, task, bad)
    judgements = read_judgements(run.storage, task, bad)
    texts = queries.table["query_id"]
    judged = check_judgements(task, judgements, texts)
    check_ids(pa.chunked_array([judged]), f"{task.name}: judged queries")
    read = queries.rows + sum(found.rows for found in judgements.values())
    first_stages, others = {}, 0
    for setup in task.setups:
        whole, rows = _first_stage(work, task, setup, bad)
        read += rows
        whole = union({setup: of_known_queries(task, whole, texts)})
        refuse_strangers(
            f"{task.name}: {setup} first stage: query ids", whole["query_id"], "the judged queries", judged
        )
        first_stages[setup] = first_stage_of(task, whole, judged, texts)
        others += _count_missing(whole["query_id"], pc.unique(texts.filter(pc.is_in(texts, judged))))
        check_ids(first_stages[setup]["doc_id"], f"{task.name}: candidates")
        run.write_table(first_stages[setup], WORK, "first_stage", task.name, f"{setup}.parquet")
    for name, found in judgements.items():
        run.write_table(found.table, WORK, "judgements", task.name, f"{name}.parquet")
    without_compared = 0
    if task.compare_with is not None:
        compared = read_run(run.storage, task.compare_with, bad, task.name, ())
        read += compared.rows
        whole = union({CLOSED: of_known_queries(task, compared.table, texts)})
        refuse_strangers(f"{task.name}: compare_with: query ids", whole["query_id"], "the judged queries", judged)
        kept = without_identical(task, whole)
        without_compared = _count_missing(judged, kept["query_id"])
        check_ids(kept["doc_id"], f"{task.name}: compare_with")
        run.write_table(kept, WORK, "compare_with", f"{task.name}.parquet")
    pairs = 0
    counts: dict[str, int] = {}
    files: list[str] = []
    if not task.scores:
        candidates = union(first_stages)
        tables = candidates_of(task, candidates, queries.table, work.parts[unit])
        for variant, table in zip(task.variants, tables, strict=True):
            if len(table):
                files.append(join_url(CANDIDATES, f"{task.name}@{variant.name}.parquet"))
                run.write_table(table, files[-1])
            pairs += len(table)
        documents, counts = _write_documents(work, task, candidates["doc_id"], judgements, bad_documents)
        files += documents
    with_candidates = first_stages[CLOSED]["query_id"]
    relevant = [found.table.filter(pc.greater(found.table["relevance"], 0)) for found in judgements.values()]
    record = {
        "files": files,
        "pairs": pairs,
        "read": read,
        "quarantined": len(bad),
        "quarantined_documents": len(bad_documents),
        "queries": len(queries.table),
        "judged_queries": len(judged),
        "judgements": sum(len(found.table) for found in judgements.values()),
        "queries_without_judgements": _count_missing(texts, judged),
        "judged_queries_without_text": _count_missing(judged, texts),
        "judged_queries_without_candidates": _count_missing(judged, with_candidates),
        "judged_queries_without_relevant": _count_missing(
            judged, pa.chunked_array([c for table in relevant for c in table["query_id"].chunks], pa.string())
        ),
        "judged_queries_without_compared": without_compared,
        "relevant_documents_not_judged_again": _count_not_judged_again(judgements),
        "other_queries_in_run": others,
        **counts,
    }
    bad.rows.extend(bad_documents.rows)
    run.write_quarantine(bad, COLLECTED, unit)
    return record


def _count_not_judged_again(judgements: Mapping[str, Any]) -> int:
    """FollowIR's relevant documents that its second set of judgements does not have."""
    if ORIGINAL not in judgements:
        return 0
    old, new = (judgements[name].table for name in (ORIGINAL, CHANGED))
    relevant = old.filter(pc.greater(old["relevance"], 0)).select(["query_id", "doc_id"])
    return len(relevant.join(new.select(["query_id", "doc_id"]), ["query_id", "doc_id"], join_type="left anti"))


def _first_stage(work: Work, task: Task, setup: str, bad: Quarantine) -> tuple[pa.Table, int]:
    """The first stage's whole run, and the rows that were read of it, where it is a file."""
    source = task.first_stage if setup == CLOSED else task.pooled_first_stage
    if source is not None:
        members = [member.name for member in work.of_pool(task.pool)]
        found = read_run(work.run.storage, source, bad, task.name if setup == CLOSED else None, members)
        return found.table, found.rows
    if not task.has_own_first_stage:
        return _first_stage_of_scores(work, task), 0
    return _read_table(work.run, *_retrieved(task, setup)), 0


def _first_stage_of_scores(work: Work, task: Task) -> pa.Table:
    """The first stage that scored pairs come from; scores are null where the store has neither scores nor ranks."""
    columns = ["query_id", "doc_id", "first_stage_rank", "first_stage_score"]
    whole = pa.concat_tables([table for store in work.stores[task.name] for table in store.tables(columns)])
    scores = whole["first_stage_score"]
    if scores.null_count:
        scores = pc.negate(whole["first_stage_rank"].cast(pa.float64()))
    if scores.null_count:
        scores = pa.nulls(len(whole), pa.float64())
    pairs = pa.table([whole["query_id"], whole["doc_id"], scores], schema=RUN)
    return with_full_ids(union({CLOSED: pairs}), task.name)


def _write_documents(
    work: Work, task: Task, wanted: pa.ChunkedArray, judgements: Mapping[str, Any], bad: Quarantine
) -> tuple[list[str], dict[str, int]]:
    """Write the documents of a task's candidates; the files, and counts of what is not there."""
    run = work.run
    files: list[str] = []
    of_candidates = wanted.unique()
    of_judgements = pa.concat_arrays([c for found in judgements.values() for c in found.table["doc_id"].chunks])
    of_judgements = of_judgements.drop_null().unique()
    seen: dict[str, list[pa.Array]] = {CANDIDATES: [], "judged": []}
    held, nbytes = [DOCUMENTS.empty_table()], 0
    corpora = [task, *(other for other in work.of_pool(task.pool) if other.name != task.name)]
    others: list[pa.Array] = []  # ids to show, where none is known
    for member in corpora:
        for part in read_documents(run.storage, member, bad if member.name == task.name else None):
            others = others or part["doc_id"].chunks
            found = part.filter(pc.is_in(part["doc_id"], of_candidates))
            seen[CANDIDATES] += found["doc_id"].chunks
            seen["judged"] += part["doc_id"].filter(pc.is_in(part["doc_id"], of_judgements)).chunks
            held.append(found)
            nbytes += found.nbytes
            if nbytes > BYTES_PER_FILE:
                files.append(_write_part(run, task, held, len(files)))
                held, nbytes = [DOCUMENTS.empty_table()], 0
    if nbytes or not files:
        files.append(_write_part(run, task, held, len(files)))
    there = {name: pa.chunked_array(chunks, pa.string()) for name, chunks in seen.items()}
    for what, name, ids in (("candidates", CANDIDATES, of_candidates), ("judgements", "judged", of_judgements)):
        if not len(there[name]):
            refuse_unknown_documents(task, what, ids, corpora, pa.chunked_array(others, pa.string()))
    return files, {
        "candidates": len(of_candidates),
        "candidates_not_in_corpus": _count_missing(of_candidates, there[CANDIDATES]),
        "judged_documents": len(of_judgements),
        "judged_documents_not_in_corpus": _count_missing(of_judgements, there["judged"]),
    }


def _write_part(run: Run, task: Task, held: list[pa.Table], index: int) -> str:
    name = join_url(CORPUS, f"{task.name}@{index:05d}.parquet")
    run.write_table(pa.concat_tables(held), name)
    return name


def _measure(work: Work, reranked: Mapping[str, list[str]], unit: str) -> Record:
    """Rankings of a part of a task's queries, and their values.

    Args:
        reranked: files of the scoring run's ``reranked/`` by partition.
    """
    name, _, number = unit.rpartition("@")
    task, part, run = work.tasks[name], int(number), work.run

    def mine(table: pa.Table) -> pa.Table:
        return table.filter(pa.array(bucket_of(table["query_id"], work.parts[name]) == part))

    judgements = {
        judged_by: mine(_read_table(run, WORK, "judgements", name, f"{judged_by}.parquet"))
        for judged_by in task.judged_by
    }
    whole = {setup: _read_table(run, WORK, "first_stage", name, f"{setup}.parquet") for setup in task.setups}
    ranked = not any(table["score"].null_count for table in whole.values())
    compared = _read_table(run, WORK, "compare_with", f"{name}.parquet") if task.compare_with else None
    separator = "\t" if have_blanks([*whole.values(), *([] if compared is None else [compared])]) else " "
    compared = None if compared is None else mine(compared)
    if task.scores:
        scored = _scores_of_runs(work, task, mine)
    else:
        scored = _scores_of(work, reranked.get(f"task={name}/part={part}", []))
    rankings = make_rankings(task, {setup: mine(t) for setup, t in whole.items()}, compared, scored, ranked=ranked)
    run.write_table(measure(task, judgements, rankings), WORK, "values", f"{unit}.parquet")
    for ranking in rankings:
        table = without_full_ids(ranking.table, name) if ranking.setup == CLOSED else ranking.table
        lines = "".join(trec_lines(dataclasses.replace(ranking, table=table), f"tart-ray-{ranking.name}", separator))
        run.write(lines.encode(), WORK, "runs", unit, ranking.setup, ranking.name)
    names = [[ranking.setup, ranking.name] for ranking in rankings]
    return {
        "rows": len(scored),
        "rankings": names,
        "incomplete": incomplete(task, scored),
        "queries_left_out_of_p_mrr": left_out_of_p_mrr(task, judgements, rankings),
    }


def _scores_of(work: Work, files: list[str]) -> pa.Table:
    """The scored pairs in files of ``reranked/``: `SCORED`."""
    names = ["variant", "task_query_id", "doc_id", "margin"]
    contents = work.run.storage.read_many(files)
    tables = [read_parquet(file, names) for file in contents]
    return pa.concat_tables([SCORED.empty_table(), *(pa.table(t.columns, schema=SCORED) for t in tables)])


def _scores_of_runs(work: Work, task: Task, mine: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Those of the scored pairs of the runs that a task names that ``mine`` keeps: `SCORED`, one variant per run."""
    tables = []
    for variant, store in zip(task.variants, work.stores[task.name], strict=True):
        for table in map(mine, store.tables(["query_id", "doc_id", "margin"])):
            named = pa.repeat(pa.scalar(variant.name), len(table))
            tables.append(pa.table([named, *table.columns], schema=SCORED))
    return with_full_ids(pa.concat_tables([SCORED.empty_table(), *tables]), task.name)


def _summarise(work: Work, unit: str) -> Record:
    """Put the parts of a task together: its runs, its values per query, and what metrics.json says of it."""
    task, run = work.tasks[unit], work.run
    units = [_unit(unit, part) for part in range(work.parts[unit])]
    tables = [_read_table(run, WORK, "values", f"{part}.parquet") for part in units]
    values = pa.concat_tables([VALUES.empty_table(), *tables])
    order = [(name, "ascending") for name in ("setup", "run", "judged_by", "measure", "query_id")]
    values = values.sort_by(order)
    run.write_table(values, "per_query", f"{unit}.parquet")
    records = run.records(MEASURED, units)
    made = {part: records[part]["rankings"] for part in units}
    for setup, name in dict.fromkeys((setup, name) for rankings in made.values() for setup, name in rankings):
        urls = [run.url(WORK, "runs", part, setup, name) for part in units if [setup, name] in made[part]]
        run.write(b"".join(run.storage.read_many(urls)), "runs", unit, setup, f"{name}.trec")
    return {"summary": summary.summarise(task, values, work.metrics, work.models[unit])}


def _stored(stores: Iterable[ScoreStore]) -> int:
    """Pairs in the score stores of finished runs."""
    return sum(store.rows for store in stores)


def _told(work: Work, name: str, collected: Record, measured: Mapping[str, Record]) -> dict[str, int]:
    """Counts of a task."""
    records = [measured[_unit(name, part)] for part in range(work.parts[name])]
    counted = ("incomplete", "queries_left_out_of_p_mrr")
    return {
        **{key: value for key, value in collected.items() if key != "files"},
        **{key: sum(record[key] for record in records) for key in counted},
    }


def _bare(task: Task) -> list[str]:
    """What to say of a task whose queries are scored without an instruction."""
    is_bare = any(not variant.instruction and not variant.column for variant in task.variants)
    return ["no instruction: queries are scored bare"] if is_bare and not task.scores else []


def _notes(counts: Mapping[str, int]) -> list[str]:
    found = [(counts[name], text, of) for name, (text, of) in TOLD.items() if counts.get(name)]
    return [f"{count:,}{f' of {counts[of]:,}' if of else ''} {text}" for count, text, of in found]


def _judged(judgements: Mapping[str, Any]) -> pa.Array:
    """Ids of the queries that have judgements."""
    return pa.concat_arrays([c for found in judgements.values() for c in found.table["query_id"].chunks]).unique()


def _count_missing(ids: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> int:
    return int(pc.sum(pc.invert(pc.is_in(ids.unique(), among))).as_py() or 0)


def _retrieved(task: Task, setup: str) -> tuple[str, ...]:
    return WORK, "retrieved", task.name, f"{setup}.parquet"


def _read_table(run: Run, *parts: str) -> pa.Table:
    return read_parquet(run.storage.read(run.url(*parts)))


def _unit(task: str, part: int) -> str:
    return f"{task}@{part:05d}"


def _with_absolute_paths(config: EvaluateConfig) -> EvaluateConfig:
    """Local paths made absolute: workers have working directories of their own."""

    def moved(task: TaskConfig) -> TaskConfig:
        named = {name: getattr(task, name) for name in ("first_stage", "pooled_first_stage", "compare_with")}
        paths = {name: absolute(path) for name, path in named.items() if path not in (None, BM25)}
        scores = tuple(map(absolute, task.scores))
        return task.model_copy(update={"path": absolute(task.path), "scores": scores, **paths})

    tasks = tuple(map(moved, config.input.tasks))
    output = config.output.model_copy(update={"path": absolute(config.output.path)})
    return config.model_copy(update={"input": config.input.model_copy(update={"tasks": tasks}), "output": output})
