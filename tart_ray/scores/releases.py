"""Which releases a run's rows are of: of this project's own parts, and of the libraries that scores depend on.

Every part that decides a score or a row has a version beside its code, which goes up when the same input would give
other rows. They are in the identity of a run, and in the keys by which jobs.relabel takes scores over, so that one run
is of one release. Libraries are asked for their metadata: a driver does not import torch.
"""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Iterable, Mapping

from tart_ray.errors import ConfigurationError, OtherReleaseError
from tart_ray.model.cross_encoder import CROSS_ENCODER_VERSION, missing_library
from tart_ray.model.family import Family
from tart_ray.model.tokenizer import TOKENISING_VERSION
from tart_ray.scoring import SCORING_VERSION

# numbers of a release that count: patches give the same scores
NUMBERS = {"torch": 2, "transformers": 2, "sentencepiece": 3, "sentence-transformers": 2, "tokenizers": 2}
LIBRARIES: dict[Family, tuple[str, ...]] = {
    "enct5": ("torch", "transformers", "sentencepiece"),
    "cross-encoder": ("torch", "transformers", "sentence-transformers", "tokenizers"),
}


def versions_of_scores(family: Family = "enct5") -> dict[str, int | str]:
    """What the score of a pair depends on beside the checkpoint and the pair."""
    tokenising = {"tokenising": TOKENISING_VERSION} if family == "enct5" else {"cross_encoder": CROSS_ENCODER_VERSION}
    return {**tokenising, "scoring": SCORING_VERSION, **library_releases(family)}


def library_releases(family: Family = "enct5") -> dict[str, str]:
    """The releases of libraries on this node, as far as scores of a family depend on them.

    Raises:
        ConfigurationError: one of them is not installed.
    """
    return _releases(LIBRARIES[family])


def check_releases(expected: Mapping[str, str]) -> None:
    """Refuse to work on this node with other releases than the driver's, which are the manifest's.

    Raises:
        OtherReleaseError: a library has another one.
    """
    found = _releases(expected)
    other = [
        f"{name} {found[name]}, expected {release}" for name, release in expected.items() if found[name] != release
    ]
    if other:
        raise OtherReleaseError(
            f"node {socket.gethostname()}: got {'; '.join(other)} as in the run's manifest: install the same releases "
            "on every node and run the same command again"
        )


def _releases(names: Iterable[str]) -> dict[str, str]:
    try:
        return {
            name: ".".join(importlib.metadata.version(name).partition("+")[0].split(".")[: NUMBERS[name]])
            for name in names
        }
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigurationError(missing_library(str(error.name))) from None
