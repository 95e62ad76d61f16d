"""The tokenizer's files in a checkpoint: the vocabulary, and what is said of it beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tart_ray.errors import CheckpointError
from tart_ray.model.checkpoint import resolve_checkpoint
from tart_ray.model.checkpoint_files import ADDED_TOKENS, ENCT5_FILES, TOKENIZER_CONFIG, VOCAB_FILE
from tart_ray.model.fetching import check_tokenizer
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.truncation import DEFAULT_MAX_LENGTH


@dataclass(frozen=True)
class TokenizerSettings:
    """What a checkpoint says of its tokenizer; ``bos_token_id`` is None where it says nothing of ``<s>``."""

    extra_ids: int
    bos_token_id: int | None
    model_max_length: int


def read_files(place: CheckpointPlace) -> tuple[Path, bytes, TokenizerSettings]:
    """The file of a checkpoint's vocabulary, what it holds, and the settings beside it.

    Raises:
        CheckpointError: there is no such checkpoint, it holds no ``spiece.model``, or its files cannot be read.
        CheckpointChangedError: another one is there.
    """
    folder = resolve_checkpoint(place, weights=False)
    files = ENCT5_FILES.read_tokenizer(folder)  # once: what is hashed is what is used
    check_tokenizer(place, files)
    if VOCAB_FILE not in files:
        raise CheckpointError(
            f"{place.path}: no {VOCAB_FILE} (T5's sentencepiece vocabulary); "
            f"found {sorted(file.name for file in folder.iterdir())}"
        )
    return folder / VOCAB_FILE, files[VOCAB_FILE], _read_settings(place.path, files)


def _read_settings(origin: str | Path, files: Mapping[str, bytes]) -> TokenizerSettings:
    """The settings in a tokenizer's files, given by name.

    Raises:
        CheckpointError: they are not what a T5 tokenizer writes.
    """
    config = _parse_json(origin, TOKENIZER_CONFIG, files)
    added = _parse_json(origin, ADDED_TOKENS, files)
    try:
        for token_id, token in config.get("added_tokens_decoder", {}).items():
            added.setdefault(token["content"], int(token_id))
        bos = added.get("<s>")
        return TokenizerSettings(
            extra_ids=int(config.get("extra_ids", 100)),
            bos_token_id=None if bos is None else int(bos),
            # old checkpoints say 1e30 for "no limit"; TART was trained with 512
            model_max_length=int(min(config.get("model_max_length", DEFAULT_MAX_LENGTH), DEFAULT_MAX_LENGTH)),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{origin}: {TOKENIZER_CONFIG} or {ADDED_TOKENS} is not what a T5 tokenizer writes: {error!r}"
        ) from error


def write_files(folder: Path, vocabulary: bytes, settings: TokenizerSettings, tokenizer_class: str) -> None:
    """Write the vocabulary and its description in the layout of the published checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab_file = folder / VOCAB_FILE
    if not vocab_file.is_file() or vocab_file.read_bytes() != vocabulary:
        vocab_file.write_bytes(vocabulary)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    sentinels = [f"<extra_id_{i}>" for i in range(settings.extra_ids)]
    special_tokens = names | {"additional_special_tokens": sentinels}
    config = special_tokens | {
        "extra_ids": settings.extra_ids,
        "model_max_length": settings.model_max_length,
        "tokenizer_class": tokenizer_class,
    }
    _write_json(folder / ADDED_TOKENS, {"<s>": settings.bos_token_id})
    _write_json(folder / "special_tokens_map.json", special_tokens)
    _write_json(folder / TOKENIZER_CONFIG, config)


def _parse_json(origin: str | Path, name: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        value = json.loads(files.get(name, b"{}"))
    except ValueError as error:
        raise CheckpointError(f"{origin}: {name} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{origin}: {name}: got {type(value).__name__}, expected an object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
