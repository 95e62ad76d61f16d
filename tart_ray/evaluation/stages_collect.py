"""Tasks read: what is scored for each, and what its rankings are measured with."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.engine.stages import run_stage
from tart_ray.evaluation.candidates import candidates_of, first_stage_of, union, without_identical
from tart_ray.evaluation.datasets import read_documents, read_judgements, read_queries
from tart_ray.evaluation.followir import count_not_judged_again
from tart_ray.evaluation.matching import (
    check_judgements,
    judged_documents,
    refuse_strangers,
    refuse_unknown_documents,
)
from tart_ray.evaluation.pools import with_full_ids
from tart_ray.evaluation.reading import DOCUMENTS, Read
from tart_ray.evaluation.stages import Work, retrieved
from tart_ray.evaluation.tasks import CLOSED, ORIGINAL, Task
from tart_ray.evaluation.trec_runs import RUN, check_ids, of_known_queries, read_run
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.runs.directory import WORK, Directory
from tart_ray.runs.stage import Record, Stage
from tart_ray.storage import join_url

CANDIDATES, CORPUS = "candidates", "documents"  # under output.path: what is scored
BYTES_PER_FILE = 64 << 20  # of documents


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


COLLECT = Stage("collect", Collected)


def collect(work: Work) -> dict[str, Collected]:
    """Read all tasks, and write what is to be scored."""
    return run_stage(work.run, COLLECT, work.tasks, functools.partial(_collect, work))


def files_to_score(collected: Mapping[str, Collected]) -> dict[str, list[str]]:
    """Files in the run's directory by role: candidates, corpus."""
    written = [name for record in collected.values() for name in record.files]
    return {
        role: [name for name in written if name.startswith(f"{folder}/")]
        for role, folder in (("candidates", CANDIDATES), ("corpus", CORPUS))
    }


@dataclass
class _Runs:
    """The first stages of a task and what it is compared with, as they are measured.

    Attributes:
        rows: that were read of files.
        other_queries: queries that are not measured.
    """

    first_stages: dict[str, pa.Table] = field(default_factory=dict)
    compared: pa.Table | None = None
    rows: int = 0
    other_queries: int = 0


def _collect(work: Work, unit: str) -> Collected:
    """Read a task, and write what is to be scored for it, and what its rankings are measured with."""
    task, run = work.tasks[unit], work.run
    bad, bad_documents = Quarantine(READ), Quarantine(READ)
    queries = read_queries(run.storage, task, bad)
    judgements = read_judgements(run.storage, task, bad)
    query_ids = queries.table["query_id"]
    judged = check_judgements(task, judgements, query_ids)
    check_ids(pa.chunked_array([judged]), f"{task.name}: judged queries")
    runs = _read_runs(work, task, query_ids, judged, bad)
    for setup, first_stage in runs.first_stages.items():
        run.write_table(first_stage, WORK, "first_stage", task.name, f"{setup}.parquet")
    if runs.compared is not None:
        run.write_table(runs.compared, WORK, "compare_with", f"{task.name}.parquet")
    for name, read in judgements.items():
        run.write_table(read.table, WORK, "judgements", task.name, f"{name}.parquet")
    pairs, files, counts = 0, list[str](), dict[str, int]()
    if not task.scores:
        candidates = union(runs.first_stages)
        pairs, files = _write_candidates(work, task, candidates, queries.table)
        documents, counts = _write_documents(work, task, candidates["doc_id"], judgements, bad_documents)
        files += documents
    relevant = [read.table.filter(pc.greater(read.table["relevance"], 0))["query_id"] for read in judgements.values()]
    of_relevant = pa.chunked_array([chunk for ids in relevant for chunk in ids.chunks], pa.string())
    record = Collected(
        files=tuple(files),
        pairs=pairs,
        read=queries.rows + sum(read.rows for read in judgements.values()) + runs.rows,
        quarantined=len(bad),
        quarantined_documents=len(bad_documents),
        queries=len(queries.table),
        judged_queries=len(judged),
        judgements=sum(len(read.table) for read in judgements.values()),
        queries_without_judgements=_count_missing(query_ids, judged),
        judged_queries_without_text=_count_missing(judged, query_ids),
        judged_queries_without_candidates=_count_missing(judged, runs.first_stages[CLOSED]["query_id"]),
        judged_queries_without_relevant=_count_missing(judged, of_relevant),
        judged_queries_without_compared=(
            0 if runs.compared is None else _count_missing(judged, runs.compared["query_id"])
        ),
        relevant_documents_not_judged_again=count_not_judged_again(judgements) if ORIGINAL in judgements else 0,
        other_queries_in_run=runs.other_queries,
        **counts,
    )
    bad.rows.extend(bad_documents.rows)
    run.write_quarantine(bad, COLLECT.name, unit)
    return record


