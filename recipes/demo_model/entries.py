"""What the data is made of: something that has a short description, and longer texts that answer it.

An entry is a function, a Debian package or a manual page. Its answers are of different kinds (`tasks.py`), so that the
same query has another right document under another instruction.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SPLITS = ("train", "dev", "test")
STANDARD_LIBRARY = "python-standard-library"
HELD_OUT_PACKAGES = {  # `make demo` ranks the library's functions; most packages of manual pages are too small
    STANDARD_LIBRARY: "test",
    "debian/git-man": "test",
    "debian/util-linux": "test",
    "debian/coreutils": "dev",
}
PERMILLE_TEST, PERMILLE_DEV = 60, 30
ANSWER_CHARACTERS = 1_200  # more than the model reads
KEY_WORDS = 40  # texts that begin with the same words are near-duplicates
WORD = re.compile(r"[^\W_]+")
SCHEMA = pa.schema(
    [
        ("family", pa.string()),
        ("package", pa.string()),
        ("name", pa.string()),
        ("title", pa.string()),
        ("query", pa.string()),
        ("answers", pa.map_(pa.string(), pa.string())),
    ]
)


@dataclass(frozen=True)
class Entry:
    """``family``: ``python``, ``debian`` or ``manual``. ``package``: never parted by splits. ``name``: unique in it.

    ``title``: stands before each answer. ``query``: the short description. ``answers``: texts by kind.
    """

    family: str
    package: str
    name: str
    title: str
    query: str
    answers: dict[str, str]


def split_of(package: str) -> str:
    """``train``, ``dev`` or ``test``, by the package's name alone."""
    if package in HELD_OUT_PACKAGES:
        return HELD_OUT_PACKAGES[package]
    place = int.from_bytes(hashlib.sha256(package.encode()).digest()[:4], "big") % 1000
    return "test" if place < PERMILLE_TEST else "dev" if place < PERMILLE_TEST + PERMILLE_DEV else "train"


def split_entries(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The entries of each split, without near-duplicates: test is read first and keeps its own, train loses them.

    An entry whose query came before, in any split, is left out, so that a query has one right answer of a kind; an
    answer whose first words came before is left out alone.
    """
    by_split: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    for entry in entries:
        by_split[split_of(entry.package)].append(entry)
    kept_of: dict[str, list[Entry]] = {}
    queries: set[str] = set()
    answers: set[str] = set()
    for split in reversed(SPLITS):
        kept_of[split] = []
        for entry in by_split[split]:
            if (query := text_key(entry.query)) in queries:
                continue
            kept = {kind: text for kind, text in entry.answers.items() if text_key(text) not in answers}
            if not kept:
                continue
            queries.add(query)
            answers.update(map(text_key, kept.values()))
            kept_of[split].append(replace(entry, answers=kept))
    return kept_of


def text_key(text: str) -> str:
    """A hash of the first words of a text, whatever their case and what stands between them."""
    words = [word.lower() for word, _ in zip(_words(text), range(KEY_WORDS), strict=False)]
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:24]


def write_entries(path: Path, entries: Iterable[Entry]) -> int:
    """Write Parquet; returns the number of entries."""
    count = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        waiting = iter(entries)
        while rows := [_row(entry) for entry in itertools.islice(waiting, 10_000)]:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
            count += len(rows)
    return count


def read_entries(path: Path) -> list[Entry]:
    """The entries of a file, in the order they were written in."""
    return [Entry(**row | {"answers": dict(row["answers"])}) for row in pq.read_table(path).to_pylist()]


def _row(entry: Entry) -> dict[str, Any]:
    answers = {kind: text[:ANSWER_CHARACTERS] for kind, text in entry.answers.items()}
    return vars(entry) | {"answers": list(answers.items())}


def _words(text: str) -> Iterator[str]:
    return (match.group() for match in WORD.finditer(text))
