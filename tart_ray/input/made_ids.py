"""Ids of candidates that come without any: hashes of what the model reads of the query and of the document."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

from tart_ray.tables.keys import text_id
from tart_ray.tables.texts import DOCUMENT_COLUMNS, document_texts


def with_made_ids(rows: pa.Table, made: Collection[str]) -> pa.Table:
    """The rows with these ids, ``query_id`` and ``doc_id`` or one of them, as `text_id` makes them.

    ``query_id`` is that of the query; in a row with an instruction of its own that of instruction, line feed and query,
    since all rows of a query are ranked as one list. ``doc_id`` is that of ``(title + " " + text).strip()``, which the
    model reads. Null where the query or the text is.
    """
    columns = {}
    if "query_id" in made:
        has_own = "instruction" in rows.schema.names
        instructions = rows["instruction"].to_pylist() if has_own else [None] * len(rows)
        columns["query_id"] = [
            None if query is None else text_id(query if told is None else f"{told}\n{query}")
            for query, told in zip(rows["query"].to_pylist(), instructions, strict=True)
        ]
    if "doc_id" in made:
        documents = rows.select([name for name in DOCUMENT_COLUMNS if name in rows.schema.names])
        known = rows["text"].is_valid().to_pylist()
        read = zip(document_texts(documents)[0], known, strict=True)
        columns["doc_id"] = [text_id(text) if is_known else None for text, is_known in read]
    for name, ids in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(ids, pa.string()))
    return rows
