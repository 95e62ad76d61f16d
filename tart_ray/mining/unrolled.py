"""Groups unrolled to flat rows, from which the formats are made; and what is left out on the way, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.mining.format_options import FormatOptions
from tart_ray.mining.mined import LEFT_OUT
from tart_ray.tables.groups import places_in_groups
from tart_ray.tables.masks import as_mask
from tart_ray.tables.texts import document_text_column

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Formatted:
    """Rows of a format, and `LEFT_OUT`: the queries, and documents of queries, that are not among them, and why.

    Attributes:
        queries: how many are in the rows; together with those that are left out as a whole, all that were given.
    """

    rows: pa.Table
    left_out: pa.Table
    queries: int


@dataclass(frozen=True)
class Documents:
    """The positives or the negatives of all queries, one row each, sorted by query.

    Attributes:
        table: the columns of `tart_ray.mining.groups.DOCUMENT`.
        query: the number of the query that each row belongs to, int64 (rows,).
        num_queries: queries in all, some of which may have no row.
    """

    table: pa.Table
    query: Ints
    num_queries: int

    @property
    def starts(self) -> Ints:
        """Where the rows of each query begin, and behind them the number of rows, int64 (queries + 1,)."""
        return np.append(0, np.cumsum(np.bincount(self.query, minlength=self.num_queries)))

    @property
    def texts(self) -> pa.Array:
        """What the model reads of each document: its title and text."""
        return document_text_column(self.table).combine_chunks()

    def scores(self, options: FormatOptions) -> Floats:
        """The numbers that the options choose as scores, float64 (rows,)."""
        scores: Floats = self.table[options.score].cast(pa.float64()).to_numpy()
        return scores

    def keep(self, kept: Bools) -> Documents:
        """Some of the rows."""
        return Documents(self.table.filter(pa.array(kept)), self.query[kept], self.num_queries)

    def keep_queries(self, kept: Bools) -> Documents:
        """The rows of some of the queries, which are numbered anew."""
        rows = self.keep(kept[self.query])
        return Documents(rows.table, (np.cumsum(kept) - 1)[rows.query], int(kept.sum()))

    def lists(self, values: pa.Array) -> pa.ListArray:
        """For each query the list of its rows' values."""
        return pa.ListArray.from_arrays(pa.array(self.starts, pa.int32()), values)


