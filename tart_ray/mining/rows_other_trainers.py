"""Rows of the formats that FlagEmbedding, Tevatron, TART, DPR, ColBERT and GPL train from.

Each function takes `tart_ray.mining.groups.GROUPS` and the options, and lists what its format cannot hold.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.mining.format_options import FormatOptions
from tart_ray.mining.unrolled import Formatted, Unrolled, list_rows, structs, unroll
from tart_ray.tables.masks import as_mask

_ENDS_OF_FIELDS = "\t\n\v\f\r\x1c-\x1e\u0085\u2028\u2029"


def flagembedding(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query.

    For FlagEmbedding's embedder (``FlagEmbedding.finetune.embedder``), JSON lines: ``query`` (string), ``pos, neg``
    (lists of strings), with scores ``pos_scores, neg_scores`` (lists of floats; it reads them with
    ``--knowledge_distillation``), ``prompt`` (string), the instruction, empty without one. It uses prompt only if it is
    given ``--query_instruction_for_retrieval``, by ``--query_instruction_format``.
    """
    unrolled = unroll(groups, options)
    columns = _flagembedding_columns(unrolled, options) | {"prompt": unrolled.instructions()}
    return unrolled.formatted(pa.table(columns))


def flagembedding_reranker(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query.

    For FlagEmbedding's encoder-only reranker (``FlagEmbedding.finetune.reranker``), JSON lines: those of
    `flagembedding`, with ``query_prompt`` (the instruction) and ``passage_prompt`` (``options.passage_prompt``) for
    ``prompt``, which its LLM rerankers read as the whole task. It uses them only if it is given
    ``--query_instruction_for_rerank`` and ``--passage_instruction_for_rerank``.
    """
    unrolled = unroll(groups, options)
    prompts = {
        "query_prompt": unrolled.instructions(),
        "passage_prompt": pa.repeat(pa.scalar(options.passage_prompt, pa.large_string()), len(unrolled.queries)),
    }
    return unrolled.formatted(pa.table(_flagembedding_columns(unrolled, options) | prompts))


def _flagembedding_columns(unrolled: Unrolled, options: FormatOptions) -> dict[str, pa.Array]:
    sides = {"pos": unrolled.positives, "neg": unrolled.negatives}
    columns = {"query": unrolled.query_texts(join_instruction=False)}
    columns |= {name: documents.lists(documents.texts) for name, documents in sides.items()}
    if options.with_scores:
        for name, documents in sides.items():
            columns[f"{name}_scores"] = documents.lists(pa.array(documents.scores(options), pa.float32()))
    return columns


def tevatron(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query.

    For Tevatron, JSON lines of its first and still accepted format: ``query_id, query`` (string), ``positive_passages,
    negative_passages`` (lists of {``docid, title, text``}). It has no field for scores.
    """
    unrolled = unroll(groups, replace(options, with_scores=False))
    columns = {
        "query_id": unrolled.queries["query_id"],
        "query": unrolled.query_texts(join_instruction=options.join_instruction),
    }
    for name, documents in (("positive_passages", unrolled.positives), ("negative_passages", unrolled.negatives)):
        table = documents.table
        fields = {"docid": table["doc_id"], "title": table["title"], "text": table["text"]}
        columns[name] = documents.lists(structs(fields))
    return unrolled.formatted(pa.table(columns))


def tart_full(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each document of a query, its positives first.

    For ``finetuning_tart_full.py`` of TART, JSON lines: ``query``, "instruction [SEP] query", ``document``, "title
    text" (strings), ``label`` (int64, 1 or 0: it takes floats for a regression, and the first two columns for the
    texts). TART's own script for these files writes "instruction </s> query"; the model is used with [SEP].
    """
    unrolled = unroll(groups, replace(options, with_scores=False))
    documents, labels = unrolled.documents()
    query = unrolled.query_texts(join_instruction=True).take(documents.query)
    return unrolled.formatted(pa.table({"query": query, "document": documents.texts, "label": labels}))


def tart_dual(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query.

    For ``finetuning.py`` of TART-dual, JSON lines: ``question``, "instruction [SEP] query" (string), ``positive_ctxs,
    negative_ctxs, hard_negative_ctxs``, lists of {``title, text, passage_id``, with scores ``score``}. The negatives of
    ``options.easy_policies`` are in the second, all others in the third. Of a query without easy ones all are in the
    second too: from it alone the trainer draws unless ``--negative_hard_ratio`` says otherwise, and its evaluation
    takes the first of it.
    """
    join_instruction = options.join_instruction is None or options.join_instruction
    return _retriever_rows(groups, options, join_instruction, always_negatives=True)


def dpr(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query.

    For DPR's retriever, one JSON array (its ``JsonQADataset``) or, as ``dpr-jsonl``, JSON lines (``JsonlQADataset``),
    of objects as those of `tart_dual`, but with the query alone in ``question``. ``negative_ctxs`` may be empty: by
    default DPR takes one of ``hard_negative_ctxs`` for each query, or of ``negative_ctxs`` where there is none.
    """
    return _retriever_rows(groups, options, options.join_instruction, always_negatives=False)


def _retriever_rows(
    groups: pa.Table, options: FormatOptions, join_instruction: bool | None, *, always_negatives: bool
) -> Formatted:
    unrolled = unroll(groups, options)
    negatives = unrolled.negatives
    columns = {"question": unrolled.query_texts(join_instruction=join_instruction)}
    is_easy = as_mask(pc.is_in(negatives.table["policy"], value_set=pa.array(options.easy_policies, pa.string())))
    in_negative_ctxs = is_easy
    if always_negatives:
        has_easy = np.diff(negatives.keep(is_easy).starts) > 0  # of each query
        in_negative_ctxs = is_easy | ~has_easy[negatives.query]
    for name, documents in (
        ("positive_ctxs", unrolled.positives),
        ("negative_ctxs", negatives.keep(in_negative_ctxs)),
        ("hard_negative_ctxs", negatives.keep(~is_easy)),
    ):
        table = documents.table
        fields = {"title": table["title"], "text": table["text"], "passage_id": table["doc_id"]}
        if options.with_scores:
            fields["score"] = pa.array(documents.scores(options), pa.float32())
        columns[name] = documents.lists(structs(fields))
    return unrolled.formatted(pa.table(columns))


def colbert(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each positive with the query's first n negatives; without ``num_negatives`` for each pair of the two.

    For ColBERT's trainer (``nway`` = n + 1), JSON lines ``[qid, [pid, score], [pid, score], …]``, the positive first,
    or ``[qid, pid, pid, …]`` without scores: here ``query_id`` (int64), ``documents`` (list of {``pid`` int64,
    ``score`` float, if any}). Its ids are line numbers of the collection, and integers for the queries; queries and
    documents with other ids are left out.
    """
    unrolled = unroll(groups, options).keep_ids(r"^(0|[1-9]\d{0,17})$", "is not an integer")
    if options.num_negatives is None:
        positive, one_negative = unrolled.pairs()
        negative = one_negative[:, None]
    else:
        unrolled, negative = unrolled.with_first_negatives(options.num_negatives)
        positive = np.arange(len(negative))
    positives, negatives = unrolled.positives, unrolled.negatives
    of_rows = np.concatenate([positive[:, None], len(positives.table) + negative], axis=1)  # among all documents
    doc_ids = pa.chunked_array([*positives.table["doc_id"].chunks, *negatives.table["doc_id"].chunks], pa.string())
    doc_ids = doc_ids.cast(pa.int64())
    fields = {"pid": doc_ids.take(of_rows.ravel())}
    if options.with_scores:
        scores = np.concatenate([positives.scores(options), negatives.scores(options)])
        fields["score"] = pa.array(scores[of_rows.ravel()], pa.float32())
    query_ids = unrolled.queries["query_id"].combine_chunks().cast(pa.int64())
    columns = {
        "query_id": query_ids.take(positives.query[positive]),
        "documents": list_rows(structs(fields), of_rows.shape[1]),
    }
    return unrolled.formatted(pa.table(columns))


def margin_mse(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each (positive, negative) of a query.

    For GPL (``gpl-training-data.tsv``, no header) and MarginMSE (Hofstätter et al. 2020): ``query_id, positive_id,
    negative_id`` (string), ``margin`` (float64) = the positive's number minus the negative's. Scores are needed,
    whatever ``with_scores`` says; ids with a tab or a line end in them are left out, and queries whose id begins with
    white space, which GPL takes away.
    """
    unrolled = unroll(groups, replace(options, with_scores=True))
    unrolled = unrolled.keep_ids(f"^[^{_ENDS_OF_FIELDS}]*$", "has a tab or a line end in it")
    query_ids = unrolled.queries["query_id"]
    unrolled = unrolled.keep_queries(
        as_mask(pc.equal(pc.utf8_ltrim_whitespace(query_ids), query_ids)), "the query_id begins with white space"
    )
    positives, negatives = unrolled.positives, unrolled.negatives
    positive, negative = unrolled.pairs()
    columns = {
        "query_id": unrolled.queries["query_id"].take(positives.query[positive]),
        "positive_id": positives.table["doc_id"].take(positive),
        "negative_id": negatives.table["doc_id"].take(negative),
        "margin": pa.array(positives.scores(options)[positive] - negatives.scores(options)[negative]),
    }
    return unrolled.formatted(pa.table(columns))
