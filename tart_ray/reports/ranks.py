"""How reranking moved documents, beside the ranks that the first stage gave them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tart_ray.reports.figures import Cell, Figure, Table, histogram

DEPTHS = (1, 3, 10)
SHOWN = 3  # documents of a query
SNIPPET = 160  # characters

Ranks = npt.NDArray[np.int64]


class Ranked(NamedTuple):
    """A document of a query: its rank, from 1, that of the first stage or None, its margin, and its text if known."""

    doc_id: str
    rank: int
    before: int | None
    margin: float
    text: str | None


def moves(before: Ranks, after: Ranks, note: str = "") -> list[Figure]:
    """How far documents moved, and how many of the best ones were among the best before.

    Args:
        before, after: ranks of the same documents, int64 (documents,), from 1.
    """
    moved = histogram(
        "Rank moves", "ranks that a document moved up (below 0: down)", "documents", {"": before - after}, note=note
    )
    if moved is None:
        return []
    rows: list[list[Cell]] = []
    for depth in DEPTHS:
        top = after <= depth
        stayed = int((before[top] <= depth).sum())
        share = stayed / int(top.sum()) if top.any() else None
        lowest = int(before[top].max()) if top.any() else None
        rows.append([f"top {depth}", int(top.sum()), _percent(share), lowest])
    header = ["reranked", "documents", "of them in the first stage's", "lowest first-stage rank among them"]
    return [moved, Table("Where the top documents were before", header, rows, note)]


def example(query: str, documents: Sequence[Ranked]) -> Table:
    """The first documents of a query before and after; after alone where no first stage ranked them."""
    after = sorted(documents, key=lambda found: found.rank)[:SHOWN]
    ranked = [found for found in documents if found.before is not None]
    before = sorted(ranked, key=lambda found: (found.before, found.rank))[:SHOWN]
    header = ["rank", *(["first stage"] if before else []), "reranked"]
    rows: list[list[Cell]] = []
    for place in range(max(len(before), len(after))):
        columns = [before, after] if before else [after]
        cells = [_cell(found[place]) if place < len(found) else None for found in columns]
        rows.append([place + 1, *cells])
    return Table(query, header, rows)


def snippet(text: str, characters: int = SNIPPET) -> str:
    """The beginning of a text on one line, cut at a space where there is one."""
    line = " ".join(text[: 4 * characters].split())
    if len(line) <= characters:
        return line
    return f"{line[: characters + 1].rsplit(' ', 1)[0][:characters]} …"


def hardly_differ(margins: Sequence[npt.NDArray[np.float64]], least: float) -> float | None:
    """The median, over queries, of the largest less the smallest margin; None unless it is below ``least``.

    Args:
        margins: of each query; those of one document do not count.
    """
    spreads = [float(np.ptp(of_query)) for of_query in margins if len(of_query) > 1]
    median = float(np.median(spreads)) if spreads else None
    return median if median is not None and median < least else None


def _cell(found: Ranked) -> str:
    came = f", was {found.before}" if found.before is not None and found.before != found.rank else ""
    text = f": {snippet(found.text)}" if found.text else ""
    return f"{found.doc_id} (margin {found.margin:.2f}, now {found.rank}{came}){text}"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"
