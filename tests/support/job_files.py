"""Input files written, and output read, as users do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

WORDS = "wing flow heat plate shock layer jet body lift drag panel flutter theory test mach edge skin cone tail".split()


def write_jsonl(path: Path, rows: list[Any]) -> None:
    """One row a line; a string is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))


def read_output(run: Path | str, part: str = "reranked", **kwargs: Any) -> list[dict[str, Any]]:
    """The rows of one part of a run's output, as pyarrow reads them."""
    partitioning = ds.partitioning(flavor="hive") if part == "reranked" else None
    table: pa.Table = ds.dataset(str(Path(run) / part), partitioning=partitioning, **kwargs).to_table()
    return table.to_pylist()


def report_of(run: Path) -> dict[str, Any]:
    """The run's report."""
    found: dict[str, Any] = json.loads((run / "report.json").read_text())
    return found
