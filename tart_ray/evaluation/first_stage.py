"""What is reranked: the best documents of a run, or of BM25."""

from __future__ import annotations

from collections.abc import Iterable

import bm25s
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.errors import InputError
from tart_ray.evaluation.trec_runs import RUN
from tart_ray.tables.groups import group_starts, places_in_groups
from tart_ray.tables.texts import document_texts

STOPWORDS = "en"


def in_trec_order(run: pa.Table) -> pa.Table:
    """Rows by query and then as trec_eval ranks them, with ``rank`` (int32, from 1) as their last column.

    The score decides, as a number of 32 bits; equal scores are ordered by ``doc_id``, the greatest first.
    """
    single = run.append_column("_score", run["score"].cast(pa.float32()))
    keys = [("query_id", "ascending"), ("_score", "descending"), ("doc_id", "descending")]
    ordered = single.take(pc.sort_indices(single, sort_keys=keys)).drop_columns(["_score"])
    ranks = places_in_groups(group_starts(ordered, "query_id")) + 1
    return ordered.append_column("rank", pa.array(ranks, pa.int32()))


def best(run: pa.Table, top_k: int) -> pa.Table:
    """The first ``top_k`` rows of each query, in trec_eval's order."""
    ranked = in_trec_order(run)
    return ranked.filter(pc.less_equal(ranked["rank"], top_k)).drop_columns(["rank"])


class Bm25:
    """BM25 over title and text, by bm25s with its defaults: Lucene's variant, k1 = 1.5, b = 0.75, English stop words.

    Holds the corpus' tokens in memory: about 1 KB a passage while it is built.

    Args:
        documents: parts of a corpus: ``doc_id, title, text``.

    Raises:
        InputError: there are no documents.
    """

    def __init__(self, documents: Iterable[pa.Table]) -> None:
        texts: dict[str, str] = {}  # of an id that comes twice, the first, as everywhere
        for part in documents:
            for doc_id, text in zip(part["doc_id"].to_pylist(), document_texts(part)[0], strict=True):
                texts.setdefault(doc_id, text)
        self._doc_ids = [*texts]
        tokens = bm25s.tokenize([*texts.values()], stopwords=STOPWORDS, show_progress=False) if texts else None
        if tokens is None or not any(map(len, tokens.ids)):
            raise InputError(f"BM25: got a corpus of {len(texts)} documents without a word, expected some")
        self._index = bm25s.BM25()
        self._index.index(tokens, show_progress=False)

    def search(self, queries: pa.Table, top_k: int) -> pa.Table:
        """The best documents of each query: `RUN`. Documents without a word of the query are in no ranking.

        Of documents with equal scores those are taken that trec_eval ranks first, whatever machine this is.
        """
        if not len(queries):
            return RUN.empty_table()
        ids = pa.array(self._doc_ids, pa.string())
        tables = [RUN.empty_table()]
        texts = queries["query"].to_pylist()
        tokens = bm25s.tokenize(texts, stopwords=STOPWORDS, return_ids=False, show_progress=False)
        for query_id, words in zip(queries["query_id"].to_pylist(), tokens, strict=True):
            known = self._index.get_tokens_ids(words)
            scores = np.asarray(self._index.get_scores_from_ids(known), np.float64)
            least = np.partition(scores, -top_k)[-top_k] if top_k < len(scores) else 0.0
            hits = np.flatnonzero((scores > 0) & (scores >= least))
            columns = [pa.repeat(pa.scalar(query_id), len(hits)), ids.take(pa.array(hits)), pa.array(scores[hits])]
            tables.append(best(pa.table(columns, schema=RUN), top_k))
        return pa.concat_tables(tables)
