"""One record of a training file: the fields it may have, and how it is checked.

A record is of one of three kinds, which differ in their fields. The first name of a field is this project's; the others
are those used by other trainers:

    a pair     query | anchor, document, label (0 or 1); optional score, unfollowing (true or false)
    a list     query, docs, labels; optional scores
    a group    query | anchor, positives | positive | pos, negatives | negative | neg | negative_1 …; optional
               unfollowing, scores | pos_scores and neg_scores

Each may also have a task and an instruction | prompt | query_prompt. Without an instruction field, the query may be
"instruction [SEP] query", or "instruction </s> query" as TART's own script writes it. An instruction that is blank or
"nan", which that script writes for the empty cells of its table, counts as no instruction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

SEPARATORS = ("[SEP]", " </s> ")
POSITIVE, NEGATIVE, UNFOLLOWING = "positive", "negative", "unfollowing"


class BadRecordError(ValueError):
    """A record that cannot be trained on; the message is its reason in quarantine."""


class Document(NamedTuple):
    """A document of a record: its text, its kind (one of the three constants) and a teacher's score, or None."""

    text: str
    kind: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Record:
    """What one record says about a query.

    Attributes:
        source: URL of the file.
        position: row number in a Parquet file, byte offset in a JSONL file.
        instruction: None if the record has none, or a blank one.
        is_blank: whether the record has an instruction that is blank or "nan".
    """

    source: str
    position: int
    query: str
    task: str | None
    instruction: str | None
    documents: tuple[Document, ...]
    is_blank: bool = False


