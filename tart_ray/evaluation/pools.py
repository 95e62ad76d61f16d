"""Ids of documents where corpora are pooled, as X²-Retrieval has them: a document is called ``{task}:{doc_id}``.

It is called so everywhere inside of an evaluation, in pools and outside of them: its *full id*.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc


def full_ids(ids: pa.ChunkedArray, task: str) -> pa.ChunkedArray:
    """The full ids of documents of a task."""
    return pc.binary_join_element_wise(pa.scalar(f"{task}:"), ids.cast(pa.string()), "")


def own_ids(ids: pa.ChunkedArray, task: str) -> pa.ChunkedArray:
    """The ids that documents of a task have in its own corpus, from their full ids."""
    return pc.utf8_slice_codeunits(ids, len(task) + 1)


def with_full_ids(table: pa.Table, task: str) -> pa.Table:
    """The table with full ids as ``doc_id``."""
    return table.set_column(table.schema.get_field_index("doc_id"), "doc_id", full_ids(table["doc_id"], task))


def without_full_ids(table: pa.Table, task: str) -> pa.Table:
    """The table with the ids of the task's own corpus as ``doc_id``."""
    return table.set_column(table.schema.get_field_index("doc_id"), "doc_id", own_ids(table["doc_id"], task))


def are_of_tasks(full: pa.ChunkedArray, tasks: Sequence[str]) -> pa.ChunkedArray:
    """Whether each id is the full id of a document of one of the tasks."""
    return pc.is_in(pc.list_element(pc.split_pattern(full, ":", max_splits=1), 0), pa.array(tasks))
