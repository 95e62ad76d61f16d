"""Mine hard negatives: which scored candidates of a query are good negatives to train on.

A miner can put a document that does answer the query among its negatives, a false negative, and teach a model the
wrong thing. Against that, whatever the policies say: no positive of a query is its negative; nor is a *twin*, a
document of another id with the text of one of the query's positives; nor is a document that a policy has made a new
positive; nor is the query itself, where the corpus holds it (duplicate questions, arguments and their
counter-arguments). The same document may be a negative of any number of other queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.tables.grades import can_be_grades, grades
from tart_ray.tables.keys import TEXT_KEY, gumbel, normalise, random_keys, text_keys
from tart_ray.tables.schemas import SCORES
from tart_ray.tables.texts import plain

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# of what is mined: goes up when the same scores give other negatives, positives or trainer files
MINING_VERSION = 1
JUDGED = "judged"  # the source of a positive that the caller gave
NO_POSITIVE = "no positive"
POSITIVE_NOT_SCORED = "no judged positive is among the scored candidates, and the policy needs its score"
NOTHING_PASSES = "no candidate passes"
QUERY_ITSELF = "the document is the query itself, by its id or its text"
ADDED = ("rank", "policy", "relevance", "positive_by")  # columns of the result; the scores' own are replaced
TOO_FEW = "fewer candidates pass than were asked for"

LEFT_OUT = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("reason", pa.string())])  # doc_id null: all
SHORTFALLS = pa.schema(
    [
        ("query_id", pa.string()),
        ("policy", pa.string()),
        ("wanted", pa.int32()),
        ("chosen", pa.int32()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class MiningPolicy:
    """Which candidates of a query may become negatives, how many, and how they are chosen.

    A candidate must pass every filter that is set. Below, s is its number, P the **lowest** number among the query's
    scored positives (with several, the one that is easiest to mistake), r its rank from 1. Comparisons are made in
    float64 on the stored values.

    Attributes:
        name: what the ``policy`` column of the negatives says.
        num_negatives: at most so many for each query.
        fill: count what earlier policies chose towards ``num_negatives``: choose only what is missing.
        score: the column that is s: ``margin``, logits[1] - logits[0] in (-inf, inf), which never ties where the
            model does not; or ``score``, the probability in [0, 1]. A share of P (relative_margin,
            positive_percentage) means little for margins, where zero is no natural origin: use ``score`` with
            them, or absolute_margin, which for margins is a factor of e^m in the odds.
        source: which candidates are looked at.
            ``candidates``: all.
            ``other_task``: instruction-unfollowing negatives of TART: documents from another task's corpus that were
            retrieved for the query, here those whose ``document_task`` differs from ``query_task``, both known.
            TART's scripts take one for a query.
            ``contrast``: pairs that satisfy the query but break this instruction: s <= contrast_low, while the
            same document for the same query under another instruction has s >= contrast_high.
        query_task, document_task: names of the columns that ``other_task`` compares. For candidates that were
            scored under another task's instruction, the query's own instruction and ``instruction``.
        same_query: the column whose value is shared by the query ids that are one query under several instructions
            (its text, say). All of them must be in the table: the caller's buckets must be by `shared_keys`.
        contrast_low, contrast_high: low < high; ``contrast`` needs both.
        rank_by: the rank that the window applies to: ``first_stage_rank``, the retriever's (a candidate without one
            never passes a window), ``margin``, the model's among all candidates of the query, or ``remaining``, by s
            among the candidates that pass every other filter, positives excluded.
        range_min, range_max: range_min < r <= range_max: the first range_min are skipped, as by the slice
            ``[range_min:range_max]`` (FlagEmbedding's hn_mine, sentence-transformers).
        max_score: s <= max_score (TopK-Abs of NV-Retriever).
        min_score: s >= min_score.
        absolute_margin: m: s <= P - m (TopK-MarginPos of NV-Retriever).
        relative_margin: m >= 0: s <= P - |P| * m (sentence-transformers). |P|, so that the threshold lies below P for
            negative P too.
        positive_percentage: p in (0, 1]: s < P - |P| * (1 - p), which is s < p * P for P >= 0 (TopK-PercPos of
            NV-Retriever, there 0.95); for negative P as far below P as it would be for |P|.
        negative_below: s < negative_below, a hard negative (denoising of RocketQA and TART: probability 0.1).
        positive_above: candidates with s > positive_above become new positives of the query (there 0.9), twins of
            its positives excepted. They do not count for P. What lies between the two is dropped; twins of new
            positives are no negatives either.
        sampling: ``top``: the largest s (ties: better first-stage rank, then smaller doc_id); ``random``: uniform;
            ``simans``: without replacement with weights exp(-a * (s - P - b)^2) (SimANS, whose paper takes the
            number of one positive for P).
        simans_a, simans_b: a > 0, how fast weights fall, and b, where they are largest, counted from P.
        seed: in [0, 2**64). The random key of a pair is a function of seed, query_id and doc_id alone, so a sample
            depends neither on the order of rows nor on the number of workers, and a larger ``num_negatives`` keeps
            what a smaller one chose.

    Raises:
        ValueError: a parameter out of its range, with what was got and what is expected.

    Beside ``sentence_transformers.util.mine_hard_negatives`` (6.2): max_score, min_score, absolute_margin,
    relative_margin and "top" keep the same pairs, and it too takes the lowest of several positives. It ranks what
    remains after its filters (``rank_by="remaining"``), out of the nearest range_max + (the largest number of
    positives of any query) texts. Documents are its texts, so an exact copy of a positive is that positive, while one
    that differs in case or spaces is a negative. Its random choices come from Python's global generator.

    References: TART arXiv:2211.09260; NV-Retriever arXiv:2407.15831; SimANS arXiv:2210.11773; RocketQA
    arXiv:2010.08191.
    """

    name: str = "hard"
    num_negatives: int = 7
    fill: bool = False
    score: Literal["margin", "score"] = "margin"
    source: Literal["candidates", "other_task", "contrast"] = "candidates"
    query_task: str = "query_task"
    document_task: str = "document_task"
    same_query: str = "query"
    contrast_low: float | None = None
    contrast_high: float | None = None
    rank_by: Literal["first_stage_rank", "margin", "remaining"] = "first_stage_rank"
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    positive_percentage: float | None = None
    negative_below: float | None = None
    positive_above: float | None = None
    sampling: Literal["top", "random", "simans"] = "top"
    simans_a: float = 1.0
    simans_b: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field, kind in get_type_hints(type(self)).items():
            value, choices = getattr(self, field), get_args(kind)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field}: got {value}, expected a finite number")
            if choices and all(isinstance(choice, str) for choice in choices) and value not in choices:
                raise ValueError(f"{field}: got {value!r}, expected one of {', '.join(choices)}")
        low, high = self.contrast_low, self.contrast_high
        below, above = self.negative_below, self.positive_above
        needed = [
            (bool(self.name) and ":" not in self.name, "name", "a name without colons"),
            (self.num_negatives >= 1, "num_negatives", "1 or more"),
            (self.range_min >= 0, "range_min", "0 or more"),
            (self.range_max is None or self.range_max > self.range_min, "range_max", "more than range_min"),
            (self.relative_margin is None or self.relative_margin >= 0, "relative_margin", "0 or more"),
            (self.positive_percentage is None or 0 < self.positive_percentage <= 1, "positive_percentage", "in (0, 1]"),
            (self.simans_a > 0, "simans_a", "more than 0"),
            (0 <= self.seed < 2**64, "seed", "in [0, 2**64)"),
            (below is None or above is None or below <= above, "negative_below", "at most positive_above"),
            (self.source != "contrast" or low is not None, "contrast_low", "a number, with source 'contrast'"),
            (self.source != "contrast" or high is not None, "contrast_high", "a number, with source 'contrast'"),
            (low is None or high is None or low < high, "contrast_high", "more than contrast_low"),
        ]
        for holds, field, expected in needed:
            if not holds:
                raise ValueError(f"{field}: got {getattr(self, field)!r}, expected {expected}")

    @property
    def needs_positive_score(self) -> bool:
        """Whether the policy cannot be applied to a query none of whose positives is scored."""
        margins = (self.absolute_margin, self.relative_margin, self.positive_percentage)
        return self.sampling == "simans" or any(margin is not None for margin in margins)

    @property
    def has_window(self) -> bool:
        """Whether only some ranks pass."""
        return self.range_min > 0 or self.range_max is not None

    @property
    def needs_first_stage_ranks(self) -> bool:
        """Whether the ranks of its window are the retriever's."""
        return self.has_window and self.rank_by == "first_stage_rank"


@dataclass(frozen=True)
class Mined:
    """What was mined from one table of scores.

    Attributes:
        negatives: the columns of the scores, then ``rank`` (int32, from 1: the model's, by margin, among all
            candidates of the query) and ``policy``. Sorted by query_id, policy as given, and s from high to low.
        positives: of the same queries, the same columns but ``policy``, then ``relevance`` (int64, null where not
            known) and ``positive_by`` (`JUDGED` or the policy that made it one). Where a positive is not among the
            candidates everything but its ids is null, and text and title unless the positives bring them. Sorted by
            query_id, judged first, doc_id.
        left_out: `LEFT_OUT`, one row for each query that has no positive or no negative, with the reason; and one for
            each document that is no negative because it is the query itself (`QUERY_ITSELF`).
        shortfalls: `SHORTFALLS`, one row for each query and policy that gave less than asked for; queries without
            a positive are in left_out alone.
        counts: numbers of rows and queries, additive over tables: see `mine`.
    """

    negatives: pa.Table
    positives: pa.Table
    left_out: pa.Table
    shortfalls: pa.Table
    counts: dict[str, int]


def positives_from_qrels(qrels: pa.Table, min_relevance: int = 1) -> pa.Table:
    """The judged pairs (query_id, doc_id, relevance integer) whose relevance is at least ``min_relevance``.

    A document that was judged lower is a candidate like any other.
    """
    _require(qrels, "qrels", ("query_id", "doc_id", "relevance"))
    if not pa.types.is_integer(qrels.schema.field("relevance").type):
        raise ValueError(f"relevance of the qrels is {qrels.schema.field('relevance').type}, expected an integer")
    return qrels.filter(pc.greater_equal(qrels["relevance"], min_relevance))


def judgements_from_labels(pairs: pa.Table, column: str) -> pa.Table:
    """The pairs whose ``column`` is not null, as judgements: ``query_id, doc_id, relevance``.

    Args:
        column: of integers, booleans, or integers that are written as floats; NaN counts as null.

    Raises:
        ValueError: the column is missing, of another type, or holds a number that is no integer of 64 bits.
    """
    _require(pairs, "candidates", ("query_id", "doc_id", column))
    kind = pairs.schema.field(column).type
    if not can_be_grades(kind) or column in SCORES.names:
        raise ValueError(f"{column} of the candidates is {kind}, expected an integer or a boolean")
    relevance = grades(f"{column} of the candidates", pairs[column])
    judged = pairs.select(["query_id", "doc_id"]).append_column("relevance", relevance)
    return judged.filter(pc.is_valid(relevance))


def shared_keys(pairs: pa.Table, column: str) -> pa.Table:
    """For each query id what it shares with the others that are the same query: ``query_id, key`` (strings).

    The smallest value of ``column`` in its rows; where all are null, a key of its own.
    """
    values = pairs.select(["query_id"]).append_column("key", pairs[column].cast(pa.large_string()))
    smallest = values.group_by("query_id").aggregate([("key", "min")])
    nothing, end = pa.scalar("", pa.large_string()), pa.scalar("\0", pa.large_string())
    alone = pc.binary_join_element_wise(nothing, smallest["query_id"].cast(pa.large_string()), end)
    return pa.table({"query_id": smallest["query_id"], "key": pc.coalesce(smallest["key_min"], alone)})


def without_candidates(positives: pa.Table, scored_query_ids: pa.ChunkedArray) -> pa.Table:
    """`LEFT_OUT` rows for the queries that have positives but not one scored candidate, which `mine` never sees."""
    queries = pc.unique(positives["query_id"].cast(pa.string()))
    unseen = queries.filter(pc.invert(pc.is_in(queries, value_set=pc.unique(scored_query_ids).cast(pa.string()))))
    unseen = unseen.take(pc.sort_indices(unseen))
    reasons = pa.array(["no scored candidate"] * len(unseen), pa.string())
    return pa.table([unseen, pa.nulls(len(unseen), pa.string()), reasons], schema=LEFT_OUT)


def mine(
    scores: pa.Table, positives: pa.Table, policies: MiningPolicy | Sequence[MiningPolicy], *, twins: bool = True
) -> Mined:
    """Choose the negatives of every query.

    Policies are applied in order; a document that one has chosen is not chosen again. What is asked for more than a
    query has is not made up: the query gets fewer, and is listed.

    A candidate is *the query itself*, unless it was judged a positive, if its id is the query's id, or its text, or
    its title and text together, is the query's text, compared as by `text_keys`; or, with ``twins``, if it is a copy
    of such a document. It becomes neither a negative nor a new positive.

    Args:
        scores: scored pairs (`tart_ray.tables.schemas.SCORES`), whole queries, in any order. ``query_id``, ``doc_id``
            and the columns that the policies name are needed; all others are carried through. Without ``query`` and
            ``text`` (or ``text_key``) only ids tell whether a document is the query itself.
        positives: ``query_id, doc_id``; optional ``relevance``, ``text``, ``title``. Every row is a positive: see
            `positives_from_qrels`. Of a pair that comes twice, the first row counts. Rows of other queries are
            ignored, so one table serves all buckets.
        policies: one or several, of different names.
        twins: keep copies of positives from being negatives. ``scores`` must then have ``text_key``, made by
            `text_keys` of the corpus, or ``text``. A positive that is not among the candidates is compared if
            ``positives`` has ``text_key`` or ``text``. False trusts the ids.

    Returns:
        `Mined`. Its ``counts`` have ``queries``, ``kept``, ``pairs``, ``positives``, ``positives not scored``,
        ``new positives``, ``twins``, ``query itself``, ``negatives``; for each policy ``<name>: <filter>``, pairs that
        this filter was the first to drop, and ``<name>: chosen``.

    Raises:
        ValueError: a column is missing, a pair of ids comes twice (an instruction needs query ids of its own), or
            two policies have one name.
    """
    chain = (policies,) if isinstance(policies, MiningPolicy) else tuple(policies)
    _check(scores, positives, chain, twins)
    pairs = _Pairs(scores, positives, twins)
    counts = pairs.counts()
    new = np.full(pairs.size, -1)  # the policy that made a pair a positive
    for number, policy in enumerate(chain):
        if policy.positive_above is not None:
            above = pairs.number(policy.score) > policy.positive_above
            new[above & (new < 0) & ~pairs.positive & ~pairs.twin & ~pairs.itself] = number
    counts["new positives"] = int((new >= 0).sum())
    pairs.add_positives(new >= 0)
    counts["twins"] = int(pairs.twin.sum())
    counts["query itself"] = int(pairs.itself.sum())

    chosen = np.full(pairs.size, -1)
    shortfalls: list[pa.Table] = []
    negatives: list[Ints] = []
    for number, policy in enumerate(chain):
        taken = np.bincount(pairs.query[chosen >= 0], minlength=pairs.queries) if policy.fill else 0
        wanted = np.maximum(policy.num_negatives - taken, 0) * pairs.has_positive
        rows = _choose(pairs, policy, chosen < 0, wanted, counts)
        chosen[rows] = number
        negatives.append(rows)
        counts[f"{policy.name}: chosen"] = len(rows)
        shortfalls.append(_shortfalls(pairs, policy, wanted, rows))

    found = np.bincount(pairs.query[chosen >= 0], minlength=pairs.queries)
    unknown = pairs.has_positive & ~pairs.has_scored_positive & any(policy.needs_positive_score for policy in chain)
    reason = np.where(unknown, POSITIVE_NOT_SCORED, NOTHING_PASSES)
    reason = np.where(pairs.has_positive, reason, NO_POSITIVE)
    without = np.flatnonzero(found == 0)
    counts |= {"kept": pairs.queries - len(without), "negatives": int(found.sum())}
    left_out = pa.table(
        [
            pairs.ids.take(pa.array(without)),
            pa.nulls(len(without), pa.string()),
            pa.array(reason[without].tolist(), pa.string()),
        ],
        schema=LEFT_OUT,
    )
    rows = np.concatenate([np.empty(0, np.int64), *negatives])
    rows = rows[np.lexsort((chosen[rows], pairs.query[rows]))]  # stable: s stays in order
    names = pa.array([policy.name for policy in chain], pa.string())
    return Mined(
        negatives=pairs.with_rank(rows).append_column("policy", names.take(pa.array(chosen[rows]))),
        positives=pairs.positives_of(found > 0, new, names),
        left_out=pa.concat_tables([left_out, pairs.queries_themselves()]).sort_by(
            [("query_id", "ascending"), ("doc_id", "ascending")]
        ),
        shortfalls=pa.concat_tables([SHORTFALLS.empty_table(), *shortfalls]).sort_by(
            [("query_id", "ascending"), ("policy", "ascending")]
        ),
        counts=counts,
    )


class _Pairs:
    """The scored pairs as arrays: one entry a pair in the order of the table, or one a query in that of the ids."""

    def __init__(self, scores: pa.Table, positives: pa.Table, twins: bool) -> None:
        self.scores, self.size = scores, len(scores)
        self.ids, (self.query,) = _codes(scores["query_id"])
        self.queries = len(self.ids)
        at = pc.index_in(positives["query_id"].cast(pa.string()), value_set=self.ids)
        self._known = positives.filter(pc.is_valid(at))
        known_query = pc.drop_null(at).to_numpy().astype(np.int64)
        documents, (self.document, known_document) = _codes(scores["doc_id"], self._known["doc_id"])
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
        itself = _bools(pc.equal(query_ids, doc_ids))
        if "query" in self.scores.schema.names:
            asked = text_keys(pa.table({"text": self.scores["query"].cast(pa.large_string())}))
            for key in (self._keys or _keys(self.scores, required=False), _joined_keys(self.scores)):
                if key is not None:
                    itself |= _bools(pc.equal(key, asked))
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
        ranks[order] = _place_in_query(self.query[order], self.queries) + 1
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


def _choose(pairs: _Pairs, policy: MiningPolicy, free: Bools, wanted: Ints, counts: dict[str, int]) -> Ints:
    """Rows that the policy chooses, by query and number from high to low."""
    passing = np.ones(pairs.size, bool)
    for name, passes in _filters(pairs, policy, free, passing):
        counts[f"{policy.name}: {name}"] = int((passing & ~passes).sum())
        passing &= passes
    order = pairs.order(policy.score)
    rows = order[passing[order]]
    if policy.sampling != "top":
        keys = random_keys(policy.seed, pairs.scores["query_id"].take(rows), pairs.scores["doc_id"].take(rows))
        if policy.sampling == "simans":
            distance = pairs.number(policy.score) - pairs.lowest_positive(policy.score)[pairs.query] - policy.simans_b
            keys = policy.simans_a * distance[rows] ** 2 - gumbel(keys)
        drawn = np.lexsort((pairs.document[rows], keys, pairs.query[rows]))
    else:
        drawn = np.arange(len(rows))
    kept = drawn[_place_in_query(pairs.query[rows[drawn]], pairs.queries) < wanted[pairs.query[rows[drawn]]]]
    return rows[np.sort(kept)]


def _filters(pairs: _Pairs, policy: MiningPolicy, free: Bools, passing: Bools) -> Iterator[tuple[str, Bools]]:
    """Each filter of the policy: its name and the pairs that pass it; ``passing`` holds what has passed all so far."""
    number, query = pairs.number(policy.score), pairs.query
    yield "query without a positive", pairs.has_positive[query]
    yield "positive", ~pairs.positive
    yield "twin", ~pairs.twin
    yield "query itself", ~pairs.itself
    yield "no number", ~np.isnan(number)
    if policy.source == "other_task":
        tasks = (pairs.scores[name].cast(pa.large_string()) for name in (policy.document_task, policy.query_task))
        differs = pc.not_equal(*tasks)
        yield "same task", np.asarray(pc.fill_null(differs, False).to_numpy(), dtype=bool)
    elif policy.source == "contrast":
        yield "no contrast", _contrasts(pairs, policy, number)
    if policy.needs_positive_score:
        lowest = pairs.lowest_positive(policy.score)
        yield "positive not scored", np.isfinite(lowest)[query]
        lowest = np.where(np.isfinite(lowest), lowest, np.nan)[query]
        if policy.absolute_margin is not None:
            yield "absolute_margin", number <= lowest - policy.absolute_margin
        if policy.relative_margin is not None:
            yield "relative_margin", number <= lowest - np.abs(lowest) * policy.relative_margin
        if policy.positive_percentage is not None:
            yield "positive_percentage", number < lowest - np.abs(lowest) * (1 - policy.positive_percentage)
    if policy.max_score is not None:
        yield "max_score", number <= policy.max_score
    if policy.min_score is not None:
        yield "min_score", number >= policy.min_score
    if policy.negative_below is not None:
        yield "negative_below", number < policy.negative_below
    if policy.has_window:
        if policy.rank_by == "remaining":
            rank = pairs.ranks(policy.score, among=passing).astype(np.float64)
        elif policy.rank_by == "margin":
            rank = pairs.ranks("margin").astype(np.float64)
        else:
            rank = pairs.number("first_stage_rank")
        range_max = math.inf if policy.range_max is None else policy.range_max
        yield "range", (rank > policy.range_min) & (rank <= range_max)
    yield "chosen before", free


def _contrasts(pairs: _Pairs, policy: MiningPolicy, number: Floats) -> Bools:
    """Pairs with a low number, whose document has a high one for the same query under another instruction."""
    assert policy.contrast_low is not None
    assert policy.contrast_high is not None
    shared = shared_keys(pairs.scores, policy.same_query)
    at = pc.index_in(pairs.scores["query_id"], value_set=shared["query_id"].combine_chunks())
    _, (same,) = _codes(shared["key"].take(at))
    instructions, (instruction,) = _codes(pc.fill_null(pairs.scores["instruction"].cast(pa.large_string()), "\0"))
    pair = np.unique(same * (int(pairs.document.max(initial=0)) + 1) + pairs.document, return_inverse=True)[1]
    under = pair * len(instructions) + instruction
    high = np.unique(under[number >= policy.contrast_high])  # one entry for each pair and instruction
    instructions_with_high = np.bincount(high // max(len(instructions), 1), minlength=int(pair.max(initial=0)) + 1)
    others = instructions_with_high[pair] - np.isin(under, high)
    low: Bools = (number <= policy.contrast_low) & (others > 0)
    return low


def _shortfalls(pairs: _Pairs, policy: MiningPolicy, wanted: Ints, rows: Ints) -> pa.Table:
    chosen = np.bincount(pairs.query[rows], minlength=pairs.queries)
    short = np.flatnonzero(chosen < wanted)
    unknown = ~pairs.has_scored_positive[short] & policy.needs_positive_score
    reasons = np.where(unknown, POSITIVE_NOT_SCORED, np.where(chosen[short] == 0, NOTHING_PASSES, TOO_FEW))
    return pa.table(
        [
            pairs.ids.take(pa.array(short)),
            pa.array([policy.name] * len(short), pa.string()),
            pa.array(wanted[short], pa.int32()),
            pa.array(chosen[short], pa.int32()),
            pa.array(reasons.tolist(), pa.string()),
        ],
        schema=SHORTFALLS,
    )


def _check(scores: pa.Table, positives: pa.Table, policies: tuple[MiningPolicy, ...], twins: bool) -> None:
    names = [policy.name for policy in policies]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"got policies named {names}, expected at least one, each with a name of its own")
    needed = {"query_id", "doc_id", "margin"}
    for policy in policies:
        needed.add(policy.score)
        if policy.source == "other_task":
            needed |= {policy.query_task, policy.document_task}
        elif policy.source == "contrast":
            needed |= {policy.same_query, "instruction"}
        if policy.needs_first_stage_ranks:
            needed.add("first_stage_rank")
    _require(scores, "scores", sorted(needed))
    for policy in policies:
        texts = {"other_task": [policy.query_task, policy.document_task], "contrast": [policy.same_query]}
        for name in texts.get(policy.source, []):
            if pa.types.is_nested(scores.schema.field(name).type):
                raise ValueError(f"{name} of the scores is {scores.schema.field(name).type}, expected text or a number")
    _require(positives, "positives", ("query_id", "doc_id"))
    if twins and not {"text", "text_key"} & set(scores.schema.names):
        raise ValueError(
            f"the scores have columns {scores.schema.names} and neither text nor text_key, by which copies of "
            "positives are found: join text_keys of the corpus, or give twins=False to trust the ids"
        )


def _require(table: pa.Table, what: str, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in table.schema.names]
    if missing:
        raise ValueError(f"the {what} have columns {table.schema.names}, and {', '.join(missing)} is missing")
    for name in ("query_id", "doc_id"):
        if table[name].null_count:
            raise ValueError(f"{name} of the {what} is null in {table[name].null_count} rows, expected none")


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


def _bools(mask: pa.ChunkedArray) -> Bools:
    return np.asarray(pc.fill_null(mask, False).to_numpy(), dtype=bool)


def _codes(*columns: pa.ChunkedArray) -> tuple[pa.Array, list[Ints]]:
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


def _place_in_query(query: Ints, queries: int) -> Ints:
    """Place of each entry among those of its query, from 0, in entries that are sorted by query."""
    counts = np.bincount(query, minlength=queries)
    places: Ints = np.arange(len(query)) - (np.cumsum(counts) - counts)[query]
    return places