def _read_runs(work: Work, task: Task, query_ids: pa.ChunkedArray, judged: pa.Array, bad: Quarantine) -> _Runs:
    """Every run of a task.

    Args:
        query_ids, judged: of the queries that have a text, and of those that have judgements.

    Raises:
        InputError: a run is of other queries altogether, or has ids that no run can be written with.
    """
    runs = _Runs()
    with_text = pc.unique(query_ids.filter(pc.is_in(query_ids, judged)))
    for setup in task.setups:
        whole, rows = _first_stage(work, task, setup, bad)
        whole = _of_judged_queries(task, f"{setup} first stage", whole, query_ids, judged)
        runs.first_stages[setup] = first_stage_of(task, whole, judged, query_ids)
        runs.rows += rows
        runs.other_queries += _count_missing(whole["query_id"], with_text)
        check_ids(runs.first_stages[setup]["doc_id"], f"{task.name}: candidates")
    if task.compare_with is not None:
        read = read_run(work.run.storage, task.compare_with, bad, task.name, ())
        whole = _of_judged_queries(task, "compare_with", read.table, query_ids, judged)
        runs.compared = without_identical(task, whole)
        runs.rows += read.rows
        check_ids(runs.compared["doc_id"], f"{task.name}: compare_with")
    return runs


def _of_judged_queries(task: Task, what: str, run: pa.Table, query_ids: pa.ChunkedArray, judged: pa.Array) -> pa.Table:
    """A run under the ids of the task's queries, each pair once.

    Raises:
        InputError: none of its queries is judged.
    """
    whole = union({what: of_known_queries(task, run, query_ids)})
    refuse_strangers(f"{task.name}: {what}: query ids", whole["query_id"], "the judged queries", judged)
    return whole


def _first_stage(work: Work, task: Task, setup: str, bad: Quarantine) -> tuple[pa.Table, int]:
    """The first stage's whole run, and the rows that were read of it, where it is a file."""
    source = task.first_stage if setup == CLOSED else task.pooled_first_stage
    if source is not None:
        members = [member.name for member in work.of_pool(task.pool)]
        read = read_run(work.run.storage, source, bad, task.name if setup == CLOSED else None, members)
        return read.table, read.rows
    if not task.has_own_first_stage:
        return _first_stage_of_scores(work, task), 0
    return work.run.read_table(*retrieved(task, setup)), 0


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


def _write_candidates(work: Work, task: Task, candidates: pa.Table, queries: pa.Table) -> tuple[int, list[str]]:
    """Write the pairs to score, a file for each variant of the instruction; their number, and the files."""
    pairs, files = 0, []
    tables = candidates_of(task, candidates, queries, work.parts[task.name])
    for variant, table in zip(task.variants, tables, strict=True):
        if len(table):
            files.append(join_url(CANDIDATES, f"{task.name}@{variant.name}.parquet"))
            work.run.write_table(table, files[-1])
        pairs += len(table)
    return pairs, files


def _write_documents(
    work: Work, task: Task, wanted: pa.ChunkedArray, judgements: Mapping[str, Read], bad: Quarantine
) -> tuple[list[str], dict[str, int]]:
    """Write the documents of a task's candidates; the files, and counts of what is not in the corpora.

    Raises:
        InputError: the corpora have none of the candidates, or none of the judged documents.
    """
    run, files = work.run, list[str]()
    candidates, judged = wanted.unique(), judged_documents(judgements)
    candidates_there: list[pa.Array] = []
    judged_there: list[pa.Array] = []
    held, nbytes = [DOCUMENTS.empty_table()], 0
    corpora = [task, *(other for other in work.of_pool(task.pool) if other.name != task.name)]
    examples: list[pa.Array] = []  # of ids, to show where none is known
    for member in corpora:
        for part in read_documents(run.storage, member, bad if member.name == task.name else None):
            examples = examples or part["doc_id"].chunks
            documents = part.filter(pc.is_in(part["doc_id"], candidates))
            candidates_there += documents["doc_id"].chunks
            judged_there += part["doc_id"].filter(pc.is_in(part["doc_id"], judged)).chunks
            held.append(documents)
            nbytes += documents.nbytes
            if nbytes > BYTES_PER_FILE:
                files.append(_write_file(run, task, held, len(files)))
                held, nbytes = [DOCUMENTS.empty_table()], 0
    if nbytes or not files:
        files.append(_write_file(run, task, held, len(files)))
    missing = {}
    for what, ids, there in (("candidates", candidates, candidates_there), ("judgements", judged, judged_there)):
        known = pa.chunked_array(there, pa.string())
        if not len(known):
            refuse_unknown_documents(task, what, ids, corpora, pa.chunked_array(examples, pa.string()))
        missing[what] = _count_missing(ids, known)
    return files, {
        "candidates": len(candidates),
        "candidates_not_in_corpus": missing["candidates"],
        "judged_documents": len(judged),
        "judged_documents_not_in_corpus": missing["judgements"],
    }


def _write_file(run: Directory, task: Task, documents: Sequence[pa.Table], index: int) -> str:
    name = join_url(CORPUS, f"{task.name}@{index:05d}.parquet")
    run.write_table(pa.concat_tables(documents), name)
    return name


def _count_missing(ids: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> int:
    return int(pc.sum(pc.invert(pc.is_in(ids.unique(), among))).as_py() or 0)
