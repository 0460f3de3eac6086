"""One path for a new check, enforced: a line in the catalogue, a function, a test, a paragraph in the docs."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

from llmguard.catalogue import CHECKS, FAMILIES, TIERS, Entry
from llmguard.contract import Check, RowCheck
from llmguard.evidence import KINDS, SETTINGS


def loaded(entry: Entry) -> Check[...] | RowCheck[...]:
    """The check of an entry; fails with the line to look at."""
    try:
        found = entry.load()
    except (ImportError, AttributeError) as broken:
        pytest.fail(f"catalogue.py lists {entry.name} in {entry.module}: {broken}", pytrace=False)
    return found


def declared() -> dict[str, str]:
    """Every check that a module of `llmguard.checks` defines -> that module."""
    package = importlib.import_module("llmguard.checks")
    found = {}
    for path in sorted(Path(str(package.__file__)).parent.glob("*.py")):
        module = (
            importlib.import_module(f"llmguard.checks.{path.stem}") if path.stem != "__init__" else package
        )
        for value in vars(module).values():
            if isinstance(value, (Check, RowCheck)) and value.__module__ == module.__name__:
                found[value.name] = module.__name__
    return found


def words(paths: list[Path]) -> set[str]:
    """Every identifier in these files."""
    return {word for path in paths for word in re.findall(r"[a-z_0-9]{8,}", path.read_text(encoding="utf-8"))}


def test_every_entry_is_a_check_of_that_name() -> None:
    """The module that an entry names holds a check, and its name is the entry's."""
    wrong = [
        entry.name
        for entry in CHECKS
        if not isinstance(loaded(entry), (Check, RowCheck)) or loaded(entry).name != entry.name
    ]
    assert not wrong, f"no @check or @row_check of that name: {', '.join(wrong)}"


def test_every_check_is_in_the_catalogue() -> None:
    """A check that the catalogue does not list never runs."""
    missing = {
        name: module for name, module in declared().items() if name not in {entry.name for entry in CHECKS}
    }
    assert not missing, f"add one line to src/llmguard/catalogue.py for each of: {missing}"


def test_names_are_unique_and_families_and_tiers_exist() -> None:
    """One name, one check; only families and tiers that there are."""
    names = [entry.name for entry in CHECKS]
    assert sorted(names) == sorted(set(names))
    assert {entry.family for entry in CHECKS} <= set(FAMILIES)
    assert {entry.tier for entry in CHECKS} <= set(TIERS)


def test_parameters_are_evidence_or_settings() -> None:
    """Parameters are bound by name: a name that nothing provides could never be bound."""
    unknown = {entry.name: sorted(set(loaded(entry).parameters) - {*KINDS, *SETTINGS}) for entry in CHECKS}
    unknown = {name: parameters for name, parameters in unknown.items() if parameters}
    assert not unknown, f"no evidence kind and no setting (llmguard/evidence/__init__.py): {unknown}"


def test_what_an_entry_needs_is_what_its_check_requires() -> None:
    """`needs` lists the parameters without a default, and nothing else."""
    wrong = {}
    for entry in CHECKS:
        required = {name for name, optional in loaded(entry).parameters.items() if not optional}
        if required - set(SETTINGS) != set(entry.needs) - set(SETTINGS):
            wrong[entry.name] = f"requires {sorted(required)}, the catalogue says {sorted(entry.needs)}"
    assert not wrong, wrong


def test_what_a_check_is_repeated_over_has_targets() -> None:
    """`over` names an evidence kind that can say its targets."""
    kinds = {entry.over for entry in CHECKS if entry.over}
    assert kinds <= set(KINDS)
    silent = [kind for kind in sorted(kinds) if not hasattr(importlib.import_module(KINDS[kind]), "targets")]
    assert not silent, f"no `targets(project)` in the provider of: {', '.join(silent)}"


def test_row_checks_explain_themselves() -> None:
    """A row check without an explanation could not give findings."""
    mute = [e.name for e in CHECKS if isinstance(loaded(e), RowCheck) and loaded(e)._explain is None]  # type: ignore[union-attr]  # a RowCheck
    assert not mute, f"add @<name>.explain for: {', '.join(mute)}"


def test_every_check_says_its_promise_in_one_line() -> None:
    """The first line of the docstring is a sentence: `llmguard explain` and the docs print it."""
    first = {entry.name: (inspect.getdoc(loaded(entry)) or "").partition("\n")[0] for entry in CHECKS}
    without = [name for name, line in first.items() if not line.endswith(".") or len(line) < 20]
    assert not without, f"no one-line promise that ends with a full stop: {', '.join(without)}"


def test_every_check_has_a_test(root: Path) -> None:
    """A check that no test names was never seen to reject or to accept."""
    named = words([path for room in ("tests", "regressions") for path in (root / room).rglob("test_*.py")])
    without = [
        f"{entry.name} (tests/checks/test_{entry.module.rpartition('.')[2]}.py)"
        for entry in CHECKS
        if entry.name not in named
    ]
    assert not without, f"checks that no test names: {', '.join(without)}"


def test_every_check_is_documented(root: Path) -> None:
    """docs/checks.md names every check of the catalogue, and no other."""
    page = root / "docs" / "checks.md"
    if not page.exists():
        pytest.skip("no docs/checks.md yet")
    headings = set(re.findall(r"^#+ `?([a-z_0-9]+)`?$", page.read_text(encoding="utf-8"), re.MULTILINE))
    names = {entry.name for entry in CHECKS}
    assert not names - headings, f"docs/checks.md lacks: {', '.join(sorted(names - headings))}"
    stale = {heading for heading in headings - names if "_" in heading}
    assert not stale, f"docs/checks.md describes checks that are gone: {', '.join(sorted(stale))}"


def test_every_family_has_its_marker() -> None:
    """The plugin's copy of the families, kept so that start-up loads no catalogue, is the catalogue's."""
    from pytest_llmguard.markers import FAMILIES as markers

    assert tuple(markers) == FAMILIES
