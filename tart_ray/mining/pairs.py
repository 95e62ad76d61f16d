"""The scored pairs of a table as arrays: which are positives, copies of positives, or the query itself; their ranks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.mining.mined import ADDED, JUDGED, LEFT_OUT, QUERY_ITSELF
from tart_ray.tables.keys import TEXT_KEY, normalise, text_keys
from tart_ray.tables.masks import as_mask
from tart_ray.tables.texts import plain

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Pairs:
    """The scored pairs as arrays: one entry a pair in the order of the table, or one a query in that of the ids."""

    def __init__(self, scores: pa.Table, positives: pa.Table, twins: bool) -> None:
        self.scores, self.size = scores, len(scores)
        self.ids, (self.query,) = codes_of(scores["query_id"])
        self.queries = len(self.ids)
        at = pc.index_in(positives["query_id"].cast(pa.string()), value_set=self.ids)
        self._known = positives.filter(pc.is_valid(at))
        known_query = pc.drop_null(at).to_numpy().astype(np.int64)
        documents, (self.document, known_document) = codes_of(scores["doc_id"], self._known["doc_id"])
        pair, known = self.query * len(documents) + self.document, known_query * len(documents) + known_document
        _, first = np.unique(known, return_index=True)  # qrels may repeat themselves
        self._known, known = self._known.take(pa.array(first)), known[first]
        self._known_query, self._known_document = known_query[first], known_document[first]

        order = np.argsort(pair)
        again = np.flatnonzero(np.diff(pair[order]) == 0)
        if len(again):
            row = scores.slice(int(order[again[0]]), 1)
            raise ValueError(
                f"query_id {row['query_id'][0].as_py()!r} has doc_id {row['doc_id'][0].as_py()!r} more than once "
                f"({len(again)} such rows): one pair of ids has one score; give a query a query_id of its own for "
                "each instruction, and name the column that these share in same_query"
            )
        place = np.minimum(np.searchsorted(pair, known, sorter=order), max(self.size - 1, 0))
        self._known_row = order[place] if self.size else np.empty(0, np.int64)  # row of a known positive, if scored
        self._is_scored = pair[self._known_row] == known if self.size else np.zeros(len(known), bool)
        self.judged = np.zeros(self.size, bool)
        self.judged[self._known_row[self._is_scored]] = True
        self.positive = self.judged.copy()
        self.has_positive = np.bincount(self._known_query, minlength=self.queries) > 0
        self.has_scored_positive = np.bincount(self.query[self.judged], minlength=self.queries) > 0
        self._keys = _keys(scores) if twins else None
        self.twin = np.zeros(self.size, bool)
        self._find_twins()
        self.itself = self._find_queries_themselves()
        self._orders: dict[str, Ints] = {}

    def counts(self) -> dict[str, int]:
        return {
            "queries": self.queries,
            "pairs": self.size,
            "positives": len(self._known),
            "positives not scored": int((~self._is_scored).sum()),
        }

    def add_positives(self, new: Bools) -> None:
        """New positives are as good as judged ones, but for the numbers that negatives are compared with."""
        self.positive |= new
        self.has_positive |= np.bincount(self.query[new], minlength=self.queries) > 0
        if new.any():
            self._find_twins()

    def _find_twins(self) -> None:
        if self._keys is None:
            return
        keys, of = [self._keys.filter(pa.array(self.positive))], [self.query[self.positive]]
        brought = _keys(self._known, required=False)
        if brought is not None:
            keys, of = [*keys, brought], [*of, self._known_query]
        of_positives = pa.chunked_array([chunk for key in keys for chunk in key.chunks], self._keys.type)
        self.twin = self._copies(of_positives, np.concatenate(of)) & ~self.positive

    def _copies(self, keys: pa.ChunkedArray, of: Ints) -> Bools:
        """The pairs whose document has one of the texts of their query: ``keys``, of the queries ``of``."""
        assert self._keys is not None
        distinct = pc.unique(pc.drop_null(keys))
        count = len(distinct) + 1
        code, known = (_positions_in(key, distinct) for key in (self._keys, keys))
        texts = np.unique((of * count + known)[known >= 0])
        copies: Bools = (code >= 0) & np.isin(self.query * count + code, texts)
        return copies

    def _find_queries_themselves(self) -> Bools:
        """The pairs whose document is their query, by id or text, or a copy of such a document; no judged positives."""
        query_ids, doc_ids = (self.scores[name].cast(pa.string()) for name in ("query_id", "doc_id"))
        itself = as_mask(pc.equal(query_ids, doc_ids))
        if "query" in self.scores.schema.names:
            asked = text_keys(pa.table({"text": self.scores["query"].cast(pa.large_string())}))
            for key in (self._keys or _keys(self.scores, required=False), _joined_keys(self.scores)):
                if key is not None:
                    itself |= as_mask(pc.equal(key, asked))
        if self._keys is not None and itself.any():
            itself |= self._copies(self._keys.filter(pa.array(itself)), self.query[itself])
        return itself & ~self.judged

    def queries_themselves(self) -> pa.Table:
        """`LEFT_OUT` rows of the documents that are their query."""
        rows = self.scores.filter(pa.array(self.itself)).select(["query_id", "doc_id"])
        reasons = pa.array([QUERY_ITSELF] * len(rows), pa.string())
        return rows.append_column("reason", reasons).cast(LEFT_OUT)

    def number(self, column: str) -> Floats:
        """A column of numbers as float64, NaN where it is null or absent."""
        if column not in self.scores.schema.names:
            return np.full(self.size, np.nan)
        numbers: Floats = self.scores[column].cast(pa.float64()).to_numpy()
        return numbers

    def order(self, score: str) -> Ints:
        """All pairs by query, then as `tart_ray.tables.ranking` orders them, with ``score`` for the margin."""
        if score not in self._orders:
            keys = (self.document, self.number("first_stage_rank"), -self.number(score), self.query)
            self._orders[score] = np.lexsort(keys)  # NaN sorts last
        return self._orders[score]

    def ranks(self, score: str, among: Bools | None = None) -> Ints:
        """Rank from 1 of each pair of ``among`` within its query; what is not among them has 0."""
        order = self.order(score)
        order = order if among is None else order[among[order]]
        ranks = np.zeros(self.size, np.int64)
        ranks[order] = place_in_query(self.query[order], self.queries) + 1
        return ranks

    def lowest_positive(self, score: str) -> Floats:
        """For each query the lowest number of its judged positives, inf where none has one."""
        lowest, number = np.full(self.queries, np.inf), self.number(score)
        rows = np.flatnonzero(self.judged & ~np.isnan(number))
        np.minimum.at(lowest, self.query[rows], number[rows])
        return lowest

    def with_rank(self, rows: Ints, unknown: Bools | None = None) -> pa.Table:
        """Rows of the scores with the model's rank; all null where ``unknown``."""
        names = [name for name in self.scores.schema.names if name not in ADDED]
        at = pa.array(rows, pa.int64(), mask=unknown)
        ranks = pa.array(self.ranks("margin"), pa.int32()).take(at)
        return plain(self.scores.select(names).take(at)).append_column("rank", ranks)

    def positives_of(self, kept: Bools, new: Ints, names: pa.Array) -> pa.Table:
        """Judged and new positives of the kept queries, each query's judged first, then by doc_id."""
        judged = np.flatnonzero(kept[self._known_query])
        made = np.flatnonzero((new >= 0) & kept[self.query])
        table = self.with_rank(
            np.concatenate([self._known_row[judged], made]),
            np.concatenate([~self._is_scored[judged], np.zeros(len(made), bool)]),
        )
        known = self._known.take(pa.array(judged))
        for name in ("query_id", "doc_id", "text", "title"):
            if name in known.schema.names and name in table.schema.names:
                field = table.schema.field(name)
                brought = pa.chunked_array(
                    [*known[name].cast(field.type).chunks, pa.nulls(len(made), field.type)], field.type
                )
                table = table.set_column(table.schema.get_field_index(name), field, pc.coalesce(table[name], brought))
        relevance = pa.nulls(len(table), pa.int64())
        if "relevance" in known.schema.names:
            judgements = known["relevance"].cast(pa.int64()).combine_chunks()
            relevance = pa.concat_arrays([judgements, pa.nulls(len(made), pa.int64())])
        sources = pa.concat_arrays([pa.array([JUDGED] * len(judged), pa.string()), names.take(pa.array(new[made]))])
        table = table.append_column("relevance", relevance).append_column("positive_by", sources)
        query = np.concatenate([self._known_query[judged], self.query[made]])
        document = np.concatenate([self._known_document[judged], self.document[made]])
        return table.take(pa.array(np.lexsort((document, np.arange(len(table)) >= len(judged), query))))


