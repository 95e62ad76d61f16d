"""The state of a training run, in storage: what a run that was stopped goes on from."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tart_ray.storage import Storage


@dataclass(frozen=True)
class StateFile:
    """A file that holds the last state; it is replaced as a whole or not at all.

    Attributes:
        url: a local path or a URL.
        confirm: called before each write; raises if another process has taken over the run.
    """

    storage: Storage
    url: str
    confirm: Callable[[], None] = lambda: None

    def load(self) -> dict[str, Any] | None:
        """The last state, its tensors on the CPU; None if there is none."""
        if not self.storage.exists(self.url):
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(self.storage.read(self.url)), map_location="cpu")
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Replace the state."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.confirm()
        self.storage.write(self.url, buffer.getbuffer())
