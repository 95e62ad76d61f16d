"""Rows of the formats that sentence-transformers trains from, as its ``mine_hard_negatives`` names them.

Each function takes `tart_ray.mining.groups.GROUPS` and the options, and lists what its format cannot hold. No format
has a column for the instruction, as sentence-transformers takes every column for an input of the loss.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tart_ray.mining.format_options import FormatOptions
from tart_ray.mining.unrolled import Floats, Formatted, list_rows, unroll


def triplet(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each (positive, negative) of a query.

    For MultipleNegativesRankingLoss and MarginMSELoss, as ``mine_hard_negatives`` writes "triplet": ``anchor, positive,
    negative`` (string); with scores also ``scores``, [positive, negative] (float). The instruction goes into the
    training arguments, as ``prompts={"anchor": …}``.
    """
    unrolled = unroll(groups, options)
    positives, negatives = unrolled.positives, unrolled.negatives
    positive, negative = unrolled.pairs()
    columns = {
        "anchor": unrolled.query_texts(join_instruction=options.join_instruction).take(positives.query[positive]),
        "positive": positives.texts.take(positive),
        "negative": negatives.texts.take(negative),
    }
    if options.with_scores:
        of_pairs = positives.scores(options)[positive], negatives.scores(options)[negative]
        columns["scores"] = _score_lists(np.stack(of_pairs, axis=1))
    return unrolled.formatted(pa.table(columns))


def n_tuple(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each positive, with the query's first n negatives.

    For MultipleNegativesRankingLoss and MarginMSELoss, as ``mine_hard_negatives`` writes "n-tuple": ``anchor, positive,
    negative_1 … negative_n`` (string); with scores also ``scores``, the positive's and then the negatives' (n + 1
    floats).

    Raises:
        ValueError: ``num_negatives`` is not given.
    """
    if options.num_negatives is None:
        raise ValueError("n-tuple has the same number of negatives in every row: give num_negatives")
    unrolled, negative = unroll(groups, options).with_first_negatives(options.num_negatives)
    positives, negatives = unrolled.positives, unrolled.negatives
    columns = {
        "anchor": unrolled.query_texts(join_instruction=options.join_instruction).take(positives.query),
        "positive": positives.texts,
    }
    texts = negatives.texts
    columns |= {f"negative_{i + 1}": texts.take(negative[:, i]) for i in range(options.num_negatives)}
    if options.with_scores:
        of_negatives = negatives.scores(options)[negative]
        columns["scores"] = _score_lists(np.concatenate([positives.scores(options)[:, None], of_negatives], axis=1))
    return unrolled.formatted(pa.table(columns))


def labeled_pair(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each document of a query, its positives first.

    For the cross-encoders' BinaryCrossEntropyLoss and MSELoss, as ``mine_hard_negatives`` documents "labeled-pair":
    ``anchor, document`` (string), ``label`` (int64, 1 or 0); with scores ``score`` (float) in its place. There the two
    texts keep the names of the columns that were given; losses go by their order.
    """
    unrolled = unroll(groups, options)
    documents, labels = unrolled.documents()
    anchors = unrolled.query_texts(join_instruction=options.join_instruction).take(documents.query)
    columns = {"anchor": anchors, "document": documents.texts}
    if options.with_scores:
        columns["score"] = pa.array(documents.scores(options), pa.float32())
    else:
        columns["label"] = labels
    return unrolled.formatted(pa.table(columns))


def labeled_list(groups: pa.Table, options: FormatOptions) -> Formatted:
    """One row for each query, all its positives first, then its negatives.

    For the cross-encoders' listwise losses (LambdaLoss, ListNetLoss): ``query`` (string), ``docs`` (list of strings),
    ``labels`` (list of int64, 1 or 0); with scores ``scores`` (list of floats) in its place. ``mine_hard_negatives``
    writes one such row for each positive; here a list has all that is known of its query.
    """
    unrolled = unroll(groups, options)
    documents, labels = unrolled.documents()
    columns = {
        "query": unrolled.query_texts(join_instruction=options.join_instruction),
        "docs": documents.lists(documents.texts),
    }
    if options.with_scores:
        columns["scores"] = documents.lists(pa.array(documents.scores(options), pa.float32()))
    else:
        columns["labels"] = documents.lists(labels)
    return unrolled.formatted(pa.table(columns))


def _score_lists(scores: Floats) -> pa.ListArray:
    """A list of floats for each row of a matrix (rows, scores of a row)."""
    return list_rows(pa.array(scores.ravel(), pa.float32()), scores.shape[1])
