"""Files of examples to queries: TART-full's JSONL, what jobs.mine_negatives writes, and lists of documents by query.

A record is one of these, told apart by its fields (the first name is ours, the others are those of trainers' files):

    a pair     query | anchor, document, label (0 or 1); optional score, unfollowing (true or false)
    a list     query, docs, labels; optional scores
    a group    query | anchor, positives | positive | pos, negatives | negative | neg | negative_1 …; optional
               unfollowing, scores | pos_scores and neg_scores

each with optional task and instruction | prompt | query_prompt; without the latter, the query may be
"instruction [SEP] query", or "instruction </s> query" as TART's own script writes it. An instruction that is blank or
"nan", as that script writes the empty cells of its table, is none. Records of one query and task become one `Query`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from tart_ray.errors import InputError
from tart_ray.input import text_files
from tart_ray.input.listing import Listing, list_files
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.input.sources import SAMPLED_FILES, SPLIT_BYTES, format_by_content, format_by_name
from tart_ray.storage import FileInfo, Storage, explained
from tart_ray.tables.parquet import parquet_bytes, read_parquet
from tart_ray.training.examples import Query

SEPARATORS = ("[SEP]", " </s> ")
PARQUET = (".parquet", ".pq")
POSITIVE, NEGATIVE, UNFOLLOWING = "positive", "negative", "unfollowing"
SEVERAL = (
    " under this instruction; records under several instructions are put together where they name their task, or "
    "input.instructions has its set"
)
TEXTS = pa.list_(pa.large_string())
NUMBERS = pa.list_(pa.float64())
QUERIES = pa.schema(
    [
        ("text", pa.large_string()),
        ("task", pa.string()),
        ("positives", TEXTS),
        ("negatives", TEXTS),
        ("unfollowing", TEXTS),
        ("positive_scores", NUMBERS),
        ("negative_scores", NUMBERS),
        ("instructions", TEXTS),
    ]
)

Instructions = Mapping[str, Sequence[str]]
Negatives = Literal["own", "random", "optional"]


class BadRecordError(ValueError):
    """A record that cannot be trained on; the message is its reason in quarantine."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one record says of a query: each document with what it is and, if a teacher scored it, its score.

    ``is_blank``: there is a field for the instruction, and nothing in it.
    """

    source: str
    position: int
    query: str
    task: str | None
    instruction: str | None
    documents: tuple[tuple[str, str, float | None], ...]
    is_blank: bool = False


@dataclass(frozen=True)
class Examples:
    """Queries, and how many records they were made of: read = used + duplicates (say nothing new) + quarantined.

    ``blank_instructions``: how many records had "nan", or white space, in place of one. ``skipped``: files that hold no
    examples, such as a README.
    """

    queries: list[Query]
    counts: dict[str, int]
    quarantine: Quarantine
    blank_instructions: int = 0
    skipped: tuple[str, ...] = ()


def read_examples(
    storage: Storage,
    url: str,
    instructions: Instructions | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    negatives: Negatives = "own",
    needs_scores: bool = False,
    files: Sequence[FileInfo] | None = None,
) -> Examples:
    """All queries of a file, a directory or a glob, in the order in which they first appear.

    Args:
        instructions: the set of each task, which takes the place of the instructions in the records. A record whose
            instruction is in a set belongs to that task, if it names none.
        columns: our name: their name, of fields that are called otherwise.
        negatives: a query needs some of its own; or another query of its task, to draw random ones from; or none.
        needs_scores: so is a document without a teacher's score.
        files: those that `check_fields` found there; by default all that hold examples now.

    Raises:
        StorageError: nothing is there, or it cannot be read, or it is not what ``files`` says.
        InputError: a Parquet file cannot be read.
    """
    quarantine = Quarantine(READ)
    records: list[Record] = []
    read = 0
    listing, skipped = files_of_examples(storage, url)
    for file in listing.files if files is None else files:
        for position, found in _read(storage, file):
            read += 1
            try:
                record = found if isinstance(found, Mapping) else text_files.parse_line("jsonl", "candidates", found)
                records.append(parse_record(renamed(record, columns or {}), file.url, position))
            except (BadRecordError, text_files.BadLineError) as error:
                if isinstance(found, Mapping):
                    quarantine.add(str(error), file.url, position, 0, found)
                else:
                    quarantine.add(str(error), file.url, position, 0, raw=found)
    queries, duplicates = merge(records, quarantine, instructions or {}, negatives, needs_scores)
    used = read - duplicates - len(quarantine)
    counts = {"read": read, "used": used, "duplicates": duplicates, "quarantined": len(quarantine)}
    blank = sum(record.is_blank for record in records)
    return Examples(queries, counts, quarantine, blank, tuple(file.url for file in skipped))


def files_of_examples(storage: Storage, url: str) -> tuple[Listing, list[FileInfo]]:
    """The files that hold examples, by name or by their first line, and the others, such as a README.

    Raises:
        StorageError: nothing is there.
        InputError: none of the files holds examples.
    """
    files: list[FileInfo] = []
    others: list[FileInfo] = []
    listing = list_files(storage, url)
    for file in listing.files:
        kind = format_by_name(file.url) or format_by_content(storage, file)
        (files if kind in ("jsonl", "parquet") else others).append(file)
    if not files:
        raise InputError(f"{url}: no JSONL or Parquet in it; found {[file.url for file in others[:5]]}")
    return Listing(tuple(files), listing.skipped), others


def check_fields(storage: Storage, url: str, columns: Mapping[str, str] | None = None) -> Listing:
    """The files, after a look at the fields of the first record of some.

    Args:
        columns: as of `read_examples`.

    Raises:
        StorageError: nothing is there.
        InputError: a record of none of the three kinds.
    """
    listing, _ = files_of_examples(storage, url)
    for names, file in _sampled_fields(storage, listing):
        if kind_of(renamed(dict.fromkeys(names), columns or {})) is None:
            raise InputError(f"{file.url}: {_expected(names)}; input.columns maps other names")
    return listing


def check_renamed(storage: Storage, listings: Iterable[Listing], columns: Mapping[str, str]) -> None:
    """Refuse names of fields that no record has.

    Raises:
        InputError: ``columns`` holds one.
    """
    if not columns:
        return
    known = {name for listing in listings for names, _ in _sampled_fields(storage, listing) for name in names}
    if missing := sorted({*columns.values()} - known):
        raise InputError(f"input.columns: got {missing}, which no first record has; available: {sorted(known)}")


def _sampled_fields(storage: Storage, listing: Listing) -> Iterator[tuple[list[str], FileInfo]]:
    """The fields of the first record of some files."""
    for file in listing.files[:SAMPLED_FILES]:
        names = _first_fields(storage, file)
        if names is not None:
            yield list(names), file


def renamed(record: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The record with fields under our names, where ``columns`` (our name: their name) says what they are called."""
    if not columns:
        return record
    theirs = {*columns.values()}
    rest = {name: value for name, value in record.items() if name not in theirs}
    return rest | {ours: record[name] for ours, name in columns.items() if name in record}


