"""Files of training examples: which files of an input hold them, and the queries that their records make.

Listings, Parquet row groups and JSON lines are read by `tart_ray.input`, as in every other job. Only the columns are
handled here: a `Source` has the columns of candidates, queries or a corpus, with ids and one type for all files, while
a training record has no ids, one of three sets of fields (`tart_ray.training.records`), some of them numbered, and a
file may hold all three. Nor do ``key=value`` directories become fields: they would change which task a record is of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tart_ray.errors import InputError
from tart_ray.input import text_files
from tart_ray.input.formats import Format, format_by_content, format_by_name
from tart_ray.input.inspect_text import SAMPLED_FILES
from tart_ray.input.listing import Listing, list_files
from tart_ray.input.parquet_files import read_footer, row_group_or_reason
from tart_ray.input.quarantine import READ, Quarantine
from tart_ray.input.splits import SPLIT_BYTES
from tart_ray.storage import FileInfo, Storage
from tart_ray.tables.printing import printable
from tart_ray.training.examples import Query
from tart_ray.training.merging import Instructions, Negatives, merge_records
from tart_ray.training.records import (
    BadRecordError,
    Record,
    describe_mismatch,
    is_instruction,
    kind_of,
    parse_record,
    renamed,
)

HEAD_BYTES = 1 << 16  # in which the first line of a file is looked for
ROWS_PER_BATCH = 4_096


@dataclass(frozen=True)
class Examples:
    """Queries, and what became of the records that they were made of.

    Attributes:
        counts: of records: read = used + duplicates (those that add no document) + quarantined.
        blank_instructions: how many records have white space or "nan" for an instruction.
        skipped: URLs of files that hold no examples, such as a README.
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
        instructions: the instructions of each task, which replace those of its records. A record that names no task,
            but whose instruction is one of these, belongs to the task of that instruction.
        columns: this project's name → the name in the files, for fields that are called differently.
        negatives: what a query needs: "own", a negative; "random", a negative, or another query of its task, whose
            documents can serve as negatives; "optional", neither.
        needs_scores: whether every positive and negative needs a teacher's score.
        files: those that `check_fields` returned; by default, all that hold examples now.

    Raises:
        StorageError: nothing is there, or it cannot be read, or a file is no longer the one in ``files``.
        InputError: no file holds examples, or a Parquet or compressed file cannot be read.
    """
    quarantine = Quarantine(READ)
    listing, skipped = files_of_examples(storage, url)
    records = [
        record
        for file in (listing.files if files is None else files)
        for record in _read_records(storage, file, columns or {}, quarantine)
    ]
    read = len(records) + len(quarantine)
    queries, duplicates = merge_records(records, quarantine, instructions or {}, negatives, needs_scores)
    used = read - duplicates - len(quarantine)
    counts = {"read": read, "used": used, "duplicates": duplicates, "quarantined": len(quarantine)}
    blank = sum(record.is_blank for record in records)
    return Examples(queries, counts, quarantine, blank, tuple(file.url for file in skipped))


def files_of_examples(storage: Storage, url: str) -> tuple[Listing, list[FileInfo]]:
    """The files that hold examples, by name or by their first line, and the other files, such as a README.

    Raises:
        StorageError: nothing is there.
        InputError: none of the files holds examples.
    """
    files: list[FileInfo] = []
    others: list[FileInfo] = []
    listing = list_files(storage, url)
    for file in listing.files:
        (files if _format_of(storage, file) in ("jsonl", "parquet") else others).append(file)
    if not files:
        raise InputError(f"{url}: no JSONL or Parquet in it; found {[file.url for file in others[:5]]}")
    return Listing(tuple(files), listing.skipped), others


def check_fields(
    storage: Storage, urls: Mapping[str, str], columns: Mapping[str, str] | None = None
) -> dict[str, Listing]:
    """The files that hold examples, by role, after a look at the first record of some of them.

    Args:
        urls: of a file, a directory or a glob, by role.
        columns: as in `read_examples`.

    Raises:
        StorageError: nothing is there.
        InputError: none of the files of a role holds examples, a first record is neither a pair nor a list nor a group,
            or ``columns`` names a field that no first record has.
    """
    columns = columns or {}
    listings = {role: files_of_examples(storage, url)[0] for role, url in urls.items()}
    known: set[str] = set()
    for listing in listings.values():
        for fields, file in _sampled_fields(storage, listing):
            if kind_of(renamed(dict.fromkeys(fields), columns)) is None:
                raise InputError(f"{file.url}: {describe_mismatch(fields)}; input.columns maps other names")
            known.update(fields)
    if missing := sorted({*columns.values()} - known):
        raise InputError(f"input.columns: got {missing}, which no first record has; available: {sorted(known)}")
    return listings


def read_instructions(storage: Storage, url: str) -> dict[str, list[str]]:
    """The instructions of each task, from a JSON object ``{task: [instruction, …]}``.

    Raises:
        StorageError: nothing is there.
        InputError: it is something else, or an instruction is empty or belongs to two tasks.
    """
    try:
        content = json.loads(storage.read(url))
    except ValueError as error:
        raise InputError(f"{url}: not JSON: {error}") from error
    tasks = content if isinstance(content, dict) else {"": None}
    instructions: dict[str, list[str]] = {}
    task_of: dict[str, str] = {}
    for task, texts in tasks.items():
        if not (isinstance(texts, list) and texts and all(map(is_instruction, texts))):
            raise InputError(f'{url}: {task!r}: expected {{"task": ["instruction", …], …}}, without empty ones and nan')
        instructions[task] = [text.strip() for text in texts]
        for text in instructions[task]:
            if task_of.setdefault(text, task) != task:
                raise InputError(
                    f"{url}: {text!r} is an instruction of {task_of[text]!r} and of {task!r}, expected one"
                )
    return instructions


def _format_of(storage: Storage, file: FileInfo) -> Format | None:
    return format_by_name(file.url) or format_by_content(storage, file)


def _read_records(
    storage: Storage, file: FileInfo, columns: Mapping[str, str], quarantine: Quarantine
) -> Iterator[Record]:
    """The records of one file; those that are not usable go to quarantine."""
    read = _read_parquet if _format_of(storage, file) == "parquet" else _read_json_lines
    yield from read(storage, file, columns, quarantine)


def _read_parquet(
    storage: Storage, file: FileInfo, columns: Mapping[str, str], quarantine: Quarantine
) -> Iterator[Record]:
    for position, row in enumerate(_parquet_rows(storage, file)):
        try:
            yield parse_record(renamed(row, columns), file.url, position)
        except BadRecordError as error:
            quarantine.add(str(error), file.url, position, 0, row)


def _parquet_rows(storage: Storage, file: FileInfo) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, dates and times as text.

    Raises:
        InputError: the file is damaged, or its text is not UTF-8. The rows do not go to quarantine, as they would in
            other jobs: a model that was trained without them cannot be completed later.
    """
    footer = read_footer(storage, file)
    names = footer.schema.to_arrow_schema().names
    for group in range(footer.num_row_groups):
        table = row_group_or_reason(storage, file, footer, group, names)
        if isinstance(table, str):
            raise InputError(f"{file.url}: {table}")
        try:
            table.validate(full=True)  # the Parquet reader does not check that text is UTF-8
        except pa.ArrowInvalid as error:
            raise InputError(f"{file.url}: row group {group} is not valid: {error}; write the file again") from error
        for batch in printable(table).to_batches(max_chunksize=ROWS_PER_BATCH):
            yield from batch.to_pylist()


