"""Pictures of figures: SVG that matplotlib draws, with text as text, in the colours of the page that it stands on."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from tart_ray.reports.figures import Comparison, Curve, Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import Locator

WIDTH, HEIGHT, ROW = 5.0, 3.0, 0.55  # inches of 72 units; on a narrow screen a unit is about a pixel
TOP_AND_BOTTOM = 0.9
# what matplotlib draws in → the variable of the page's style, and its value where a picture stands alone
INK, GRID, FIRST, SECOND, PAST = "#010101", "#020202", "#030303", "#040404", "#050505"
COLOURS = {
    INK: ("var(--ink)", "#1d2328"),
    GRID: ("var(--grid)", "#d0d7de"),
    FIRST: ("var(--first)", "#1b6ca8"),
    SECOND: ("var(--second)", "#b3541e"),
    PAST: ("var(--muted)", "#57606a"),
}
SERIES = ((FIRST, "-"), (SECOND, "--"), (INK, ":"))
SETTINGS: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}

Picture = Histogram | Curve | Comparison


def draw(figure: Picture, name: str, *, alone: bool = False) -> str:
    """The picture of a figure, as SVG to stand in a page.

    Args:
        name: of letters, digits and hyphens, which no other picture of the page has: its ids begin with it.
        alone: whether it is a file of its own, with colours of its own.
    """
    import matplotlib  # takes a moment, which only a finished run spends
    from matplotlib.figure import Figure

    rows = len(figure.rows) if isinstance(figure, Comparison) else 0
    with warnings.catch_warnings(), matplotlib.rc_context({**SETTINGS, "svg.hashsalt": name}):
        warnings.simplefilter("ignore")  # characters that matplotlib's font lacks: the page's has them
        canvas = Figure(figsize=(WIDTH, TOP_AND_BOTTOM + ROW * rows if rows else HEIGHT), layout="constrained")
        axes = canvas.add_subplot()
        if isinstance(figure, Histogram):
            _histogram(axes, figure)
        elif isinstance(figure, Curve):
            _curve(axes, figure)
        else:
            _comparison(axes, figure)
        file = io.StringIO()
        canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _adapted(file.getvalue(), figure.title, name, alone=alone)


def _histogram(axes: Axes, figure: Histogram) -> None:
    for (series, counts), (colour, line) in zip(figure.counts.items(), SERIES, strict=False):
        if colour == FIRST:
            axes.stairs(counts, figure.edges, fill=True, color=colour, label=series)
        else:
            axes.stairs(counts, figure.edges, color=colour, linestyle=line, linewidth=2, label=series)
    _finish(axes, figure.x, figure.y, figure.counts)
    of_integers = figure.edges[0] % 1 == 0.5  # as `figures.bin_edges` puts them
    axes.xaxis.set_major_locator(_locator(integer=of_integers))
    axes.yaxis.set_major_locator(_locator(integer=True))
    axes.set_ylim(bottom=0)


def _curve(axes: Axes, figure: Curve) -> None:
    if figure.diagonal:
        axes.plot([0, 1], [0, 1], color=PAST, linewidth=1)
    for (series, points), (colour, line) in zip(figure.lines.items(), SERIES, strict=False):
        marker = "o" if len(points) <= 20 else ""
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=line, marker=marker, label=series)
    _finish(axes, figure.x, figure.y, figure.lines)
    axes.xaxis.set_major_locator(_locator())
    values = [y for points in figure.lines.values() for _, y in points]
    if min(values) >= 0:
        axes.set_ylim(0, 1.08 * max([*values, float(figure.diagonal)]) or 1)


def _finish(axes: Axes, x: str, y: str, series: Mapping[str, Sequence[object]]) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(_locator())
    if [*series] != [""]:
        axes.legend()


def _comparison(axes: Axes, figure: Comparison) -> None:
    """Two bars a row; a thin line is the confidence interval, ticks are the worst and the best instruction."""
    for place, row in enumerate(figure.rows):
        for offset, value, colour in ((-0.18, row.first_stage, PAST), (0.18, row.reranked, FIRST)):
            if value is not None:
                axes.barh(place + offset, value, height=0.32, color=colour)
                ends = [end for end in (row.high, row.best) if end is not None and colour == FIRST]
                axes.text(max(value, 0, *ends), place + offset, f"  {value:.3f}", va="center", fontsize=10)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place + 0.18] * 2, color=SECOND, linewidth=2)
        ends = [end for end in (row.worst, row.best) if end is not None]
        axes.plot(ends, [place + 0.18] * len(ends), color=INK, marker="|", markersize=9, linestyle="none")
    axes.set_yticks(range(len(figure.rows)), [f"{row.label}\n{row.of}" for row in figure.rows])
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(_locator())
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.15 * (right - left))  # for the numbers at the ends of bars


def _locator(*, integer: bool = False) -> Locator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(5, integer=integer)


def _adapted(svg: str, title: str, name: str, *, alone: bool) -> str:
    """The SVG with its title, ids of its own, and colours of where it stands."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>|\s*<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    root = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]} role="img"'
    labelled = f'{root} aria-labelledby="{name}-title"><title id="{name}-title">{escape(title)}</title>'
    svg = re.sub(r"<svg.*?>", lambda _: labelled, svg, count=1, flags=re.DOTALL)
    for drawn, (variable, value) in COLOURS.items():
        svg = svg.replace(drawn, value if alone else variable)
    return svg
