"""The HTML report shows what a run has drawn of itself, where the project names its output folder."""

from __future__ import annotations

from typing import Any

import pytest

PROJECT = '[model]\nkind = "base"\n[environment]\noutput_dir = "out"\n'
PLOT = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'


@pytest.mark.parametrize("axis", [("-p", "no:xdist"), ("-n", "2")], ids=["bare", "two-workers"])
def test_the_plot_of_a_run_is_in_the_report(toy: Any, axis: tuple[str, ...]) -> None:
    """Whichever process ran the checks; without a plot, or with one that is no plot by its size, the report is as ever."""
    toy.checks("toy_holds")
    toy.project(PROJECT)
    toy.run(*axis, "--llmguard-html", "before.html")
    assert "Training so far" not in (toy.path / "before.html").read_text("utf-8")
    (toy.path / "out").mkdir()
    (toy.path / "out" / "metrics.svg").write_text(PLOT, "utf-8")
    toy.run(*axis, "--llmguard-html", "after.html")
    page = (toy.path / "after.html").read_text("utf-8")
    assert "Training so far" in page
    assert "out/metrics.svg" in page
    (toy.path / "out" / "metrics.svg").write_bytes(b"x" * (1 << 20 | 1))
    toy.run(*axis, "--llmguard-html", "large.html")
    assert "Training so far" not in (toy.path / "large.html").read_text("utf-8")
