"""Whether a task's files belong together: what can only give figures of 0 is refused, with ids of both sides.

Ids that differ in form ("1" and "q1", "0001" and "1") look like a bad model otherwise. Queries and judgements are small
and read whole before any work, of a corpus as much as it takes to find one id that matches. Larger runs and corpora
than `RUN_BYTES` and `CORPUS_BYTES` are looked at when all of them is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.errors import InputError
from tart_ray.evaluation.datasets import read_documents, read_judgements, read_queries
from tart_ray.evaluation.pools import own_ids, with_full_ids
from tart_ray.evaluation.reading import Read
from tart_ray.evaluation.tasks import ALL, Task
from tart_ray.evaluation.trec_runs import RUN, of_known_queries
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import Source
from tart_ray.storage import Storage

RUN_BYTES = 8 << 20  # of pairs of ids: some 300,000 rows
CORPUS_BYTES = 64 << 20
SHOWN = 3  # ids in a message


def check_matches(storage: Storage, task: Task, pool: Sequence[Task], stores: Mapping[str, Iterable[pa.Table]]) -> None:
    """Look whether judgements, queries, documents and runs of a task know each other, as far as that is quick.

    Args:
        pool: the tasks of its pool, itself among them.
        stores: tables ``query_id, doc_id`` of the scored runs that it names, by path.

    Raises:
        InputError: something of it matches nothing.
    """
    judgements = read_judgements(storage, task, Quarantine(READ))
    queries = read_queries(storage, task, Quarantine(READ)).table["query_id"].combine_chunks()
    judged = check_judgements(task, judgements, queries)
    documents: dict[str, pa.Array | None] = {"judgements": judged_documents(judgements)}
    runs = {
        "first_stage": (task.first_stage, task.name),
        "pooled_first_stage": (task.pooled_first_stage, None),
        "compare_with": (task.compare_with, task.name),
    }
    pooled: dict[str, pa.Array | None] = {}
    for key, (source, prefix) in runs.items():
        if source is not None:
            what = f"{key} {source.url}"
            of_run = _check_run(task, what, _pairs(storage, task, source, queries, prefix), judged)
            (documents if prefix else pooled)[what] = of_run
    for path, tables in stores.items():
        of_task = (with_full_ids(table, task.name) for table in tables)
        documents[f"scores {path}"] = _check_run(task, f"scores {path}", of_task, judged)
    _check_documents(storage, task, [task], documents)
    if pooled:
        _check_documents(storage, task, pool, pooled)


def check_judgements(task: Task, judgements: Mapping[str, Read], queries: pa.ChunkedArray) -> pa.Array:
    """The ids of the queries that are judged.

    Args:
        queries: ids of the queries.

    Raises:
        InputError: of a set of judgements none is good, none is of a query, or none says that a document is relevant.
    """
    for name, read in judgements.items():
        what = "judgements" if name == ALL else f"judgements ({name})"
        if not len(read.table):
            raise InputError(f"{task.name}: {what}: got no good one of {read.rows}, expected some")
        refuse_strangers(f"{task.name}: {what}: query ids", read.table["query_id"], "the queries", queries)
        of_queries = read.table.filter(pc.is_in(read.table["query_id"], pc.unique(queries)))
        if not pc.any(pc.greater(of_queries["relevance"], 0)).as_py():
            grades = pc.min_max(of_queries["relevance"]).as_py()
            raise InputError(
                f"{task.name}: {what}: no document is relevant to any query: got relevances from {grades['min']} to "
                f"{grades['max']}, expected some above 0"
            )
    return judged_queries(judgements)


def judged_queries(judgements: Mapping[str, Read]) -> pa.Array:
    """Distinct ids of the queries that any set of judgements has."""
    return _ids_of(judgements, "query_id").unique()


def judged_documents(judgements: Mapping[str, Read]) -> pa.Array:
    """Distinct full ids of the documents that any set of judgements has."""
    return _ids_of(judgements, "doc_id").drop_null().unique()


def _ids_of(judgements: Mapping[str, Read], name: str) -> pa.Array:
    return pa.concat_arrays([chunk for read in judgements.values() for chunk in read.table[name].chunks])


def refuse_strangers(what: str, ids: pa.ChunkedArray, where: str, known: pa.ChunkedArray) -> None:
    """Refuse ids of which none is known.

    Raises:
        InputError: none is; the message shows some of both.
    """
    if not pc.any(pc.is_in(ids, value_set=pc.unique(known))).as_py():
        raise InputError(
            f"{what}: none is in {where}: got {_examples(ids)}, and there are {_examples(known)}; expected the same "
            "ids in the same form"
        )


def refuse_unknown_documents(
    task: Task, what: str, ids: pa.ChunkedArray, corpora: Sequence[Task], known: pa.ChunkedArray
) -> None:
    """Refuse documents, by their full ids, of which none is in the corpora.

    Raises:
        InputError: none is; the message shows some of both.
    """
    where = "the corpus" if len(corpora) == 1 else "the corpora of its pool"
    if len(corpora) == 1:  # as they are in the files
        ids, known = own_ids(ids, task.name), own_ids(known, task.name)
    refuse_strangers(f"{task.name}: {what}: document ids", ids, where, known)


def _examples(ids: pa.ChunkedArray) -> str:
    distinct = ids.unique()
    shown = ", ".join(map(repr, distinct[:SHOWN].to_pylist()))
    return f"{shown}{', …' if len(distinct) > SHOWN else ''}" if len(distinct) else "none"


def _pairs(storage: Storage, task: Task, source: Source, queries: pa.Array, prefix: str | None) -> Iterator[pa.Table]:
    for split in source.splits:
        for table in read_split(storage, source, split, Quarantine(READ)):
            pairs = of_known_queries(task, table.select(["query_id", "doc_id"]), queries)
            yield with_full_ids(pairs, prefix) if prefix else pairs


def _check_run(task: Task, what: str, tables: Iterable[pa.Table], judged: pa.Array) -> pa.Array | None:
    """The documents of a run's judged queries; None where the run is too large to be read for that.

    Args:
        judged: ids of the judged queries.

    Raises:
        InputError: no pair is of a judged query.
    """
    held = [RUN.empty_table().select(["query_id", "doc_id"])]
    for table in tables:
        held.append(table)
        if sum(some.nbytes for some in held) > RUN_BYTES:
            return None
    whole = pa.concat_tables(held)
    refuse_strangers(f"{task.name}: {what}: query ids", whole["query_id"], "the judged queries", judged)
    return whole.filter(pc.is_in(whole["query_id"], judged))["doc_id"].combine_chunks()


def _check_documents(
    storage: Storage, task: Task, corpora: Sequence[Task], wanted: Mapping[str, pa.Array | None]
) -> None:
    """Look in the corpora for one document of each run and of the judgements.

    Raises:
        InputError: there is none, and the corpora are small enough to tell.
    """
    missing = {what: ids for what, ids in wanted.items() if ids is not None}
    known: list[pa.Array] = []
    nbytes = 0
    for member in corpora:
        for table in read_documents(storage, member):
            known += table["doc_id"].chunks
            missing = {
                what: ids
                for what, ids in missing.items()
                if not pc.any(pc.is_in(ids, table["doc_id"].unique())).as_py()
            }
            nbytes += table.nbytes
            if not missing or nbytes > CORPUS_BYTES:
                return
    for what, ids in missing.items():
        refuse_unknown_documents(task, what, ids, corpora, pa.chunked_array(known, pa.string()))
