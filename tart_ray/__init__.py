"""tart-ray: score large candidate sets with an instruction-following cross-encoder on a Ray cluster."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tart_ray.version import __version__ as __version__

if TYPE_CHECKING:
    from tart_ray import config, errors
    from tart_ray.api import RunResult, evaluate, mine_negatives, open_run, plan, relabel, rerank, train
    from tart_ray.model.enct5 import EncT5ForSequenceClassification
    from tart_ray.model.tokenizer import EncT5Tokenizer
    from tart_ray.scoring.scorer import Scorer
    from tart_ray.scoring.scores import Scores

__all__ = [
    "EncT5ForSequenceClassification",
    "EncT5Tokenizer",
    "RunResult",
    "Scorer",
    "Scores",
    "config",
    "errors",
    "evaluate",
    "mine_negatives",
    "open_run",
    "plan",
    "relabel",
    "rerank",
    "train",
]

_MODULES = ("config", "errors")
_HOMES = {
    "EncT5ForSequenceClassification": "tart_ray.model.enct5",
    "EncT5Tokenizer": "tart_ray.model.tokenizer",
    "Scorer": "tart_ray.scoring.scorer",
    "Scores": "tart_ray.scoring.scores",
    **dict.fromkeys(
        ("RunResult", "evaluate", "mine_negatives", "open_run", "plan", "relabel", "rerank", "train"), "tart_ray.api"
    ),
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import tart_ray.config` loads no torch."""
    if name in _MODULES:
        return importlib.import_module(f"tart_ray.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tart_ray' has no attribute {name!r}; it offers {__all__}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
