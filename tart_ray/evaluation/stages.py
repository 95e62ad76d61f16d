"""The units of evaluating: first stages, what is to be scored, scores sent to their tasks, measures, summaries."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.config import MetricsConfig
from tart_ray.engine.stages import run_stage
from tart_ray.evaluation import summary
from tart_ray.evaluation.candidates import candidates_of, first_stage_of, union, without_identical
from tart_ray.evaluation.datasets import (
    CHANGED,
    CLOSED,
    DOCUMENTS,
    ORIGINAL,
    POOLED,
    RUN,
    Task,
    check_ids,
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
from tart_ray.evaluation.matching import check_judgements, refuse_strangers, refuse_unknown_documents
from tart_ray.evaluation.measuring import (
    SCORED,
    VALUES,
    incomplete,
    left_out_of_p_mrr,
    make_rankings,
    measure,
    trec_lines,
)
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.runs.directory import WORK, Directory
from tart_ray.runs.fragments import encode_fragment
from tart_ray.runs.stage import Record, Stage
from tart_ray.scores.prepare import fragment_path, read_fragments
from tart_ray.scores.store import ScoreStore
from tart_ray.storage import join_url
from tart_ray.tables.keys import bucket_of

CANDIDATES, CORPUS = "candidates", "documents"  # under output.path: what is scored
BYTES_PER_FILE = 64 << 20  # of documents
PLACE = ("task", "part")  # columns of the store that say where a pair belongs
OF_STORE = pa.schema(  # columns of the store that become PLACE and those of SCORED
    [
        ("task", pa.string()),
        ("part", pa.int32()),
        ("variant", pa.string()),
        ("task_query_id", pa.string()),
        ("doc_id", pa.string()),
        ("margin", pa.float32()),
    ]
)


class Retrieved(Record):
    """A first stage that was made."""


class Collected(Record):
    """A task that was read. Counts of its rows, by what became of them.

    Attributes:
        files: of what is to be scored, in the run's directory.
        candidates: documents; with the three after it, of tasks that are scored here.
    """

    files: tuple[str, ...]
    pairs: int
    read: int
    quarantined: int
    quarantined_documents: int
    queries: int
    judged_queries: int
    judgements: int
    queries_without_judgements: int
    judged_queries_without_text: int
    judged_queries_without_candidates: int
    judged_queries_without_relevant: int
    judged_queries_without_compared: int
    relevant_documents_not_judged_again: int
    other_queries_in_run: int
    candidates: int | None = None
    candidates_not_in_corpus: int | None = None
    judged_documents: int | None = None
    judged_documents_not_in_corpus: int | None = None


class Spread(Record):
    """A bucket of the score store, sent to the parts of tasks."""

    rows: int


class Measured(Record):
    """A part of a task's queries.

    Attributes:
        rankings: setup and name of each.
        incomplete: pairs without a score under some instruction.
    """

    rows: int
    rankings: tuple[tuple[str, str], ...]
    incomplete: int
    queries_left_out_of_p_mrr: int


class Summarised(Record):
    """A task, as metrics.json tells it."""

    summary: dict[str, Any]


RETRIEVE = Stage("retrieve", Retrieved)
COLLECT = Stage("collect", Collected)
SPREAD = Stage("spread", Spread)
MEASURE = Stage("measure", Measured)
SUMMARISE = Stage("summarise", Summarised)


@dataclass(frozen=True)
class Index:
    """What BM25 is made of: the corpus of a task, or those of a pool."""

    setup: str
    name: str

    @classmethod
    def parse(cls, unit: str) -> Index:
        """Of the name of a unit."""
        setup, _, name = unit.partition("-")
        return cls(setup, name)

    def __str__(self) -> str:
        return f"{self.setup}-{self.name}"


@dataclass(frozen=True)
class Part:
    """A part of a task's queries."""

    task: str
    number: int

    @classmethod
    def parse(cls, unit: str) -> Part:
        """Of the name of a unit."""
        task, _, number = unit.rpartition("@")
        return cls(task, int(number))

    def __str__(self) -> str:
        return f"{self.task}@{self.number:05d}"


@dataclass(frozen=True)
class Work:
    """Everything that a unit needs. Pickles into every worker.

    Attributes:
        parts: of each task's queries.
        stores: task → the finished runs that have its scores.
        models: task → the checkpoint that scored it.
        store: of what this run scores, once it is scored.
    """

    run: Directory
    tasks: Mapping[str, Task]
    parts: Mapping[str, int]
    stores: Mapping[str, tuple[ScoreStore, ...]]
    models: Mapping[str, str]
    metrics: MetricsConfig
    store: ScoreStore | None = None

    @property
    def scored_here(self) -> list[Task]:
        """Tasks that this run scores."""
        return [task for task in self.tasks.values() if not task.scores]

    @property
    def all_parts(self) -> list[Part]:
        """Of all tasks, in order."""
        return [part for task in self.tasks for part in self.parts_of(task)]

    def parts_of(self, task: str) -> list[Part]:
        """Of a task."""
        return [Part(task, number) for number in range(self.parts[task])]

    def of_pool(self, pool: str | None) -> list[Task]:
        """Tasks of a pool."""
        return [task for task in self.tasks.values() if pool is not None and task.pool == pool]