def _read_json_lines(
    storage: Storage, file: FileInfo, columns: Mapping[str, str], quarantine: Quarantine
) -> Iterator[Record]:
    for _, start, end in text_files.ranges(file, SPLIT_BYTES):
        for position, line in text_files.lines(storage, file, start, end):
            try:
                row = text_files.parse_line("jsonl", "candidates", line)
                yield parse_record(renamed(row, columns), file.url, position)
            except (BadRecordError, text_files.BadLineError) as error:
                quarantine.add(str(error), file.url, position, 0, raw=line)


def _sampled_fields(storage: Storage, listing: Listing) -> Iterator[tuple[list[str], FileInfo]]:
    """The fields of the first record of some files, without files whose first line cannot be decoded."""
    for file in listing.files[:SAMPLED_FILES]:
        fields = _first_fields(storage, file)
        if fields is not None:
            yield fields, file


def _first_fields(storage: Storage, file: FileInfo) -> list[str] | None:
    """The fields of a file's first record; None if it cannot be decoded."""
    if _format_of(storage, file) == "parquet":
        return list(read_footer(storage, file).schema.to_arrow_schema().names)
    for line in text_files.head(storage, file, HEAD_BYTES)[:1]:
        try:
            return [*text_files.parse_line("jsonl", "candidates", line)]
        except text_files.BadLineError:
            return None
    return None
