"""Where a checkpoint's files are, and whether they are those that a run began with.

A hub id, a local directory, ``s3://…`` or ``demo`` becomes one local directory. Object storage is copied once per node
into a cache, under a lock, and is complete before it is visible.

A run's manifest holds the *fingerprint* of its checkpoint: two hashes, ``<all>-<tokenizer>``, of everything that
scoring reads and of what the tokenizer alone reads, so that who only tokenises need not hash weights. Whoever loads by
it gets those files or an error, whatever was put in their place since.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tart_ray.errors import CheckpointChangedError, CheckpointError
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
from tart_ray.model.place import CheckpointPlace

LABELS = (1, 2)  # outputs of a classifier that a pair can be ranked by


def resolve_checkpoint(place: CheckpointPlace, *, weights: bool = True, files: CheckpointFiles = ENCT5_FILES) -> Path:
    """The local directory that holds the checkpoint's files.

    Object storage and the hub, or the cache for them, must hold the checkpoint of the place's fingerprint. A local
    directory is returned as it is: what is read from it is checked by `open_checkpoint` and by the tokenizer.

    Args:
        weights: False fetches what a tokenizer needs, without the large files.
        files: what the model's family reads.

    Raises:
        CheckpointError: nothing is there, or the hub cannot be reached and its cache does not hold it.
        CheckpointChangedError: it has another fingerprint.
    """
    place = place.located()
    if place.is_url:
        return fetch_from_store(place, files, weights=weights)
    text = str(place.path)
    local = Path(text).expanduser()
    if local.is_dir():
        if weights:  # a tokenizer that was saved alone has no config.json
            require_config({file.name for file in local.iterdir()}, text)
        return local
    if local.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        raise CheckpointError(
            f"model path {text!r}: no such directory; expected a local directory, s3://bucket/prefix, a hub id "
            "like facebook/tart-full-flan-t5-xl, or demo, the model that comes with tart-ray"
        )
    folder = fetch_from_hub(text, place.revision, files, weights=weights)
    check_digest(place, hub_digest(text, folder), whole=True)
    return folder


@contextmanager
def open_checkpoint(place: CheckpointPlace, *, files: CheckpointFiles = ENCT5_FILES) -> Iterator[Path]:
    """The local directory that holds the checkpoint's files, for the block to load them.

    With a fingerprint, what the block has read is what was fingerprinted, or the block ends with an error: a local
    directory is hashed after it was read, and nothing in it may have been touched from before that until after it.

    Raises:
        CheckpointError, CheckpointChangedError: as `resolve_checkpoint`.
    """
    folder = resolve_checkpoint(place, files=files)
    if place.fingerprint is None or not place.is_directory:
        yield folder
        return
    before = _state(folder, files)
    try:
        yield folder
    except Exception:  # of a checkpoint that was replaced, that is the reason
        check_digest(place, files.digest(folder), whole=True)
        raise
    check_digest(place, files.digest(folder), whole=True)
    if _state(folder, files) != before:
        raise CheckpointChangedError(f"{place.path}: files were changed in it while it was loaded: {PUT_BACK}")


def fingerprint_checkpoint(place: CheckpointPlace, *, files: CheckpointFiles = ENCT5_FILES) -> str:
    """Two hashes, of all that scoring reads and of what the tokenizer reads; they change when any of it does.

    A local directory is hashed by content; a hub id by its resolved commit; object storage by names, sizes and
    versions, or by content where it tells no versions. The tokenizer's few files are hashed by content everywhere.

    Raises:
        CheckpointError: it is not there.
    """
    place = dataclasses.replace(place.located(), fingerprint=None)  # of what is there, whatever should be
    if not place.is_url:
        folder = resolve_checkpoint(place, weights=place.is_directory, files=files)
        whole = files.digest(folder) if place.is_directory else hub_digest(str(place.path), folder)
        return f"{whole}-{tokenizer_digest(files.read_tokenizer(folder))}"
    listed = versions_digest(list_store(place, files)[1])
    folder = fetch_from_store(place, files, weights=listed is None)
    if versions_digest(list_store(place, files)[1]) != listed:
        raise CheckpointError(
            f"{place.path}: files in it changed while they were looked at; try again when it is complete"
        )
    return f"{listed or files.digest(folder)}-{tokenizer_digest(files.read_tokenizer(folder))}"


def list_checkpoint(
    place: CheckpointPlace, *, files: CheckpointFiles = ENCT5_FILES
) -> tuple[dict[str, int], Callable[[str], BinaryIO]]:
    """The sizes of the files that loading reads, bytes, by name, and what opens one of them for reading.

    Of a hub id, those that are in the cache: the small ones are, weights may be.

    Raises:
        CheckpointError: it is not there.
    """
    place = place.located()
    if place.is_url:
        filesystem, infos = list_store(place, files)
        return (
            {name: int(info["size"]) for name, info in infos.items()},
            lambda name: filesystem.open(infos[name]["name"], "rb"),
        )
    folder = resolve_checkpoint(place, weights=place.is_directory, files=files)
    names = files.in_directory(folder)
    return {name: (folder / name).stat().st_size for name in names}, lambda name: (folder / name).open("rb")


def pin_revision(place: CheckpointPlace) -> CheckpointPlace:
    """The place by the commit that a hub id's revision means now; every other place as it is.

    Raises:
        CheckpointError: the hub has no such model, or cannot be reached and its cache does not hold it.
    """
    if not place.is_hub_id:
        return place
    return dataclasses.replace(place, revision=resolve_checkpoint(place, weights=False).name)


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


def _state(folder: Path, files: CheckpointFiles) -> dict[str, tuple[int, ...]]:
    """What changes when anybody writes, replaces or removes a file that scoring reads."""
    told = {name: (folder / name).stat() for name in files.in_directory(folder)}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in told.items()}