def read_instructions(storage: Storage, url: str) -> dict[str, list[str]]:
    """The instructions of each task, from a JSON object ``{task: [instruction, …]}``.

    Raises:
        StorageError: nothing is there.
        InputError: it is another thing, or an instruction is empty or in the sets of two tasks.
    """
    try:
        found = json.loads(storage.read(url))
    except ValueError as error:
        raise InputError(f"{url}: not JSON: {error}") from error
    lists = [*found.items()] if isinstance(found, dict) else [("", None)]
    sets: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for task, texts in lists:
        if not (isinstance(texts, list) and texts and all(map(_is_instruction, texts))):
            raise InputError(f'{url}: {task!r}: expected {{"task": ["instruction", …], …}}, without empty ones and nan')
        sets[task] = [text.strip() for text in texts]
        for text in sets[task]:
            if owner.setdefault(text, task) != task:
                raise InputError(f"{url}: {text!r} is an instruction of {owner[text]!r} and of {task!r}, expected one")
    return sets


def kind_of(names: Iterable[str]) -> str | None:
    """Which kind of record has these fields: pair, list or group."""
    there = {*names}
    if not there & {"query", "anchor"}:
        return None
    if {"document", "label"} <= there:
        return "pair"
    if {"docs", "labels"} <= there:
        return "list"
    return "group" if there & {"positives", "positive", "pos"} else None


def parse_record(record: Mapping[str, Any], source: str, position: int) -> Record:
    """One record of any kind.

    Raises:
        BadRecordError: it is none, or has a value that is not what its field holds.
    """
    kind = kind_of(record)
    if kind is None:
        raise BadRecordError(_expected(record))
    query = _text(_first(record, "query", "anchor"), "query")
    instruction = _first(record, "instruction", "query_prompt", "prompt")
    separator = next((separator for separator in SEPARATORS if separator in query), None)
    if instruction is None and separator:
        before, _, after = query.partition(separator)
        instruction, query = before.strip(), _text(after.strip(), "query")
    if instruction is not None and not isinstance(instruction, str):
        raise BadRecordError(f"instruction is {instruction!r}, expected text or null")
    is_blank = instruction is not None and not _is_instruction(instruction)
    task = record.get("task")
    if task is not None and not (isinstance(task, str) and task):
        raise BadRecordError(f"task is {task!r}, expected text")
    documents = {"pair": _pair, "list": _list, "group": _group}[kind](record)
    if not documents:
        raise BadRecordError("no document in it")
    kinds: dict[str, str] = {}
    for text, of, _ in documents:
        if kinds.setdefault(text, of) != of:
            raise BadRecordError(f"the document is {kinds[text]} and {of} in one record: {text!r}")
    own = instruction.strip() if instruction is not None and not is_blank else None
    return Record(source, position, query, task, own, tuple(documents), is_blank)


