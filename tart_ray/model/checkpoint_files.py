"""Which files of a checkpoint a family of models reads, and hashes of what is in them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

VOCAB_FILE, TOKENIZER_CONFIG, ADDED_TOKENS = "spiece.model", "tokenizer_config.json", "added_tokens.json"
WEIGHTS = (".safetensors", ".bin", ".index.json")
HALF = 32  # hexadecimal digits of each of a fingerprint's two hashes


@dataclass(frozen=True)
class CheckpointFiles:
    """Which files of a checkpoint are read.

    Attributes:
        wanted: names of files, with the folder if they are in one.
        of_tokenizer: names of those that decide token ids; None: all but the weights.
        folders: names of folders to look into.
    """

    wanted: re.Pattern[str]
    of_tokenizer: frozenset[str] | None = None
    folders: re.Pattern[str] | None = None

    def choose(self, names: Iterable[str], *, weights: bool = True) -> set[str]:
        """What loading needs of these files: safetensors where there are any, else the older ``.bin``."""
        wanted = {name for name in names if self.wanted.fullmatch(name)}
        if not weights:
            return {name for name in wanted if not name.endswith(WEIGHTS)}
        chosen = set()
        for folder in {name.rpartition("/")[0] for name in wanted}:
            here = {name for name in wanted if name.rpartition("/")[0] == folder}
            first = f"{folder}/model" if folder else "model"
            has_safetensors = here & {
                f"{first}.safetensors",
                f"{first}.safetensors.index.json",
            }  # others are no model's
            left_out = (".bin", ".bin.index.json") if has_safetensors else (".safetensors", ".safetensors.index.json")
            chosen |= {name for name in here if not name.endswith(left_out)}
        return chosen

    def in_directory(self, folder: Path, *, weights: bool = True) -> set[str]:
        """What loading needs of a local directory."""
        return self.choose(self._names(folder), weights=weights)

    def looks_into(self, folder: str) -> bool:
        """Whether files of a folder are read."""
        return self.folders is not None and self.folders.fullmatch(folder) is not None

    def read_tokenizer(self, folder: Path) -> dict[str, bytes]:
        """The contents, by name, of the files that decide token ids."""
        names = self.of_tokenizer if self.of_tokenizer is not None else self.in_directory(folder, weights=False)
        return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}

    def digest(self, folder: Path) -> str:
        """A hash of all that is read of a local directory."""
        return digest(f"{name} {_file_digest(folder / name)}" for name in sorted(self.in_directory(folder)))

    def _names(self, folder: Path) -> Iterator[str]:
        for path in folder.iterdir():
            if path.is_dir() and self.looks_into(path.name):
                yield from (f"{path.name}/{inner.name}" for inner in path.iterdir())
            else:
                yield path.name


ENCT5_FILES = CheckpointFiles(
    re.compile(r"[^/]*\.json|spiece\.model|[^/]*\.safetensors|pytorch_model[^/]*\.bin"),
    frozenset({VOCAB_FILE, TOKENIZER_CONFIG, ADDED_TOKENS}),
)
CROSS_ENCODER_FILES = CheckpointFiles(  # of transformers and sentence-transformers, whose modules have numbered folders
    re.compile(r"(?:\d+_\w+/)?(?:[^/]*\.(?:json|txt|model|jinja|safetensors)|pytorch_model[^/]*\.bin)"),
    folders=re.compile(r"\d+_\w+"),
)


def tokenizer_digest(files: Mapping[str, bytes]) -> str:
    """The half of a fingerprint that is of the tokenizer."""
    return digest(f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files))


def digest(parts: Iterable[str]) -> str:
    """A hash of texts."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:HALF]


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
