"""The page of a report in headless Chromium: quiet, not blank, in the reader's colours, never wider than the screen."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from support.pages import example_page

from tart_ray.reports.page import render

CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium-headless-shell")
MEASURE = """<script>
const { scrollWidth, clientWidth } = document.documentElement;
document.title = `${scrollWidth} of ${clientWidth}`;
</script>"""
LIGHT, DARK = 1, 0  # of Chromium's setting


def chromium(page: Path, width: int, scheme: int, *options: str) -> tuple[str, list[str]]:
    """What Chromium prints, and the messages of the page's console."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},1200",
            f"--blink-settings=preferredColorScheme={scheme}", *options, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.parametrize(("width", "scheme"), [(1200, LIGHT), (1200, DARK), (400, LIGHT)])
def test_the_page_as_a_reader_sees_it(width: int, scheme: int, tmp_path: Path) -> None:
    from matplotlib.image import imread

    page, picture = tmp_path / "report.html", tmp_path / "shot.png"
    html = render(example_page())
    page.write_text(html)
    _, said = chromium(page, width, scheme, f"--screenshot={picture}")
    assert said == []
    pixels = imread(picture)[..., :3].mean(axis=2)
    paper = pixels[0, 0]
    assert paper > 0.9 if scheme == LIGHT else paper < 0.2
    ink = np.abs(pixels - paper) > 0.5
    assert 0.005 < ink.mean() < 0.5
    page.write_text(html + MEASURE)
    shown, said = chromium(page, width, scheme, "--dump-dom")
    assert said == []
    found = re.search(r"<title>(\d+) of (\d+)</title>", shown)
    assert found is not None
    assert found[1] == found[2]