def _keys(table: pa.Table, *, required: bool = True) -> pa.ChunkedArray | None:
    if "text_key" in table.schema.names:
        if table.schema.field("text_key").type != TEXT_KEY:
            raise ValueError(f"text_key is {table.schema.field('text_key').type}, expected {TEXT_KEY}, of text_keys")
        return table["text_key"]
    return text_keys(table) if required or "text" in table.schema.names else None


def _joined_keys(scores: pa.Table) -> pa.ChunkedArray | None:
    """Keys of title and text together, where they can be the query's; null elsewhere. None without titles or texts.

    They can be only where title and query begin with the same word, which spares a second look at most texts.
    """
    if not {"title", "text"} <= {*scores.schema.names}:
        return None
    possible = pc.equal(_first_words(scores["title"]), _first_words(scores["query"]))
    at = pc.indices_nonzero(possible)
    read = plain(scores.select(["title", "text"]).take(at))
    nothing, space = pa.scalar("", pa.large_string()), pa.scalar(" ", pa.large_string())
    title, text = (pc.fill_null(read[name].cast(pa.large_string()), nothing) for name in ("title", "text"))
    joined = text_keys(pa.table({"text": pc.binary_join_element_wise(title, text, space)}))
    of_row = np.full(len(scores), -1)
    of_row[at] = np.arange(len(at))
    return joined.take(pa.array(of_row, mask=of_row < 0))