@dataclass(frozen=True)
class Unrolled:
    """Groups as three tables.

    Attributes:
        queries: ``query_id, query, instruction``.
        left_out: tables of `LEFT_OUT`.
    """

    queries: pa.Table
    positives: Documents
    negatives: Documents
    left_out: tuple[pa.Table, ...] = ()

    @property
    def sides(self) -> tuple[Documents, Documents]:
        """Positives and negatives."""
        return self.positives, self.negatives

    def formatted(self, rows: pa.Table) -> Formatted:
        """Rows that were made of this, with what was left out before."""
        left_out = pa.concat_tables([LEFT_OUT.empty_table(), *self.left_out])
        left_out = left_out.sort_by([("query_id", "ascending"), ("doc_id", "ascending")])
        return Formatted(rows, left_out, len(self.queries))

    def keep_queries(self, kept: Bools, reason: str) -> Unrolled:
        """Without some queries; ``reason`` says why the others are left out."""
        if kept.all():
            return self
        query_ids = self.queries["query_id"].filter(pa.array(~kept)).combine_chunks()
        return Unrolled(
            self.queries.filter(pa.array(kept)),
            self.positives.keep_queries(kept),
            self.negatives.keep_queries(kept),
            (*self.left_out, _left_out(query_ids, pa.nulls(len(query_ids), pa.string()), reason)),
        )

    def keep_documents(self, positives: Bools, negatives: Bools, reason: str) -> Unrolled:
        """Without some documents, and without the queries that then have no positive or no negative."""
        left_out = [*self.left_out]
        for documents, kept in zip(self.sides, (positives, negatives), strict=True):
            lost = documents.keep(~kept)
            query_ids = self.queries["query_id"].take(pa.array(lost.query)).combine_chunks()
            left_out.append(_left_out(query_ids, lost.table["doc_id"].combine_chunks(), reason))
        rest = Unrolled(self.queries, self.positives.keep(positives), self.negatives.keep(negatives), tuple(left_out))
        rest = rest.keep_queries(np.diff(rest.positives.starts) > 0, f"no positive is left: {reason}")
        return rest.keep_queries(np.diff(rest.negatives.starts) > 0, f"no negative is left: {reason}")

    def keep_documents_with(self, column: str, reason: str) -> Unrolled:
        """Without the documents whose ``column`` is null."""
        positives, negatives = (as_mask(pc.is_valid(side.table[column])) for side in self.sides)
        return self.keep_documents(positives, negatives, reason)

    def keep_ids(self, pattern: str, otherwise: str) -> Unrolled:
        """Without the queries and documents whose id does not match; ``otherwise`` says what is wrong with it."""
        positives, negatives = (as_mask(pc.match_substring_regex(side.table["doc_id"], pattern)) for side in self.sides)
        rest = self.keep_documents(positives, negatives, f"the doc_id {otherwise}")
        queries = as_mask(pc.match_substring_regex(rest.queries["query_id"], pattern))
        return rest.keep_queries(queries, f"the query_id {otherwise}")

    def pairs(self) -> tuple[Ints, Ints]:
        """Every pair of a positive and a negative of one query, by positive: the rows of both, int64 (pairs,)."""
        starts = self.negatives.starts
        negatives = np.diff(starts)[self.positives.query]  # of each positive
        positive = np.repeat(np.arange(len(negatives)), negatives)
        place = places_in_groups(np.append(0, np.cumsum(negatives)))
        return positive, starts[self.positives.query[positive]] + place

    def with_first_negatives(self, n: int) -> tuple[Unrolled, Ints]:
        """With the first n negatives of each query alone, and without queries that have fewer.

        Returns:
            What is left, and the rows of each positive's negatives, int64 (positives, n).
        """
        rest = self.keep_queries(np.diff(self.negatives.starts) >= n, f"fewer than {n} negatives")
        is_first = places_in_groups(rest.negatives.starts) < n
        all_positives = np.ones(len(rest.positives.query), bool)
        rest = rest.keep_documents(all_positives, is_first, f"beyond the first {n} negatives")
        return rest, rest.positives.query[:, None] * n + np.arange(n)

    def documents(self) -> tuple[Documents, pa.Array]:
        """The documents of all queries, of each its positives first, and their labels: int64, 1 or 0."""
        query = np.concatenate([self.positives.query, self.negatives.query])
        order = np.argsort(query, kind="stable")
        table = pa.concat_tables([self.positives.table, self.negatives.table]).take(pa.array(order))
        labels = pa.array((order < len(self.positives.query)).astype(np.int64))
        return Documents(table, query[order], len(self.queries)), labels

    def query_texts(self, *, join_instruction: bool | None) -> pa.Array:
        """The text of each query, "instruction [SEP] query" if asked for and where there is an instruction."""
        query = self.queries["query"].combine_chunks()
        if not join_instruction:
            return query
        separator = pa.scalar(" [SEP] ", query.type)
        joined = pc.binary_join_element_wise(self.queries["instruction"].combine_chunks(), query, separator)
        return pc.coalesce(joined, query)  # null without an instruction

    def instructions(self) -> pa.Array:
        """The instruction of each query, empty without one."""
        return pc.fill_null(self.queries["instruction"].combine_chunks(), "")


def unroll(groups: pa.Table, options: FormatOptions) -> Unrolled:
    """Groups as flat rows; if scores are written, without the documents that have none."""

    def flat(name: str) -> Documents:
        lists = groups[name].combine_chunks()
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        query = np.repeat(np.arange(len(groups)), lengths)
        return Documents(pa.Table.from_struct_array(lists.flatten()), query, len(groups))

    queries = groups.select(["query_id", "query", "instruction"])
    unrolled = Unrolled(queries, flat("positives"), flat("negatives"))
    if not options.with_scores:
        return unrolled
    return unrolled.keep_documents_with(options.score, f"the document has no {options.score}")


def structs(columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.StructArray:
    """One struct per row, with a field per column."""
    arrays = [column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for column in columns.values()]
    return pa.StructArray.from_arrays(arrays, names=[*columns])


def list_rows(values: pa.Array, length: int) -> pa.ListArray:
    """Lists of ``length`` values each, of the values of all lists one after another."""
    return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, length), pa.int32()), values)


def _left_out(query_ids: pa.Array, doc_ids: pa.Array, reason: str) -> pa.Table:
    return pa.table([query_ids, doc_ids, pa.array([reason] * len(query_ids), pa.string())], schema=LEFT_OUT)
