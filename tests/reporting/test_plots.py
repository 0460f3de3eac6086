"""Plots of a run in the page: shown as images, in which nothing can run; loaded from nowhere else."""

from __future__ import annotations

import base64
import re

from llmguard.reporting.html import render

DOCUMENT = {"version": 1, "project": "p", "checks": [], "totals": {}}
EVIL = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def test_a_plot_is_an_image_and_nothing_else() -> None:
    """What stands in an SVG of the user's folder is data: in an image no script runs and nothing is fetched."""
    page = render(DOCUMENT, [("out/<b>metrics.svg", EVIL)])
    assert "alert(1)" not in page
    (image,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert base64.b64decode(image) == EVIL
    assert "img-src data:" in page
    assert "out/&lt;b&gt;metrics.svg" in page


def test_without_a_plot_the_page_lets_no_image_in() -> None:
    """The policy stays closed."""
    page = render(DOCUMENT)
    assert "img-src" not in page
    assert "Training so far" not in page
