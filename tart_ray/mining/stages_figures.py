"""Figures of mining for its report: margins of positives beside negatives, and what each filter removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from tart_ray.mining.settings import Settings
from tart_ray.mining.stages import Mined
from tart_ray.reports.figures import Cell, Figure, Table, evenly, histogram
from tart_ray.runs.directory import Directory
from tart_ray.tables.masks import as_mask

PAIRS = 200_000  # whose buckets are read, at most


def margins(run: Directory, mined: Mapping[str, Mined], settings: Settings) -> list[Figure]:
    """For each policy the margins of its negatives beside those of positives, of some buckets at even distances."""
    units = [unit for unit, record in mined.items() if record.rows <= PAIRS]
    chosen = evenly(units, max(1, PAIRS // max((mined[unit].rows or 1 for unit in units), default=1)))
    tables = {
        name: [run.read_table(name, f"{unit}.parquet", columns=columns) for unit in chosen]
        for name, columns in (("positives", ["margin"]), ("negatives", ["margin", "policy"]))
    }
    positives = _joined([np.asarray(table["margin"].to_numpy(), np.float64) for table in tables["positives"]])
    note = f"Of {len(chosen):,} of {len(mined):,} buckets of queries." if len(chosen) < len(mined) else ""
    drawn = []
    for policy in settings.policies:
        of_policy = [t.filter(as_mask(pc.equal(t["policy"], policy.name)))["margin"] for t in tables["negatives"]]
        negatives = _joined([np.asarray(column.to_numpy(), np.float64) for column in of_policy])
        series = {"negatives": negatives, "positives": positives}
        drawn.append(histogram(f"Policy {policy.name}", "margin", "pairs", series, note=note))
    return [figure for figure in drawn if figure is not None]


def by_filter(policies: Mapping[str, Mapping[str, int]]) -> list[Figure]:
    """What each policy chose and each of its filters removed, as report.json has it."""
    rows: list[list[Cell]] = [
        [policy, name, number] for policy, found in policies.items() for name, number in found.items()
    ]
    return [Table("What the policies chose and dropped", ["policy", "candidates", "number"], rows)] if rows else []


def _joined(parts: list[Any]) -> Any:
    return np.concatenate([np.empty(0), *parts])
