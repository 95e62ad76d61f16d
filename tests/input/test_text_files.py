"""Lines by byte range."""

from __future__ import annotations

import bz2
import gzip
import lzma
from typing import Any

import pytest

from tart_ray.errors import InputError
from tart_ray.input import text_files
from tart_ray.input.listing import list_files

LINES = [b"one", b"", b"zw\xc3\xb6lf", b"  ", b"\xf0\x9f\x8c\x8a\xf0\x9f\x8c\x8a", b"x" * 30, b"last"]
# worked out by hand for the "\n" variant: offsets of the lines that are not blank
OFFSETS_LF = [0, 5, 15, 24, 55]

GZIPPED = gzip.compress(b"x", mtime=0)  # the same in all workers of pytest-xdist: it is part of names of tests


def expected(end: bytes) -> list[tuple[int, bytes]]:
    found, offset = [], 0
    for line in LINES:
        if line.strip():
            found.append((offset, line))
        offset += len(line) + len(end)
    return found


def test_the_expected_offsets_are_right() -> None:
    assert [offset for offset, _ in expected(b"\n")] == OFFSETS_LF


@pytest.mark.parametrize("trailing", [True, False])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_every_line_is_read_once_whatever_the_split_size(local: Any, end: bytes, trailing: bool) -> None:
    data = end.join(LINES) + (end if trailing else b"")
    file = list_files(local.storage, local.put("file.jsonl", data)).files[0]
    for size in range(1, len(data) + 2):
        parts = list(text_files.ranges(file, size))
        assert [start for _, start, _ in parts] == list(range(0, len(data), size))
        found = [line for part in parts for line in text_files.lines(local.storage, *part)]
        assert found == expected(end), size