def merge(
    records: Sequence[Record],
    quarantine: Quarantine,
    instructions: Instructions,
    negatives: Negatives,
    needs_scores: bool,
) -> tuple[list[Query], int]:
    """Queries of the records, and how many records repeat what is known; the unusable go to quarantine."""
    task_of = {text: task for task, texts in instructions.items() for text in texts}
    seen: dict[str, dict[str, None]] = {}  # instructions of each task, in order
    groups: dict[tuple[str, str], list[Record]] = {}
    tasks = [record.task or task_of.get(record.instruction or "") or record.instruction or "" for record in records]
    of_query: dict[str, set[str]] = {}
    for record, task in zip(records, tasks, strict=True):
        if task:
            of_query.setdefault(record.query, set()).add(task)
    for record, task in zip(records, tasks, strict=True):
        if record.is_blank and not task:  # what else is said of its query tells the task
            others = of_query.get(record.query, {""})
            if len(others) > 1:
                _refuse(quarantine, record, f"the instruction is blank, and its query is of {len(others)} tasks")
                continue
            (task,) = others
        groups.setdefault((task, record.query), []).append(record)
        if record.instruction is not None:
            seen.setdefault(task, {})[record.instruction] = None
    sets = {task: tuple(texts) for task, texts in seen.items()} | {k: tuple(v) for k, v in instructions.items()}
    of_task = Counter(task for task, _ in groups)
    queries, duplicates = [], 0
    for (task, text), found in groups.items():
        kinds: dict[str, tuple[str, float | None]] = {}
        kept = []
        for record in found:
            known = len(kinds)
            if needs_scores and any(score is None for _, kind, score in record.documents if kind != UNFOLLOWING):
                _refuse(quarantine, record, "no teacher's score of a document, which loss margin_mse learns from")
                continue
            wrong = [document for document, kind, _ in record.documents if kinds.get(document, (kind,))[0] != kind]
            if wrong:
                _refuse(quarantine, record, f"the document is {kinds[wrong[0]][0]} in an earlier record of its query")
                continue
            for document, kind, score in record.documents:
                kinds.setdefault(document, (kind, score))
            if len(kinds) == known:
                duplicates += 1
            else:
                kept.append(record)
        by_kind = {
            kind: [(document, score) for document, (of, score) in kinds.items() if of == kind]
            for kind in (POSITIVE, NEGATIVE, UNFOLLOWING)
        }
        problem = None
        if not by_kind[POSITIVE]:
            problem = "the query has no positive" + SEVERAL * any(record.task is None for record in found)
        elif not (by_kind[NEGATIVE] or (by_kind[UNFOLLOWING] and not needs_scores)):
            if negatives == "own":
                problem = "the query has no negative" + SEVERAL * any(record.task is None for record in found)
            elif negatives == "random" and of_task[task] == 1:
                problem = "the query has no negative, and its task no other query to draw one from"
        if problem:
            for record in kept:
                _refuse(quarantine, record, problem)
            continue
        texts = {kind: tuple(document for document, _ in pairs) for kind, pairs in by_kind.items()}
        scores = {kind: tuple(score for _, score in pairs if score is not None) for kind, pairs in by_kind.items()}
        whole = {kind: scores[kind] if len(scores[kind]) == len(texts[kind]) else () for kind in scores}
        queries.append(
            Query(
                text,
                task,
                sets.get(task, ()),
                texts[POSITIVE],
                texts[NEGATIVE],
                texts[UNFOLLOWING],
                whole[POSITIVE],
                whole[NEGATIVE],
            )
        )
    return queries, duplicates


def encode_queries(queries: Sequence[Query]) -> bytes:
    """Queries as a Parquet file."""
    rows = [{name: getattr(query, name) for name in QUERIES.names} for query in queries]
    return parquet_bytes(pa.Table.from_pylist(rows, schema=QUERIES))


def decode_queries(data: bytes) -> list[Query]:
    """Queries that `encode_queries` wrote."""
    table = read_parquet(data)
    sets: dict[tuple[str, ...], tuple[str, ...]] = {}  # each once in memory
    queries = []
    for batch in table.to_batches(max_chunksize=4_096):
        for row in batch.to_pylist():
            lists = {name: tuple(value) for name, value in row.items() if isinstance(value, list)}
            lists["instructions"] = sets.setdefault(lists["instructions"], lists["instructions"])
            queries.append(Query(row["text"], row["task"], **lists))
    return queries


