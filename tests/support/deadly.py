"""What takes its process down, as native code does, or the kernel when memory runs out."""

from __future__ import annotations

import os
import signal
from typing import Any


def die(*_: Any) -> Any:
    """Never returns."""
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlyScorer:
    """In place of a Scorer."""

    max_tokens_per_batch = 1
    score_encoded = die


def load_deadly_scorer(_: Any) -> DeadlyScorer:
    """Loads well."""
    return DeadlyScorer()
