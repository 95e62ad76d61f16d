"""Collections of FollowIR: each query has two instructions, and a set of judgements for each.

corpus.jsonl  queries.jsonl (with instruction_og, instruction_changed)
qrels_og/<split>.tsv  qrels_changed/<split>.tsv
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tart_ray.evaluation.instructions import Variant
from tart_ray.evaluation.layout import Layout
from tart_ray.evaluation.reading import QUERIES, Read, read_objects
from tart_ray.evaluation.tasks import CHANGED, ORIGINAL, Task
from tart_ray.input.quarantine import Quarantine, id_text
from tart_ray.storage import Storage

LAYOUT = Layout(("nDCG@5", "AP@1000", "R@100"), qrels={ORIGINAL: "qrels_og", CHANGED: "qrels_changed"})
INSTRUCTION_COLUMNS = {ORIGINAL: "instruction_og", CHANGED: "instruction_changed"}
VARIANTS = tuple(Variant(name, None, column=column, judged_by=name) for name, column in INSTRUCTION_COLUMNS.items())


def read_queries(storage: Storage, task: Task, quarantine: Quarantine) -> Read:
    """The queries: `QUERIES` and the columns of their instructions. The first of each id."""
    names = task.queries.columns

    def texts_of(fields: dict[str, Any]) -> tuple[str, dict[str, str]]:
        query_id = id_text(fields.get(names["query_id"]))
        instructions = {name: fields.get(name) for name in INSTRUCTION_COLUMNS.values()}
        texts = {"query": fields.get(names["query"]), **instructions}
        if not query_id or not all(isinstance(text, str) and text.strip() for text in texts.values()):
            expected = ", ".join((names["query_id"], names["query"], *instructions))
            raise ValueError(f"expected texts that are not empty in {expected}")
        return query_id, {name: str(text) for name, text in texts.items()}

    repeated = "another query of this id came before"
    queries, lines = read_objects(storage, task.queries.files, quarantine, texts_of, repeated)
    rows = [{"query_id": query_id, **texts} for query_id, texts in queries.items()]
    columns = [(name, pa.large_string()) for name in INSTRUCTION_COLUMNS.values()]
    return Read(pa.Table.from_pylist(rows, schema=pa.schema([*QUERIES, *columns])), lines)


def with_ids_of_queries(run: pa.Table, query_ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    """A run under the ids that its queries have in the collection.

    MTEB lists FollowIR's candidates twice for each query, as ``<id>-og`` and ``<id>-changed``: both are the query's.
    """
    ids, known = run["query_id"], pc.unique(query_ids)
    stems = pc.replace_substring_regex(ids, "-(og|changed)$", "")
    is_of_stem = pc.and_not(pc.is_in(stems, known), pc.is_in(ids, known))
    return run.set_column(run.schema.get_field_index("query_id"), "query_id", pc.if_else(is_of_stem, stems, ids))


def count_not_judged_again(judgements: Mapping[str, Read]) -> int:
    """Relevant documents that the second set of judgements does not have."""
    pair = ["query_id", "doc_id"]
    original, changed = judgements[ORIGINAL].table, judgements[CHANGED].table
    relevant = original.filter(pc.greater(original["relevance"], 0)).select(pair)
    return len(relevant.join(changed.select(pair), pair, join_type="left anti"))
