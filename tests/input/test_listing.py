"""Which files a file, a directory or a glob names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tart_ray.errors import InputError, StorageError
from tart_ray.input.listing import list_files


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", ["a.x", "b.x", "c.y", "d/e.x", "d/f/g.x"]),
        ("a.x", ["a.x"]),
        ("_h.x", ["_h.x"]),  # asked for by name
        ("_j", ["_j/k.x"]),
        ("*.x", ["a.x", "b.x"]),
        ("**/*.x", ["a.x", "b.x", "d/e.x", "d/f/g.x"]),
        ("[ab].?", ["a.x", "b.x"]),
        ("d", ["d/e.x", "d/f/g.x"]),
        ("d/", ["d/e.x", "d/f/g.x"]),
        ("_j/*", ["_j/k.x"]),
    ],
)
def test_files_of_a_file_directory_or_glob(tree: Any, wanted: str, expected: list[str]) -> None:
    assert tree.names(tree.at(wanted) if wanted else tree.url) == expected


@pytest.mark.parametrize("wanted", ["missing", "missing/", "*.z", "empty.x", "missing/**"])
def test_nothing_to_read_is_an_error_that_says_what_was_expected(tree: Any, wanted: str) -> None:
    with pytest.raises(StorageError) as caught:
        list_files(tree.storage, tree.at(wanted))
    assert tree.at(wanted) in str(caught.value)
    assert "expected a file, a directory or a glob" in str(caught.value)


def put_links(local: Any) -> Path:
    """``in`` with a link to a directory, to a file, and two that lead back; the data lies outside."""
    local.put("store/data/a.x", b"a")
    local.put("store/one.x", b"o")
    local.put("in/own.x", b"b")
    root = Path(local.url)
    (root / "in/linked").symlink_to(root / "store/data")
    (root / "in/one.x").symlink_to("../store/one.x")
    (root / "in/loop").symlink_to(".")
    (root / "store/data/back").symlink_to(root / "in")
    return root


@pytest.mark.parametrize(("wanted", "loops"), [("in", 2), ("in/**", 2), ("in/**/*.x", 0), ("i*", 2)])
def test_links_are_followed_and_loops_end(local: Any, wanted: str, loops: int) -> None:
    put_links(local)
    listing = list_files(local.storage, local.at(wanted))
    assert local.names(local.at(wanted)) == ["in/linked/a.x", "in/one.x", "in/own.x"]
    assert len({file.version for file in listing.files}) == 3  # of the files, not of the links
    told = {found.reason: found.count for found in listing.skipped}
    assert told == ({"links to a directory that they lie in": loops} if loops else {})


def test_a_link_may_be_what_is_named(local: Any) -> None:
    root = put_links(local)
    (root / "whole").symlink_to("store")
    assert local.names(local.at("whole")) == [
        "whole/data/a.x", "whole/data/back/one.x", "whole/data/back/own.x", "whole/one.x",
    ]  # fmt: skip
    assert local.names(local.at("in/linked/*.x")) == ["in/linked/a.x"]
    assert local.names(local.at("in/one.x")) == ["in/one.x"]


def test_a_link_that_leads_nowhere_is_an_error(local: Any) -> None:
    local.put("in/a.x", b"a")
    (Path(local.url) / "in/.hidden").symlink_to("nowhere")
    (Path(local.url) / "in/b.y").symlink_to("nowhere")
    assert local.names(local.at("in/*.x")) == ["in/a.x"]
    with pytest.raises(StorageError, match=r"in/b\.y: a link to nowhere, which cannot be followed"):
        list_files(local.storage, local.at("in"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any directory")
def test_a_directory_that_may_not_be_read_is_an_error(local: Any) -> None:
    local.put("in/a.x", b"a")
    local.put("in/closed/b.x", b"b")
    (Path(local.url) / "in/closed").chmod(0)
    with pytest.raises(StorageError, match=r"closed.*check the credentials"):
        list_files(local.storage, local.at("in"))


@pytest.mark.parametrize("wanted", ["", "**/*.x", "*"])
def test_partitions_are_read_whatever_their_names_begin_with(place: Any, wanted: str) -> None:
    for name in ["_year=2024/a.x", ".k=v/b.x", "_y=1/_h.x", "_tmp/c.x", "_=/d.x", "k=v/.git/e.x", "_a=b.x", ".a=b.x"]:
        place.put(f"in/{name}", b"x")
    listing = list_files(place.storage, place.at("in", wanted).rstrip("/"))
    assert {file.url[-len(end) :]: file.keys for file in listing.files for end in ["a=b.x", "/a.x", "/b.x", "/d.x"]
            if file.url.endswith(end)} == {
        "/a.x": (("_year", "2024"),), "/b.x": ((".k", "v"),), "/d.x": (("_", ""),), "a=b.x": (),
    }  # fmt: skip
    assert len(listing.files) == 4
    (hidden,) = listing.skipped
    assert hidden.count == 4
    assert hidden.first == (".a=b.x", "_tmp/", "_y=1/_h.x")


def test_what_is_skipped_is_counted_and_named(tree: Any) -> None:
    found = list_files(tree.storage, tree.url)
    assert [str(skipped) for skipped in found.skipped] == [
        "5 hidden (names that begin with _ or .): .i.x, _h.x, _j/, …", "1 empty: empty.x"
    ]  # fmt: skip
    assert found.notes[1] == "skipped 1 empty: empty.x"


@pytest.mark.parametrize(("wanted", "expected"), [("_*.x", "_h.x"), ("d/.n/*", "d/.n/o.x"), ("*/_l/*", "d/_l/m.x")])
def test_a_glob_can_ask_for_hidden_names(tree: Any, wanted: str, expected: str) -> None:
    assert tree.names(tree.at(wanted)) == [expected]


def test_what_is_no_file_is_named(local: Any) -> None:
    local.put("a.x", b"a")
    os.mkfifo(Path(local.url) / "pipe.x")
    assert list_files(local.storage, local.url).notes == ("skipped 1 neither files nor directories: pipe.x",)


def test_where_all_is_skipped_the_error_says_what(local: Any) -> None:
    local.put("_a.x", b"a")
    with pytest.raises(StorageError, match=r"no file there, or only empty ones; skipped 1 hidden .*: _a\.x; expected"):
        list_files(local.storage, local.url)


def test_other_readers_find_the_same_files(local: Any) -> None:
    """DuckDB reads hidden names, too, and pyarrow no partition that begins with an underscore."""
    for name in ["a", "_year=1/b", "k=v/c"]:
        local.put(f"store/{name}.parquet", pa.table({"x": [name]}))
    (Path(local.url) / "in").mkdir()
    (Path(local.url) / "in/linked").symlink_to(local.at("store"))
    ours = {pq.read_table(file.url.removeprefix("file://"), partitioning=None)["x"][0].as_py()
            for file in list_files(local.storage, local.at("in")).files}  # fmt: skip
    assert ours == {"a", "_year=1/b", "k=v/c"}
    assert {row["x"] for row in ds.dataset(local.at("in")).to_table().to_pylist()} == ours - {"_year=1/b"}
    glob = local.at("in/linked/**/*.parquet")
    assert {x for (x,) in duckdb.sql(f"SELECT x FROM read_parquet('{glob}')").fetchall()} == ours


TABLES = {
    "delta": ("_delta_log/00000000000000000000.json", "Delta Lake"),
    "hudi": (".hoodie/hoodie.properties", "Hudi"),
    "streamed": ("_spark_metadata/0", "Spark's streaming sink"),
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("wanted", ["", "table", "table/*.x", "table/date=1", "table/date=1/b.x", "**/*.x", "ta*/*"])
def test_the_files_of_a_table_with_a_log_are_refused(place: Any, kind: str, wanted: str) -> None:
    log, name = TABLES[kind]
    for file in [log, "a.x", "date=1/b.x"]:
        place.put(f"lake/table/{file}", b"x")
    with pytest.raises(InputError, match=rf"lake/table is a table of {name}: its log .* decides .* give that copy"):
        list_files(place.storage, place.at("lake", wanted).rstrip("/"))


@pytest.mark.parametrize("wanted", ["t", "t/data", "t/data/d=1/a.x", "t/data/*/*.x"])
def test_the_files_of_an_iceberg_table_are_refused(place: Any, wanted: str) -> None:
    place.put("t/metadata/00000-7d.metadata.json", b"{}")
    place.put("t/data/d=1/a.x", b"x")
    with pytest.raises(InputError, match="t is a table of Iceberg: its log metadata/"):
        list_files(place.storage, place.at(wanted))


@pytest.mark.parametrize("wanted", ["t", "t/base_0000003", "t/d=1/delta_0000004_0000004_0000/a", "t/*/*/a"])
def test_the_files_of_hives_transactions_are_refused(local: Any, wanted: str) -> None:
    for name in ["base_0000003/a", "d=1/delta_0000004_0000004_0000/a", "d=1/delete_delta_0000005_0000005/a"]:
        local.put(f"t/{name}", b"x")
    with pytest.raises(InputError, match=r"t(/d=1)? is a table of Hive's ACID transactions"):
        list_files(local.storage, local.at(wanted))


def test_names_that_only_look_like_a_tables_are_read(local: Any) -> None:
    found = ["base_model/a.x", "data/b.x", "delta_1_2/c.x", "metadata/d.x", "my_delta_log/e.x"]
    for name in found:
        local.put(name, b"x")
    assert local.names(local.url) == found
    assert local.names(local.at("data")) == ["data/b.x"]
