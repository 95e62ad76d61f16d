"""Records of the same query and task become one `Query`; unusable records go to quarantine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tart_ray.input.quarantine import Quarantine
from tart_ray.training.examples import Query
from tart_ray.training.records import NEGATIVE, POSITIVE, UNFOLLOWING, Record

SEVERAL = (
    " under this instruction; records under several instructions are put together where they name their task, or "
    "input.instructions has its set"
)

Instructions = Mapping[str, Sequence[str]]  # of each task
Negatives = Literal["own", "random", "optional"]


@dataclass(frozen=True)
class _Merged:
    """The documents of one query.

    Attributes:
        documents: text → kind and score, both as in the first record that has the document.
        used: the records that added a document.
        duplicates: how many records added none.
    """

    documents: Mapping[str, tuple[str, float | None]]
    used: Sequence[Record]
    duplicates: int

    def texts(self, kind: str) -> tuple[str, ...]:
        """The documents of a kind."""
        return tuple(text for text, (other, _) in self.documents.items() if other == kind)

    def scores(self, kind: str) -> tuple[float, ...]:
        """The scores of all documents of a kind; none if one of them has no score."""
        scores = [score for other, score in self.documents.values() if other == kind]
        known = [score for score in scores if score is not None]
        return tuple(known) if len(known) == len(scores) else ()


def merge_records(
    records: Sequence[Record],
    quarantine: Quarantine,
    instructions: Instructions,
    negatives: Negatives,
    needs_scores: bool,
) -> tuple[list[Query], int]:
    """The queries of the records, in the order in which they first appear; unusable records go to quarantine.

    Args:
        instructions: the instructions of each task, which replace those of its records.
        negatives: what a query needs: "own", a negative; "random", a negative, or another query of its task, whose
            documents can serve as negatives; "optional", neither.
        needs_scores: whether every positive and negative needs a teacher's score.

    Returns:
        The queries, and how many records are duplicates: they add no document to those before them.
    """
    records_of: dict[tuple[str, str], list[Record]] = {}  # by task and query
    in_records: dict[str, dict[str, None]] = {}  # the instructions of each task, in order
    for record, task in _with_tasks(records, quarantine, instructions):
        records_of.setdefault((task, record.query), []).append(record)
        if record.instruction is not None:
            in_records.setdefault(task, {})[record.instruction] = None
    instructions_of = {task: tuple(texts) for task, texts in (in_records | dict(instructions)).items()}
    queries_of_task = Counter(task for task, _ in records_of)
    queries, duplicates = [], 0
    for (task, text), of_query in records_of.items():
        merged = _merge_documents(of_query, quarantine, needs_scores)
        duplicates += merged.duplicates
        advice = SEVERAL if any(record.task is None for record in of_query) else ""
        kinds = {kind for kind, _ in merged.documents.values()}
        problem = None
        if POSITIVE not in kinds:
            problem = f"the query has no positive{advice}"
        elif NEGATIVE not in kinds and (UNFOLLOWING not in kinds or needs_scores):
            if negatives == "own":
                problem = f"the query has no negative{advice}"
            elif negatives == "random" and queries_of_task[task] == 1:
                problem = "the query has no negative, and its task no other query to draw one from"
        if problem is None:
            queries.append(_make_query(text, task, instructions_of.get(task, ()), merged))
        else:
            for record in merged.used:
                _refuse(quarantine, record, problem)
    return queries, duplicates


def _with_tasks(
    records: Sequence[Record], quarantine: Quarantine, instructions: Instructions
) -> Iterator[tuple[Record, str]]:
    """Each record with its task: the one it names, or that of its instruction, or else the instruction itself.

    A record with a blank instruction has the task of the other records of its query. The task is "" if nothing tells
    it.
    """
    task_of = {text: task for task, texts in instructions.items() for text in texts}
    tasks = [record.task or task_of.get(record.instruction or "") or record.instruction or "" for record in records]
    tasks_of_query: dict[str, set[str]] = {}
    for record, task in zip(records, tasks, strict=True):
        if task:
            tasks_of_query.setdefault(record.query, set()).add(task)
    for record, task in zip(records, tasks, strict=True):
        if task or not record.is_blank:
            yield record, task
            continue
        others = tasks_of_query.get(record.query, {""})
        if len(others) == 1:
            (task,) = others
            yield record, task
        else:
            _refuse(quarantine, record, f"the instruction is blank, and its query is of {len(others)} tasks")


def _merge_documents(records: Sequence[Record], quarantine: Quarantine, needs_scores: bool) -> _Merged:
    """Put the documents of one query's records together; records that contradict earlier ones go to quarantine."""
    documents: dict[str, tuple[str, float | None]] = {}
    used: list[Record] = []
    duplicates = 0
    for record in records:
        if needs_scores and any(d.score is None for d in record.documents if d.kind != UNFOLLOWING):
            _refuse(quarantine, record, "no teacher's score of a document, which distillation learns from")
            continue
        known = {d: documents[d.text][0] for d in record.documents if d.text in documents}
        contradicted = [kind for document, kind in known.items() if kind != document.kind]
        if contradicted:
            _refuse(quarantine, record, f"the document is {contradicted[0]} in an earlier record of its query")
            continue
        count = len(documents)
        for document in record.documents:
            documents.setdefault(document.text, (document.kind, document.score))
        if len(documents) == count:
            duplicates += 1
        else:
            used.append(record)
    return _Merged(documents, used, duplicates)


def _make_query(text: str, task: str, instructions: tuple[str, ...], merged: _Merged) -> Query:
    return Query(
        text,
        task,
        instructions,
        merged.texts(POSITIVE),
        merged.texts(NEGATIVE),
        merged.texts(UNFOLLOWING),
        merged.scores(POSITIVE),
        merged.scores(NEGATIVE),
    )


def _refuse(quarantine: Quarantine, record: Record, reason: str) -> None:
    row = {name: getattr(record, name) for name in ("query", "instruction", "task")}
    row["documents"] = [tuple(document) for document in record.documents]
    quarantine.add(reason, record.source, record.position, 0, row)
