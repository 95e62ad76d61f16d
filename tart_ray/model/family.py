"""Which family of cross-encoders a checkpoint is of, by what its configuration says; no code of its own is ever run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from tart_ray.errors import CheckpointError
from tart_ray.model.checkpoint import list_checkpoint
from tart_ray.model.place import CheckpointPlace

Family = Literal["enct5", "cross-encoder"]
OF_T5 = ("t5", "mt5")
MODULES = "modules.json"  # of sentence-transformers: the parts of a model, and the class of each


def family_of(place: CheckpointPlace) -> Family:
    """``enct5`` for the encoder of a T5 with a classifier upon its first token, ``cross-encoder`` for all others.

    Raises:
        CheckpointError: it is not there, its configuration cannot be read, or it needs code of its own.
    """
    names, open_file = list_checkpoint(place)

    def read(name: str) -> Any:
        with open_file(name) as file:
            try:
                return json.load(file)
            except ValueError as error:
                raise CheckpointError(f"{place.path}: {name} cannot be read as JSON: {error}") from error

    config = read("config.json")
    if not isinstance(config, dict):
        raise CheckpointError(f"{place.path}: config.json: got {type(config).__name__}, expected an object")
    modules = read(MODULES) if MODULES in names else None
    architectures = config.get("architectures") or []
    if modules is None and config.get("model_type") in OF_T5 and "T5ForSequenceClassification" not in architectures:
        return "enct5"
    check_needs_no_code(str(place.path), config, modules)
    return "cross-encoder"


def check_needs_no_code(origin: str, config: Mapping[str, Any], modules: Any) -> None:
    """Refuse a checkpoint that neither transformers nor sentence-transformers has the code of.

    Raises:
        CheckpointError: its model or one of its modules is none of theirs.
    """
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    foreign = [] if kind in CONFIG_MAPPING else [f"model_type {kind!r}"]
    if isinstance(modules, list):
        types = [str(module.get("type")) for module in modules if isinstance(module, dict)]
        foreign += [f"module {name}" for name in types if not name.startswith("sentence_transformers.")]
    if foreign:
        raise CheckpointError(
            f"{origin}: got {', '.join(foreign)}, which neither transformers nor sentence-transformers knows: code "
            "of a checkpoint is never run. Install a release that knows it, or take another checkpoint"
        )
