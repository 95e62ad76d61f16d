"""Lines of text files, by byte range: JSONL, TREC runs and TSV.

A line belongs to the range that its first byte lies in, so ranges can be read by different tasks. Compressed files
are one range.
"""

from __future__ import annotations

import codecs
import gzip
import io
import lzma
import math
import re
import zlib
from collections.abc import Iterator
from typing import Any

import fsspec.compression
import fsspec.utils

from tart_ray.errors import InputError
from tart_ray.input import json_lines
from tart_ray.storage import FileInfo, Storage, explained
from tart_ray.tables.schemas import QRELS_FIELDS, Role

BYTE_ORDER_MARK = codecs.BOM_UTF8  # some editors put it in front of a file
COMPRESSIONS = (".gz", ".bz2", ".xz")
BEGINNINGS = {  # of compressed files; no UTF-8 text begins like these
    ".gz": re.compile(rb"\x1f\x8b"),
    ".bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    ".xz": re.compile(rb"\xfd7zXZ\0"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd"),
    ".lz4": re.compile(rb"\x04\x22\x4d\x18"),
    ".zip": re.compile(rb"PK\x03\x04"),
}
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError)  # of compressed files
TYPICAL_EXPANSION = 4  # of compressed text; only the size of chunks depends on it
WINDOW = 8 << 20
TREC_COLUMNS = ("query_id", "Q0", "doc_id", "rank", "score", "tag")


class BadLineError(ValueError):
    """A line that cannot be decoded; the message is its reason in quarantine."""


def expansion(url: str) -> int:
    """How much larger the text of a file is than the file."""
    return TYPICAL_EXPANSION if _is_compressed(url) else 1


def plain_name(name: str) -> str:
    """The name of a file without the suffix that says how it is compressed."""
    return next((name[: -len(suffix)] for suffix in COMPRESSIONS if name.lower().endswith(suffix)), name)


def ranges(file: FileInfo, nbytes: int) -> Iterator[tuple[FileInfo, int, int]]:
    """The file and the byte ranges that it is read in."""
    step = max(file.size, 1) if _is_compressed(file.url) else nbytes
    for start in range(0, file.size, step):
        yield file, start, min(start + step, file.size)


