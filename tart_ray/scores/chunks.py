"""From the rows of a bucket of queries to chunks: texts joined, duplicates dropped, queries kept whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.input.quarantine import Quarantine
from tart_ray.input.readers import document_rules
from tart_ray.input.sources import Source
from tart_ray.tables import texts
from tart_ray.tables.groups import first_rows, group_starts, in_input_order
from tart_ray.tables.masks import as_mask

CHUNK_BYTES = 256 << 20  # of the documents of all its pairs: some hundred times as much as usual


def first_of_each(
    rows: pa.Table, key: str, values: Sequence[str], source: Source, quarantine: Quarantine
) -> tuple[pa.Table, int]:
    """The first row of each ``key`` in rows that are in input order, and how many others merely repeat it.

    Rows that say another thing under a key that came before go to quarantine: which of two texts is meant is not
    guessed, and the first is what every row that names the key is joined with.

    Args:
        values: the columns that must be equal, of those that are there.
    """
    first = pc.index_in(rows[key], value_set=rows[key].combine_chunks()).to_numpy()
    later = np.flatnonzero(first != np.arange(len(rows)))
    if not len(later):
        return rows, 0
    rules, bad = [], np.zeros(len(rows), dtype=bool)
    for name in (value for value in values if value in rows.schema.names):
        now, before = (rows[name].take(pa.array(places)) for places in (later, first[later]))
        known = pc.or_(pc.is_valid(now), pc.is_valid(before))
        differs = pc.and_(pc.fill_null(pc.not_equal(now, before), True), known)
        mask = np.zeros(len(rows), dtype=bool)
        mask[later] = as_mask(differs)
        rules.append((mask, f"another {name} than an earlier row of this {key}"))
        bad |= mask
    quarantine.sift(source, rows, rules)
    return rows.filter(pa.array(first == np.arange(len(rows)))), len(later) - int(bad.sum())


def join_documents(rows: pa.Table, corpus: pa.Table, candidates: Source, quarantine: Quarantine) -> pa.Table:
    """Candidates with the text and title of their documents; those without one go to quarantine.

    Of several documents with one id the first of the corpus is taken. A title of the candidates' own stays where the
    corpus has none. Texts come as `texts.share` makes them.
    """
    columns = [name for name in ("text", "title") if name in corpus.schema.names]
    at = pc.index_in(rows["doc_id"], value_set=corpus["doc_id"].combine_chunks())
    missing = as_mask(pc.is_null(at))
    known = quarantine.sift(candidates, rows, [(missing, "doc_id is not in the corpus")])
    documents = texts.share(corpus.select(columns)).take(pc.drop_null(at))
    rows_with_text = known.drop_columns([name for name in columns if name in known.schema.names])
    for name in columns:
        column = documents[name]
        if name in known.schema.names:
            column = texts.first_known(column, texts.share(known)[name])
        rows_with_text = rows_with_text.append_column(name, column)
    rows_with_text = texts.share(rows_with_text)
    return quarantine.sift(candidates, rows_with_text, list(document_rules(rows_with_text, candidates)))


def join_queries(rows: pa.Table, queries: pa.Table, candidates: Source, quarantine: Quarantine) -> pa.Table:
    """Candidates with the text of their query; those whose query is not there go to quarantine."""
    at = pc.index_in(rows["query_id"], value_set=queries["query_id"].combine_chunks())
    missing = as_mask(pc.is_null(at))
    known = quarantine.sift(candidates, rows, [(missing, "query_id is not in the queries")])
    asked = queries["query"].take(pc.drop_null(at))
    return known.append_column(pa.field("query", pa.large_string()), asked)


def quarantine_contradictions(rows: pa.Table, candidates: Source, quarantine: Quarantine) -> pa.Table:
    """Rows without those that repeat a (query_id, doc_id) under another query text or instruction.

    Such a row is no duplicate, and the output has no place for it: one pair of ids has one score.
    """
    ordered = in_input_order(rows, "query_id", "doc_id")
    starts = group_starts(ordered, "query_id", "doc_id")
    first = pa.array(np.repeat(starts[:-1], np.diff(starts)))
    rules = []
    for name in ("query", "instruction"):
        values = pc.fill_null(ordered[name], "\0")
        differs = as_mask(pc.not_equal(values, values.take(first)))
        rules.append((differs, f"another {name} than an earlier row of this query_id and doc_id"))
    return quarantine.sift(candidates, ordered, rules)


def drop_duplicates(rows: pa.Table) -> pa.Table:
    """The first row of each (query_id, doc_id), sorted by query and then in input order."""
    return first_rows(in_input_order(rows, "query_id"), "query_id", "doc_id")


def cut(rows: pa.Table, pairs_per_chunk: int) -> list[pa.Table]:
    """Chunks of about ``pairs_per_chunk`` rows out of rows sorted by query.

    Queries stay whole, unless one alone has more than twice as many candidates: then it is split. A pair whose
    document is long counts as several, so that the documents of a chunk's pairs have about `CHUNK_BYTES` at most.
    """
    counted = np.maximum(texts.nbytes_of_each(rows) * pairs_per_chunk // CHUNK_BYTES, 1)
    before = np.concatenate([[0], np.cumsum(counted)])  # pairs before each row, and in all
    cuts, held = [0], 0
    for start, end in itertools.pairwise(group_starts(rows, "query_id").tolist()):
        pairs = int(before[end] - before[start])
        if held and held + pairs > pairs_per_chunk:
            cuts.append(start)
            held = 0
        held += pairs
        if held > 2 * pairs_per_chunk:
            parts = -(-held // pairs_per_chunk)
            shares = before[cuts[-1]] + held * np.arange(1, parts) // parts
            cuts += [*np.searchsorted(before, shares).tolist(), end]
            held = 0
    ends = sorted({*cuts, len(rows)})
    return [rows.slice(start, end - start) for start, end in itertools.pairwise(ends)]