def renamed(record: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The record under this project's field names.

    Args:
        columns: this project's name → the name in the record, for fields that are called differently.
    """
    if not columns:
        return record
    names = {*columns.values()}
    rest = {name: value for name, value in record.items() if name not in names}
    return rest | {ours: record[name] for ours, name in columns.items() if name in record}


def kind_of(fields: Iterable[str]) -> str | None:
    """The kind of a record with these fields: pair, list or group; None if it is none of them."""
    names = {*fields}
    if not names & {"query", "anchor"}:
        return None
    if {"document", "label"} <= names:
        return "pair"
    if {"docs", "labels"} <= names:
        return "list"
    return "group" if names & {"positives", "positive", "pos"} else None


def describe_mismatch(fields: Iterable[str]) -> str:
    """Why a record with these fields is of no kind, and which fields are expected."""
    names = sorted(fields)
    if {"score", "scores"} & {*names} and kind_of([*names, "label", "labels"]) is not None:
        return f"got {names}: scores without labels do not tell positives; expected triplet, n-tuple or flagembedding"
    return (
        f"got fields {names}, expected query or anchor, and document and label, or docs and labels, "
        "or positives and negatives"
    )


def is_instruction(value: Any) -> bool:
    """Whether a value is text that is neither blank nor "nan"."""
    return isinstance(value, str) and value.strip().lower() not in ("", "nan")


def parse_record(record: Mapping[str, Any], source: str, position: int) -> Record:
    """Check a record of any kind.

    Args:
        record: its fields, under this project's names or those of other trainers.
        source, position: as in `Record`.

    Raises:
        BadRecordError: it is of no known kind, or a field has a value that it cannot have.
    """
    kind = kind_of(record)
    if kind is None:
        raise BadRecordError(describe_mismatch(record))
    query, instruction = _query_and_instruction(record)
    is_blank = instruction is not None and not is_instruction(instruction)
    task = record.get("task")
    if task is not None and not (isinstance(task, str) and task):
        raise BadRecordError(f"task is {task!r}, expected text")
    documents = DOCUMENTS_OF_KIND[kind](record)
    if not documents:
        raise BadRecordError("no document in it")
    kinds: dict[str, str] = {}
    for document in documents:
        first = kinds.setdefault(document.text, document.kind)
        if first != document.kind:
            raise BadRecordError(f"the document is {first} and {document.kind} in one record: {document.text!r}")
    stripped = instruction.strip() if instruction is not None and not is_blank else None
    return Record(source, position, query, task, stripped, tuple(documents), is_blank)


def _query_and_instruction(record: Mapping[str, Any]) -> tuple[str, str | None]:
    """The query, and the instruction as written, from its own field or from in front of the query."""
    query = _text(_first(record, "query", "anchor"), "query")
    instruction = _first(record, "instruction", "query_prompt", "prompt")
    separator = next((separator for separator in SEPARATORS if separator in query), None)
    if instruction is None and separator:
        before, _, after = query.partition(separator)
        instruction, query = before.strip(), _text(after.strip(), "query")
    if instruction is not None and not isinstance(instruction, str):
        raise BadRecordError(f"instruction is {instruction!r}, expected text or null")
    return query, instruction


def _pair(record: Mapping[str, Any]) -> list[Document]:
    kind = POSITIVE if _label(record["label"]) else NEGATIVE
    unfollowing = record.get(UNFOLLOWING)
    if unfollowing not in (None, True, False) or (unfollowing and kind == POSITIVE):
        raise BadRecordError(f"unfollowing is {unfollowing!r}, expected true or false, and false where label is 1")
    text, score = _text(record["document"], "document"), _score(record.get("score"))
    return [Document(text, UNFOLLOWING if unfollowing else kind, score)]


def _list(record: Mapping[str, Any]) -> list[Document]:
    texts, labels = _items(record, "docs"), [_label(label) for label in _items(record, "labels")]
    scores = _items(record, "scores") or [None] * len(texts)
    if not len(texts) == len(labels) == len(scores):
        raise BadRecordError(
            f"got {len(texts)} docs, {len(labels)} labels, {len(scores)} scores; expected as many each"
        )
    kinds = [POSITIVE if label else NEGATIVE for label in labels]
    return _documents(texts, kinds, scores)


def _group(record: Mapping[str, Any]) -> list[Document]:
    positives = _items(record, "positives", "positive", "pos")
    negatives = _items(record, "negatives", "negative", "neg")
    numbered = [name for name in record if name.startswith("negative_") and name.removeprefix("negative_").isdigit()]
    negatives += [record[name] for name in sorted(numbered, key=lambda name: int(name.removeprefix("negative_")))]
    separate = [*_items(record, "pos_scores"), *_items(record, "neg_scores")]
    scores = _items(record, "scores") or separate or [None] * len(positives + negatives)
    if len(scores) != len(positives) + len(negatives):
        raise BadRecordError(
            f"got {len(scores)} scores of {len(positives)} positives and {len(negatives)} negatives; expected as many"
        )
    kinds = [POSITIVE] * len(positives) + [NEGATIVE] * len(negatives)
    documents = _documents(positives + negatives, kinds, scores)
    return documents + [Document(_text(text, "document"), UNFOLLOWING, None) for text in _items(record, UNFOLLOWING)]


DOCUMENTS_OF_KIND: dict[str, Callable[[Mapping[str, Any]], list[Document]]] = {
    "pair": _pair,
    "list": _list,
    "group": _group,
}


def _documents(texts: list[Any], kinds: list[str], scores: list[Any]) -> list[Document]:
    return [
        Document(_text(text, "document"), kind, _score(score))
        for text, kind, score in zip(texts, kinds, scores, strict=True)
    ]


def _first(record: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that is not null; None if all are."""
    return next((record[name] for name in names if record.get(name) is not None), None)


def _items(record: Mapping[str, Any], *names: str) -> list[Any]:
    """The first of these fields that is not null, as a list: a single value is a list of one."""
    value = _first(record, *names)
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRecordError(f"{name} is {value!r}, expected text")
    if not value.strip():
        raise BadRecordError(f"{name} is empty")
    return value


def _label(value: Any) -> bool:
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    raise BadRecordError(f"label is {value!r}, expected 0 or 1")


def _score(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadRecordError(f"score is {value!r}, expected a finite number")
    return float(value)
