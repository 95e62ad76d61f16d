"""The table as a picture: SVG, made of bars, that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

ROW, BAR, LABEL, WIDTH, TOP = 46, 13, 230, 460, 46
FIRST, SECOND, LINE = "#b8c4d0", "#2f6f9f", "#222"


def draw(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row of the table is two bars, of the first stage and of the reranked ranking.

    A thin line is the confidence interval of the mean; ticks are the worst and the best instruction. Zero is at the
    left, or in the middle where a value is negative, as p-MRR can be.
    """
    shown = [row for row in rows if row["reranked"] is not None]
    numbers = [row[name] for row in shown for name in ("reranked", "first_stage", "low") if row.get(name) is not None]
    least = -1.0 if any(number < 0 for number in numbers) else 0.0
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LABEL + WIDTH + 70} {TOP + ROW * len(shown) + 10}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img">',
        "<title>First stage and reranked, task by task</title>",
        f'<rect x="{LABEL}" y="10" width="12" height="12" fill="{FIRST}"/>'
        f'<text x="{LABEL + 18}" y="20">first stage</text>',
        f'<rect x="{LABEL + 110}" y="10" width="12" height="12" fill="{SECOND}"/>'
        f'<text x="{LABEL + 128}" y="20">reranked, with its confidence interval</text>',
    ]
    for index, row in enumerate(shown):
        top = TOP + index * ROW
        of = row["measure"] if row["setup"] == "closed" else f"{row['measure']}, {row['setup']}"
        parts.append(f'<text x="{LABEL - 8}" y="{top + 11}" text-anchor="end">{escape(row["task"])}</text>')
        parts.append(f'<text x="{LABEL - 8}" y="{top + 25}" text-anchor="end" fill="#666">{escape(of)}</text>')
        for place, (name, colour) in enumerate((("first_stage", FIRST), ("reranked", SECOND))):
            if row[name] is not None:
                parts.append(_bar(row[name], least, top + place * (BAR + 2), colour))
        middle = top + BAR + 2 + BAR / 2
        if row.get("low") is not None:
            parts.append(_line(_x(row["low"], least), middle, _x(row["high"], least), middle))
        for end in ("worst", "best"):
            if row[end] is not None:
                x = _x(row[end], least)
                parts.append(_line(x, middle - 5, x, middle + 5))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(value: float, least: float) -> float:
    return LABEL + (min(max(value, least), 1.0) - least) / (1 - least) * WIDTH


def _bar(value: float, least: float, y: float, colour: str) -> str:
    left, right = sorted((_x(0, least), _x(value, least)))
    text = f'<text x="{LABEL + WIDTH + 8}" y="{y + 11:g}">{value:.3f}</text>'
    return f'<rect x="{left:.1f}" y="{y:g}" width="{right - left:.1f}" height="{BAR}" fill="{colour}"/>{text}'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:g}" x2="{x2:.1f}" y2="{y2:g}" stroke="{LINE}"/>'
