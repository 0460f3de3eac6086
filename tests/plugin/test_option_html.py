"""`--llmguard-html FILE`: written beside the JSON report, from the same document, also when the session broke."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy


def text(toy: Toy, name: str = "out/report") -> str:
    return (toy.path / name).read_text("utf-8")


def test_it_is_written_without_json(toy: Toy) -> None:
    """Alone, into folders that are made for it; the summary names it."""
    result = toy.run("--llmguard-html", "out/report")
    assert "14 of 200 rows" in text(toy)
    result.stdout.fnmatch_lines(["html report: *out/report"])


def test_it_is_written_after_a_usage_error(toy: Toy) -> None:
    """Whatever breaks, the file is there and holds the error."""
    assert toy.run("--llmguard-html", "out/report", "--no-such-option").ret == pytest.ExitCode.USAGE_ERROR
    assert "--no-such-option" in text(toy)


def test_from_the_ini_file(toy: Toy) -> None:
    """The twin."""
    toy.write("pytest.ini", "[pytest]\nllmguard_html = out/report\n")
    toy.run()
    assert "toy_fails" in text(toy)


def test_a_renderer_that_breaks_ends_no_session(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other reports are written, and what went wrong is told in one line."""
    from llmguard.reporting import html

    def broken(document: object, plots: object) -> str:
        raise ZeroDivisionError("rendering")

    monkeypatch.setattr(html, "render", broken)
    toy.checks("toy_holds")
    result = toy.run("--llmguard-html", "out/report", "--llmguard-json", "r.json")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["html report could not be written to *: ZeroDivisionError: rendering"])
    assert toy.outcomes(toy.read("r.json")) == {"toy_holds": "passed"}
