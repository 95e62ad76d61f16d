"""A file of the input that is replaced after it was listed: nothing of the new one is read as if it were the old."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.places import Place
from support.stores import LikeGoogle, supported

from tart_ray.errors import InputChangedError
from tart_ray.input import text_files
from tart_ray.input.listing import list_files
from tart_ray.input.parquet_files import read_footer, row_group_or_reason
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import inspect_source
from tart_ray.storage import Storage
from tart_ray.training.files import read_examples

ROWS = 20


def jsonl(word: str) -> bytes:
    rows = ({"query_id": f"q{n:02}", "doc_id": "d", "query": "wing", "text": word} for n in range(ROWS))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(word: str) -> pa.Table:
    return pa.table({"query_id": [f"q{n:02}" for n in range(ROWS)], "doc_id": ["d"] * ROWS, "query": ["wing"] * ROWS,
                     "text": [word] * ROWS})  # fmt: skip


FILES = {
    "in/a.parquet": parquet,
    "in/a.jsonl": jsonl,
    "in/a.jsonl.gz": lambda word: gzip.compress(jsonl(word), mtime=0),
    "in/a.tsv": lambda word: "".join(f"d{n:02}\t{word}\n" for n in range(ROWS)),
    "in/a.trec": lambda word: "".join(f"q{n:02} Q0 {word} 1 1.5 tag\n" for n in range(ROWS)),
    "in/qrels.txt": lambda word: "".join(f"q{n:02} 0 {word} 1\n" for n in range(ROWS)),
}
ROLES = {"in/a.tsv": "corpus", "in/qrels.txt": "qrels"}


@pytest.fixture(params=["local", "s3", "google"])
def place(request: pytest.FixtureRequest) -> Any:
    if request.param == "local":
        yield request.getfixturevalue("local")
    elif request.param == "s3":
        s3 = request.getfixturevalue("s3")
        yield Place(Storage(s3.config), f"s3://{s3.new_bucket()}")
    else:
        with supported(LikeGoogle) as scheme:
            yield Place(Storage(), f"{scheme}://bucket")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_replaced_between_plan_and_read_is_told(place: Any, name: str) -> None:
    url = place.put(name, FILES[name]("alpha"))
    role: Any = ROLES.get(name, "candidates")
    source = inspect_source(place.storage, url, role)
    place.put(name, FILES[name]("gamma"))  # of the same size
    with pytest.raises(InputChangedError, match=rf"{name}: changed while the run reads it: listed with .*bytes now"):
        list(read_split(place.storage, source, source.splits[0], Quarantine("read")))
    place.storage.remove(url)
    with pytest.raises(InputChangedError, match=rf"{name}: is gone; listed with"):
        list(read_split(place.storage, source, source.splits[0], Quarantine("read")))


def test_a_row_group_is_not_read_from_another_file_than_its_footer(place: Any) -> None:
    file = list_files(place.storage, place.put("a.parquet", parquet("alpha"), row_group_size=5)).files[0]
    footer = read_footer(place.storage, file)
    assert row_group_or_reason(place.storage, file, footer, 3, ["text"])["text"].to_pylist() == ["alpha"] * 5
    place.put("a.parquet", parquet("gamma"), row_group_size=5)
    with pytest.raises(InputChangedError):
        row_group_or_reason(place.storage, file, footer, 3, ["text"])


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_file_that_is_replaced_in_the_middle_of_a_read_is_told(place: Any, name: str) -> None:
    big = {word: b"".join(b"%d %s\n" % (n * n, word) for n in range(60_000)) for word in (b"alpha", b"gamma")}
    if name.endswith(".gz"):
        big = {word: gzip.compress(data, 1, mtime=0) for word, data in big.items()}
    file = list_files(place.storage, place.put(name, big[b"alpha"])).files[0]

    def read() -> set[bytes]:
        words = set()
        for part in text_files.ranges(file, 1 << 16):
            for number, (_, line) in enumerate(text_files.lines(place.storage, *part)):
                words.add(line.split(b" ")[-1])
                if number == 10:
                    replace()
        return words

    def replace() -> None:
        if "://" in place.url:
            place.put(name, big[b"gamma"])
        else:  # in place, as no careful writer does it
            with Path(file.url.removeprefix("file://")).open("r+b") as handle:
                handle.write(big[b"gamma"])

    try:
        words = read()
    except InputChangedError:
        return
    assert (words, name) == ({b"alpha"}, "a.jsonl.gz")  # which may come in one piece, and then is the old one


def test_examples_are_those_that_were_listed(place: Any) -> None:
    line = '{"query": "wing", "document": "%s", "label": 1}\n{"query": "wing", "document": "x", "label": 0}\n'
    url = place.put("train.jsonl", line % "alpha")
    files = list_files(place.storage, url).files
    place.put("train.jsonl", line % "gamma")
    with pytest.raises(InputChangedError):
        read_examples(place.storage, url, files=files)


def test_a_link_has_the_version_of_what_it_points_to(local: Any) -> None:
    target = Path(local.put("elsewhere/a.jsonl", jsonl("alpha")))
    link = Path(local.at("in.jsonl"))
    link.symlink_to(target)
    source = inspect_source(local.storage, str(link), "candidates")
    assert sum(map(len, read_split(local.storage, source, source.splits[0], Quarantine("read")))) == ROWS
    target.write_bytes(jsonl("gamma"))
    os.utime(target, (1, 1))
    with pytest.raises(InputChangedError):
        list(read_split(local.storage, source, source.splits[0], Quarantine("read")))
