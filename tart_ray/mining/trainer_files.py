"""Mined negatives in the formats that trainers read: pure functions from groups to rows, and rows to lines.

A *group* is a query with its positives and negatives and their texts (`GROUPS`). Each format is a function of groups;
what a format cannot hold, it lists.

Where the instruction goes differs (`TrainerFormat.instruction`). TART's own formats have it in front of the query,
"instruction [SEP] query", as TART reads it; others have a field for it; those that have neither hold the query alone
unless ``join_instruction`` says otherwise, since to a BERT tokenizer "[SEP]" is no text but its special token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.mining.mined import LEFT_OUT, Mined

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

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
SIDES = ("positives", "negatives")
_ENDS_OF_FIELDS = "\t\n\v\f\r\x1c-\x1e\u0085\u2028\u2029"


@dataclass(frozen=True, kw_only=True)
class FormatOptions:
    """What varies within the formats.

    Attributes:
        score: the number that a format writes as score: ``margin`` or ``score``, the probability.
        with_scores: write scores, for distillation. Documents without a score are then left out.
        num_negatives: of ``n-tuple`` and ``colbert``, which need the same number everywhere: the first so many of each
            query. Queries with fewer are left out.
        join_instruction: write "instruction [SEP] query" for the query, in formats without a field for the instruction.
            None: in TART's own formats only.
        easy_policies: policies whose negatives are ``negative_ctxs`` of ``dpr``, ``dpr-jsonl`` and ``tart-dual``; those
            of all others are ``hard_negative_ctxs``.
        passage_prompt: of ``flagembedding-reranker``.
    """

    score: Literal["margin", "score"] = "margin"
    with_scores: bool = False
    num_negatives: int | None = None
    join_instruction: bool | None = None
    easy_policies: tuple[str, ...] = ()
    passage_prompt: str = ""

    def __post_init__(self) -> None:
        if self.num_negatives is not None and self.num_negatives < 1:
            raise ValueError(f"num_negatives: got {self.num_negatives}, expected 1 or more")


@dataclass(frozen=True)
class Formatted:
    """Rows of a format, and `LEFT_OUT`: which queries, and which documents of queries, are not among them, and why.

    ``queries``: how many are in the rows; with those that are left out as a whole, all that were given.
    """

    rows: pa.Table
    left_out: pa.Table
    queries: int


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
    names, (of_positive, of_negative) = _codes(mined.positives["query_id"], mined.negatives["query_id"])
    at = pc.index_in(names, value_set=queries["query_id"].cast(pa.string()).combine_chunks())
    texts = queries["query"].cast(TEXT).take(at).combine_chunks()
    distinct = queries.select(["query_id", "query"]).group_by(["query_id", "query"]).aggregate([])
    of_text = pc.index_in(distinct["query_id"].cast(pa.string()), value_set=names).drop_null().to_numpy()
    several_texts = np.bincount(of_text, minlength=len(names)) > 1
    own = ~_bools(pc.is_in(mined.negatives["policy"], value_set=pa.array(of_other_instructions, pa.string())))
    instruction, several = _instructions(mined, of_positive, of_negative, own, len(names))
    if "instruction" in queries.schema.names:
        instruction, several = queries["instruction"].cast(TEXT).take(at).combine_chunks(), np.zeros(len(names), bool)
    flat = _Flat(
        pa.table({"query_id": names, "query": texts, "instruction": instruction}),
        (_with_texts(mined.positives, documents), _with_texts(mined.negatives, documents)),
        (of_positive, of_negative),
        (),
    )
    flat = flat.keep_queries(~several_texts, "the query_id has several texts")
    flat = flat.keep_queries(~several[~several_texts], "the query was scored under several instructions")
    flat = flat.keep_queries(_bools(pc.is_valid(flat.queries["query"])), "the query has no text")
    flat = flat.keep_documents([_bools(pc.is_valid(side["text"])) for side in flat.sides], "the document has no text")
    return flat.formatted(flat.groups())


def triplet(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each (positive, negative) of a query.

    For sentence-transformers (MultipleNegativesRankingLoss, MarginMSELoss), as its ``mine_hard_negatives`` writes
    "triplet": ``anchor, positive, negative`` (string); with scores also ``scores``, [positive, negative] (float). It
    takes every column for an input of the loss, so the instruction has none: its training arguments take it, as
    ``prompts={"anchor": …}``.
    """
    flat = _flat(groups, options)
    positive, negative = flat.cross()
    columns = {
        "anchor": flat.query_texts(options.join_instruction).take(flat.of[0][positive]),
        "positive": flat.texts(0).take(positive),
        "negative": flat.texts(1).take(negative),
    }
    if options.with_scores:
        scores = np.stack([flat.numbers(0, options)[positive], flat.numbers(1, options)[negative]], axis=1)
        columns["scores"] = _rows_of(scores)
    return flat.formatted(pa.table(columns))


