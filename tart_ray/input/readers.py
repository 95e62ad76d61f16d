"""Splits of the input to tables of good rows; every other row goes to quarantine with its reason.

A good row of candidates has a query id and a document id; texts may be missing where they are joined later.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.input.made_ids import with_made_ids
from tart_ray.input.parquet_rows import decoded, read_parquet_rows
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.sources import Source
from tart_ray.input.splits import Split
from tart_ray.input.text_rows import read_text_rows
from tart_ray.storage import Storage
from tart_ray.tables import texts
from tart_ray.tables.masks import as_mask
from tart_ray.tables.schemas import Rule


def read_split(storage: Storage, source: Source, split: Split, quarantine: Quarantine) -> Iterator[pa.Table]:
    """Tables of the good rows of one split: the columns of `tart_ray.input.sources.table_schema`, in input order."""
    read_rows = read_parquet_rows if source.format == "parquet" else read_text_rows
    for rows in read_rows(storage, source, split, quarantine):
        table, undecodable = decoded(_without_odd_scores(rows))
        table = with_made_ids(table, source.made_ids)
        yield quarantine.sift(source, table, [*undecodable, *_rules(source, table)])


def _rules(source: Source, table: pa.Table) -> Iterator[Rule]:
    """What makes a row bad, in the order in which the first reason is told."""
    ids = {"queries": ("query_id",), "corpus": ("doc_id",)}.get(source.role, ("query_id", "doc_id"))
    names = table.schema.names
    for name in (name for name in ids if name not in source.made_ids):
        yield as_mask(pc.is_null(table[name])), f"{name} is null"
        yield as_mask(pc.equal(table[name], "")), f"{name} is empty"
    if "relevance" in names and source.role == "qrels":
        yield as_mask(pc.is_null(table["relevance"])), "relevance is null"
    if "query" in names:
        yield as_mask(pc.is_null(table["query"])), "query is null"
        yield as_mask(_is_blank(table["query"])), "query is empty"
    if "text" in names and source.role == "candidates":
        yield from document_rules(table, source)


def document_rules(table: pa.Table, candidates: Source) -> Iterator[Rule]:
    """A document is its title and text; the text may be blank where there is a title, but not null."""
    yield as_mask(pc.is_null(table["text"])), "text is null"
    if candidates.allows_empty_documents:
        return
    blank = as_mask(_is_blank(table["text"]))
    if "title" in table.schema.names:
        blank &= as_mask(pc.or_kleene(pc.is_null(table["title"]), _is_blank(table["title"])))
    yield blank, "empty document"


def _without_odd_scores(table: pa.Table) -> pa.Table:
    """The table with null for scores that are NaN or infinite: what writes them has no score to tell."""
    if "score" not in table.schema.names:
        return table
    place = table.schema.get_field_index("score")
    scores = pc.if_else(pc.is_finite(table["score"]), table["score"], pa.scalar(None, pa.float64()))
    return table.set_column(place, table.schema.field(place), scores)


def _is_blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return texts.each_value(column, lambda text: pc.equal(pc.binary_length(pc.utf8_trim_whitespace(text)), 0))
