"""Where a checkpoint's files are: a hub id, a local directory or ``s3://…`` becomes one local directory.

Object storage is copied once per node into a cache, under a lock, and is complete before it is visible.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import filelock
import huggingface_hub
from fsspec import AbstractFileSystem
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from tart_ray.locations import LocationError, check_location, open_filesystem

HUB_URL = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^@]+?))?/?")
CACHE_VARIABLE = "TART_RAY_CACHE"
LABELS = (1, 2)  # outputs of a classifier that a pair can be ranked by
WANTED = re.compile(r"(?:.*\.json|spiece\.model|.*\.safetensors|pytorch_model.*\.bin)")


class CheckpointError(ValueError):
    """The checkpoint cannot be found or used; the message says what was looked for and what is there."""


def resolve_checkpoint(
    path: str | Path,
    *,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    weights: bool = True,
) -> Path:
    """The local directory that holds the checkpoint's files.

    Args:
        path: a local directory, a URL of a store (``s3://bucket/model/``), or a hub id (``owner/name``, or
            ``hf://owner/name@revision``).
        revision: a hub branch, tag or commit.
        storage_options: passed to fsspec for a URL (``endpoint_url``, ``key`` …).
        weights: False fetches what a tokenizer needs, without the large files.

    Raises:
        CheckpointError: nothing is there, or the hub cannot be reached and its cache does not hold it.
    """
    text, revision = _located(path, revision)
    if "://" in text:
        return _fetch_url(text, dict(storage_options or {}), weights)
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
    return _fetch_hub(text, revision, weights)


def fingerprint_checkpoint(
    path: str | Path, *, revision: str | None = None, storage_options: Mapping[str, Any] | None = None
) -> str:
    """A hash that changes when any file of the checkpoint that scoring reads changes.

    A local directory is hashed by content; a hub id by its resolved commit; object storage by names, sizes and ETags.
    """
    text, revision = _located(path, revision)
    if "://" in text:
        found = _list_url(text, dict(storage_options or {}))[1]
        parts = [f"{name} {info['size']} {_version(info)}" for name, info in sorted(found.items())]
        return _digest(parts)
    local = Path(text).expanduser()
    if not local.is_dir():
        return _digest([f"{text}@{resolve_checkpoint(text, revision=revision, weights=False).name}"])
    names = _choose(file.name for file in local.iterdir())
    return _digest(f"{name} {_file_digest(local / name)}" for name in sorted(names))


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
    """The path, checked, and the revision; of a hf:// URL the hub id and the revision that it names.

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
    return found[1], found[2] or revision


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


def _fetch_url(url: str, options: dict[str, Any], weights: bool) -> Path:
    filesystem, found = _list_url(url, options, weights)
    key = _digest([url, *(f"{name} {info['size']} {_version(info)}" for name, info in sorted(found.items()))])
    root = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "tart_ray") / "models"
    root.mkdir(parents=True, exist_ok=True)
    target = root / key[:32]
    with filelock.FileLock(f"{target}.lock"):
        if target.is_dir():
            return target
        partial = root / f"{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed while it held the lock
        partial.mkdir()
        try:
            for name, info in found.items():
                filesystem.get_file(info["name"], str(partial / name))
                size = (partial / name).stat().st_size
                if size != info["size"]:
                    raise CheckpointError(f"{url}/{name}: got {size} bytes, expected {info['size']}; try again")
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _list_url(
    url: str, options: dict[str, Any], weights: bool = True
) -> tuple[AbstractFileSystem, dict[str, dict[str, Any]]]:
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
    if any(name.endswith(".safetensors") for name in wanted):
        wanted = {name for name in wanted if not name.endswith((".bin", ".bin.index.json"))}
    return wanted


def _require_config(names: set[str], origin: str) -> None:
    if "config.json" not in names:
        raise CheckpointError(f"model path {origin!r}: no config.json in it; found {sorted(names) or 'nothing'}")


def _version(info: Mapping[str, Any]) -> str:
    return str(info.get("ETag") or info.get("mtime") or "")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
