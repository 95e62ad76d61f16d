"""Where a checkpoint's files are, and whether they are those that a run began with.

A hub id, a local directory or ``s3://…`` becomes one local directory. Object storage is copied once per node into a
cache, under a lock, and is complete before it is visible.

A run's manifest holds the *fingerprint* of its checkpoint: two hashes, ``<all>-<tokenizer>``, of everything that
scoring reads and of what the tokenizer alone reads, so that who only tokenises need not hash weights. Whoever loads by
it gets those files or an error, whatever was put in their place since.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import huggingface_hub
from fsspec import AbstractFileSystem
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from tart_ray.errors import CheckpointChangedError, CheckpointError, LocationError
from tart_ray.file_versions import version_of
from tart_ray.locations import check_location, open_filesystem

HUB_URL = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^@]+?))?/?")
CACHE_VARIABLE = "TART_RAY_CACHE"
LABELS = (1, 2)  # outputs of a classifier that a pair can be ranked by
WANTED = re.compile(r"(?:.*\.json|spiece\.model|.*\.safetensors|pytorch_model.*\.bin)")
VOCAB_FILE, TOKENIZER_CONFIG, ADDED_TOKENS = "spiece.model", "tokenizer_config.json", "added_tokens.json"
TOKENIZER_FILES = (VOCAB_FILE, TOKENIZER_CONFIG, ADDED_TOKENS)  # all that EncT5Tokenizer reads
PUT_BACK = (
    "put the checkpoint of the manifest back and run the same command again, or give another output.path for the new "
    "one"
)
HALF = 32  # hexadecimal digits of each of a fingerprint's two hashes

Infos = dict[str, dict[str, Any]]  # what a filesystem reports of each file, by name


def resolve_checkpoint(
    path: str | Path,
    *,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    weights: bool = True,
    fingerprint: str | None = None,
) -> Path:
    """The local directory that holds the checkpoint's files.

    Args:
        path: a local directory, a URL of a store (``s3://bucket/model/``), or a hub id (``owner/name``, or
            ``hf://owner/name@revision``).
        revision: a hub branch, tag or commit.
        storage_options: passed to fsspec for a URL (``endpoint_url``, ``key`` …).
        weights: False fetches what a tokenizer needs, without the large files.
        fingerprint: what object storage and the hub must hold, or the cache for them. A local directory is returned
            as it is: what is read from it is checked by `open_checkpoint` and by the tokenizer.

    Raises:
        CheckpointError: nothing is there, or the hub cannot be reached and its cache does not hold it.
        CheckpointChangedError: it has another fingerprint.
    """
    text, revision = _located(path, revision)
    if "://" in text:
        return _fetch_url(text, dict(storage_options or {}), weights, fingerprint)
    local = Path(text).expanduser()
    if local.is_dir():
        if weights:  # a tokenizer that was saved alone has no config.json
            _require_config({file.name for file in local.iterdir()}, text)
        return local
    if local.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        raise CheckpointError(
            f"model path {text!r}: no such directory; expected a local directory, s3://bucket/prefix or a hub id "
            "like facebook/tart-full-flan-t5-xl"
        )
    folder = _fetch_hub(text, revision, weights)
    if fingerprint is not None:
        _compare(text, fingerprint, _hub_digest(text, folder), whole=True)
    return folder


@contextmanager
def open_checkpoint(
    path: str | Path,
    *,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
) -> Iterator[Path]:
    """The local directory that holds the checkpoint's files, for the block to load them.

    With a fingerprint, what the block has read is what was fingerprinted, or the block ends with an error: a local
    directory is hashed after it was read, and nothing in it may have been touched from before that until after it.

    Raises:
        CheckpointError, CheckpointChangedError: as `resolve_checkpoint`.
    """
    where: dict[str, Any] = {"revision": revision, "storage_options": storage_options, "fingerprint": fingerprint}
    folder = resolve_checkpoint(path, **where)
    if fingerprint is None or not is_directory(path):
        yield folder
        return
    before = _state(folder)
    try:
        yield folder
    except Exception:  # of a checkpoint that was replaced, that is the reason
        _compare(str(path), fingerprint, _content_digest(folder), whole=True)
        raise
    _compare(str(path), fingerprint, _content_digest(folder), whole=True)
    if _state(folder) != before:
        raise CheckpointChangedError(f"{path}: files were changed in it while it was loaded: {PUT_BACK}")


def fingerprint_checkpoint(
    path: str | Path, *, revision: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> str:
    """Two hashes, of all that scoring reads and of what the tokenizer reads; they change when any of it does.

    A local directory is hashed by content; a hub id by its resolved commit; object storage by names, sizes and
    versions, or by content where it tells no versions. The tokenizer's few files are hashed by content everywhere.

    Raises:
        CheckpointError: it is not there.
    """
    text, revision = _located(path, revision)
    where: dict[str, Any] = {"revision": revision, "storage_options": storage_options}
    if is_directory(text):
        folder = resolve_checkpoint(text)
        return f"{_content_digest(folder)}-{tokenizer_digest(read_tokenizer_files(folder))}"
    if "://" not in text:
        folder = resolve_checkpoint(text, weights=False, **where)
        return f"{_hub_digest(text, folder)}-{tokenizer_digest(read_tokenizer_files(folder))}"
    options = dict(storage_options or {})
    listed = _versions_digest(_list_url(text, options)[1])
    folder = _fetch_url(text, options, weights=listed is None)
    if _versions_digest(_list_url(text, options)[1]) != listed:
        raise CheckpointError(f"{text}: files in it changed while they were looked at; try again when it is complete")
    return f"{listed or _content_digest(folder)}-{tokenizer_digest(read_tokenizer_files(folder))}"


def list_checkpoint(
    path: str | Path, *, revision: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> tuple[dict[str, int], Callable[[str], BinaryIO]]:
    """The sizes of the files that loading reads, bytes, by name, and what opens one of them for reading.

    Of a hub id, those that are in the cache: the small ones are, weights may be.

    Raises:
        CheckpointError: it is not there.
    """
    text, revision = _located(path, revision)
    if "://" in text:
        filesystem, infos = _list_url(text, dict(storage_options or {}))
        return (
            {name: int(info["size"]) for name, info in infos.items()},
            lambda name: filesystem.open(infos[name]["name"], "rb"),
        )
    folder = resolve_checkpoint(text, revision=revision, weights=is_directory(text))
    names = _choose(file.name for file in folder.iterdir())
    return {name: (folder / name).stat().st_size for name in names}, lambda name: (folder / name).open("rb")


def resolve_revision(path: str | Path, *, revision: str | None = None) -> str | None:
    """The commit that a hub id's revision means now; for every other place ``revision`` as it is.

    Raises:
        CheckpointError: the hub has no such model, or cannot be reached and its cache does not hold it.
    """
    if not is_hub_id(path):
        return revision
    return resolve_checkpoint(path, revision=revision, weights=False).name


def read_tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The contents of those of `TOKENIZER_FILES` that are there."""
    return {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}


def tokenizer_digest(files: Mapping[str, bytes]) -> str:
    """The half of a fingerprint that is of the tokenizer."""
    return _digest(f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files))


