"""Where a checkpoint's files are found, fetched to, and what identifies them."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from support.s3_server import S3Server
from support.stores import WithoutVersions, supported

from tart_ray import EncT5ForSequenceClassification, EncT5Tokenizer, Scorer
from tart_ray.errors import (
    CheckpointChangedError,
    CheckpointError,
)
from tart_ray.model.checkpoint import fingerprint_checkpoint, open_checkpoint, pin_revision, resolve_checkpoint
from tart_ray.model.checkpoint_files import VOCAB_FILE
from tart_ray.model.place import DEMO_MODEL, CheckpointPlace


@pytest.fixture
def url(s3: S3Server, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny checkpoint in a bucket; the cache is empty."""
    monkeypatch.setenv("TART_RAY_CACHE", str(tmp_path / "cache"))
    bucket = s3.new_bucket()
    for file in tiny_checkpoint.iterdir():
        s3.filesystem().pipe_file(f"{bucket}/tart/{file.name}", file.read_bytes())
    return f"s3://{bucket}/tart/"


@pytest.fixture
def place(url: str, s3: S3Server) -> CheckpointPlace:
    return CheckpointPlace(url, storage_options=s3.storage_options)


def test_credentials_neither_tell_places_apart_nor_are_printed() -> None:
    one, other = (CheckpointPlace("s3://b/m", storage_options={"secret": secret}) for secret in ("hunter2", "other"))
    assert {one: "cached"}[other] == "cached"
    assert "hunter2" not in repr(one)
    assert one != dataclasses.replace(one, fingerprint="1-2")


def test_object_storage_is_copied_once(place: CheckpointPlace, url: str, tiny_checkpoint: Path) -> None:
    folder = resolve_checkpoint(place)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in tiny_checkpoint.iterdir()
    }
    inodes = {file.name: file.stat().st_ino for file in folder.iterdir()}
    assert resolve_checkpoint(place) == folder
    assert {file.name: file.stat().st_ino for file in folder.iterdir()} == inodes


RESOLVE = """
import json, sys
from tart_ray.model.checkpoint import resolve_checkpoint
from tart_ray.model.place import CheckpointPlace
print("ready", flush=True)
url, options = json.loads(sys.stdin.readline())
folder = resolve_checkpoint(CheckpointPlace(url, storage_options=options))
print(json.dumps([str(folder), sorted(file.name for file in folder.iterdir())]))
"""