@pytest.mark.parametrize("size", [1, 7, 58, 59, 60, 1000])
def test_ranges_on_s3_end_where_the_object_does(place: Any, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "WINDOW", 5)
    file = list_files(place.storage, place.put("file.jsonl", b"\n".join(LINES))).files[0]
    assert file.size == 59
    found = [line for part in text_files.ranges(file, size) for line in text_files.lines(place.storage, *part)]
    assert found == expected(b"\n")


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".GZ", gzip.compress)],
)
def test_compressed_files_are_one_range_with_offsets_of_their_text(place: Any, suffix: str, compress: Any) -> None:
    file = list_files(place.storage, place.put("file.jsonl" + suffix, compress(b"\n".join(LINES)))).files[0]
    parts = list(text_files.ranges(file, 1))
    assert parts == [(file, 0, file.size)]
    assert list(text_files.lines(place.storage, *parts[0])) == expected(b"\n")
    assert text_files.expansion(file.url) > 1


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_a_damaged_compressed_file_is_named(local: Any, suffix: str, compress: Any) -> None:
    whole = compress(b"\n".join(b"%d" % (i * i) for i in range(20_000)))
    file = list_files(local.storage, local.put("file.jsonl" + suffix, whole[: len(whole) // 2])).files[0]
    with pytest.raises(InputError, match=r"file\.jsonl.*not a complete compressed file"):
        list(text_files.lines(local.storage, file, 0, file.size))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl.gz", b"plain\n", r"its name ends in \.gz and it is not compressed: name it without that"),
        ("a.jsonl.xz", GZIPPED, r"compressed as \.gz files are, and its name does not end in \.gz"),
        ("a.jsonl", GZIPPED, r"compressed as \.gz files are, and its name does not end in \.gz: rename it"),
        ("a.jsonl", bz2.compress(b"x"), r"compressed as \.bz2 files are"),
        ("a.jsonl", bz2.compress(b""), r"compressed as \.bz2 files are"),
        ("a.jsonl", lzma.compress(b"x"), r"compressed as \.xz files are"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd\x04\x58", r"\.zst files are, which are not read here; expected text, .*\.gz"),
    ],
)  # fmt: skip
def test_a_file_whose_name_does_not_say_how_it_is_compressed_is_named(
    local: Any, name: str, data: bytes, message: str
) -> None:
    file = list_files(local.storage, local.put(name, data)).files[0]
    with pytest.raises(InputError, match=rf"{name}: .*{message}"):
        list(text_files.lines(local.storage, file, 0, file.size))


def test_a_compressed_file_without_a_byte_is_no_lines(local: Any) -> None:
    file = list_files(local.storage, local.put("file.jsonl.gz", gzip.compress(b""))).files[0]
    assert [line for part in text_files.ranges(file, 10) for line in text_files.lines(local.storage, *part)] == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(local: Any, end: bytes) -> None:
    mark = b"\xef\xbb\xbf"
    data = mark + end.join([b"one", mark + b"two", b"three"])
    second = 3 + 3 + len(end)
    found = [(0, b"one"), (second, mark + b"two"), (second + 6 + len(end), b"three")]
    for name, content in {"a.jsonl": data, "a.jsonl.gz": gzip.compress(data)}.items():
        file = list_files(local.storage, local.put(name, content)).files[0]
        for size in (1, 2, 3, 4, 1000):
            parts = text_files.ranges(file, size)
            assert [line for part in parts for line in text_files.lines(local.storage, *part)] == found
    file = list_files(local.storage, local.put("b.jsonl", mark + end + b"one")).files[0]
    assert list(text_files.lines(local.storage, file, 0, file.size)) == [(3 + len(end), b"one")]


def test_head_gives_complete_lines(local: Any) -> None:
    file = list_files(local.storage, local.put("file.jsonl", b"\n".join(LINES))).files[0]
    assert text_files.head(local.storage, file, 16) == [LINES[0], LINES[2], LINES[4]]
    assert text_files.head(local.storage, file, 1 << 20) == [line for line in LINES if line.strip()]


@pytest.mark.parametrize(
    ("kind", "role", "line", "record"),
    [
        ("jsonl", "candidates", b'{"a": "\\u00e4", "b": null}', {"a": "ä", "b": None}),
        ("trec", "candidates", b"q1 Q0 d1 1 9.5 bm25", {"query_id": "q1", "doc_id": "d1", "score": 9.5}),
        ("trec", "candidates", b"q1\tQ0\td1\t1\t-1e3\tbm25", {"query_id": "q1", "doc_id": "d1", "score": -1000.0}),
        ("trec", "candidates", b"a q\tQ0\ta d\t1\t2\tmy run", {"query_id": "a q", "doc_id": "a d", "score": 2.0}),
        ("trec", "candidates", b"q1 \tQ0 \td1\t1 \t2\tbm25", {"query_id": "q1", "doc_id": "d1", "score": 2.0}),
        ("trec", "candidates", b"q1 Q0\td1 1\t2 bm25", {"query_id": "q1", "doc_id": "d1", "score": 2.0}),
        ("trec", "candidates", b"q1 Q0 d1 1 nan bm25", {"query_id": "q1", "doc_id": "d1", "score": None}),
        ("trec", "candidates", b"q1 Q0 d1 1 -inf bm25", {"query_id": "q1", "doc_id": "d1", "score": None}),
        ("trec", "qrels", b"a q\t0\ta d\t1.0", {"query_id": "a q", "doc_id": "a d", "relevance": 1}),
        ("trec", "qrels", b"q1 0\td1 -1", {"query_id": "q1", "doc_id": "d1", "relevance": -1}),
        ("trec", "qrels", b"a q\ta d\t2.", {"query_id": "a q", "doc_id": "a d", "relevance": 2}),
        ("jsonl", "candidates", b'{"a": NaN, "b": [-Infinity, 1], "c": "NaN \\" NaN", "NaN": Infinity}',
         {"a": None, "b": [None, 1], "c": 'NaN " NaN', "NaN": None}),
        ("jsonl", "candidates", b'{"a": 100000000000000000001, "b": 0.1234567890123456789, "c": -18446744073709551617}',
         {"a": 100000000000000000001, "b": 0.12345678901234568, "c": -18446744073709551617}),
        ("jsonl", "candidates", b'{"a": 1, "a": 2}', {"a": 2}),
        ("tsv", "queries", "q1\tgrüße".encode(), {"query_id": "q1", "query": "grüße"}),
        ("tsv", "corpus", b"d1\t", {"doc_id": "d1", "text": ""}),
    ],
)  # fmt: skip
def test_records_of_lines(kind: str, role: Any, line: bytes, record: dict[str, Any]) -> None:
    assert text_files.parse_line(kind, role, line) == record


@pytest.mark.parametrize(
    ("kind", "role", "line", "reason"),
    [
        ("jsonl", "candidates", b'{"a": ', "unexpected end of data"),
        ("jsonl", "candidates", b'{"a": "\xff"}', "str is not valid UTF-8"),
        ("jsonl", "candidates", b'{"a": nan}', "undecodable line: "),
        ("jsonl", "candidates", b'{"a": NaN, }', "undecodable line: "),
        ("jsonl", "candidates", b'{"a": 1e400}', "infinity"),
        ("jsonl", "candidates", b'{"a": "\\ud800", "b": NaN}', "surrogate"),
        ("jsonl", "candidates", b'{"a": ' + b"9" * 5000 + b"}", "infinity"),
        ("jsonl", "candidates", b'{"a": ' + b"[" * 1100 + b"9" * 20 + b"]" * 1100 + b"}", "undecodable line: "),
        ("jsonl", "candidates", b"[1]", "got list, expected a JSON object"),
        ("trec", "candidates", b"q1 d1 1.0", "got 3 columns, expected query_id Q0 doc_id rank score tag"),
        ("trec", "candidates", b"q1 Q0 d1 1 high bm25", "got score 'high', expected a number"),
        ("trec", "candidates", b"q1 Q0 d1 1 1_0 bm25", "got score '1_0', expected a number"),
        ("trec", "qrels", b"q1 d1 1.0", "got 3 columns"),
        ("trec", "qrels", b"q1\t0\td1\t1.5", "got relevance '1.5', expected an integer"),
        ("trec", "candidates", b"q\xff Q0 d1 1 1 bm25", "can't decode byte 0xff"),
        ("tsv", "queries", b"q1", "got 1 columns, expected 2"),
        ("tsv", "corpus", b"d1\ta\tb", "got 3 columns, expected 2"),
    ],
)
def test_lines_that_hold_no_record(kind: str, role: Any, line: bytes, reason: str) -> None:
    with pytest.raises(text_files.BadLineError) as caught:
        text_files.parse_line(kind, role, line)
    assert str(caught.value).startswith("undecodable line: ")
    assert reason in str(caught.value)
