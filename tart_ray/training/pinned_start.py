"""What training starts from: a checkpoint, or a vocabulary and a size. The driver pins it, and every worker loads it.

What is loaded must be what was pinned, so that all workers, and all starts of a run, begin with the same weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from tart_ray.config import StartConfig, StorageConfig
from tart_ray.errors import CheckpointChangedError
from tart_ray.model.checkpoint import fingerprint_checkpoint, pin_revision, resolve_checkpoint
from tart_ray.model.checkpoint_files import VOCAB_FILE
from tart_ray.model.fetching import PUT_BACK
from tart_ray.model.fitness import check_checkpoint
from tart_ray.model.place import CheckpointPlace

if TYPE_CHECKING:
    from tart_ray.training.start import Start  # loads torch, which drivers do without


def pin_start(model: StartConfig, storage: StorageConfig) -> tuple[StartConfig, str]:
    """The configuration with the commit that a hub id now stands for, and the fingerprint of what is there now.

    Returns:
        The configuration; the fingerprint of the checkpoint, or the SHA-256 of the vocabulary of a new model.

    Raises:
        CheckpointError: nothing is there, or it cannot be used.
    """
    from tart_ray.model.tokenizer import EncT5Tokenizer

    if model.path is None:
        vocabulary = _fetch_vocabulary(model, storage)
        tokenizer = EncT5Tokenizer(vocabulary / VOCAB_FILE if vocabulary.is_dir() else vocabulary)
        return model, hashlib.sha256(tokenizer.vocabulary).hexdigest()
    place = pin_revision(_place_of(model, model.path, storage))
    fingerprint = fingerprint_checkpoint(place)
    check_checkpoint(dataclasses.replace(place, fingerprint=fingerprint), with_head=False)
    return model.model_copy(update={"revision": place.revision}), fingerprint


def load_start(model: StartConfig, storage: StorageConfig, fingerprint: str, *, seed: int, as_published: bool) -> Start:
    """The model that training starts from, float32 on the CPU, and its tokenizer.

    Args:
        model, fingerprint: as `pin_start` returned them.
        seed: of the weights that are new.
        as_published: as in `start_from_checkpoint`.

    Raises:
        CheckpointChangedError: what is there is no longer what was pinned.
        CheckpointError: nothing is there, or it cannot be used.
    """
    from tart_ray.training.start import start_fresh, start_from_checkpoint

    if model.path is not None:
        place = dataclasses.replace(_place_of(model, model.path, storage), fingerprint=fingerprint)
        return start_from_checkpoint(place, seed=seed, as_published=as_published)
    vocabulary = _fetch_vocabulary(model, storage)
    mimetic = model.initialisation == "mimetic"
    fresh, tokenizer = start_fresh(vocabulary, model.geometry, mimetic=mimetic, seed=seed)
    if hashlib.sha256(tokenizer.vocabulary).hexdigest() != fingerprint:
        raise CheckpointChangedError(f"{model.vocabulary}: is another vocabulary than the manifest's: {PUT_BACK}")
    return fresh, tokenizer


def _fetch_vocabulary(model: StartConfig, storage: StorageConfig) -> Path:
    """The local file of a new model's vocabulary, or the local directory that holds ``spiece.model``."""
    assert model.vocabulary is not None
    if Path(model.vocabulary).is_file():
        return Path(model.vocabulary)
    return resolve_checkpoint(_place_of(model, model.vocabulary, storage), weights=False)


def _place_of(model: StartConfig, path: str, storage: StorageConfig) -> CheckpointPlace:
    return CheckpointPlace(path, model.revision, storage.fsspec_options(path))