def retrieve(work: Work) -> None:
    """Make the first stages that no file has."""
    run_stage(work.run, RETRIEVE, map(str, _indexes(work)), functools.partial(_retrieve, work))


def collect(work: Work) -> dict[str, Collected]:
    """Read all tasks, and write what is to be scored."""
    return run_stage(work.run, COLLECT, work.tasks, functools.partial(_collect, work))


def measure_parts(work: Work) -> dict[str, Measured]:
    """Send scores to the parts of tasks, and measure these."""
    if work.store is not None:
        run_stage(work.run, SPREAD, list(work.store.chunks), functools.partial(_spread, work))
    return run_stage(work.run, MEASURE, map(str, work.all_parts), functools.partial(_measure, work))


def summarise(work: Work) -> dict[str, Summarised]:
    """Put the parts of each task together."""
    return run_stage(work.run, SUMMARISE, work.tasks, functools.partial(_summarise, work))


def files_to_score(collected: Mapping[str, Collected]) -> dict[str, list[str]]:
    """Files in the run's directory by role: candidates, corpus."""
    written = [name for record in collected.values() for name in record.files]
    return {
        role: [name for name in written if name.startswith(f"{folder}/")]
        for role, folder in (("candidates", CANDIDATES), ("corpus", CORPUS))
    }


def _indexes(work: Work) -> list[Index]:
    """Units of BM25: tasks and pools whose first stage it is."""
    tasks = [task for task in work.tasks.values() if task.has_own_first_stage]
    closed = [Index(CLOSED, task.name) for task in tasks if task.first_stage is None]
    pools = dict.fromkeys(task.pool for task in tasks if task.pool and task.pooled_first_stage is None)
    return closed + [Index(POOLED, pool) for pool in pools]


def _retrieve(work: Work, unit: str) -> Retrieved:
    """BM25 of the corpus of a task, or of a pool, for the judged queries of each task that uses it."""
    index_of = Index.parse(unit)
    setup = index_of.setup
    corpora = [work.tasks[index_of.name]] if setup == CLOSED else work.of_pool(index_of.name)
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
    return Retrieved()


def _collect(work: Work, unit: str) -> Collected:
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
    record = Collected(
        files=tuple(files),
        pairs=pairs,
        read=read,
        quarantined=len(bad),
        quarantined_documents=len(bad_documents),
        queries=len(queries.table),
        judged_queries=len(judged),
        judgements=sum(len(found.table) for found in judgements.values()),
        queries_without_judgements=_count_missing(texts, judged),
        judged_queries_without_text=_count_missing(judged, texts),
        judged_queries_without_candidates=_count_missing(judged, with_candidates),
        judged_queries_without_relevant=_count_missing(
            judged, pa.chunked_array([c for table in relevant for c in table["query_id"].chunks], pa.string())
        ),
        judged_queries_without_compared=without_compared,
        relevant_documents_not_judged_again=_count_not_judged_again(judgements),
        other_queries_in_run=others,
        **counts,
    )
    bad.rows.extend(bad_documents.rows)
    run.write_quarantine(bad, COLLECT.name, unit)
    return record


def _first_stage(work: Work, task: Task, setup: str, bad: Quarantine) -> tuple[pa.Table, int]:
    """The first stage's whole run, and the rows that were read of it, where it is a file."""
    source = task.first_stage if setup == CLOSED else task.pooled_first_stage
    if source is not None:
        members = [member.name for member in work.of_pool(task.pool)]
        found = read_run(work.run.storage, source, bad, task.name if setup == CLOSED else None, members)
        return found.table, found.rows
    if not task.has_own_first_stage:
        return _first_stage_of_scores(work, task), 0
    return work.run.read_table(*_retrieved(task, setup)), 0


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


def _write_part(run: Directory, task: Task, held: list[pa.Table], index: int) -> str:
    name = join_url(CORPUS, f"{task.name}@{index:05d}.parquet")
    run.write_table(pa.concat_tables(held), name)
    return name


def _spread(work: Work, bucket: str) -> Spread:
    """The scored pairs of a bucket of queries, sent to the parts of tasks that they are of."""
    assert work.store is not None
    place = {part: index for index, part in enumerate(work.all_parts)}
    rows = work.store.bucket(bucket, OF_STORE)
    tasks, parts = (rows[name].to_pylist() for name in PLACE)
    index = np.array([place[Part(*of)] for of in zip(tasks, parts, strict=True)], np.int64)
    scored = pa.table(rows.drop_columns([*PLACE]).columns, schema=SCORED)
    fragment = encode_fragment(scored, index, len(place))
    work.run.write(fragment, *fragment_path(SPREAD.name, bucket))
    return Spread(rows=len(rows))


