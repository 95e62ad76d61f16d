"""Which releases a run's rows are of: of this project's own parts, and of the libraries that scores depend on.

Every part that decides a score or a row has a version beside its code, which goes up when the same input would give
other rows. They are in the identity of a run, and in the keys by which jobs.relabel takes scores over, so that one run
is of one release. Libraries are asked for their metadata: a driver does not import torch.
"""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Mapping

from tart_ray.errors import OtherReleaseError
from tart_ray.model.tokenizer import TOKENISING_VERSION
from tart_ray.scoring import SCORING_VERSION

NUMBERS = {"torch": 2, "transformers": 2, "sentencepiece": 3}  # of a release that count: patches give the same scores


def versions_of_scores() -> dict[str, int | str]:
    """What the score of a pair depends on beside the checkpoint and the pair."""
    return {"tokenising": TOKENISING_VERSION, "scoring": SCORING_VERSION, **library_releases()}


def library_releases() -> dict[str, str]:
    """The releases of libraries on this node, as far as scores depend on them."""
    return {
        name: ".".join(importlib.metadata.version(name).partition("+")[0].split(".")[:numbers])
        for name, numbers in NUMBERS.items()
    }


def check_releases(expected: Mapping[str, str]) -> None:
    """Refuse to work on this node with other releases than the driver's, which are the manifest's.

    Raises:
        OtherReleaseError: a library has another one.
    """
    found = library_releases()
    other = [
        f"{name} {found[name]}, expected {release}" for name, release in expected.items() if found[name] != release
    ]
    if other:
        raise OtherReleaseError(
            f"node {socket.gethostname()}: got {'; '.join(other)} as in the run's manifest: install the same releases "
            "on every node and run the same command again"
        )
