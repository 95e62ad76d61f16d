"""Rows of quarantine by reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

SAMPLES = 3  # rows that are shown of each reason


@dataclass
class BadRows:
    """The rows of one stage and reason: how many, and the first few of them."""

    stage: str
    reason: str
    number: int
    samples: list[dict[str, Any]] = field(default_factory=list)


def by_reason(tables: Iterable[pa.Table]) -> list[BadRows]:
    """Rows of `tart_ray.tables.schemas.QUARANTINE` by stage and reason, most first."""
    found: dict[tuple[str, str], BadRows] = {}
    for table in tables:
        for index, key in enumerate(zip(table["stage"].to_pylist(), table["reason"].to_pylist(), strict=True)):
            rows = found.setdefault(key, BadRows(*key, 0))
            rows.number += 1
            if len(rows.samples) < SAMPLES:
                rows.samples += table.slice(index, 1).to_pylist()
    return sorted(found.values(), key=lambda rows: (-rows.number, rows.stage, rows.reason))


def content_of(row: dict[str, Any]) -> str:
    """A row as it was in the input."""
    if row["row"] is not None:
        return str(row["row"])
    return bytes(row["raw"] or b"").decode(errors="replace")
