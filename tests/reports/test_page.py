"""The page of a report: what it says, that texts are escaped, that pictures are whole."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from support.pages import HOSTILE, example_page

from tart_ray.reports.figures import Compared, Comparison, Curve, Histogram
from tart_ray.reports.page import render
from tart_ray.reports.pictures import draw

PICTURES = [
    Histogram("Margins <b>", "margin", "pairs", [0, 1, 2], {"negatives": [3, 4], "positives": [1, 0]}),
    Curve("Reliability", "p", "relevant", {"": [(0.1, 0.2), (0.5, 0.4)]}, diagonal=True),
    Comparison(
        "Tasks", [Compared("<script>", "$p$-MRR", -0.1, 0.2, 0.1, 0.3, 0.15, 0.25), Compared("b", "m", None, 0)]
    ),
]


@pytest.mark.parametrize("figure", PICTURES, ids=lambda figure: type(figure).__name__)
def test_a_picture_has_text_as_text_and_the_colours_of_its_page(figure: Histogram | Curve | Comparison) -> None:
    svg = draw(figure, "one")
    assert "var(--first)" in svg
    assert not re.search(r"#0[0-9]0[0-9]0[0-9]", svg)
    assert "<text" in svg
    root = ET.fromstring(svg)  # noqa: S314 -- made here
    assert root.findtext("{http://www.w3.org/2000/svg}title") == figure.title
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert ids
    assert all(id_.startswith("one-") for id_ in ids)
    assert {*re.findall(r'(?:href="|url\()#([^")]*)', svg)} <= {*ids}
    assert draw(figure, "one") == svg  # the same figures give the same file
    assert "var(" not in draw(figure, "one", alone=True)


def test_texts_are_escaped_and_the_page_needs_nothing_else() -> None:
    page = render(example_page())
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;") >= 8
    assert "<script" not in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith(("#", "data:")) for link in links)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len({*ids})
    assert page.index('class="lead"') < page.index('class="warning"') < page.index("<svg")
    assert page.index("Every row is accounted for") < page.index("model.max_length")
    assert "1,234" in page


def test_a_picture_that_cannot_be_drawn_costs_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise RuntimeError("no font")

    monkeypatch.setattr("tart_ray.reports.pictures.draw", fail)
    page = render(example_page())
    assert "It could not be drawn: RuntimeError: no font. report.json has its figures." in page
