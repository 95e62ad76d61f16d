"""What the extras of the package bring, and what to say where one is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

EXTRAS = {  # what each brings: distribution → module; all but the first are named by a job
    "cross-encoders": {"accelerate": "accelerate", "sentence-transformers": "sentence_transformers"},
    "demo": {"bm25s": "bm25s", "ir-measures": "ir_measures"},
    "evaluate": {"bm25s": "bm25s", "ir-measures": "ir_measures", "scipy": "scipy"},
    "relabel": {"scikit-learn": "sklearn"},
    "train": {"ir-measures": "ir_measures"},
}
ON_EVERY_NODE = ", on every node"


def missing_of_extra(name: str, only_with: str = "", *, where: str = ON_EVERY_NODE) -> str:
    """What of an extra is not installed and how to install it, in a sentence; empty if nothing is missing.

    Args:
        name: of the extra and of the job that needs it.
        only_with: the key that needs it, where not all configurations do.
        where: it is to be installed.
    """
    missing = [package for package, module in EXTRAS[name].items() if importlib.util.find_spec(module) is None]
    needed_by = f"jobs.{name} with {only_with}" if only_with else f"jobs.{name}"
    return how_to_install(name, missing, needed_by=needed_by, where=where) if missing else ""


def how_to_install(extra: str, missing: Sequence[str], *, needed_by: str, where: str = ON_EVERY_NODE) -> str:
    """That packages are missing and which extra brings them, in a sentence."""
    are = "is" if len(missing) == 1 else "are"
    return f"{needed_by} needs {', '.join(missing)}, which {are} not installed: pip install 'tart-ray[{extra}]'{where}"