def check_tokenizer(path: str | Path, fingerprint: str, files: Mapping[str, bytes]) -> None:
    """Refuse a tokenizer's files that are not those of a fingerprint.

    Raises:
        CheckpointChangedError: they are not.
    """
    _compare(str(path), fingerprint, tokenizer_digest(files), whole=False)


def check_label_count(labels: int, origin: str) -> None:
    """Refuse a classifier whose outputs are not one pair's relevance.

    Raises:
        CheckpointError: it has neither two labels nor one.
    """
    if labels not in LABELS:
        raise CheckpointError(
            f"{origin}: got num_labels {labels}, expected 2 (irrelevant, relevant) or 1 (a number for relevance): the "
            "margin of two of several labels would say nothing of the others"
        )


def _located(path: str | Path, revision: str | None) -> tuple[str, str | None]:
    """The path, checked, and the revision; of a hf:// URL the hub id, and the revision that it names if none is given.

    Raises:
        CheckpointError: no model can be there.
    """
    try:
        text = check_location(str(path))
    except LocationError as error:
        raise CheckpointError(f"model path: {error}") from error
    if not text.startswith("hf://"):
        return text, revision
    found = HUB_URL.fullmatch(text)
    if found is None:
        raise CheckpointError(f"model path {text!r}: expected hf://owner/name or hf://owner/name@revision")
    return found[1], revision or found[2]


def _compare(path: str, fingerprint: str, found: str, *, whole: bool) -> None:
    """Raise where one half of a fingerprint is not what was found."""
    expected = fingerprint.partition("-")[0 if whole else 2]
    if found != expected:
        what = "checkpoint" if whole else "tokenizer"
        raise CheckpointChangedError(
            f"{path}: the manifest names a {what} of fingerprint {expected}, and one of {found} is there: {PUT_BACK}"
        )


def is_directory(path: str | Path) -> bool:
    """Whether it is a directory of this machine."""
    text = _located(path, None)[0]
    return "://" not in text and Path(text).expanduser().is_dir()


def is_hub_id(path: str | Path) -> bool:
    """Whether it is a model of the hub, if there is one of that name."""
    return "://" not in _located(path, None)[0] and not is_directory(path)


def _state(folder: Path) -> dict[str, tuple[int, ...]]:
    """What changes when anybody writes, replaces or removes a file that scoring reads."""
    told = {name: (folder / name).stat() for name in _choose(file.name for file in folder.iterdir())}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in told.items()}


def _content_digest(folder: Path) -> str:
    names = _choose(file.name for file in folder.iterdir())
    return _digest(f"{name} {_file_digest(folder / name)}" for name in sorted(names))


def _versions_digest(infos: Infos) -> str | None:
    """A hash of names, sizes and versions; None where the store does not tell every file's version."""
    versions = {name: version_of(info) for name, info in infos.items()}
    if None in versions.values():
        return None
    return _digest(f"{name} {infos[name]['size']} {versions[name]}" for name in sorted(infos))


