"""Texts of documents, which many pairs share: columns of them hold each text once, however many rows it has.

A document of 2 MB that is a candidate of 2,000 queries is 2 MB in a task, not 4 GB. Such a column is a dictionary in
Arrow's sense, whose rows are numbers of its values: taking, filtering, sorting and sending rows copies numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

SHARED_TEXT = pa.dictionary(pa.int32(), pa.large_string())
DOCUMENT_COLUMNS = ("text", "title")


def share(table: pa.Table) -> pa.Table:
    """The table with its columns `DOCUMENT_COLUMNS`, of any type of text, as `SHARED_TEXT` of one dictionary each."""
    for name in (name for name in DOCUMENT_COLUMNS if name in table.schema.names):
        column = table[name]
        if column.type != SHARED_TEXT:
            column = column.cast(pa.large_string()).dictionary_encode()
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table.unify_dictionaries()


def shared_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of what `share` makes of a table."""
    return pa.schema([(f.name, SHARED_TEXT if f.name in DOCUMENT_COLUMNS else f.type) for f in schema])


def plain(table: pa.Table) -> pa.Table:
    """The table with a text of its own in each row."""
    return table.cast(pa.schema([(f.name, pa.large_string() if _is_shared(f.type) else f.type) for f in table.schema]))


def without_unused(table: pa.Table) -> pa.Table:
    """The table, in one piece, without values of dictionaries that none of its rows has."""
    table = table.unify_dictionaries().combine_chunks()
    for place, field in enumerate(table.schema):
        if _is_shared(field.type) and len(table):
            (column,) = table.column(place).chunks
            used = pc.unique(column.indices.drop_null())
            indices = pc.index_in(column.indices, value_set=used, skip_nulls=True)
            compact = pa.DictionaryArray.from_arrays(indices, column.dictionary.take(used))
            table = table.set_column(place, field, compact)
    return table


def values(column: pa.ChunkedArray) -> list[str | None]:
    """The text of each row; rows that share one share the string, too."""
    if not _is_shared(column.type) or not len(column):
        return list(column.to_pylist())
    unified = column.unify_dictionaries()
    texts = unified.chunk(0).dictionary.to_pylist()
    numbers = (index for chunk in unified.chunks for index in chunk.indices.to_pylist())
    return [None if index is None else texts[index] for index in numbers]


def first_known(*columns: pa.ChunkedArray) -> pa.ChunkedArray:
    """The first text of each row that is not null, of columns of type `SHARED_TEXT`."""
    chunks = [chunk for column in columns for chunk in column.chunks]
    unified = pa.chunked_array(chunks, SHARED_TEXT).unify_dictionaries()
    if not len(unified):
        return columns[0]
    indices = pa.chunked_array([chunk.indices for chunk in unified.chunks], pa.int32())
    numbers = [indices.slice(i * len(columns[0]), len(columns[0])).combine_chunks() for i in range(len(columns))]
    return pa.chunked_array([pa.DictionaryArray.from_arrays(pc.coalesce(*numbers), unified.chunk(0).dictionary)])


def each_value(column: pa.ChunkedArray, function: Callable[[Any], Any]) -> pa.ChunkedArray:
    """What a function of arrays of text gives for each row, found once for each distinct text."""
    if not _is_shared(column.type):
        return function(column)
    kind = function(pa.array([], pa.large_string())).type
    return pa.chunked_array([function(chunk.dictionary).take(chunk.indices) for chunk in column.chunks], kind)


def nbytes_of_each(table: pa.Table) -> npt.NDArray[np.int64]:
    """Bytes of UTF-8 of the document of each row, int64 (rows,)."""
    nbytes = np.zeros(len(table), np.int64)
    for name in (name for name in DOCUMENT_COLUMNS if name in table.schema.names):
        sizes = each_value(table[name], lambda texts: pc.binary_length(texts).cast(pa.int64()))
        nbytes += pc.fill_null(sizes, 0).to_numpy()
    return nbytes


def slices(table: pa.Table, nbytes: int) -> Iterator[pa.Table]:
    """Rows in order, in tables of which each but one of a single row has at most so many bytes of documents."""
    start, held = 0, 0
    for row, size in enumerate(nbytes_of_each(table).tolist()):
        if row > start and held + size > nbytes:
            yield table.slice(start, row - start)
            start, held = row, 0
        held += size
    yield table.slice(start)


def document_text(title: str | None, text: str | None) -> str:
    """What a model reads of a document, ``(title + " " + text).strip()``; None is no characters."""
    return f"{title or ''} {text or ''}".strip()


def document_texts(documents: pa.Table) -> tuple[list[str], list[int]]:
    """What a model reads of each document, see `document_text`, and where ``text`` begins in it.

    Args:
        documents: ``text`` and, if need be, ``title``; a null is no characters. Rows of one document share the string.

    Returns:
        A string and a number of characters for each row; the number is below 0 where ``text`` lost white space.
    """
    titles = values(documents["title"]) if "title" in documents.schema.names else [None] * len(documents)
    pairs = [*zip(titles, values(documents["text"]), strict=True)]
    read = {(title, text): (document_text(title, text), _begin(title or "", text or "")) for title, text in {*pairs}}
    of_rows = [read[pair] for pair in pairs]
    return [text for text, _ in of_rows], [begin for _, begin in of_rows]


def document_text_column(documents: pa.Table) -> pa.ChunkedArray:
    """The strings of `document_texts` as a column, of ``title`` and ``text`` (large_string, without nulls)."""
    joined = pc.binary_join_element_wise(documents["title"], documents["text"], pa.scalar(" ", pa.large_string()))
    return pc.utf8_trim_whitespace(joined)


def _begin(title: str, text: str) -> int:
    """Where a text begins in what `document_text` makes of it."""
    before = f"{title} "
    return len(before.lstrip()) if before.strip() else len(text.lstrip()) - len(text)


def _is_shared(kind: pa.DataType) -> bool:
    return bool(kind == SHARED_TEXT)
