"""What is reranked: the best documents of a run, or of BM25."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.evaluation.trec_runs import RUN
from tart_ray.retrieval.bm25 import Bm25
from tart_ray.tables.groups import group_starts, places_in_groups
from tart_ray.tables.texts import document_texts


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


def index(documents: Iterable[pa.Table]) -> Bm25:
    """BM25 over title and text, without English stop words.

    Args:
        documents: parts of a corpus: ``doc_id, title, text``. Of an id that comes twice the first counts.

    Raises:
        InputError: no document has a word.
    """
    texts: dict[str, str] = {}
    for part in documents:
        for doc_id, text in zip(part["doc_id"].to_pylist(), document_texts(part)[0], strict=True):
            texts.setdefault(doc_id, text)
    return Bm25(texts)


def search(corpus: Bm25, queries: pa.Table, top_k: int) -> pa.Table:
    """The best documents of each query (``query_id, query``), best first: `RUN`."""
    tables = [RUN.empty_table()]
    for query_id, query in zip(queries["query_id"].to_pylist(), queries["query"].to_pylist(), strict=True):
        found = corpus.search(query, top_k)
        tables.append(pa.table([[query_id] * len(found), [*found], [*found.values()]], schema=RUN))
    return pa.concat_tables(tables)
