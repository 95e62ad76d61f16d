"""Collections of LoTTE: ``collection.tsv  questions.<search|forum>.tsv  qas.<search|forum>.jsonl``."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tart_ray.evaluation.layout import Layout
from tart_ray.evaluation.pools import with_full_ids
from tart_ray.evaluation.reading import JUDGEMENTS, Read, read_objects
from tart_ray.evaluation.tasks import ALL, Task
from tart_ray.input.quarantine import Quarantine, id_text
from tart_ray.storage import Storage


def layout(questions: str) -> Layout:
    """The files of one kind of questions: search or forum."""
    return Layout(
        ("Success@5", "nDCG@10", "R@100", "RR"),
        corpus="collection.tsv",
        queries=f"questions.{questions}.tsv",
        answers=f"qas.{questions}.jsonl",
    )


def read_judgements(storage: Storage, task: Task, quarantine: Quarantine) -> dict[str, Read]:
    """``{"qid": …, "query": …, "answer_pids": […]}``, a line each, as `JUDGEMENTS`; every answer is relevant.

    A question without any answer has one row, whose ``doc_id`` and ``relevance`` are null.
    """
    repeated = "answers to this qid came before"
    answers, lines = read_objects(storage, task.answers, quarantine, _answers_of, repeated)
    rows = [
        {"query_id": query_id, "doc_id": doc_id, "relevance": None if doc_id is None else 1}
        for query_id, doc_ids in answers.items()
        for doc_id in (doc_ids or (None,))
    ]
    return {ALL: Read(with_full_ids(pa.Table.from_pylist(rows, schema=JUDGEMENTS), task.name), lines)}


def _answers_of(fields: dict[str, Any]) -> tuple[str, list[str]]:
    """A question's id, and the distinct ids of its answers."""
    query_id, answers = id_text(fields.get("qid")), fields.get("answer_pids")
    doc_ids = [id_text(answer) for answer in answers] if isinstance(answers, list) else [None]
    if not query_id or None in doc_ids:
        raise ValueError("expected qid and a list of ids, answer_pids")
    return query_id, list(dict.fromkeys(doc_id for doc_id in doc_ids if doc_id is not None))
