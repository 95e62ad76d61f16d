"""Runs, rankings in files as TREC has them: read as first stages and to compare with, and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.errors import InputError
from tart_ray.evaluation.followir import with_ids_of_queries
from tart_ray.evaluation.pools import are_of_tasks, with_full_ids
from tart_ray.evaluation.reading import Read, read_source
from tart_ray.evaluation.tasks import Task
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.sources import Source
from tart_ray.storage import Storage
from tart_ray.tables.groups import first_rows, in_input_order
from tart_ray.tables.masks import as_mask
from tart_ray.tables.ranking import first_stage_ranks
from tart_ray.tables.schemas import Rule

RUN = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float64())])


def read_run(storage: Storage, source: Source, quarantine: Quarantine, prefix: str | None, pool: Sequence[str]) -> Read:
    """A run: `RUN`, with full ids; the first row of each pair.

    Where no row has a score, the order of a query's rows is its ranking, and the score is minus the rank.

    Args:
        prefix: the task whose documents these are; None where the run has full ids already.
        pool: tasks whose documents can be in it.
    """
    read = read_source(storage, source, quarantine)
    table = read.table
    if "score" not in table.schema.names:
        table = table.append_column("score", pa.nulls(len(table), pa.float64()))
    is_scored = table["score"].null_count < len(table)
    rules: list[Rule] = [(as_mask(pc.is_null(table["score"])), "score is null")] if is_scored else []
    if prefix is None:
        is_strange = ~as_mask(are_of_tasks(table["doc_id"], pool))
        rules.append((is_strange, f"doc_id is not of {', '.join(pool)}: expected {{task}}:{{doc_id}}"))
    good = first_rows(in_input_order(quarantine.sift(source, table, rules)), "query_id", "doc_id")
    if not is_scored:
        good = in_input_order(good, "query_id")
        ranks = first_stage_ranks(good, listed=True).cast(pa.float64())
        good = good.set_column(good.schema.get_field_index("score"), "score", pc.negate(ranks))
    good = good.select(RUN.names)
    return Read(good if prefix is None else with_full_ids(good, prefix), read.rows)


def of_known_queries(task: Task, run: pa.Table, query_ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    """A run under the ids that its queries have in the task's collection."""
    return with_ids_of_queries(run, query_ids) if task.kind == "followir" else run


def trec_lines(ranking: pa.Table, tag: str, separator: str = " ") -> Iterator[str]:
    """The lines of a TREC run: ``query_id Q0 doc_id rank score tag``; scores keep all their digits.

    Args:
        ranking: `RUN` with ``rank``.
        separator: a tab where ids have blanks in them.
    """
    for batch in ranking.to_batches(max_chunksize=65_536):
        columns = [batch[name].to_pylist() for name in ("query_id", "doc_id", "rank", "score")]
        for query_id, doc_id, rank, score in zip(*columns, strict=True):
            yield separator.join((query_id, "Q0", doc_id, str(rank), repr(score), tag)) + "\n"


def check_ids(ids: pa.ChunkedArray, place: str) -> None:
    """Refuse ids that no line of a run can hold: see `trec_lines`.

    Raises:
        InputError: an id has a tab, a line break, or a blank at its end.
    """
    bad = ids.filter(pc.match_substring_regex(ids, r"[\t\n\v\f\r]|^\s|\s$"))
    if len(bad):
        raise InputError(
            f"{place}: got id {bad[0].as_py()!r}, expected ids without tabs, line breaks, and blanks at their ends: "
            "runs are written as lines of columns, as TREC's are"
        )


def have_blanks(tables: Iterable[pa.Table]) -> bool:
    """Whether an id has white space in it, so that only tabs can stand between the columns of a run's lines."""
    columns = (table[name] for table in tables for name in ("query_id", "doc_id"))
    return any(pc.any(pc.match_substring_regex(ids, r"[\s\x{85}\p{Z}]")).as_py() for ids in columns)