def lines(storage: Storage, file: FileInfo, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each line whose first byte lies in ``[start, end)``, without its end; no blank ones.

    A byte order mark in front of the file is no part of its first line. Offsets in a compressed file are those of its
    uncompressed text.

    Raises:
        InputError: a compressed file is damaged, or its name does not say that it is compressed.
    """
    compressed = _is_compressed(file.url)
    for offset, line in _compressed(storage, file) if compressed else _range(storage, file, start, end):
        stripped = line.rstrip(b"\r\n")
        if offset == 0:
            stripped = stripped.removeprefix(BYTE_ORDER_MARK)
        if stripped.strip():
            yield offset, stripped


def head(storage: Storage, file: FileInfo, nbytes: int) -> list[bytes]:
    """Complete lines from the start of a file."""
    found: list[bytes] = []
    held = 0
    for _, line in lines(storage, file, 0, min(file.size, nbytes)):
        found.append(line)
        held += len(line)
        if held > nbytes:
            break
    return found


def line_number(storage: Storage, file: FileInfo, offset: int) -> int:
    """The number, from 1, of the line that begins at an offset that `lines` gave."""
    if _is_compressed(file.url):
        return 1 + sum(start < offset for start, _ in _compressed(storage, file))
    return 1 + (storage.read(file.url, 0, offset).count(b"\n") if offset else 0)


def parse_line(kind: str, role: Role, line: bytes) -> dict[str, Any]:
    """The record that a line holds.

    Raises:
        BadLineError: it does not hold one.
    """
    if kind == "jsonl":
        try:
            record = json_lines.parse(line)
        except ValueError as error:
            raise BadLineError(f"undecodable line: {error}") from error
        if not isinstance(record, dict):
            raise BadLineError(f"undecodable line: got {type(record).__name__}, expected a JSON object")
        return record
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLineError(f"undecodable line: {error}") from error
    if role == "qrels":
        return _parse_qrels(text)
    return _parse_trec(text) if kind == "trec" else _parse_tsv(role, text)


def is_header_of_qrels(line: bytes) -> bool:
    """Whether the first line of a file is BEIR's ``query-id <tab> corpus-id <tab> score``, or names like these."""
    names = [name.decode(errors="replace").lower() for name in line.split()]
    known = [{field.name, *field.aliases} for field in QRELS_FIELDS]
    return len(names) == len(known) and all(name in of for name, of in zip(names, known, strict=True))


def compression_of(beginning: bytes) -> str | None:
    """The suffix of files that begin like this one, if it is compressed."""
    return next((suffix for suffix, pattern in BEGINNINGS.items() if pattern.match(beginning)), None)


def _parse_qrels(text: str) -> dict[str, Any]:
    """``query_id iteration doc_id relevance`` of TREC, or BEIR's ``query_id <tab> doc_id <tab> relevance``."""
    cells = text.split("\t")
    if len(cells) != 3:  # with blanks between three columns one would guess which of four is missing
        cells = _trec_cells(text, 4)
    if len(cells) not in (3, 4) or (len(cells) == 3 and "\t" not in text):
        raise BadLineError(
            f"undecodable line: got {len(cells)} columns, expected 4 (TREC: query_id, iteration, doc_id, relevance) "
            "or 3 with tabs between them (BEIR: query-id, corpus-id, score)"
        )
    grade = re.fullmatch(r"\s*([+-]?[0-9]{1,18})(\.0*)?\s*", cells[-1])
    if grade is None:
        raise BadLineError(f"undecodable line: got relevance {cells[-1]!r}, expected an integer")
    return {"query_id": cells[0], "doc_id": cells[-2], "relevance": int(grade[1])}


def _parse_trec(text: str) -> dict[str, Any]:
    cells = _trec_cells(text, len(TREC_COLUMNS))
    if len(cells) != len(TREC_COLUMNS):
        raise BadLineError(f"undecodable line: got {len(cells)} columns, expected {' '.join(TREC_COLUMNS)}")
    try:
        score = float(cells[4].replace("_", "?"))  # which Python would read over
    except ValueError:
        raise BadLineError(f"undecodable line: got score {cells[4]!r}, expected a number") from None
    return {"query_id": cells[0], "doc_id": cells[2], "score": score if math.isfinite(score) else None}


def _trec_cells(text: str, expected: int) -> list[str]:
    """The columns of a line: between tabs, where ids may hold blanks, or else between white space of any kind."""
    cells = [cell.strip() for cell in text.split("\t")]
    return cells if len(cells) == expected else text.split()


def _parse_tsv(role: Role, text: str) -> dict[str, Any]:
    """``id <tab> text``, as in MS MARCO and LoTTE."""
    cells = text.split("\t")
    if len(cells) != 2:
        raise BadLineError(f"undecodable line: got {len(cells)} columns, expected 2 (id, text)")
    return {"query_id": cells[0], "query": cells[1]} if role == "queries" else {"doc_id": cells[0], "text": cells[1]}


def _range(storage: Storage, file: FileInfo, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    position = max(start - 1, 0)  # the byte before tells whether a line starts at `start`
    data = io.BytesIO(storage.read_part(file, position, end))
    if start == 0:
        _check_name(file, data.getvalue()[:16])
    if start:
        position += len(data.readline())
        if position >= end:
            return
    for line in data:
        if not line.endswith(b"\n"):
            line += _rest_of_line(storage, file, end)
        yield position, line
        position += len(line)


def _rest_of_line(storage: Storage, file: FileInfo, position: int) -> bytes:
    rest = b""
    while position < file.size and not rest.endswith(b"\n"):
        window = storage.read_part(file, position, min(position + WINDOW, file.size))
        part = window[: window.find(b"\n") + 1] or window
        rest += part
        position += len(part)
    return rest


def _compressed(storage: Storage, file: FileInfo) -> Iterator[tuple[int, bytes]]:
    _check_name(file, storage.read_part(file, 0, min(file.size, 16)))
    position, damage = 0, None
    expand = fsspec.compression.compr[fsspec.utils.infer_compression(file.url)]
    with explained("read", file.url), storage.open(file) as compressed, expand(compressed, mode="rb") as text:
        try:
            for line in text:
                yield position, line
                position += len(line)
        except DAMAGE as error:
            if isinstance(error, OSError) and (type(error) not in (OSError, gzip.BadGzipFile) or error.errno):
                raise  # of the filesystem, not of the decompressor
            damage = error
    if damage is not None:
        raise InputError(
            f"{file.url}: not a complete compressed file ({damage}); {position} bytes of its text could be read, "
            "and nothing tells how many rows come after them: write it again, or take it out of the input"
        ) from damage


def _check_name(file: FileInfo, beginning: bytes) -> None:
    """Refuse a file whose name does not say how it is compressed: it would be read as noise, or not at all."""
    named = next((suffix for suffix in COMPRESSIONS if file.url.lower().endswith(suffix)), None)
    compression = compression_of(beginning)
    if named and compression is None:
        raise InputError(f"{file.url}: its name ends in {named} and it is not compressed: name it without that")
    if compression != named:
        advice = f"and its name does not end in {compression}: rename it"
        if compression not in COMPRESSIONS:
            advice = f"which are not read here; expected text, or text compressed as {', '.join(COMPRESSIONS)}"
        raise InputError(f"{file.url}: is compressed as {compression} files are, {advice}")


def _is_compressed(url: str) -> bool:
    return url.lower().endswith(COMPRESSIONS)
