"""Installations: libraries that are there twice, requirements that are not there; in real folders of metadata."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.matrix import Matrix, fault

from llmguard import Severity
from llmguard.checks.installed import declared_requirements_are_installed, each_library_is_installed_once
from llmguard.probe.environment import Environment
from llmguard.sources.read import Sources

HAVE = pytest.__version__


def install(folder: Path, name: str, version: str, package: str = "") -> None:
    """What an installer leaves: a dist-info folder with METADATA and RECORD."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    (info / "RECORD").write_text(f"{package or name}/__init__.py,,\n", "utf-8")
    (info / "top_level.txt").write_text(f"{package or name}\n", "utf-8")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An import path with nothing on it but this folder."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    return folder


def test_this_environment_has_each_library_once() -> None:
    """The negative control that everybody has."""
    found = each_library_is_installed_once(Environment("/project"))
    assert [f.message for f in found] == []
    assert found.looked_at >= 1


@fault("G4")
def test_two_versions_in_one_folder_are_an_error(site: Path, matrix: Matrix) -> None:
    """An upgrade that broke off: both say that they are installed."""
    install(site, "torch", "2.4.0")
    install(site, "torch", "2.6.0")
    (told,) = each_library_is_installed_once(Environment("/project"))
    matrix.saw("torch is installed 2 times")
    assert told.severity is Severity.ERROR
    assert "2.4.0 in" in told.message
    assert "2.6.0 in" in told.message


@fault("G4")
def test_a_second_version_further_down_the_path_is_a_warning(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matrix: Matrix
) -> None:
    """As `pip install --user` leaves it; the same version again, or the same folder twice, is nobody's fault."""
    user = tmp_path / "user"
    install(site, "torch", "2.6.0")
    install(user, "torch", "2.6.0")
    monkeypatch.setattr(sys, "path", [str(site), str(user), str(site)])
    assert each_library_is_installed_once(Environment("/project")) == []
    install(user, "peft", "0.15.0")
    install(site, "peft", "0.18.0")
    (told,) = each_library_is_installed_once(Environment("/project"))
    matrix.saw("peft is installed 2 times, a warning")
    assert told.severity is Severity.WARNING
    assert f"0.18.0 in {site}, 0.15.0 in {user}" in told.message


@fault("G4")
def test_two_distributions_of_one_package_are_an_error(site: Path, matrix: Matrix) -> None:
    """A vendor's build beside the release: one has overwritten the other."""
    install(site, "triton", "3.2.0")
    assert each_library_is_installed_once(Environment("/project")) == []
    install(site, "pytorch-triton", "3.3.0", package="triton")
    (told,) = each_library_is_installed_once(Environment("/project"))
    matrix.saw("triton is brought by 2 distributions")
    assert "`triton` is brought by 2 distributions: pytorch-triton, triton" in told.message


def wanted(folder: Path, *named: str) -> Sources:
    """The sources of a project whose requirements are these."""
    return Sources((), folder, requirements=named)


@fault("G3")
def test_a_declared_requirement_that_is_not_installed_is_told(tmp_path: Path, matrix: Matrix) -> None:
    """An error in a file that the project names, a warning in one that merely lies there."""
    (tmp_path / "requirements.txt").write_text(f"pytest=={HAVE}\nno-such-thing>=2  # needed\n", "utf-8")
    for named, severity in ((("requirements.txt",), Severity.ERROR), ((), Severity.WARNING)):
        found = declared_requirements_are_installed(wanted(tmp_path, *named), Environment("/project"))
        assert [(f.severity, f.where.key) for f in found] == [(severity, "no-such-thing")]
        assert found.looked_at == 2
    matrix.saw("no-such-thing>=2 is declared and not installed here")


def test_another_version_than_declared_is_a_warning(tmp_path: Path) -> None:
    """Both versions are said; included files are read."""
    (tmp_path / "base.txt").write_text("pytest<1\n", "utf-8")
    (tmp_path / "requirements.txt").write_text("-r base.txt\n", "utf-8")
    (told,) = declared_requirements_are_installed(wanted(tmp_path), Environment("/project"))
    assert told.severity is Severity.WARNING
    assert f"pytest<1 is declared, and {HAVE} is installed" in told.message


def test_what_is_not_needed_here_is_left_alone(tmp_path: Path) -> None:
    """Other systems, extras, builds from URLs, folders, development files, pins with hashes that are met, and tables of other tools."""
    (tmp_path / "requirements.txt").write_text(
        f"nothing-1; sys_platform == 'win32'\npytest @ https://example.org/x.whl\n-e .\n./vendored\n"
        f"pytest=={HAVE} --hash=sha256:{'0' * 64}\npytest[nothing-3]\n",
        "utf-8",
    )
    (tmp_path / "requirements-dev.txt").write_text("nothing-4\n", "utf-8")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\ndependencies = ["pytest"]\n[project.optional-dependencies]\nmore = ["nothing-5"]\n',
        "utf-8",
    )
    found = declared_requirements_are_installed(wanted(tmp_path), Environment("/project"))
    assert [f.message for f in found] == []
    assert found.looked_at == 4


@pytest.mark.parametrize("text", ["dependencies = [", "[project]\ndependencies = [3]\n"])
def test_a_file_that_cannot_be_read_is_another_checks_business(tmp_path: Path, text: str) -> None:
    """It is told where imports are held against declarations."""
    (tmp_path / "pyproject.toml").write_text(text, "utf-8")
    assert declared_requirements_are_installed(wanted(tmp_path), Environment("/project")).looked_at == 0