def _hub_digest(repo: str, folder: Path) -> str:
    return _digest([f"{repo}@{folder.name}"])  # a snapshot's directory is named by its commit


def _fetch_hub(repo: str, revision: str | None, weights: bool) -> Path:
    try:
        files = huggingface_hub.HfApi().list_repo_files(repo, revision=revision)
        patterns: list[str] | None = sorted(_choose(files, weights))
    except Exception as offline:  # the hub's client raises many kinds; the cache may still hold the snapshot
        if isinstance(offline, (HfHubHTTPError, HFValidationError)):
            raise CheckpointError(f"model path {repo!r}: no such directory, and the hub says: {offline}") from offline
        patterns = None
    try:
        folder = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=patterns, local_files_only=patterns is None
        )
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"model path {repo!r}: no such local directory, the hub cannot be reached, and its cache does not hold it; "
            "give a local directory or s3:// path, or fetch it once where there is a network"
        ) from error
    return Path(folder)


def _fetch_url(url: str, options: dict[str, Any], weights: bool, fingerprint: str | None = None) -> Path:
    """A copy in the cache. One that is of the fingerprint is used whatever is in the store now."""
    root = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "tart_ray") / "models"
    root.mkdir(parents=True, exist_ok=True)
    wanted = fingerprint and fingerprint.partition("-")[0 if weights else 2]
    if wanted and (place := root / _cache_name(url, weights, wanted)).is_dir():
        return place
    filesystem, found = _list_url(url, options, weights)
    listed = _versions_digest(found)
    if fingerprint and weights and listed:
        _compare(url, fingerprint, listed, whole=True)
    known = wanted or listed  # None where the content alone can tell
    place = root / _cache_name(url, weights, known or "")
    with filelock.FileLock(f"{place}.lock"):
        if known and place.is_dir():
            return place
        partial = root / f"{place.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed while it held the lock
        partial.mkdir()
        try:
            _copy(filesystem, url, found, partial)
            if _versions_digest(_list_url(url, options, weights)[1]) != listed:
                raise CheckpointError(f"{url}: files in it changed while they were copied; try again")
            if fingerprint and not weights:
                check_tokenizer(url, fingerprint, read_tokenizer_files(partial))
            elif fingerprint and not listed:
                _compare(url, fingerprint, _content_digest(partial), whole=True)
            if not known:
                place = root / _cache_name(url, weights, _content_digest(partial))
            if not place.is_dir():
                partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return place


def _cache_name(url: str, weights: bool, content: str) -> str:
    """The directory of a copy: what is in it is part of the name."""
    return _digest([url, "all" if weights else "tokenizer", content])


def _copy(filesystem: AbstractFileSystem, url: str, found: Infos, folder: Path) -> None:
    for name, info in found.items():
        try:
            filesystem.get_file(info["name"], str(folder / name))
        except OSError as error:
            raise CheckpointError(f"{url}/{name}: cannot be read: {error}") from error
        size = (folder / name).stat().st_size
        if size != info["size"]:
            raise CheckpointError(f"{url}/{name}: got {size} bytes, expected {info['size']}; try again")


def _list_url(url: str, options: dict[str, Any], weights: bool = True) -> tuple[AbstractFileSystem, Infos]:
    try:
        filesystem, root = open_filesystem(url, options)
    except LocationError as error:
        raise CheckpointError(f"model path: {error}") from error
    filesystem.invalidate_cache(root)  # another process may have replaced files since this one listed them
    try:
        infos = {info["name"].rsplit("/", 1)[-1]: info for info in filesystem.ls(root.rstrip("/"), detail=True)}
    except FileNotFoundError as error:
        raise CheckpointError(f"model path {url!r}: nothing there; expected a directory with config.json") from error
    except PermissionError as error:
        raise CheckpointError(f"model path {url!r}: not allowed to list it: {error}") from error
    chosen = _choose((name for name, info in infos.items() if info["type"] == "file"), weights)
    if weights:
        _require_config(chosen, url)
    return filesystem, {name: infos[name] for name in chosen}


def _choose(names: Iterable[str], weights: bool = True) -> set[str]:
    """The files that loading needs: safetensors where there are any, else the older ``.bin``."""
    wanted = {name for name in names if WANTED.fullmatch(name)}
    if not weights:
        return {name for name in wanted if not name.endswith((".safetensors", ".bin", ".index.json"))}
    has_safetensors = {"model.safetensors", "model.safetensors.index.json"} & wanted  # others are no model's
    left_out = (".bin", ".bin.index.json") if has_safetensors else (".safetensors", ".safetensors.index.json")
    return {name for name in wanted if not name.endswith(left_out)}


def _require_config(names: set[str], origin: str) -> None:
    if "config.json" not in names:
        raise CheckpointError(f"model path {origin!r}: no config.json in it; found {sorted(names) or 'nothing'}")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:HALF]
