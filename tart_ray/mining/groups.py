"""Groups: a query with its positives, its negatives and their texts, from which all trainers' files are made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.mining.mined import Mined
from tart_ray.mining.unrolled import Bools, Documents, Formatted, Ints, Unrolled, structs
from tart_ray.tables.masks import as_mask
from tart_ray.tables.texts import document_text_column

TEXT = pa.large_string()
DOCUMENT = [
    ("doc_id", pa.string()),
    ("title", TEXT),  # never null
    ("text", TEXT),
    ("score", pa.float32()),  # null where the document was not scored
    ("margin", pa.float32()),
    ("policy", pa.string()),  # that chose the negative; null for a positive
]
GROUPS = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", TEXT),
        ("instruction", TEXT),  # null without one
        ("positives", pa.list_(pa.struct(DOCUMENT))),
        ("negatives", pa.list_(pa.struct(DOCUMENT))),
    ]
)


def group(
    mined: Mined,
    queries: pa.Table,
    documents: pa.Table | None = None,
    *,
    of_other_instructions: Sequence[str] = (),
) -> Formatted:
    """`GROUPS`, by query_id; negatives in the order that they were mined in.

    Args:
        mined: of `tart_ray.mining.negatives.mine`.
        queries: ``query_id, query``; optional ``instruction``. Without that, a query has the instruction that its
            positives were scored under, or, where none was scored, its negatives.
        documents: ``doc_id, text``; optional ``title``. None: the mined tables have them.
        of_other_instructions: policies whose negatives may have been scored under another instruction.

    Returns:
        Groups, each with at least one positive and one negative, and what is left out: documents and queries without
        text, queries of which nothing else remains, queries with several texts, and queries that were scored under
        several instructions.
    """
    query_ids = _distinct(mined.positives["query_id"], mined.negatives["query_id"])
    positives, negatives = (
        Documents(_with_texts(rows, documents), _positions(rows["query_id"], query_ids), len(query_ids))
        for rows in (mined.positives, mined.negatives)
    )
    at = pc.index_in(query_ids, value_set=queries["query_id"].cast(pa.string()).combine_chunks())
    if "instruction" in queries.schema.names:
        instruction = queries["instruction"].cast(TEXT).take(at).combine_chunks()
        several_instructions = np.zeros(len(query_ids), bool)
    else:
        instruction, several_instructions = _instructions(mined, positives, negatives, of_other_instructions)
    several_texts = _have_several_texts(queries, query_ids)
    query = queries["query"].cast(TEXT).take(at).combine_chunks()
    unrolled = Unrolled(
        pa.table({"query_id": query_ids, "query": query, "instruction": instruction}), positives, negatives
    )
    unrolled = unrolled.keep_queries(~several_texts, "the query_id has several texts")
    unrolled = unrolled.keep_queries(
        ~several_instructions[~several_texts], "the query was scored under several instructions"
    )
    unrolled = unrolled.keep_queries(as_mask(pc.is_valid(unrolled.queries["query"])), "the query has no text")
    unrolled = unrolled.keep_documents_with("text", "the document has no text")
    lists = [
        side.lists(structs({name: side.table[name] for name in side.table.schema.names})) for side in unrolled.sides
    ]
    return unrolled.formatted(pa.table([*unrolled.queries.columns, *lists], schema=GROUPS))


def _have_several_texts(queries: pa.Table, query_ids: pa.Array) -> Bools:
    """Whether ``queries`` has more than one text for each of the ids."""
    distinct = queries.select(["query_id", "query"]).group_by(["query_id", "query"]).aggregate([])
    of_text = pc.index_in(distinct["query_id"].cast(pa.string()), value_set=query_ids).drop_null().to_numpy()
    return np.asarray(np.bincount(of_text, minlength=len(query_ids)) > 1)


def _instructions(
    mined: Mined, positives: Documents, negatives: Documents, of_other_instructions: Sequence[str]
) -> tuple[pa.Array, Bools]:
    """The instruction that each query was scored under, null without one, and whether there was more than one.

    It is that of its first scored positive, or, without one, of its first negative. Negatives of the policies
    ``of_other_instructions`` count only in queries without a scored positive.
    """
    count = positives.num_queries
    if "instruction" not in mined.negatives.schema.names:
        return pa.nulls(count, TEXT), np.zeros(count, bool)
    is_scored = as_mask(pc.is_valid(mined.positives["rank"]))
    has_none_scored = np.bincount(positives.query[is_scored], minlength=count) == 0
    of_other = as_mask(pc.is_in(mined.negatives["policy"], value_set=pa.array(of_other_instructions, pa.string())))
    counts = ~of_other | has_none_scored[negatives.query]
    texts = pa.chunked_array(
        [
            *mined.positives["instruction"].filter(pa.array(is_scored)).cast(TEXT).chunks,
            *mined.negatives["instruction"].filter(pa.array(counts)).cast(TEXT).chunks,
        ],
        TEXT,
    ).combine_chunks()
    query = np.concatenate([positives.query[is_scored], negatives.query[counts]])
    known, first = np.unique(query, return_index=True)
    first_of_query = np.zeros(count, np.int64)
    first_of_query[known] = first
    is_unknown = np.ones(count, bool)
    is_unknown[known] = False
    instruction = texts.take(pa.array(first_of_query, mask=is_unknown))
    codes = pc.fill_null(pc.dictionary_encode(texts).indices, -1).to_numpy(zero_copy_only=False)
    differs = codes != codes[first_of_query[query]]
    return instruction, np.asarray(np.bincount(query[differs], minlength=count) > 0)


def _with_texts(rows: pa.Table, documents: pa.Table | None) -> pa.Table:
    """The columns of `DOCUMENT`; text is null where text and title are blank."""
    source = rows
    if documents is not None:
        doc_ids = documents["doc_id"].cast(pa.string()).combine_chunks()
        at = pc.index_in(rows["doc_id"].cast(pa.string()), value_set=doc_ids)
        source = documents.select([name for name in ("text", "title") if name in documents.schema.names]).take(at)
    columns = {}
    for name, kind in DOCUMENT:
        table = source if name in ("text", "title") else rows
        absent = pa.chunked_array([pa.nulls(len(rows), kind)])
        columns[name] = table[name].cast(kind) if name in table.schema.names else absent
    columns["title"] = pc.fill_null(columns["title"], "")
    columns["text"] = pc.fill_null(columns["text"], "")
    is_blank = pc.equal(document_text_column(pa.table(columns)), "")
    columns["text"] = pc.if_else(is_blank, pa.scalar(None, TEXT), columns["text"])
    return pa.table(columns)


def _distinct(*columns: pa.ChunkedArray) -> pa.Array:
    """The distinct ids of several columns, in ascending order."""
    chunks = [chunk for column in columns for chunk in column.cast(pa.string()).chunks]
    ids = pc.unique(pa.chunked_array(chunks, pa.string()))
    return ids.take(pc.sort_indices(ids))


def _positions(column: pa.ChunkedArray, ids: pa.Array) -> Ints:
    positions: Ints = pc.index_in(column.cast(pa.string()), value_set=ids).to_numpy().astype(np.int64)
    return positions
