"""Figures of a report: numbers and words alone, which report.json holds and the page draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

BINS = 30

Cell = str | int | float | None
T = TypeVar("T")


@dataclass(frozen=True)
class Histogram:
    """How often values fall between neighbouring edges.

    Attributes:
        x: what is counted by value, with its unit; ``y``: what is counted.
        edges: of the bins, rising; each bin has its left edge, the last one both.
        counts: by the name of a series, one for each bin; a lone series may be called "".
        note: a sentence below it.
    """

    title: str
    x: str
    y: str
    edges: Sequence[float]
    counts: Mapping[str, Sequence[int]]
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """Lines through points (x, y), by name; a lone line may be called "".

    Attributes:
        diagonal: whether y = x is what one would like to see.
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    diagonal: bool = False
    note: str = ""


@dataclass(frozen=True)
class Compared:
    """One row of a `Comparison`; what is None is not drawn.

    Attributes:
        of: the measure, and whatever else tells rows of one label apart.
        low, high: the confidence interval of ``reranked``; ``worst``, ``best``: over instructions.
    """

    label: str
    of: str
    first_stage: float | None
    reranked: float
    low: float | None = None
    high: float | None = None
    worst: float | None = None
    best: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The first stage beside the reranked ranking, row by row."""

    title: str
    rows: Sequence[Compared]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells below a header."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


Figure = Histogram | Curve | Comparison | Table
Figures = Mapping[str, Sequence[Figure]]  # by the heading of their section


def as_json(figures: Figures) -> dict[str, list[dict[str, Any]]]:
    """Figures as report.json has them: the fields of each, and its ``kind``."""
    return {
        heading: [{"kind": type(figure).__name__.lower(), **dataclasses.asdict(figure)} for figure in found]
        for heading, found in figures.items()
    }


def evenly(items: Sequence[T], number: int) -> list[T]:
    """So many of the items at most, at even distances, in their order."""
    if len(items) <= number:
        return list(items)
    return [items[index * len(items) // number] for index in range(number)]


def bin_edges(values: npt.NDArray[Any], bins: int = BINS) -> list[float]:
    """Edges of at most so many bins that hold all values; those of integers lie between integers.

    Args:
        values: finite numbers, at least one.
    """
    low, high = values.min().item(), values.max().item()
    if np.issubdtype(values.dtype, np.integer):
        width = -(-(high - low + 1) // bins)
        number = -(-(high - low + 1) // width)
        return [low - 0.5 + width * index for index in range(number + 1)]
    if low == high:
        low, high = low - 0.5, high + 0.5
    return [float(edge) for edge in np.linspace(low, high, bins + 1)]


def histogram(
    title: str, x: str, y: str, values: Mapping[str, npt.NDArray[Any]], *, edges: Sequence[float] = (), note: str = ""
) -> Histogram | None:
    """Series of values, counted in the same bins; None where there is no value. Those that are not finite do not count.

    Args:
        edges: of the bins; without any, all values have one.
    """
    finite = {name: found[np.isfinite(found)] for name, found in values.items()}
    every = np.concatenate([*finite.values()]) if finite else np.empty(0)
    if not len(every):
        return None
    edges = list(edges) or bin_edges(every)
    counts = {name: np.histogram(found, edges)[0].tolist() for name, found in finite.items()}
    return Histogram(title, x, y, edges, counts, note)
