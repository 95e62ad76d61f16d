"""Whether a checkpoint can be scored with, or trained from: all that is known before any model is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tart_ray.model.checkpoint import is_directory, is_hub_id, list_checkpoint
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.model.weights import check_geometry, check_values


def check_checkpoint(
    path: str | Path,
    *,
    fingerprint: str,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    with_head: bool = True,
) -> None:
    """Load the tokenizer, read the headers of the weights, and the weights themselves where they are on this machine.

    The weights of a hub id are looked at if they are in its cache. Whoever loads the others looks at their values.

    Args:
        with_head: a classifier must be among the weights, of one label or two.

    Raises:
        CheckpointError: the tokenizer cannot be read, or the weights are damaged, incomplete, of another geometry than
            ``config.json`` says, or no numbers.
    """
    where: dict[str, Any] = {"revision": revision, "storage_options": storage_options}
    tokenizer = EncT5Tokenizer.from_pretrained(path, fingerprint=fingerprint, **where)
    sizes, open_file = list_checkpoint(path, **where)
    tokens = len(tokenizer) if with_head else 0  # a start may get its row for <s> later
    check_geometry(str(path), sizes, open_file, tokens=tokens, with_head=with_head, needs_weights=not is_hub_id(path))
    if is_directory(path):
        check_values(str(path), sizes, open_file)
