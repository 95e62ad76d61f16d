"""Storage, on local disks and on a real S3 server alike."""

from __future__ import annotations

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pydantic import SecretStr

from tart_ray import storage as storage_module
from tart_ray.config import StorageConfig
from tart_ray.errors import StorageError
from tart_ray.input.listing import list_files
from tart_ray.storage import Storage, join_url

ODD_NAMES = ["a[1].x", "b*.x", "c?.x", "d e.x", "e=f.x", "ü-☃.x", "g%20h.x", "i#j.x", "k+l&m.x", "n{o,p}.x"]


def test_write_replaces_a_whole_file_and_makes_its_directories(place: Any) -> None:
    url = place.put("deep/er/file", b"a longer first content")
    place.put("deep/er/file", memoryview(b"second"))
    assert place.storage.read(url) == b"second"
    assert place.storage.names(place.at("deep/er")) == ["file"]
    assert place.storage.exists(url)
    assert not place.storage.exists(place.at("deep"))


def test_a_write_that_fails_leaves_the_older_file(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = local.put("file", b"old")

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "no space left", source)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"file: cannot write it: .*no space left.*make space there"):
        local.put("file", b"new")
    assert local.storage.read(url) == b"old"
    assert [path.name for path in Path(local.url).iterdir()] == ["file"]  # no part of it


def test_readers_of_a_directory_skip_the_leftover_of_a_killed_writer(local: Any) -> None:
    local.put("part.parquet", pa.table({"a": [1]}))
    with storage_module._written_beside(local.at("deep/other.parquet"), b"half of it") as partial:
        assert ds.dataset(local.url, format="parquet").to_table().to_pydict() == {"a": [1]}
        local.storage.remove_partials(local.url)  # as if its writer were dead
        assert not Path(partial).exists()
    assert local.storage.exists(local.at("part.parquet"))


def test_create_writes_once(place: Any) -> None:
    url = place.at("new/lease")
    assert place.storage.create(url, b"first")
    assert not place.storage.create(url, b"second")
    assert place.storage.read(url) == b"first"
    place.storage.remove(url, place.at("new/none"))
    assert not place.storage.exists(url)


def test_the_condition_of_a_creation_is_proven(place: Any) -> None:
    place.storage.prove_creation(place.at("run/_lease"))
    assert place.storage.names(place.at("run/_lease")) == []


def test_a_disk_without_hard_links_is_no_output(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", source)

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match=r"new/lease: cannot create it: its file system has no hard links"):
        local.storage.create(local.at("new/lease"), b"first")
    assert local.storage.names(local.at("new")) == []


def test_of_many_that_create_one_wins(place: Any) -> None:
    url = place.at("lease")
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda i: place.storage.create(url, b"%d" % i), range(32)))
    assert won.count(True) == 1
    assert place.storage.read(url) == b"%d" % won.index(True)


def test_a_bucket_that_is_not_there_is_an_error(s3: Any) -> None:
    for url in ("s3://no-such-bucket-here/x", "s3://no-such-bucket-here/x/*.jsonl"):
        with pytest.raises(StorageError, match="no-such-bucket-here"):
            list_files(Storage(s3.config), url)


def test_refused_credentials_are_an_error(s3: Any, bucket: str) -> None:
    wrong = Storage(s3.config.model_copy(update={"secret": SecretStr("wrong")}))
    with pytest.raises(StorageError, match=bucket):
        list_files(wrong, f"s3://{bucket}/x")
    with pytest.raises(StorageError, match="check the credentials"):
        wrong.exists(f"s3://{bucket}/x")


def test_versions_change_with_the_content(place: Any) -> None:
    before = list_files(place.storage, place.put("file", b"one"))
    assert list_files(place.storage, place.at("file")) == before
    place.put("file", b"two")
    assert list_files(place.storage, place.at("file")).files[0].version != before.files[0].version


def test_names_of_a_directory(tree: Any) -> None:
    assert tree.storage.names(tree.at("d")) == [".n", "_l", "e.x", "f"]
    assert tree.storage.names(tree.at("d/")) == [".n", "_l", "e.x", "f"]
    assert tree.storage.names(tree.at("missing")) == []