def _read(storage: Storage, file: FileInfo) -> Iterator[tuple[int, Mapping[str, Any] | bytes]]:
    """Row number and record of Parquet, byte offset and line of JSONL."""
    if not file.url.lower().endswith(PARQUET):
        for _, start, end in text_files.ranges(file, SPLIT_BYTES):
            yield from text_files.lines(storage, file, start, end)
        return
    position = 0
    with explained("read", file.url), storage.open(file) as handle:
        try:
            for batch in pq.ParquetFile(handle).iter_batches(batch_size=4_096):
                for row in batch.to_pylist():
                    yield position, row
                    position += 1
        except pa.ArrowException as error:
            raise InputError(f"{file.url}: row {position} and those behind it cannot be read: {error}") from error


def _first_fields(storage: Storage, file: FileInfo) -> list[str] | None:
    """Fields of a file's first record; None where that cannot be decoded."""
    if file.url.lower().endswith(PARQUET):
        with explained("read", file.url), storage.open(file) as handle:
            try:
                return list(pq.read_schema(handle).names)
            except pa.ArrowException as error:
                raise InputError(f"{file.url}: not a Parquet file: {error}") from error
    for line in text_files.head(storage, file, 1 << 16)[:1]:
        try:
            return [*text_files.parse_line("jsonl", "candidates", line)]
        except text_files.BadLineError:
            return None
    return None


def _pair(record: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    kind = POSITIVE if _label(record["label"]) else NEGATIVE
    apart = record.get(UNFOLLOWING)
    if apart not in (None, True, False) or (apart and kind == POSITIVE):
        raise BadRecordError(f"unfollowing is {apart!r}, expected true or false, and false where label is 1")
    return [(_text(record["document"], "document"), UNFOLLOWING if apart else kind, _score(record.get("score")))]


def _list(record: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    texts, labels = _items(record, "docs"), [_label(label) for label in _items(record, "labels")]
    scores = _items(record, "scores") or [None] * len(texts)
    if not len(texts) == len(labels) == len(scores):
        raise BadRecordError(
            f"got {len(texts)} docs, {len(labels)} labels, {len(scores)} scores; expected as many each"
        )
    return [
        (_text(text, "document"), POSITIVE if label else NEGATIVE, _score(score))
        for text, label, score in zip(texts, labels, scores, strict=True)
    ]


def _group(record: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    positives = _items(record, "positives", "positive", "pos")
    negatives = _items(record, "negatives", "negative", "neg")
    numbered = [name for name in record if name.startswith("negative_") and name.removeprefix("negative_").isdigit()]
    negatives += [record[name] for name in sorted(numbered, key=lambda name: int(name.removeprefix("negative_")))]
    of_positives, of_negatives = _items(record, "pos_scores"), _items(record, "neg_scores")
    scores = _items(record, "scores") or [*of_positives, *of_negatives] or [None] * len(positives + negatives)
    if len(scores) != len(positives) + len(negatives):
        raise BadRecordError(
            f"got {len(scores)} scores of {len(positives)} positives and {len(negatives)} negatives; expected as many"
        )
    kinds = [POSITIVE] * len(positives) + [NEGATIVE] * len(negatives)
    documents = [
        (_text(text, "document"), kind, _score(score))
        for text, kind, score in zip(positives + negatives, kinds, scores, strict=True)
    ]
    return documents + [(_text(text, "document"), UNFOLLOWING, None) for text in _items(record, UNFOLLOWING)]


def _refuse(quarantine: Quarantine, record: Record, reason: str) -> None:
    row = {name: getattr(record, name) for name in ("query", "instruction", "task", "documents")}
    quarantine.add(reason, record.source, record.position, 0, row)


def _first(record: Mapping[str, Any], *names: str) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _items(record: Mapping[str, Any], *names: str) -> list[Any]:
    found = _first(record, *names)
    return [] if found is None else list(found) if isinstance(found, (list, tuple)) else [found]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRecordError(f"{name} is {value!r}, expected text")
    if not value.strip():
        raise BadRecordError(f"{name} is empty")
    return value


def _is_instruction(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() not in ("", "nan")


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


def _expected(names: Iterable[str]) -> str:
    there = sorted(names)
    if {"score", "scores"} & {*there} and kind_of([*there, "label", "labels"]) is not None:
        return f"got {there}: scores without labels do not tell positives; expected triplet, n-tuple or flagembedding"
    return (
        f"got fields {there}, expected query or anchor, and document and label, or docs and labels, "
        "or positives and negatives"
    )
