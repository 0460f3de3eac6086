"""docs/checks.md is what its generator writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from llmguard.catalogue import CHECKS


@pytest.fixture(scope="module")
def generator(root: Path) -> ModuleType:
    """ci/gen_docs.py as a module."""
    spec = importlib.util.spec_from_file_location("gen_docs", root / "ci" / "gen_docs.py")
    if spec is None or spec.loader is None:
        pytest.fail("ci/gen_docs.py cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(generator: ModuleType, root: Path) -> None:
    """What lies in docs is what the catalogue and the docstrings say today."""
    assert (root / "docs" / "checks.md").read_text("utf-8") == generator.document(), (
        "run python ci/gen_docs.py"
    )


def test_every_check_has_its_section_and_its_link(generator: ModuleType) -> None:
    """The page has a heading for each check, and a link to it under its family."""
    page = generator.document()
    for entry in CHECKS:
        assert f"\n### {entry.name}\n" in page
        assert f"[{entry.name}](#{entry.name})" in page


def test_a_stale_page_is_told(generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--check` writes nothing and ends with 1 where the page differs; without it the page is written."""
    page = tmp_path / "docs" / "checks.md"
    page.parent.mkdir()
    page.write_text("old", "utf-8")
    monkeypatch.setattr(generator, "TARGET", page)
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    assert generator.main(["--check"]) == 1
    assert page.read_text("utf-8") == "old"
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