def test_ranges(place: Any) -> None:
    url = place.put("file", b"0123456789")
    assert place.storage.read(url, 2, 5) == b"234"
    assert place.storage.read(url, 7) == b"789"
    assert place.storage.read(url, None, 2) == b"01"
    assert place.storage.read_ranges([url, url, url], [0, 9, 3], [1, 10, None]) == [b"0", b"9", b"3456789"]
    with pytest.raises(StorageError, match="1 more: cannot read it: no such bucket or file"):
        place.storage.read_many([url, place.at("missing")])


def test_a_range_that_is_not_all_there_is_an_error(place: Any) -> None:
    url = place.put("file", b"0123456789")
    with pytest.raises(StorageError, match="file: bytes 8 to 12: got 2; the file is shorter than it was"):
        place.storage.read(url, 8, 12)
    with pytest.raises(StorageError, match="bytes 0 to 11: got 10"):
        place.storage.read_ranges([url, url], [0, 0], [10, 11])


def test_odd_names_are_names(place: Any) -> None:
    urls = [place.put(name, name) for name in ODD_NAMES]
    assert place.storage.read_many(urls) == [name.encode() for name in ODD_NAMES]
    assert place.storage.read_many([]) == []
    assert place.storage.names(place.url) == sorted(ODD_NAMES)
    assert place.names(place.url) == sorted(ODD_NAMES)
    for url, name in zip(urls, ODD_NAMES, strict=True):
        assert place.names(url) == [name]
    place.put("in[side]/file", b"x")
    assert place.names(place.at("in[side]")) == ["in[side]/file"]


def test_remove_tree_takes_one_directory_and_no_glob(place: Any) -> None:
    for name in ["run1/work/a", "run[1]/work/a", "run[1]/work/b/c", "run[1]/work2/a"]:
        place.put(name, b"x")
    place.storage.remove_tree(place.at("run[1]/work"))
    assert place.names(place.url) == ["run1/work/a", "run[1]/work2/a"]
    place.storage.remove_tree(place.at("run1/work"))
    assert place.names(place.url) == ["run[1]/work2/a"]
    place.storage.remove_tree(place.at("run1/work"))
    place.storage.remove_tree(place.at("never[was]"))


def test_a_dataset_that_pyarrow_wrote_to_s3_is_readable(s3: Any, bucket: str) -> None:
    filesystem = pa.fs.S3FileSystem(
        access_key=s3.key, secret_key=s3.secret, endpoint_override=s3.endpoint_url, region="us-east-1"
    )
    table = pa.table({"key": ["a", "b"], "value": [1, 2]})
    ds.write_dataset(
        table, f"{bucket}/marked", filesystem=filesystem, format="parquet", partitioning=["key"],
        partitioning_flavor="hive", create_dir=True,
    )  # fmt: skip
    files = list_files(Storage(s3.config), f"s3://{bucket}/marked").files
    assert [file.url for file in files] == [f"s3://{bucket}/marked/key={key}/part-0.parquet" for key in "ab"]


def test_storage_pickles() -> None:
    config = StorageConfig(key="k", gs={"project": "p"})
    assert pickle.loads(pickle.dumps(Storage(config))).config == config  # noqa: S301


def test_urls_of_local_files_are_paths(tmp_path: Path) -> None:
    (tmp_path / "x y").write_bytes(b"1")
    assert Storage().read(f"file://{tmp_path}/x y") == b"1"
    assert join_url("s3://b/run/", "a", "b") == "s3://b/run/a/b"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(5, "An error occurred (XMinioStorageFull) when calling PutObject"), "make space there"),
        (OSError(5, "An error occurred (507) when calling PutObject"), "make space there"),
        (OSError(5, "reset at 00507-00000.json, http://127.0.0.1:45073/"), "OSError: .*45073/$"),
        (PermissionError("Forbidden"), "check the credentials, and what they may do there$"),
        (TimeoutError(), "TimeoutError: TimeoutError$"),
    ],
)
def test_errors_say_what_to_do(error: Exception, told: str) -> None:
    expected = pytest.raises(StorageError, match=f"^s3://b/k: cannot write it: .*{told}")
    with expected, storage_module.explained("write", "s3://b/k"):
        raise error
