"""Collections of BEIR, and what others have in common with them.

beir          corpus.jsonl  queries.jsonl  qrels/<split>.tsv
cqadupstack   one such directory per forum
"""

from __future__ import annotations

import pyarrow.compute as pc

from tart_ray.errors import InputError
from tart_ray.evaluation.layout import Layout, files_like
from tart_ray.evaluation.pools import with_full_ids
from tart_ray.evaluation.reading import JUDGEMENTS, Read, first_of_each, read_source
from tart_ray.evaluation.tasks import ALL, Task
from tart_ray.input import text_files
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.sources import Source
from tart_ray.storage import Storage, join_url
from tart_ray.tables.groups import in_input_order

LAYOUT = Layout(("nDCG@10", "R@100", "RR", "Success@5"), qrels={ALL: "qrels"}, ignores_identical_ids=True)
FORUMS = (
    "android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats", "tex", "unix",
    "webmasters", "wordpress",
)  # fmt: skip
MAX_RELEVANCE = 1_000_000  # trec_eval has a counter of 8 bytes for every grade up to the highest, for each query


def find_forums(storage: Storage, path: str) -> tuple[list[str], list[str]]:
    """The forums of CQADupStack in a directory, and those that are missing.

    Raises:
        InputError: there is none.
    """
    forums = [name for name in storage.names(path) if files_like(storage, join_url(path, name), LAYOUT.corpus)]
    if not forums:
        raise InputError(f"{path}: no forum of CQADupStack there, expected {', '.join(FORUMS)}")
    return forums, [name for name in FORUMS if name not in forums]


def read_queries(storage: Storage, task: Task, quarantine: Quarantine) -> Read:
    """The queries: `tart_ray.evaluation.reading.QUERIES`, the first of each id."""
    return first_of_each(
        read_source(storage, task.queries, quarantine), task.queries, quarantine, ["query_id"], "query"
    )


def read_judgements(storage: Storage, task: Task, quarantine: Quarantine) -> dict[str, Read]:
    """Qrels of each set: `JUDGEMENTS` with full ids, in the order of the input.

    Raises:
        InputError: a relevance is beyond `MAX_RELEVANCE`.
    """
    judgements = {}
    for name, source in task.qrels.items():
        read = read_source(storage, source, quarantine)
        _refuse_extreme(storage, source, read)
        read = first_of_each(read, source, quarantine, ["query_id", "doc_id"], "relevance")
        judgements[name] = Read(with_full_ids(read.table.select(JUDGEMENTS.names), task.name), read.rows)
    return judgements


def _refuse_extreme(storage: Storage, source: Source, qrels: Read) -> None:
    """Refuse grades that trec_eval cannot hold.

    Raises:
        InputError: there is one; the message says where.
    """
    relevance = qrels.table["relevance"]
    is_extreme = pc.or_(pc.greater(relevance, MAX_RELEVANCE), pc.less(relevance, -MAX_RELEVANCE))
    extreme = in_input_order(qrels.table.filter(is_extreme)).slice(0, 1).to_pylist()
    if not extreme:
        return
    row = extreme[0]
    file, position = source.splits[row["_split"]].file, row["_position"]
    place = f"row {position}"
    if source.format != "parquet":
        place = f"line {text_files.line_number(storage, file, position)}"
    raise InputError(
        f"{file.url}: {place}: relevance {row['relevance']:,} of query {row['query_id']!r} and document "
        f"{row['doc_id']!r}: expected a grade from {-MAX_RELEVANCE:,} to {MAX_RELEVANCE:,}: trec_eval counts documents "
        "by grade, from 0 to the highest. Is it another column, a timestamp or an id? Else scale the grades down"
    )
