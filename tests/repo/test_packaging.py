"""What an installation exposes and declares: three packages, four Pythons, light dependencies, one version."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HEAVY = {
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "datasets",
    "pyarrow",
    "tokenizers",
    "scipy",
    "statsmodels",
}
REQUIREMENT = re.compile(r"^[A-Za-z0-9][\w.\-]*")


@pytest.fixture(scope="session")
def declared(root: Path) -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def names(requirements: list[str]) -> set[str]:
    """The distributions that these requirements name."""
    return {found[0].lower().replace("_", "-") for each in requirements if (found := REQUIREMENT.match(each))}


@pytest.mark.parametrize(
    "module", ["tests", "ci", "benchmarks", "regressions", "examples", "docs", "conftest", "src"]
)
def test_the_checkout_is_not_importable_from_elsewhere(tmp_path: Path, module: str) -> None:
    """An installation, editable or not, puts no folder of the checkout onto the path."""
    code = f"import importlib.util as u; s = u.find_spec({module!r}); print(s and (s.origin or s.submodule_search_locations))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = done.stdout.strip()
    assert "llmguard" not in found
    assert str(Path(__file__).resolve().parents[2]) not in found


@pytest.mark.parametrize("package", ["llmguard", "llmguard_core", "pytest_llmguard"])
def test_the_packages_are_found_from_elsewhere(tmp_path: Path, package: str) -> None:
    """All three, from any folder."""
    code = f"import importlib.util as u; print(u.find_spec({package!r}).origin)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith(f"{package}/__init__.py")


def test_the_version_is_one(declared: dict[str, Any]) -> None:
    """The package, its metadata and its source say the same version."""
    import llmguard

    assert (
        llmguard.__version__
        == declared["project"]["version"]
        == importlib.metadata.version("pytest-llmguard")
    )


def test_the_entry_points_can_be_loaded() -> None:
    """The command and the plugin are where the metadata say."""
    points = importlib.metadata.distribution("pytest-llmguard").entry_points
    found = {(point.group, point.name): point for point in points}
    assert found["pytest11", "llmguard"].value == "pytest_llmguard.plugin"
    assert callable(found["console_scripts", "llmguard"].load())


def test_base_dependencies_are_light(declared: dict[str, Any]) -> None:
    """What is heavy is an extra."""
    assert names(declared["project"]["dependencies"]) & HEAVY == set()


def test_the_extra_all_is_every_extra(declared: dict[str, Any]) -> None:
    """`all` names each of the others, so none is forgotten."""
    extras = declared["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(re.findall(r"\w+", everything.partition("[")[2])) == set(extras) - {"all"}


def test_constraints_pin_all_that_is_declared(root: Path, declared: dict[str, Any]) -> None:
    """One exact version for every dependency, without the label of a wheel's origin."""
    lines = [
        line
        for line in (root / "ci" / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    loose = [
        line for line in lines if not re.fullmatch(r'[\w.\-]+==[\w.]+(?:; python_version >= "3\.\d+")?', line)
    ]
    assert not loose, f"not NAME==VERSION: {loose}"
    wanted = {*names(declared["project"]["dependencies"])}
    for requirements in declared["project"]["optional-dependencies"].values():
        wanted |= names(requirements)
    only_below_311 = {"tomli"}
    assert wanted - {"pytest-llmguard"} - only_below_311 - names(lines) == set()
    assert "torch==2.13.0" in lines


def test_lowest_versions_are_the_promised_ones(root: Path, declared: dict[str, Any]) -> None:
    """ci/lowest.txt pins each base dependency within what pyproject.toml allows, at its lower end."""
    lowest = dict(
        line.split("==") for line in (root / "ci" / "lowest.txt").read_text().splitlines() if "==" in line
    )
    for requirement in declared["project"]["dependencies"]:
        name, promised = re.split(r">=", requirement.partition(";")[0].strip())
        pinned = lowest[name.lower()]
        assert [int(n) for n in pinned.split(".")] >= [int(n) for n in promised.split(".")], name
        assert pinned.split(".")[0] == promised.split(".")[0], (
            f"{name}: {pinned} is not at the lower end of >={promised}"
        )


def test_the_pythons_of_ci_are_the_classifiers(root: Path, declared: dict[str, Any]) -> None:
    """The matrix of the workflow is read from nowhere, so it is compared."""
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(declared["project"]["classifiers"]))
    workflow = (root / ".github" / "workflows" / "ci.yml").read_text()
    matrix = re.search(r"python: \[(.+)\]", workflow)
    assert matrix
    assert re.findall(r"3\.\d+", matrix[1]) == promised


def test_changelog_speaks_of_this_version(root: Path, declared: dict[str, Any]) -> None:
    """Either what comes next, or the version that pyproject.toml names, has an entry with something in it."""
    text = (root / "CHANGELOG.md").read_text()
    entries = dict(re.findall(r"^## \[?([\w.]+)\]?.*\n((?:(?!^## ).*\n?)*)", text, re.MULTILINE))
    assert {"Unreleased", declared["project"]["version"]} & set(entries)
    assert all(re.search(r"^- .+", body, re.MULTILINE) for body in entries.values()), (
        "an entry without a line"
    )
