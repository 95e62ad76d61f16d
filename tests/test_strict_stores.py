"""Storage on object stores that are not S3: what they take, what they tell of a file, what they can create."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from support.places import Place
from support.stores import Careless, LikeAzure, LikeGoogle, WithoutVersions, supported

from tart_ray import locations
from tart_ray.config import StorageConfig
from tart_ray.errors import StorageError
from tart_ray.input.listing import list_files
from tart_ray.storage import Storage

ROWS = [{"query_id": "q", "doc_id": f"d{n}", "query": "wing", "text": f"flow {n}"} for n in range(3)]


@pytest.fixture(params=[LikeAzure, LikeGoogle])
def strict(request: pytest.FixtureRequest) -> Iterator[Place]:
    """With options of S3 in its configuration, which are not this store's."""
    with supported(request.param) as scheme:
        yield Place(Storage(StorageConfig(key="k", region="eu-west-1")), f"{scheme}://bucket/place")


def test_files_are_written_listed_read_and_removed(strict: Place) -> None:
    url = strict.put("a/b", b"0123456789")
    assert strict.storage.exists(url)
    assert not strict.storage.exists(strict.at("a"))
    assert strict.storage.names(strict.url) == ["a"]
    assert strict.storage.names(strict.at("none")) == []
    assert strict.storage.read(url, 2, 5) == b"234"
    assert strict.storage.read_many([url, url]) == [b"0123456789"] * 2
    strict.put("a/b", b"new")
    assert strict.storage.read(url) == b"new"
    assert strict.storage.holds_files(strict.url)
    strict.storage.remove_tree(strict.at("a"))
    strict.storage.remove(url)
    strict.storage.remove_partials(strict.url)
    assert not strict.storage.holds_files(strict.url)


def test_of_many_that_create_one_wins(strict: Place) -> None:
    url = strict.at("lease")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: strict.storage.create(url, b"%d" % i), range(16)))
    assert won.count(True) == 1
    assert strict.storage.read(url) == b"%d" % won.index(True)


def test_a_store_that_cannot_create_exclusively_is_no_output(strict: Place) -> None:
    strict.storage.prove_creation(strict.url)
    assert strict.storage.names(strict.url) == []
    with supported(Careless):
        with pytest.raises(
            StorageError, match=r"careless://b/run/_lease: its store replaced a file .* expected a store"
        ):
            Storage().prove_creation("careless://b/run/_lease")
        assert Storage().names("careless://b/run/_lease") == []


def test_inputs_of_every_kind_are_read(strict: Place) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    strict.put("parquet/a.parquet", pa.Table.from_pylist(ROWS))
    strict.put("jsonl/a.jsonl", lines)
    strict.put("gz/a.jsonl.gz", gzip.compress(lines.encode()))
    for name in ("parquet", "jsonl", "gz", "jsonl/*.jsonl"):
        _, table, bad = strict.read(name)
        assert (table["doc_id"].to_pylist(), bad) == (["d0", "d1", "d2"], [])


def test_versions_change_with_the_content(strict: Place) -> None:
    url = strict.put("file", b"one")
    before = list_files(strict.storage, url).files[0]
    assert before == list_files(strict.storage, strict.url).files[0]
    assert before.version
    strict.put("file", b"two")
    assert list_files(strict.storage, url).files[0].version != before.version


def test_a_store_that_tells_no_version_is_refused_for_input() -> None:
    with supported(WithoutVersions):
        place = Place(Storage(), "noversions://bucket")
        place.put("in/a.jsonl", b"{}\n")
        with pytest.raises(StorageError, match=r"noversions://bucket/in/a.jsonl: its store tells neither .*; copy"):
            list_files(place.storage, place.at("in"))
        assert place.storage.read(place.at("in/a.jsonl")) == b"{}\n"  # what this project writes needs none


def test_wrong_options_are_told_without_their_values() -> None:
    with supported(LikeAzure):
        with pytest.raises(locations.LocationError) as caught:
            locations.open_filesystem("likeazure://b/x", {"acount": "hunter2"})
        assert "unexpected keyword argument 'acount'" in str(caught.value)
        assert str(caught.value).endswith("options given: acount")
        assert "hunter2" not in str(caught.value)


def test_the_memory_of_fsspec_itself_is_a_store_where_a_test_says_so() -> None:
    with supported(MemoryFileSystem, "memory"):
        place = Place(Storage(), "memory://bucket")
        assert place.storage.create(place.at("x"), b"1")
        assert not place.storage.create(place.at("x"), b"2")
        assert [file.url for file in list_files(place.storage, place.url).files] == ["memory:///bucket/x"]
    with pytest.raises(StorageError, match="memory: is not supported"):
        Storage().read("memory://bucket/x")
