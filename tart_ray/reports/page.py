"""report.html: one file that needs nothing else, right in light and dark, on wide and narrow screens."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from tart_ray.reports.figures import Comparison, Curve, Figure, Figures, Histogram, Table

log = logging.getLogger(__name__)

_PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader("tart_ray.reports", ""), autoescape=True, trim_blocks=True, lstrip_blocks=True
).get_template


@dataclass(frozen=True)
class Page:
    """What the page says.

    Attributes:
        lead: what a person would say of the run in a few sentences.
        warnings: sentences about what may be wrong; ``remarks``: about what is good to know.
        balances: how the rows reconcile.
        command: that shows more of the bad rows; empty where there are none.
        counts, facts, settings: by name; the settings are those that differ from the defaults, as YAML has their keys.
    """

    job: str
    lead: str
    balances: str
    counts: Mapping[str, Any]
    settings: Mapping[str, Any]
    warnings: Sequence[str] = ()
    remarks: Sequence[str] = ()
    figures: Figures = field(default_factory=dict)
    command: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class _Shown(NamedTuple):
    text: str
    number: bool


class _Figure(NamedTuple):
    title: str
    note: str
    picture: str = ""
    header: Sequence[str] = ()
    numeric: frozenset[str] = frozenset()  # columns of numbers
    rows: Sequence[Sequence[_Shown]] = ()


def render(page: Page) -> str:
    """The page as HTML. Every text is escaped."""
    sections = [
        (heading, [_figure(figure, f"picture-{place}-{index}") for index, figure in enumerate(figures)])
        for place, (heading, figures) in enumerate(page.figures.items())
        if figures
    ]
    facts = {name.replace("_", " "): _shown(value) for name, value in page.facts.items()}
    tables = [
        ("Details", [*facts.items()]),
        ("Configuration", [(name, _shown(value)) for name, value in page.settings.items()]),
    ]
    counts = [(name.replace("_", " "), _shown(value)) for name, value in page.counts.items()]
    shown = [(title, rows) for title, rows in tables if rows]
    return _PAGE("page.html").render(page=page, sections=sections, counts=counts, tables=shown)


def _figure(figure: Figure, name: str) -> _Figure:
    if isinstance(figure, Table):
        rows = [[_shown(cell) for cell in row] for row in figure.rows]
        columns = zip(figure.header, *rows, strict=True)
        numeric = frozenset(title for title, *cells in columns if any(cell.number for cell in cells))
        return _Figure(figure.title, figure.note, header=figure.header, numeric=numeric, rows=rows)
    assert isinstance(figure, Histogram | Curve | Comparison)
    from tart_ray.reports.pictures import draw

    try:
        picture = Markup(draw(figure, name))  # noqa: S704 -- its texts are escaped
    except Exception as error:  # of a library: a run of weeks does not fail for a picture
        log.warning("the report lacks the picture %r", figure.title, exc_info=True)
        return _Figure(
            figure.title, f"It could not be drawn: {type(error).__name__}: {error}. report.json has its figures."
        )
    return _Figure(figure.title, figure.note, picture)


def _shown(value: Any) -> _Shown:
    """A value as text: numbers with their thousands apart, structures as JSON."""
    if isinstance(value, bool):
        return _Shown(str(value).lower(), False)
    if isinstance(value, int):
        return _Shown(f"{value:,}", True)
    if isinstance(value, float):
        return _Shown(f"{value:,.2f}" if abs(value) >= 0.1 or not value else f"{value:.3g}", True)
    if value is None or isinstance(value, str):
        return _Shown(value or "", False)
    return _Shown(json.dumps(value, ensure_ascii=False), False)
