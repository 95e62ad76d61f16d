"""Copies of checkpoints on this machine: the hub's cache, and ours for object storage, seen when they are complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import huggingface_hub
from fsspec import AbstractFileSystem
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from tart_ray.errors import CheckpointChangedError, CheckpointError, LocationError
from tart_ray.file_versions import version_of
from tart_ray.locations import open_filesystem
from tart_ray.model.checkpoint_files import CheckpointFiles, digest, tokenizer_digest
from tart_ray.model.place import CheckpointPlace

CACHE_VARIABLE = "TART_RAY_CACHE"
PUT_BACK = (
    "put the checkpoint of the manifest back and run the same command again, or give another output.path for the new "
    "one"
)

Infos = dict[str, dict[str, Any]]  # what a filesystem reports of each file, by name


def fetch_from_hub(repo: str, revision: str | None, files: CheckpointFiles, *, weights: bool) -> Path:
    """The directory of a snapshot in the hub's cache, fetched if it is not there.

    Raises:
        CheckpointError: the hub has no such model, or cannot be reached and its cache does not hold it.
    """
    try:
        names = huggingface_hub.HfApi().list_repo_files(repo, revision=revision)
        patterns: list[str] | None = sorted(files.choose(names, weights=weights))
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


def hub_digest(repo: str, folder: Path) -> str:
    """A hash of a snapshot's commit."""
    return digest([f"{repo}@{folder.name}"])  # its directory is named by it


def fetch_from_store(place: CheckpointPlace, files: CheckpointFiles, *, weights: bool) -> Path:
    """A copy in the cache. One that is of the fingerprint is used whatever is in the store now.

    Raises:
        CheckpointError: the checkpoint is not there, or changes while it is copied.
        CheckpointChangedError: it has another fingerprint.
    """
    root = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "tart_ray") / "models"
    root.mkdir(parents=True, exist_ok=True)
    url, fingerprint = str(place.path), place.fingerprint
    wanted = fingerprint and fingerprint.partition("-")[0 if weights else 2]
    if wanted and (copy := root / _cache_name(url, weights, wanted)).is_dir():
        return copy
    filesystem, found = list_store(place, files, weights=weights)
    listed = versions_digest(found)
    if weights and listed:
        check_digest(place, listed, whole=True)
    known = wanted or listed  # None where the content alone can tell
    copy = root / _cache_name(url, weights, known or "")
    with filelock.FileLock(f"{copy}.lock"):
        if known and copy.is_dir():
            return copy
        partial = root / f"{copy.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed while it held the lock
        partial.mkdir()
        try:
            _copy(filesystem, url, found, partial)
            if versions_digest(list_store(place, files, weights=weights)[1]) != listed:
                raise CheckpointError(f"{url}: files in it changed while they were copied; try again")
            if not weights:
                check_tokenizer(place, files.read_tokenizer(partial))
            elif fingerprint and not listed:
                check_digest(place, files.digest(partial), whole=True)
            if not known:
                copy = root / _cache_name(url, weights, files.digest(partial))
            if not copy.is_dir():
                partial.rename(copy)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return copy


def _cache_name(url: str, weights: bool, content: str) -> str:
    """The directory of a copy: what is in it is part of the name."""
    return digest([url, "all" if weights else "tokenizer", content])


def _copy(filesystem: AbstractFileSystem, url: str, found: Infos, folder: Path) -> None:
    for name, info in found.items():
        (folder / name).parent.mkdir(exist_ok=True)
        try:
            filesystem.get_file(info["name"], str(folder / name))
        except OSError as error:
            raise CheckpointError(f"{url}/{name}: cannot be read: {error}") from error
        size = (folder / name).stat().st_size
        if size != info["size"]:
            raise CheckpointError(f"{url}/{name}: got {size} bytes, expected {info['size']}; try again")


def list_store(
    place: CheckpointPlace, files: CheckpointFiles, *, weights: bool = True
) -> tuple[AbstractFileSystem, Infos]:
    """The filesystem of a URL, and what it says of each file that is read.

    Raises:
        CheckpointError: nothing is there, or it may not be listed.
    """
    url = str(place.path)
    try:
        filesystem, root = open_filesystem(url, dict(place.storage_options or {}))
    except LocationError as error:
        raise CheckpointError(f"model path: {error}") from error
    filesystem.invalidate_cache(root)  # another process may have replaced files since this one listed them
    try:
        infos = {_name(info): info for info in filesystem.ls(root.rstrip("/"), detail=True)}
        for folder in [name for name, info in infos.items() if info["type"] == "directory" and files.looks_into(name)]:
            inner = filesystem.ls(infos[folder]["name"], detail=True)
            infos |= {f"{folder}/{_name(info)}": info for info in inner}
    except FileNotFoundError as error:
        raise CheckpointError(f"model path {url!r}: nothing there; expected a directory with config.json") from error
    except PermissionError as error:
        raise CheckpointError(f"model path {url!r}: not allowed to list it: {error}") from error
    chosen = files.choose((name for name, info in infos.items() if info["type"] == "file"), weights=weights)
    if weights:
        require_config(chosen, url)
    return filesystem, {name: infos[name] for name in chosen}


def _name(info: Mapping[str, Any]) -> str:
    return str(info["name"]).rstrip("/").rpartition("/")[2]


def versions_digest(infos: Infos) -> str | None:
    """A hash of names, sizes and versions; None where the store does not tell every file's version."""
    versions = {name: version_of(info) for name, info in infos.items()}
    if None in versions.values():
        return None
    return digest(f"{name} {infos[name]['size']} {versions[name]}" for name in sorted(infos))


def check_tokenizer(place: CheckpointPlace, files: Mapping[str, bytes]) -> None:
    """Refuse a tokenizer's files that are not those of the place's fingerprint, if it has one.

    Raises:
        CheckpointChangedError: they are not.
    """
    check_digest(place, tokenizer_digest(files), whole=False)


def check_digest(place: CheckpointPlace, found: str, *, whole: bool) -> None:
    """Refuse what does not have one half of the place's fingerprint, if it has one.

    Args:
        found: the hash of all that scoring reads if ``whole``, else of what the tokenizer reads.

    Raises:
        CheckpointChangedError: it is another.
    """
    expected = place.fingerprint and place.fingerprint.partition("-")[0 if whole else 2]
    if expected is not None and found != expected:
        what = "checkpoint" if whole else "tokenizer"
        raise CheckpointChangedError(
            f"{place.path}: the manifest names a {what} of fingerprint {expected}, and one of {found} is there: "
            f"{PUT_BACK}"
        )


def require_config(names: set[str], origin: str) -> None:
    """Refuse a place without ``config.json`` among its files.

    Raises:
        CheckpointError: it has none.
    """
    if "config.json" not in names:
        raise CheckpointError(f"model path {origin!r}: no config.json in it; found {sorted(names) or 'nothing'}")
