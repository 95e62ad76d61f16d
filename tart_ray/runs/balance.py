"""How rows reconcile: what went in, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class ReconciliationError(RuntimeError):
    """Rows went in that did not come out: a fault of this program, never of the input."""


@dataclass(frozen=True)
class Balance:
    """A number of rows, and the numbers of those that each thing became of.

    Raises:
        ReconciliationError: they are not the same.
    """

    name: str
    whole: int
    parts: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.whole != sum(self.parts.values()):
            raise ReconciliationError(f"{self.name} ≠ {' + '.join(self.parts)}: {self}")

    def __str__(self) -> str:
        parts = " + ".join(f"{name} {number:,}" for name, number in self.parts.items())
        return f"{self.name} {self.whole:,} = {parts}"