def n_tuple(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each positive, with the query's first n negatives.

    For sentence-transformers (MultipleNegativesRankingLoss, MarginMSELoss), as its ``mine_hard_negatives`` writes
    "n-tuple": ``anchor, positive, negative_1 … negative_n`` (string); with scores also ``scores``, the positive's and
    then the negatives' (n + 1 floats).

    Raises:
        ValueError: ``num_negatives`` is not given.
    """
    if options.num_negatives is None:
        raise ValueError("n-tuple has the same number of negatives in every row: give num_negatives")
    flat, positive, negative = _tuples(_flat(groups, options), options.num_negatives)
    columns = {
        "anchor": flat.query_texts(options.join_instruction).take(flat.of[0][positive]),
        "positive": flat.texts(0).take(positive),
    }
    texts = flat.texts(1)
    columns |= {f"negative_{i + 1}": texts.take(negative[:, i]) for i in range(options.num_negatives)}
    if options.with_scores:
        of_positive, of_negatives = flat.numbers(0, options)[positive], flat.numbers(1, options)[negative]
        columns["scores"] = _rows_of(np.concatenate([of_positive[:, None], of_negatives], axis=1))
    return flat.formatted(pa.table(columns))


def labeled_pair(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each document of a query, its positives first.

    For sentence-transformers' cross-encoders (BinaryCrossEntropyLoss, MSELoss), as its ``mine_hard_negatives``
    documents "labeled-pair": ``anchor, document`` (string), ``label`` (int64, 1 or 0); with scores ``score`` (float) in
    its place. There the two texts keep the names of the columns that were given; losses go by their order.
    """
    flat = _flat(groups, options)
    order, of, label = flat.documents_of_queries()
    texts = pa.concat_arrays([flat.texts(0), flat.texts(1)])
    columns = {"anchor": flat.query_texts(options.join_instruction).take(of), "document": texts.take(order)}
    if options.with_scores:
        columns["score"] = pa.array(flat.all_numbers(options)[order], pa.float32())
    else:
        columns["label"] = pa.array(label, pa.int64())
    return flat.formatted(pa.table(columns))


def labeled_list(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query, all its positives first, then its negatives.

    For the listwise losses of sentence-transformers' cross-encoders (LambdaLoss, ListNetLoss): ``query`` (string),
    ``docs`` (list of strings), ``labels`` (list of int64, 1 or 0); with scores ``scores`` (list of floats) in its
    place. ``mine_hard_negatives`` writes one such row for each positive; here a list has all that is known of its
    query.
    """
    flat = _flat(groups, options)
    order, of, label = flat.documents_of_queries()
    texts, count = pa.concat_arrays([flat.texts(0), flat.texts(1)]), len(flat.queries)
    columns = {"query": flat.query_texts(options.join_instruction), "docs": _lists(texts.take(order), of, count)}
    if options.with_scores:
        columns["scores"] = _lists(pa.array(flat.all_numbers(options)[order], pa.float32()), of, count)
    else:
        columns["labels"] = _lists(pa.array(label, pa.int64()), of, count)
    return flat.formatted(pa.table(columns))


def flagembedding(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query.

    For FlagEmbedding's embedder (``FlagEmbedding.finetune.embedder``), JSON lines: ``query`` (string), ``pos, neg``
    (lists of strings), with scores ``pos_scores, neg_scores`` (lists of floats; it reads them with
    ``--knowledge_distillation``), ``prompt`` (string), the instruction, empty without one. It uses prompt only if it is
    given ``--query_instruction_for_retrieval``, by ``--query_instruction_format``.
    """
    flat = _flat(groups, options)
    rows = _flagembedding(flat, options).append_column("prompt", flat.instructions())
    return flat.formatted(rows)


def flagembedding_reranker(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query.

    For FlagEmbedding's encoder-only reranker (``FlagEmbedding.finetune.reranker``), JSON lines: those of
    `flagembedding`, with ``query_prompt`` (the instruction) and ``passage_prompt`` (``options.passage_prompt``) for
    ``prompt``, which its LLM rerankers read as the whole task. It uses them only if it is given
    ``--query_instruction_for_rerank`` and ``--passage_instruction_for_rerank``.
    """
    flat = _flat(groups, options)
    rows = _flagembedding(flat, options).append_column("query_prompt", flat.instructions())
    rows = rows.append_column("passage_prompt", pa.array([options.passage_prompt] * len(rows), TEXT))
    return flat.formatted(rows)


def tevatron(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query.

    For Tevatron, JSON lines of its first and still accepted format: ``query_id, query`` (string), ``positive_passages,
    negative_passages`` (lists of {``docid, title, text``}). It has no field for scores.
    """
    flat = _flat(groups, replace(options, with_scores=False))
    columns = {"query_id": flat.queries["query_id"], "query": flat.query_texts(options.join_instruction)}
    for side, name in enumerate(("positive_passages", "negative_passages")):
        table = flat.sides[side].select(["doc_id", "title", "text"]).rename_columns(["docid", "title", "text"])
        columns[name] = _lists(_structs(table), flat.of[side], len(flat.queries))
    return flat.formatted(pa.table(columns))


def tart_full(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each document of a query, its positives first.

    For ``finetuning_tart_full.py`` of TART, JSON lines: ``query``, "instruction [SEP] query", ``document``, "title
    text" (strings), ``label`` (int64, 1 or 0: it takes floats for a regression, and the first two columns for the
    texts). TART's own script for these files writes "instruction </s> query"; the model is used with [SEP].
    """
    flat = _flat(groups, replace(options, with_scores=False))
    order, of, label = flat.documents_of_queries()
    texts = pa.concat_arrays([flat.texts(0), flat.texts(1)])
    query = flat.query_texts(join_instruction=True)
    rows = {"query": query.take(of), "document": texts.take(order), "label": pa.array(label, pa.int64())}
    return flat.formatted(pa.table(rows))


def tart_dual(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query.

    For ``finetuning.py`` of TART-dual, JSON lines: ``question``, "instruction [SEP] query" (string), ``positive_ctxs,
    negative_ctxs, hard_negative_ctxs``, lists of {``title, text, passage_id``, with scores ``score``}. The negatives of
    ``options.easy_policies`` are in the second, all others in the third. Of a query without easy ones all are in the
    second too: from it alone the trainer draws unless ``--negative_hard_ratio`` says otherwise, and its evaluation
    takes the first of it.
    """
    join_instruction = options.join_instruction is None or options.join_instruction
    return _of_retriever(groups, options, join_instruction, always_negatives=True)


def dpr(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query.

    For DPR's retriever, one JSON array (its ``JsonQADataset``) or, as ``dpr-jsonl``, JSON lines (``JsonlQADataset``),
    of objects as those of `tart_dual`, but with the query alone in ``question``. ``negative_ctxs`` may be empty: by
    default DPR takes one of ``hard_negative_ctxs`` for each query, or of ``negative_ctxs`` where there is none.
    """
    return _of_retriever(groups, options, options.join_instruction, always_negatives=False)


def _of_retriever(
    groups: pa.Table, options: FormatOptions, join_instruction: bool | None, *, always_negatives: bool
) -> Formatted:
    flat = _flat(groups, options)
    columns = {"question": flat.query_texts(join_instruction)}
    easy = _bools(pc.is_in(flat.sides[1]["policy"], value_set=pa.array(options.easy_policies, pa.string())))
    has_easy = np.bincount(flat.of[1][easy], minlength=len(flat.queries)) > 0
    others = ~has_easy[flat.of[1]] if always_negatives else np.zeros(len(easy), bool)
    for name, side, kept in (
        ("positive_ctxs", 0, np.ones(len(flat.sides[0]), bool)),
        ("negative_ctxs", 1, easy | others),
        ("hard_negative_ctxs", 1, ~easy),
    ):
        table = flat.sides[side].select(["title", "text", "doc_id"]).rename_columns(["title", "text", "passage_id"])
        if options.with_scores:
            table = table.append_column("score", pa.array(flat.numbers(side, options), pa.float32()))
        columns[name] = _lists(_structs(table.filter(pa.array(kept))), flat.of[side][kept], len(flat.queries))
    return flat.formatted(pa.table(columns))


def colbert(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each positive with the query's first n negatives; without ``num_negatives`` for each pair of the two.

    For ColBERT's trainer (``nway`` = n + 1), JSON lines ``[qid, [pid, score], [pid, score], …]``, the positive first,
    or ``[qid, pid, pid, …]`` without scores: here ``query_id`` (int64), ``documents`` (list of {``pid`` int64,
    ``score`` float, if any}). Its ids are line numbers of the collection, and integers for the queries; queries and
    documents with other ids are left out.
    """
    flat = _flat(groups, options).keep_ids(r"^(0|[1-9]\d{0,17})$", "is not an integer")
    if options.num_negatives is None:
        positive, single = flat.cross()
        negative = single[:, None]
    else:
        flat, positive, negative = _tuples(flat, options.num_negatives)
    documents = np.concatenate([positive[:, None], len(flat.sides[0]) + negative], axis=1)
    ids = pa.concat_arrays([side["doc_id"].combine_chunks().cast(pa.int64()) for side in flat.sides])
    fields = {"pid": ids.take(documents.ravel())}
    if options.with_scores:
        fields["score"] = pa.array(flat.all_numbers(options)[documents.ravel()], pa.float32())
    of = np.repeat(np.arange(len(documents)), documents.shape[1])
    rows = {
        "query_id": flat.queries["query_id"].combine_chunks().cast(pa.int64()).take(flat.of[0][positive]),
        "documents": _lists(_structs(pa.table(fields)), of, len(documents)),
    }
    return flat.formatted(pa.table(rows))


def margin_mse(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each (positive, negative) of a query.

    For GPL (``gpl-training-data.tsv``, no header) and MarginMSE (Hofstätter et al. 2020): ``query_id, positive_id,
    negative_id`` (string), ``margin`` (float64) = the positive's number minus the negative's. Scores are needed,
    whatever ``with_scores`` says; ids with a tab or a line end in them are left out, and queries whose id begins with
    white space, which GPL takes away.
    """
    flat = _flat(groups, replace(options, with_scores=True))
    flat = flat.keep_ids(f"^[^{_ENDS_OF_FIELDS}]*$", "has a tab or a line end in it")
    ids = flat.queries["query_id"]
    flat = flat.keep_queries(
        _bools(pc.equal(pc.utf8_ltrim_whitespace(ids), ids)), "the query_id begins with white space"
    )
    positive, negative = flat.cross()
    columns = {
        "query_id": flat.queries["query_id"].take(flat.of[0][positive]),
        "positive_id": flat.sides[0]["doc_id"].take(positive),
        "negative_id": flat.sides[1]["doc_id"].take(negative),
        "margin": pa.array(flat.numbers(0, options)[positive] - flat.numbers(1, options)[negative]),
    }
    return flat.formatted(pa.table(columns))


@dataclass(frozen=True)
class TrainerFormat:
    """A format: its function, the kind of file that its trainer reads, and where the instruction is.

    Attributes:
        file: ``json`` is one array for each file.
        suffix: of the files' names, where it is not ``file``.
        instruction: ``always`` joined, "instruction [SEP] query"; ``joined`` unless ``join_instruction`` is False;
            ``absent`` unless it is True; the name of its field; or None, where there are only ids.
        scores: whether ``with_scores`` makes a difference.
        uses_num_negatives: whether ``num_negatives`` does.
    """

    rows: Callable[[pa.Table, FormatOptions], Formatted]
    file: Literal["parquet", "jsonl", "json", "tsv"]
    suffix: str = ""
    instruction: str | None = "absent"
    scores: bool = True
    uses_num_negatives: bool = False

    def file_name(self, stem: str) -> str:
        return f"{stem}.{self.suffix or self.file}"

    def lacks_instruction(self, options: FormatOptions) -> bool:
        """Whether the rows hold texts of queries without their instructions."""
        joined = self.instruction == "joined" if options.join_instruction is None else options.join_instruction
        return self.instruction in ("joined", "absent") and not joined

    def where_instruction_is(self, options: FormatOptions) -> str:
        """A few words that say what the rows have for a query."""
        if self.instruction is None:
            return "ids alone"
        if self.lacks_instruction(options):
            return "queries without their instruction"
        apart = self.instruction not in ("always", "joined", "absent")
        return f"instructions in {self.instruction}" if apart else 'queries as "instruction [SEP] query"'


FORMATS: dict[str, TrainerFormat] = {
    "triplet": TrainerFormat(triplet, "parquet"),
    "n-tuple": TrainerFormat(n_tuple, "parquet", uses_num_negatives=True),
    "labeled-pair": TrainerFormat(labeled_pair, "parquet"),
    "labeled-list": TrainerFormat(labeled_list, "parquet"),
    "flagembedding": TrainerFormat(flagembedding, "jsonl", instruction="prompt"),
    "flagembedding-reranker": TrainerFormat(flagembedding_reranker, "jsonl", instruction="query_prompt"),
    "tevatron": TrainerFormat(tevatron, "jsonl", scores=False),
    "tart-full": TrainerFormat(tart_full, "jsonl", suffix="json", instruction="always", scores=False),
    "tart-dual": TrainerFormat(tart_dual, "jsonl", instruction="joined"),
    "dpr": TrainerFormat(dpr, "json"),
    "dpr-jsonl": TrainerFormat(dpr, "jsonl"),
    "colbert": TrainerFormat(colbert, "jsonl", instruction=None, uses_num_negatives=True),
    "margin-mse": TrainerFormat(margin_mse, "tsv", instruction=None),
}


def contents(name: str, rows: pa.Table) -> bytes | None:
    """The file of a format that is text, whole; None where there are no rows, for readers take it for a broken file."""
    if not len(rows):
        return None
    if FORMATS[name].file == "json":
        return ("[\n" + ",\n".join(lines(name, rows)) + "\n]\n").encode()
    return "".join(f"{line}\n" for line in lines(name, rows)).encode()


def lines(name: str, rows: pa.Table) -> Iterator[str]:
    """Rows of the format as text, without line ends: a JSON value each, or fields between tabs."""
    write = _tsv if FORMATS[name].file == "tsv" else _colbert if name == "colbert" else _json
    for batch in rows.to_batches(max_chunksize=4096):
        yield from map(write, batch.to_pylist())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _colbert(row: dict[str, Any]) -> str:
    documents = [
        [document["pid"], document["score"]] if "score" in document else document["pid"]
        for document in row["documents"]
    ]
    return _json([row["query_id"], *documents])


def _tsv(row: dict[str, Any]) -> str:
    return "\t".join(str(value) for value in row.values())


@dataclass(frozen=True)
class _Flat:
    """Groups unrolled: positives (0) and negatives (1) as tables sorted by query, and of which query each row is."""

    queries: pa.Table
    sides: tuple[pa.Table, pa.Table]
    of: tuple[Ints, Ints]
    dropped: tuple[pa.Table, ...] = ()

    def formatted(self, rows: pa.Table) -> Formatted:
        left_out = pa.concat_tables([LEFT_OUT.empty_table(), *self.dropped])
        left_out = left_out.sort_by([("query_id", "ascending"), ("doc_id", "ascending")])
        return Formatted(rows, left_out, len(self.queries))

    def keep_queries(self, kept: Bools, reason: str) -> _Flat:
        if kept.all():
            return self
        ids = self.queries["query_id"].filter(pa.array(~kept)).combine_chunks()
        new = np.cumsum(kept) - 1
        sides, of = [], []
        for side, whose in zip(self.sides, self.of, strict=True):
            sides.append(side.filter(pa.array(kept[whose])))
            of.append(new[whose[kept[whose]]])
        dropped = _dropped(ids, pa.nulls(len(ids), pa.string()), reason)
        queries = self.queries.filter(pa.array(kept))
        return _Flat(queries, (sides[0], sides[1]), (of[0], of[1]), (*self.dropped, dropped))

    def keep_documents(self, kept: list[Bools], reason: str) -> _Flat:
        """Without some documents, and without the queries that then have no positive or no negative."""
        flat = self
        sides, of, dropped = [], [], [*self.dropped]
        for side, whose, stays in zip(self.sides, self.of, kept, strict=True):
            sides.append(side.filter(pa.array(stays)))
            of.append(whose[stays])
            gone = self.queries["query_id"].take(pa.array(whose[~stays])).combine_chunks()
            dropped.append(_dropped(gone, side["doc_id"].filter(pa.array(~stays)).combine_chunks(), reason))
        flat = _Flat(self.queries, (sides[0], sides[1]), (of[0], of[1]), tuple(dropped))
        for number, name in enumerate(("positive", "negative")):
            has = np.bincount(flat.of[number], minlength=len(flat.queries)) > 0
            flat = flat.keep_queries(has, f"no {name} is left: {reason}")
        return flat

    def keep_ids(self, pattern: str, otherwise: str) -> _Flat:
        """Without queries and documents whose id does not match."""
        documents = [_bools(pc.match_substring_regex(side["doc_id"], pattern)) for side in self.sides]
        flat = self.keep_documents(documents, f"the doc_id {otherwise}")
        queries = _bools(pc.match_substring_regex(flat.queries["query_id"], pattern))
        return flat.keep_queries(queries, f"the query_id {otherwise}")

    def groups(self) -> pa.Table:
        lists = [_lists(_structs(side), of, len(self.queries)) for side, of in zip(self.sides, self.of, strict=True)]
        return pa.table([*self.queries.columns, *lists], schema=GROUPS)

    def cross(self) -> tuple[Ints, Ints]:
        """Every pair of a positive and a negative of one query, by positive."""
        count = np.bincount(self.of[1], minlength=len(self.queries))
        start = np.cumsum(count) - count
        repeats = count[self.of[0]]
        positive = np.repeat(np.arange(len(self.of[0])), repeats)
        place = np.arange(len(positive)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        return positive, start[self.of[0][positive]] + place

    def documents_of_queries(self) -> tuple[Ints, Ints, Ints]:
        """All documents by query, positives first: where in positives + negatives, whose, and label 1 or 0."""
        of = np.concatenate(self.of)
        order = np.argsort(of, kind="stable")
        label = (order < len(self.of[0])).astype(np.int64)
        return order, of[order], label

    def texts(self, side: int) -> pa.Array:
        """What the model reads of a document: title and text."""
        return _joined(self.sides[side]["title"], self.sides[side]["text"], " ", trim=True)

    def query_texts(self, join_instruction: bool | None) -> pa.Array:
        query = self.queries["query"].combine_chunks()
        if not join_instruction:
            return query
        joined = _joined(self.queries["instruction"], self.queries["query"], " [SEP] ")
        return pc.coalesce(joined, query)  # null without an instruction

    def instructions(self) -> pa.Array:
        return pc.fill_null(self.queries["instruction"].combine_chunks(), "")

    def numbers(self, side: int, options: FormatOptions) -> npt.NDArray[np.float64]:
        numbers: npt.NDArray[np.float64] = self.sides[side][options.score].cast(pa.float64()).to_numpy()
        return numbers

    def all_numbers(self, options: FormatOptions) -> npt.NDArray[np.float64]:
        return np.concatenate([self.numbers(0, options), self.numbers(1, options)])


def _flat(groups: pa.Table, options: FormatOptions) -> _Flat:
    """The groups unrolled; if scores are written, without the documents that have none."""
    sides, of = [], []
    for name in SIDES:
        lists = groups[name].combine_chunks()
        sides.append(pa.Table.from_struct_array(lists.flatten()))
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        of.append(np.repeat(np.arange(len(groups)), lengths))
    flat = _Flat(groups.select(["query_id", "query", "instruction"]), (sides[0], sides[1]), (of[0], of[1]))
    if options.with_scores:
        known = [_bools(pc.is_valid(side[options.score])) for side in flat.sides]
        flat = flat.keep_documents(known, f"the document has no {options.score}")
    return flat


def _tuples(flat: _Flat, n: int) -> tuple[_Flat, Ints, Ints]:
    """Positives (rows), and for each the first n negatives (rows, n) of its query; queries with fewer are left out."""
    enough = np.bincount(flat.of[1], minlength=len(flat.queries)) >= n
    flat = flat.keep_queries(enough, f"fewer than {n} negatives")
    count = np.bincount(flat.of[1], minlength=len(flat.queries))
    place = np.arange(len(flat.of[1])) - (np.cumsum(count) - count)[flat.of[1]]
    flat = flat.keep_documents([np.ones(len(flat.of[0]), bool), place < n], f"beyond the first {n} negatives")
    return flat, np.arange(len(flat.of[0])), flat.of[0][:, None] * n + np.arange(n)


def _flagembedding(flat: _Flat, options: FormatOptions) -> pa.Table:
    columns = {"query": flat.queries["query"]}
    for side, name in enumerate(("pos", "neg")):
        columns[name] = _lists(flat.texts(side), flat.of[side], len(flat.queries))
    if options.with_scores:
        for side, name in enumerate(("pos_scores", "neg_scores")):
            numbers = pa.array(flat.numbers(side, options), pa.float32())
            columns[name] = _lists(numbers, flat.of[side], len(flat.queries))
    return pa.table(columns)


def _instructions(mined: Mined, of_positive: Ints, of_negative: Ints, own: Bools, count: int) -> tuple[pa.Array, Bools]:
    """The instruction that each query was scored under, and whether there was more than one.

    The first is that of its scored positives, or, without one, of its negatives; ``own``: negatives that must share it.
    """
    if "instruction" not in mined.negatives.schema.names:
        return pa.nulls(count, TEXT), np.zeros(count, bool)
    scored = _bools(pc.is_valid(mined.positives["rank"]))
    without = np.bincount(of_positive[scored], minlength=count) == 0
    wanted = own | without[of_negative]
    texts = pa.chunked_array(
        [
            *mined.positives["instruction"].filter(pa.array(scored)).cast(TEXT).chunks,
            *mined.negatives["instruction"].filter(pa.array(wanted)).cast(TEXT).chunks,
        ],
        TEXT,
    ).combine_chunks()
    of = np.concatenate([of_positive[scored], of_negative[wanted]])
    queries, first = np.unique(of, return_index=True)
    at = np.zeros(count, np.int64)
    at[queries] = first
    known = np.zeros(count, bool)
    known[queries] = True
    instruction = texts.take(pa.array(at, mask=~known))
    codes = pc.fill_null(pc.dictionary_encode(texts).indices, -1).to_numpy(zero_copy_only=False)
    several = np.bincount(of[codes != codes[at[of]]], minlength=count) > 0
    return instruction, several


def _with_texts(rows: pa.Table, documents: pa.Table | None) -> pa.Table:
    """The columns of `DOCUMENT`; text is null where text and title are blank."""
    source = rows
    if documents is not None:
        at = pc.index_in(
            rows["doc_id"].cast(pa.string()), value_set=documents["doc_id"].cast(pa.string()).combine_chunks()
        )
        source = documents.select([name for name in ("text", "title") if name in documents.schema.names]).take(at)
    columns = {}
    for name, kind in DOCUMENT:
        table = source if name in ("text", "title") else rows
        absent = pa.chunked_array([pa.nulls(len(rows), kind)])
        columns[name] = table[name].cast(kind) if name in table.schema.names else absent
    columns["title"] = pc.fill_null(columns["title"], "")
    text = pc.fill_null(columns["text"], "")
    blank = pc.equal(_joined(columns["title"], text, " ", trim=True), "")
    columns["text"] = pc.if_else(blank, pa.scalar(None, TEXT), text)
    return pa.table(columns)


def _dropped(query_ids: pa.Array, doc_ids: pa.Array, reason: str) -> pa.Table:
    return pa.table([query_ids, doc_ids, pa.array([reason] * len(query_ids), pa.string())], schema=LEFT_OUT)


def _codes(*columns: pa.ChunkedArray) -> tuple[pa.Array, tuple[Ints, ...]]:
    """The distinct ids of sorted columns, in ascending order, and for each column their positions."""
    columns = tuple(column.cast(pa.string()) for column in columns)
    names = pc.unique(pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string()))
    names = names.take(pc.sort_indices(names))
    return names, tuple(_positions(column, names) for column in columns)


def _positions(column: pa.ChunkedArray, names: pa.Array) -> Ints:
    positions: Ints = pc.index_in(column, value_set=names).to_numpy().astype(np.int64)
    return positions


def _joined(first: pa.ChunkedArray, second: pa.ChunkedArray, separator: str, *, trim: bool = False) -> pa.Array:
    joined = pc.binary_join_element_wise(first, second, pa.scalar(separator, TEXT))
    joined = pc.utf8_trim_whitespace(joined) if trim else joined
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _lists(values: pa.Array, of: Ints, count: int) -> pa.ListArray:
    """One list for each of ``count`` owners, of values that are sorted by owner."""
    offsets = np.append(0, np.cumsum(np.bincount(of, minlength=count)))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _rows_of(numbers: npt.NDArray[np.float64]) -> pa.ListArray:
    """A list of floats for each row of a matrix."""
    return _lists(
        pa.array(numbers.ravel(), pa.float32()), np.repeat(np.arange(len(numbers)), numbers.shape[1]), len(numbers)
    )


def _structs(table: pa.Table) -> pa.StructArray:
    return pa.StructArray.from_arrays([column.combine_chunks() for column in table.columns], fields=list(table.schema))


def _bools(mask: pa.Array | pa.ChunkedArray) -> Bools:
    values = mask.to_numpy() if isinstance(mask, pa.ChunkedArray) else mask.to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=bool)