def test_processes_that_fetch_at_once_share_one_complete_copy(
    url: str, s3: S3Server, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    s3.filesystem().pipe_file(f"{url}model-large.safetensors", bytes(20_000_000))  # so that the fetches overlap
    logged = {**os.environ, "S3FS_LOGGING_LEVEL": "DEBUG"}  # a line for each request, on stderr
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with ExitStack() as stack:
        started = [subprocess.Popen([sys.executable, "-c", RESOLVE], env=logged, text=True, **pipes) for _ in range(2)]
        for process in started:
            stack.enter_context(process)
            stack.callback(process.kill)
        assert [process.stdout.readline() for process in started if process.stdout] == ["ready\n"] * 2
        for process in started:
            assert process.stdin
            process.stdin.write(json.dumps([url, s3.storage_options]) + "\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=60) for process in started]
    (folder, names), other = (json.loads(out) for out, _ in answers)
    assert other == [folder, names]
    assert names == sorted(["model-large.safetensors", *(file.name for file in tiny_checkpoint.iterdir())])
    assert [str(path) for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()] == [folder]
    assert "".join(log for _, log in answers).count("CALL: get_object") == len(names)


def test_a_changed_object_is_fetched_again(place: CheckpointPlace, url: str, s3: S3Server) -> None:
    first = resolve_checkpoint(place)
    s3.filesystem().pipe_file(f"{url}added_tokens.json", b'{"<s>": 181 }')
    second = resolve_checkpoint(place)
    assert second != first
    assert (second / "added_tokens.json").read_bytes() == b'{"<s>": 181 }'


def test_another_process_can_have_replaced_an_object(url: str, s3: S3Server) -> None:
    options = {name: value for name, value in s3.storage_options.items() if name != "use_listings_cache"}
    before, first = (
        fingerprint_checkpoint(CheckpointPlace(url, storage_options=options)),
        resolve_checkpoint(CheckpointPlace(url, storage_options=options)),
    )
    s3.filesystem().pipe_file(f"{url}added_tokens.json", b'{"<s>": 183}')
    assert fingerprint_checkpoint(CheckpointPlace(url, storage_options=options)) != before
    assert resolve_checkpoint(CheckpointPlace(url, storage_options=options)) != first


def test_only_what_loading_reads_is_fetched(place: CheckpointPlace, url: str, s3: S3Server) -> None:
    for name in ("README.md", "optimizer.pt", "tf_model.h5", "nested/config.json"):
        s3.filesystem().pipe_file(f"{url}{name}", b"left there")
    folder = resolve_checkpoint(place)
    assert not {"README.md", "optimizer.pt", "tf_model.h5", "nested"} & {file.name for file in folder.iterdir()}


def test_the_cache_is_where_the_variable_says_or_at_home(
    place: CheckpointPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_checkpoint(place).parent == tmp_path / "cache" / "models"
    monkeypatch.delenv("TART_RAY_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = resolve_checkpoint(place)
    assert folder.parent == tmp_path / "home" / ".cache" / "tart_ray" / "models"


def test_what_a_killed_fetch_left_is_replaced(place: CheckpointPlace, tiny_checkpoint: Path) -> None:
    folder = resolve_checkpoint(place)
    partial = folder.rename(folder.with_name(f"{folder.name}.partial"))
    (partial / "config.json").unlink()
    (partial / "model.safetensors").write_bytes(b"cut")
    again = resolve_checkpoint(place)
    assert again == folder
    assert sorted(file.name for file in again.iterdir()) == sorted(file.name for file in tiny_checkpoint.iterdir())
    assert (again / "model.safetensors").read_bytes() == (tiny_checkpoint / "model.safetensors").read_bytes()
    assert not partial.exists()


class CutShort(MemoryFileSystem):
    """Obviously fake: lists whole files, and hands out halves of them while ``cutting``."""

    protocol = "cutshort"
    store: dict[str, Any] = {}
    cutting = True

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("cutshort://")))

    def get_file(self, rpath: str, lpath: str, **kwargs: Any) -> None:
        data = self.cat_file(rpath)
        Path(lpath).write_bytes(data[: len(data) // 2] if self.cutting else data)


def test_a_fetch_cut_short_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TART_RAY_CACHE", str(tmp_path))
    with supported(CutShort, "cutshort"):
        fsspec.filesystem("cutshort").pipe_file("/bucket/model/config.json", b"{} ")
        with pytest.raises(CheckpointError, match="got 1 bytes, expected 3"):
            resolve_checkpoint(CheckpointPlace("cutshort://bucket/model"))
        assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]
        monkeypatch.setattr(CutShort, "cutting", False)
        assert (resolve_checkpoint(CheckpointPlace("cutshort://bucket/model")) / "config.json").read_bytes() == b"{} "


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("hdfs://n/model", "hdfs: is not supported; expected a local path"),
        ("https://user:hunter2@host/model", r"https://\*\*\*@host/model: https: is not supported"),
        ("gs://bucket/model", "pip install gcsfs"),
        ("s3:/bucket/model", "did you mean s3://bucket/model"),
        ("hf://owner/name/folder", "expected hf://owner/name"),
    ],
)
def test_a_place_that_is_not_supported_is_refused(path: str, said: str) -> None:
    for look in (resolve_checkpoint, fingerprint_checkpoint):
        with pytest.raises(CheckpointError, match=said) as caught:
            look(CheckpointPlace(path))
        assert "hunter2" not in str(caught.value)


def test_a_url_of_the_hub_is_its_id(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="model path 'owner/name': no such local directory, the hub cannot"):
        resolve_checkpoint(CheckpointPlace("HF://owner/name@v1"))


def test_a_model_scores_from_object_storage_as_from_disk(url: str, s3: S3Server, tiny_checkpoint: Path) -> None:
    def logits(path: str | Path, **kwargs: Any) -> list[list[float]]:
        scorer = Scorer.from_pretrained(path, device="cpu", **kwargs)
        found: list[list[float]] = scorer.score(["wing", "heat"], ["flow 7", "plate"], "Find it").logits.tolist()
        return found

    assert logits(url, storage_options=s3.storage_options) == logits(tiny_checkpoint)


def test_a_tokenizer_fetches_no_weights(place: CheckpointPlace) -> None:
    folder = resolve_checkpoint(place, weights=False)
    assert (folder / "spiece.model").exists()
    assert not list(folder.glob("*.safetensors"))


def test_safetensors_are_preferred_to_bin(
    tiny_checkpoint: Path, s3: S3Server, place: CheckpointPlace, url: str
) -> None:
    s3.filesystem().pipe_file(f"{url}pytorch_model.bin", b"large")
    folder = resolve_checkpoint(place)
    assert (folder / "model.safetensors").exists()
    assert not (folder / "pytorch_model.bin").exists()


def test_the_fingerprint_is_of_the_content(tiny_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    original, copy = CheckpointPlace(tiny_checkpoint), CheckpointPlace(tmp_path / "copy")
    assert fingerprint_checkpoint(copy) == fingerprint_checkpoint(original)
    weights = bytearray((tmp_path / "copy" / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "copy" / "model.safetensors").write_bytes(weights)
    assert fingerprint_checkpoint(copy) != fingerprint_checkpoint(original)


def test_the_fingerprint_ignores_what_scoring_does_not_read(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    (folder / "README.md").write_text("A model.")
    (folder / "pytorch_model.bin").write_bytes(b"safetensors are read in its place")
    assert fingerprint_checkpoint(CheckpointPlace(folder)) == fingerprint_checkpoint(CheckpointPlace(tiny_checkpoint))
    (folder / "spiece.model").write_bytes((folder / "spiece.model").read_bytes() + b"\n")
    assert fingerprint_checkpoint(CheckpointPlace(folder)) != fingerprint_checkpoint(CheckpointPlace(tiny_checkpoint))


def test_the_fingerprint_of_object_storage_is_that_of_a_copy(url: str, s3: S3Server) -> None:
    copy = f"s3://{s3.new_bucket()}/elsewhere"
    for path in s3.filesystem().ls(url):
        s3.filesystem().pipe_file(f"{copy}/{Path(path).name}", s3.filesystem().cat_file(path))
    fingerprints = {
        fingerprint_checkpoint(CheckpointPlace(where, storage_options=s3.storage_options)) for where in (url, copy)
    }
    assert len(fingerprints) == 1


def test_the_fingerprint_of_object_storage_changes_with_an_object(
    place: CheckpointPlace, url: str, s3: S3Server
) -> None:
    before = fingerprint_checkpoint(place)
    assert fingerprint_checkpoint(place) == before
    s3.filesystem().pipe_file(f"{url}added_tokens.json", b'{"<s>": 182}')
    assert fingerprint_checkpoint(place) != before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/no/such/model", "no such directory"),
        ("./model", "no such directory"),
        ("a/b/c", "expected a local directory, s3://bucket/prefix, a hub id like .*, or demo"),
        ("owner/never-fetched", "the hub cannot be reached"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(path: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve_checkpoint(CheckpointPlace(path))
    assert path in str(caught.value)


@pytest.mark.parametrize("url", ["nosuchprotocol://bucket/model", "s3://bucket/model"])
def test_a_place_that_cannot_be_listed_is_named(url: str, s3: S3Server) -> None:
    with pytest.raises(CheckpointError, match=f"model path:? '?{url}'?: "):
        resolve_checkpoint(CheckpointPlace(url, storage_options={**s3.storage_options, "secret": "wrong"}))


def test_a_prefix_without_a_model_is_named(s3: S3Server, tmp_path: Path) -> None:
    bucket = s3.new_bucket()
    s3.filesystem().pipe_file(f"{bucket}/else/readme.txt", b"no model")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        resolve_checkpoint(CheckpointPlace(f"s3://{bucket}/else", storage_options=s3.storage_options))
    with pytest.raises(CheckpointError, match="nothing there"):
        resolve_checkpoint(CheckpointPlace(f"s3://{bucket}/missing", storage_options=s3.storage_options))


# Loading by the fingerprint of a manifest


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def change(file: Path, *, at: int = -1) -> None:
    """Another content of the same size, in the same file."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    with file.open("r+b") as opened:
        opened.write(content)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "spiece.model", "added_tokens.json"])
def test_a_replaced_file_is_no_longer_the_manifests_checkpoint(copy: Path, name: str) -> None:
    fingerprint = fingerprint_checkpoint(CheckpointPlace(copy))
    Scorer.from_pretrained(copy, device="cpu", fingerprint=fingerprint)
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    with pytest.raises(
        CheckpointChangedError, match=r"the manifest names a (checkpoint|tokenizer) of .*put .* back"
    ) as e:
        Scorer.from_pretrained(copy, device="cpu", fingerprint=fingerprint)
    assert str(copy) in str(e.value)


def test_a_tokenizer_proves_its_own_files_alone(copy: Path) -> None:
    fingerprint = fingerprint_checkpoint(CheckpointPlace(copy))
    change(copy / "model.safetensors")
    tokenizer = EncT5Tokenizer.from_pretrained(copy, fingerprint=fingerprint)
    (copy / "added_tokens.json").write_text('{"<s>": 200}')
    with pytest.raises(CheckpointChangedError, match="the manifest names a tokenizer of fingerprint"):
        EncT5Tokenizer.from_pretrained(copy, fingerprint=fingerprint)
    (copy / "spiece.model").write_bytes(b"another")
    tokenizer.save_pretrained(copy.parent / "saved")  # what it was made from, not what is there now
    assert EncT5Tokenizer.from_pretrained(copy.parent / "saved").encode_texts(["wing 7"]) == tokenizer.encode_texts(
        ["wing 7"]
    )


def test_a_checkpoint_that_is_replaced_while_it_is_loaded_is_refused(copy: Path) -> None:
    fingerprint = fingerprint_checkpoint(CheckpointPlace(copy))
    before = (copy / "model.safetensors").read_bytes()

    def load() -> None:
        with open_checkpoint(CheckpointPlace(copy, fingerprint=fingerprint)):
            change(copy / "model.safetensors")
            (copy / "model.safetensors").write_bytes(before)  # what was read in between, nobody knows

    def fail_to_load() -> None:
        with open_checkpoint(CheckpointPlace(copy, fingerprint=fingerprint)):
            change(copy / "model.safetensors")
            raise CheckpointError("its header cannot be read")

    with pytest.raises(CheckpointChangedError, match="changed in it while it was loaded"):
        load()
    with pytest.raises(CheckpointChangedError, match="put the checkpoint of the manifest back"):
        fail_to_load()


def test_weights_overwritten_under_a_running_replica_do_not_change_its_scores(copy: Path) -> None:
    scorer = Scorer.from_pretrained(copy, device="cpu", fingerprint=fingerprint_checkpoint(CheckpointPlace(copy)))
    before = scorer.score(["wing"], ["flow 7 plate"]).margin
    size = (copy / "model.safetensors").stat().st_size
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size - size // 2))
    assert scorer.score(["wing"], ["flow 7 plate"]).margin == before


def test_the_copy_of_a_fingerprint_outlives_the_object_storage(
    place: CheckpointPlace, url: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = dataclasses.replace(place, fingerprint=fingerprint_checkpoint(place))
    folder = resolve_checkpoint(place)
    tokenizer = resolve_checkpoint(place, weights=False)
    s3.filesystem().pipe_file(f"{url}added_tokens.json", b'{"<s>": 181 }')
    assert resolve_checkpoint(place) == folder
    assert resolve_checkpoint(place, weights=False) == tokenizer
    monkeypatch.setenv("TART_RAY_CACHE", str(tmp_path / "of another node"))
    for weights in (True, False):
        with pytest.raises(CheckpointChangedError, match=r"the manifest names .* put .* back"):
            resolve_checkpoint(place, weights=weights)
    assert not [path for path in (tmp_path / "of another node" / "models").iterdir() if path.is_dir()]


def test_a_store_that_tells_no_versions_is_known_by_content(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TART_RAY_CACHE", str(tmp_path))
    with supported(WithoutVersions) as scheme:
        url, store = f"{scheme}://bucket/tart", fsspec.filesystem(scheme)
        for file in tiny_checkpoint.iterdir():
            store.pipe_file(f"/bucket/tart/{file.name}", file.read_bytes())
        place = CheckpointPlace(url)
        before, first = fingerprint_checkpoint(place), resolve_checkpoint(place)
        assert before == fingerprint_checkpoint(CheckpointPlace(tiny_checkpoint)) == fingerprint_checkpoint(place)
        pinned = CheckpointPlace(url, fingerprint=before)
        assert resolve_checkpoint(pinned) == first
        weights = bytearray((tiny_checkpoint / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        store.pipe_file("/bucket/tart/model.safetensors", bytes(weights))
        assert fingerprint_checkpoint(place) != before
        assert (resolve_checkpoint(place) / "model.safetensors").read_bytes() == weights
        assert resolve_checkpoint(pinned) == first
        shutil.rmtree(tmp_path / "models")
        with pytest.raises(CheckpointChangedError):
            resolve_checkpoint(pinned)


def test_a_hub_branch_is_pinned_to_its_commit(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--owner--tart"
    old, new = "1" * 40, "2" * 40
    for commit in (old, new):
        shutil.copytree(tiny_checkpoint, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(old)
    fingerprint = fingerprint_checkpoint(CheckpointPlace("owner/tart"))
    assert pin_revision(CheckpointPlace("owner/tart")).revision == old
    (repo / "refs" / "main").write_text(new)  # somebody pushed
    assert resolve_checkpoint(CheckpointPlace("owner/tart", revision=old, fingerprint=fingerprint)).name == old
    with pytest.raises(CheckpointChangedError, match="owner/tart: the manifest names"):
        resolve_checkpoint(CheckpointPlace("owner/tart", fingerprint=fingerprint))
    assert fingerprint_checkpoint(CheckpointPlace("owner/tart")) != fingerprint
    assert pin_revision(CheckpointPlace("hf://owner/tart@main")).revision == new
    as_workers_load_it = CheckpointPlace("hf://owner/tart@main", revision=old, fingerprint=fingerprint)
    by_url = resolve_checkpoint(as_workers_load_it)
    assert by_url.name == old
    assert pin_revision(CheckpointPlace(tiny_checkpoint, revision="main")).revision == "main"


# The model that comes with the package


def test_demo_is_the_model_of_the_package_in_every_directory(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    by_word, of_package = CheckpointPlace("demo"), CheckpointPlace(DEMO_MODEL)
    assert resolve_checkpoint(by_word) == DEMO_MODEL
    assert fingerprint_checkpoint(by_word) == fingerprint_checkpoint(of_package)
    assert Scorer.from_pretrained("demo", device="cpu").tokenizer.vocabulary == (DEMO_MODEL / VOCAB_FILE).read_bytes()
    words = EncT5ForSequenceClassification.from_pretrained("demo").config.vocab_size
    assert words != EncT5ForSequenceClassification.from_pretrained(tiny_checkpoint).config.vocab_size
    for path in ("./demo", Path("demo"), tmp_path / "demo"):  # the directory
        assert fingerprint_checkpoint(CheckpointPlace(path)) == fingerprint_checkpoint(CheckpointPlace(tiny_checkpoint))
        assert EncT5ForSequenceClassification.from_pretrained(path).config.vocab_size != words
