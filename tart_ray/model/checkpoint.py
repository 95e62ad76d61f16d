"""Where a checkpoint's files are, and whether they are those that a run began with.

A hub id, a local directory or ``s3://…`` becomes one local directory. Object storage is copied once per node into a
cache, under a lock, and is complete before it is visible.

A run's manifest holds the *fingerprint* of its checkpoint: two hashes, ``<all>-<tokenizer>``, of everything that
scoring reads and of what the tokenizer alone reads, so that who only tokenises need not hash weights. Whoever loads by
it gets those files or an error, whatever was put in their place since.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tart_ray.errors import CheckpointChangedError, CheckpointError, LocationError
from tart_ray.locations import check_location
from tart_ray.model.checkpoint_files import ENCT5_FILES, CheckpointFiles, tokenizer_digest
from tart_ray.model.fetching import (
    PUT_BACK,
    check_digest,
    fetch_from_hub,
    fetch_from_store,
    hub_digest,
    list_store,
    require_config,
    versions_digest,
)

HUB_URL = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^@]+?))?/?")
LABELS = (1, 2)  # outputs of a classifier that a pair can be ranked by


def resolve_checkpoint(
    path: str | Path,
    *,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    weights: bool = True,
    fingerprint: str | None = None,
    files: CheckpointFiles = ENCT5_FILES,
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
        files: what the model's family reads.

    Raises:
        CheckpointError: nothing is there, or the hub cannot be reached and its cache does not hold it.
        CheckpointChangedError: it has another fingerprint.
    """
    text, revision = _located(path, revision)
    if "://" in text:
        options = dict(storage_options or {})
        return fetch_from_store(text, options, files, weights=weights, fingerprint=fingerprint)
    local = Path(text).expanduser()
    if local.is_dir():
        if weights:  # a tokenizer that was saved alone has no config.json
            require_config({file.name for file in local.iterdir()}, text)
        return local
    if local.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        raise CheckpointError(
            f"model path {text!r}: no such directory; expected a local directory, s3://bucket/prefix or a hub id "
            "like facebook/tart-full-flan-t5-xl"
        )
    folder = fetch_from_hub(text, revision, files, weights=weights)
    if fingerprint is not None:
        check_digest(text, fingerprint, hub_digest(text, folder), whole=True)
    return folder


@contextmanager
def open_checkpoint(
    path: str | Path,
    *,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
    files: CheckpointFiles = ENCT5_FILES,
) -> Iterator[Path]:
    """The local directory that holds the checkpoint's files, for the block to load them.

    With a fingerprint, what the block has read is what was fingerprinted, or the block ends with an error: a local
    directory is hashed after it was read, and nothing in it may have been touched from before that until after it.

    Raises:
        CheckpointError, CheckpointChangedError: as `resolve_checkpoint`.
    """
    where: dict[str, Any] = {"revision": revision, "storage_options": storage_options, "fingerprint": fingerprint}
    folder = resolve_checkpoint(path, files=files, **where)
    if fingerprint is None or not is_directory(path):
        yield folder
        return
    before = _state(folder, files)
    try:
        yield folder
    except Exception:  # of a checkpoint that was replaced, that is the reason
        check_digest(str(path), fingerprint, files.digest(folder), whole=True)
        raise
    check_digest(str(path), fingerprint, files.digest(folder), whole=True)
    if _state(folder, files) != before:
        raise CheckpointChangedError(f"{path}: files were changed in it while it was loaded: {PUT_BACK}")


def fingerprint_checkpoint(
    path: str | Path,
    *,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    files: CheckpointFiles = ENCT5_FILES,
) -> str:
    """Two hashes, of all that scoring reads and of what the tokenizer reads; they change when any of it does.

    A local directory is hashed by content; a hub id by its resolved commit; object storage by names, sizes and
    versions, or by content where it tells no versions. The tokenizer's few files are hashed by content everywhere.

    Raises:
        CheckpointError: it is not there.
    """
    text, revision = _located(path, revision)
    where: dict[str, Any] = {"revision": revision, "storage_options": storage_options, "files": files}
    if is_directory(text):
        folder = resolve_checkpoint(text)
        return f"{files.digest(folder)}-{tokenizer_digest(files.read_tokenizer(folder))}"
    if "://" not in text:
        folder = resolve_checkpoint(text, weights=False, **where)
        return f"{hub_digest(text, folder)}-{tokenizer_digest(files.read_tokenizer(folder))}"
    options = dict(storage_options or {})
    listed = versions_digest(list_store(text, options, files)[1])
    folder = fetch_from_store(text, options, files, weights=listed is None)
    if versions_digest(list_store(text, options, files)[1]) != listed:
        raise CheckpointError(f"{text}: files in it changed while they were looked at; try again when it is complete")
    return f"{listed or files.digest(folder)}-{tokenizer_digest(files.read_tokenizer(folder))}"


def list_checkpoint(
    path: str | Path,
    *,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    files: CheckpointFiles = ENCT5_FILES,
) -> tuple[dict[str, int], Callable[[str], BinaryIO]]:
    """The sizes of the files that loading reads, bytes, by name, and what opens one of them for reading.

    Of a hub id, those that are in the cache: the small ones are, weights may be.

    Raises:
        CheckpointError: it is not there.
    """
    text, revision = _located(path, revision)
    if "://" in text:
        filesystem, infos = list_store(text, dict(storage_options or {}), files)
        return (
            {name: int(info["size"]) for name, info in infos.items()},
            lambda name: filesystem.open(infos[name]["name"], "rb"),
        )
    folder = resolve_checkpoint(text, revision=revision, weights=is_directory(text), files=files)
    names = files.in_directory(folder)
    return {name: (folder / name).stat().st_size for name in names}, lambda name: (folder / name).open("rb")


def resolve_revision(path: str | Path, *, revision: str | None = None) -> str | None:
    """The commit that a hub id's revision means now; for every other place ``revision`` as it is.

    Raises:
        CheckpointError: the hub has no such model, or cannot be reached and its cache does not hold it.
    """
    if not is_hub_id(path):
        return revision
    return resolve_checkpoint(path, revision=revision, weights=False).name


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


def is_directory(path: str | Path) -> bool:
    """Whether it is a directory of this machine."""
    text = _located(path, None)[0]
    return "://" not in text and Path(text).expanduser().is_dir()


def is_hub_id(path: str | Path) -> bool:
    """Whether it is a model of the hub, if there is one of that name."""
    return "://" not in _located(path, None)[0] and not is_directory(path)


def _state(folder: Path, files: CheckpointFiles) -> dict[str, tuple[int, ...]]:
    """What changes when anybody writes, replaces or removes a file that scoring reads."""
    told = {name: (folder / name).stat() for name in files.in_directory(folder)}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in told.items()}
