"""Where a checkpoint's files are found, fetched to, and what identifies them."""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from support.s3_server import S3Server

from tart_ray.model.checkpoint import CheckpointError, fingerprint_checkpoint, resolve_checkpoint


@pytest.fixture
def url(s3: S3Server, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny checkpoint in a bucket; the cache is empty."""
    monkeypatch.setenv("TART_RAY_CACHE", str(tmp_path / "cache"))
    bucket = s3.new_bucket()
    for file in tiny_checkpoint.iterdir():
        s3.filesystem().pipe_file(f"{bucket}/tart/{file.name}", file.read_bytes())
    return f"s3://{bucket}/tart/"


def test_object_storage_is_copied_once(url: str, s3: S3Server, tiny_checkpoint: Path) -> None:
    folder = resolve_checkpoint(url, storage_options=s3.storage_options)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in tiny_checkpoint.iterdir()
    }
    inodes = {file.name: file.stat().st_ino for file in folder.iterdir()}
    assert resolve_checkpoint(url, storage_options=s3.storage_options) == folder
    assert {file.name: file.stat().st_ino for file in folder.iterdir()} == inodes


def test_processes_that_fetch_at_once_share_one_complete_copy(url: str, s3: S3Server, tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        waiting = [pool.submit(resolve_checkpoint, url, storage_options=s3.storage_options) for _ in range(3)]
        folders = {future.result() for future in waiting}
    assert len(folders) == 1
    assert (folders.pop() / "model.safetensors").exists()
    left = [path.name for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]
    assert len(left) == 1


def test_a_changed_object_is_fetched_again(url: str, s3: S3Server) -> None:
    first = resolve_checkpoint(url, storage_options=s3.storage_options)
    s3.filesystem().pipe_file(f"{url}added_tokens.json", b'{"<s>": 181 }')
    second = resolve_checkpoint(url, storage_options=s3.storage_options)
    assert second != first
    assert (second / "added_tokens.json").read_bytes() == b'{"<s>": 181 }'


def test_a_tokenizer_fetches_no_weights(url: str, s3: S3Server) -> None:
    folder = resolve_checkpoint(url, storage_options=s3.storage_options, weights=False)
    assert (folder / "spiece.model").exists()
    assert not list(folder.glob("*.safetensors"))


def test_safetensors_are_preferred_to_bin(tiny_checkpoint: Path, s3: S3Server, url: str) -> None:
    s3.filesystem().pipe_file(f"{url}pytorch_model.bin", b"large")
    folder = resolve_checkpoint(url, storage_options=s3.storage_options)
    assert (folder / "model.safetensors").exists()
    assert not (folder / "pytorch_model.bin").exists()


def test_the_fingerprint_is_of_the_content(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    assert fingerprint_checkpoint(tmp_path / "copy") == fingerprint_checkpoint(tiny_checkpoint)
    weights = bytearray((tmp_path / "copy" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "copy" / "model.safetensors").write_bytes(weights)
    assert fingerprint_checkpoint(tmp_path / "copy") != fingerprint_checkpoint(tiny_checkpoint)


def test_the_fingerprint_of_object_storage_changes_with_an_object(url: str, s3: S3Server) -> None:
    before = fingerprint_checkpoint(url, storage_options=s3.storage_options)
    assert fingerprint_checkpoint(url, storage_options=s3.storage_options) == before
    s3.filesystem().pipe_file(f"{url}added_tokens.json", b'{"<s>": 182}')
    assert fingerprint_checkpoint(url, storage_options=s3.storage_options) != before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/no/such/model", "no such directory"),
        ("./model", "no such directory"),
        ("a/b/c", "expected a local directory, s3://bucket/prefix or a hub id"),
        ("owner/never-fetched", "the hub cannot be reached"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(path: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve_checkpoint(path)
    assert path in str(caught.value)


def test_a_prefix_without_a_model_is_named(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.new_bucket()
    s3.filesystem().pipe_file(f"{bucket}/else/readme.txt", b"no model")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        resolve_checkpoint(f"s3://{bucket}/else", storage_options=s3.storage_options)
    with pytest.raises(CheckpointError, match="nothing there"):
        resolve_checkpoint(f"s3://{bucket}/missing", storage_options=s3.storage_options)
