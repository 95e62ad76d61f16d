"""Versions of files: every store's own words, as its filesystem reports them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest

from tart_ray.file_versions import version_of

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
STORES: dict[str, tuple[dict[str, Any], str]] = {
    "S3": ({"Key": "b/k", "ETag": '"abc"', "LastModified": NOON, "StorageClass": "STANDARD"}, "abc"),
    "Azure": ({"etag": "0x8D", "last_modified": NOON, "content_settings": {}}, "0x8D"),
    "GCS": ({"etag": "CKj=", "generation": "17", "metageneration": "2", "md5Hash": "x==", "mtime": NOON}, "17"),
    "GCS without a generation": ({"md5Hash": "x==", "updated": "2026-01-02"}, "x=="),
    "hub": ({"blob_id": "f00", "lfs": None, "xet_hash": None, "last_commit": None}, "f00"),
    "hub, Xet": ({"blob_id": None, "xet_hash": "beef", "last_commit": None}, "beef"),
    "hub, LFS": ({"lfs": {"size": 3, "sha256": "5a", "pointer_size": 1}}, "5a"),
    "hub, LFS as an object": ({"lfs": SimpleNamespace(size=3, sha256="5a")}, "5a"),
    "hub, commit alone": ({"blob_id": None, "last_commit": SimpleNamespace(oid="c0", date=NOON)}, "c0"),
    "HTTP": ({"ETag": 'W/"1f"', "Last-Modified": "Fri, 02 Jan 2026 12:00:00 GMT"}, 'W/"1f"'),
    "HTTP without an ETag": (
        {"Last-Modified": "Fri, 02 Jan 2026 12:00:00 GMT"},
        "Fri, 02 Jan 2026 12:00:00 GMT",
    ),
    "SFTP": ({"uid": 0, "time": NOON, "mtime": NOON}, str(NOON.timestamp())),
    "digest in bytes": ({"content_md5": b"\x01\xff"}, "01ff"),
    "empty words": ({"ETag": "", "etag": None, "LastModified": NOON}, str(NOON.timestamp())),
    "a time that was wiped": ({"mtime": 0.0, "created": 1767355200.5}, "1767355200.5"),
}


@pytest.mark.parametrize(("info", "version"), STORES.values(), ids=STORES)
def test_each_store_has_its_own_words(info: dict[str, Any], version: str) -> None:
    assert version_of({"name": "x", "size": 3, "type": "file", **info}) == version


def test_a_store_that_tells_no_version_has_none() -> None:
    assert version_of({"name": "x", "size": 3, "type": "file", "mode": 0o644, "ino": 7}) is None
    assert version_of({"name": "x", "ETag": "", "mtime": 0, "lfs": None}) is None


def test_a_local_file_has_its_modification_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.utime(path, (1, 1_700_000_000.5))
    assert version_of(fsspec.filesystem("file").info(str(path))) == "1700000000.5"


def test_a_listing_and_a_look_give_one_version_which_changes_when_the_file_is_replaced() -> None:
    memory = fsspec.filesystem("memory")
    try:
        memory.pipe_file("/versions/file", b"old")
        (listed,), looked = memory.ls("/versions", detail=True), memory.info("/versions/file")
        before = version_of(looked)
        assert before
        assert version_of(listed) == before
        memory.pipe_file("/versions/file", b"new")
        assert version_of(memory.info("/versions/file")) not in (None, before)
    finally:
        memory.rm("/versions", recursive=True)
