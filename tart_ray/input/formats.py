"""The format of files: by their names, or by how they begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tart_ray.errors import InputError
from tart_ray.input import text_files
from tart_ray.storage import FileInfo, Storage
from tart_ray.tables.schemas import Role

Format = Literal["parquet", "jsonl", "tsv", "trec"]

SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".tsv": "tsv",
    ".trec": "trec",
    ".run": "trec",
}


def format_of(storage: Storage, files: Sequence[FileInfo], role: Role) -> Format:
    """The format that all files have.

    Text files of qrels go by any name, and TREC's and BEIR's lines tell themselves apart: both are "trec".

    Raises:
        InputError: one is unknown, or there are several.
    """
    first_files: dict[Format, str] = {}
    for file in files:
        kind = format_by_name(file.url) or format_by_content(storage, file)
        if role == "qrels" and kind not in ("parquet", "jsonl"):
            kind = "trec"
        if kind is None:
            raise InputError(
                f"{file.url}: unknown format; expected a name ending in {', '.join(SUFFIXES)}, "
                f"the text ones also with {', '.join(text_files.COMPRESSIONS)}"
            )
        first_files.setdefault(kind, file.url)
    if len(first_files) > 1:
        raise InputError(f"files of several formats: {first_files}; expected one format, name one of them by a glob")
    return next(iter(first_files))


def format_by_name(url: str) -> Format | None:
    """The format that a file's name says it has."""
    name = text_files.plain_name(url.rsplit("/", 1)[-1].lower())
    return next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)


def format_by_content(storage: Storage, file: FileInfo) -> Format | None:
    """The format that a file's first line looks like."""
    head = storage.read_part(file, 0, min(file.size, 4096)).removeprefix(text_files.BYTE_ORDER_MARK)
    line = head.split(b"\n", 1)[0]
    if head.startswith(b"PAR1"):
        return "parquet"
    if line.lstrip().startswith(b"{"):
        return "jsonl"
    if len(line.split()) == 6 and line.split()[1] in (b"Q0", b"q0", b"0"):
        return "trec"
    return None