def _first_words(texts: pa.ChunkedArray) -> pa.Array:
    """The first word of each text, normalised; null where there is none."""
    encoded = texts.cast(pa.large_string()).combine_chunks().dictionary_encode()
    words = ((normalise(text) if text else "").partition(" ")[0] for text in encoded.dictionary.to_pylist())
    return pa.array([word or None for word in words], pa.large_string()).take(encoded.indices)


def codes_of(*columns: pa.ChunkedArray) -> tuple[pa.Array, list[Ints]]:
    """The distinct strings of the columns in ascending order, and for each column their positions."""
    strings = [column.cast(pa.large_string()) for column in columns]
    encoded = pa.chunked_array([chunk for column in strings for chunk in column.chunks], pa.large_string())
    encoded = encoded.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    place = np.empty(len(order), np.int64)
    place[order.to_numpy()] = np.arange(len(order))
    codes = place[encoded.indices.to_numpy(zero_copy_only=False)]
    ends = np.cumsum([len(column) for column in columns])[:-1]
    return encoded.dictionary.take(order).cast(pa.string()), np.split(codes, ends)


def _positions_in(keys: pa.ChunkedArray, distinct: pa.Array) -> Ints:
    """Where each key is among the distinct ones; -1 where it is not, or null."""
    at = pc.index_in(keys, value_set=distinct, skip_nulls=True)
    positions: Ints = pc.fill_null(at, -1).to_numpy().astype(np.int64)
    return positions


def place_in_query(query: Ints, queries: int) -> Ints:
    """Place of each entry among those of its query, from 0, in entries that are sorted by query."""
    counts = np.bincount(query, minlength=queries)
    places: Ints = np.arange(len(query)) - (np.cumsum(counts) - counts)[query]
    return places