def _scores_of(work: Work, part: Part) -> pa.Table:
    """The scored pairs of a part of a task that this run has scored: `SCORED`."""
    if work.store is None:
        return SCORED.empty_table()
    return read_fragments(work.run, SPREAD.name, work.store.chunks, work.all_parts.index(part), SCORED)


def _measure(work: Work, unit: str) -> Measured:
    """Rankings of a part of a task's queries, and their values."""
    part, run = Part.parse(unit), work.run
    name, task = part.task, work.tasks[part.task]

    def of_part(table: pa.Table) -> pa.Table:
        return table.filter(pa.array(bucket_of(table["query_id"], work.parts[name]) == part.number))

    judgements = {
        judged_by: of_part(run.read_table(WORK, "judgements", name, f"{judged_by}.parquet"))
        for judged_by in task.judged_by
    }
    whole = {setup: run.read_table(WORK, "first_stage", name, f"{setup}.parquet") for setup in task.setups}
    ranked = not any(table["score"].null_count for table in whole.values())
    compared = run.read_table(WORK, "compare_with", f"{name}.parquet") if task.compare_with else None
    separator = "\t" if have_blanks([*whole.values(), *([] if compared is None else [compared])]) else " "
    compared = None if compared is None else of_part(compared)
    if task.scores:
        scored = _scores_of_runs(work, task, of_part)
    else:
        scored = _scores_of(work, part)
    rankings = make_rankings(task, {setup: of_part(t) for setup, t in whole.items()}, compared, scored, ranked=ranked)
    run.write_table(measure(task, judgements, rankings), WORK, "values", f"{unit}.parquet")
    for ranking in rankings:
        table = without_full_ids(ranking.table, name) if ranking.setup == CLOSED else ranking.table
        lines = "".join(trec_lines(dataclasses.replace(ranking, table=table), f"tart-ray-{ranking.name}", separator))
        run.write(lines.encode(), WORK, "runs", unit, ranking.setup, ranking.name)
    return Measured(
        rows=len(scored),
        rankings=tuple((ranking.setup, ranking.name) for ranking in rankings),
        incomplete=incomplete(task, scored),
        queries_left_out_of_p_mrr=left_out_of_p_mrr(task, judgements, rankings),
    )


def _scores_of_runs(work: Work, task: Task, of_part: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Those of the scored pairs of the runs that a task names that ``of_part`` keeps: `SCORED`, one variant per run."""
    tables = []
    for variant, store in zip(task.variants, work.stores[task.name], strict=True):
        for table in map(of_part, store.tables(["query_id", "doc_id", "margin"])):
            named = pa.repeat(pa.scalar(variant.name), len(table))
            tables.append(pa.table([named, *table.columns], schema=SCORED))
    return with_full_ids(pa.concat_tables([SCORED.empty_table(), *tables]), task.name)


def _summarise(work: Work, unit: str) -> Summarised:
    """Put the parts of a task together: its runs, its values per query, and what metrics.json says of it."""
    task, run = work.tasks[unit], work.run
    units = [str(part) for part in work.parts_of(unit)]
    tables = [run.read_table(WORK, "values", f"{part}.parquet") for part in units]
    values = pa.concat_tables([VALUES.empty_table(), *tables])
    order = [(name, "ascending") for name in ("setup", "run", "judged_by", "measure", "query_id")]
    values = values.sort_by(order)
    run.write_table(values, "per_query", f"{unit}.parquet")
    made = {part: record.rankings for part, record in run.records(MEASURE, units).items()}
    for setup, name in dict.fromkeys((setup, name) for rankings in made.values() for setup, name in rankings):
        urls = [run.url(WORK, "runs", part, setup, name) for part in units if (setup, name) in made[part]]
        run.write(b"".join(run.storage.read_many(urls)), "runs", unit, setup, f"{name}.trec")
    return Summarised(summary=summary.summarise(task, values, work.metrics, work.models[unit]))


def _count_not_judged_again(judgements: Mapping[str, Any]) -> int:
    """FollowIR's relevant documents that its second set of judgements does not have."""
    if ORIGINAL not in judgements:
        return 0
    old, new = (judgements[name].table for name in (ORIGINAL, CHANGED))
    relevant = old.filter(pc.greater(old["relevance"], 0)).select(["query_id", "doc_id"])
    return len(relevant.join(new.select(["query_id", "doc_id"]), ["query_id", "doc_id"], join_type="left anti"))


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


def _judged(judgements: Mapping[str, Any]) -> pa.Array:
    """Ids of the queries that have judgements."""
    return pa.concat_arrays([c for found in judgements.values() for c in found.table["query_id"].chunks]).unique()


def _count_missing(ids: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> int:
    return int(pc.sum(pc.invert(pc.is_in(ids.unique(), among))).as_py() or 0)


def _retrieved(task: Task, setup: str) -> tuple[str, ...]:
    return WORK, "retrieved", task.name, f"{setup}.parquet"
