"""Versions: pairs that break each other, and requirements that are not met."""

from __future__ import annotations

import pytest

from llmguard import Severity
from llmguard.checks.versions import CLASHES, version_pairs_are_compatible
from llmguard.probe.environment import Environment


def _installed(requires: dict[str, tuple[str, ...]] | None = None, **versions: str) -> Environment:
    found = Environment("/project")
    names = {name.replace("_", "-"): version for name, version in versions.items()}
    found.__dict__.update(installed=names, requirements=requires or {})
    return found


@pytest.mark.parametrize(
    ("versions", "breaks"),
    [
        ({"transformers": "4.52.1", "accelerate": "1.2.1"}, "keep_torch_compile"),
        ({"transformers": "4.52.1", "accelerate": "1.3.0"}, ""),
        ({"transformers": "4.51.3", "accelerate": "1.2.1"}, ""),
        ({"transformers": "4.56.0", "accelerate": "1.9.0"}, "parallelism_config"),
        ({"transformers": "4.56.1", "accelerate": "1.9.0"}, ""),
        ({"transformers": "5.2.0", "peft": "0.17.1"}, "HybridCache"),
        ({"transformers": "5.2.0", "peft": "0.18.0"}, ""),
        ({"transformers": "4.57.0", "peft": "0.17.1"}, ""),
        ({"transformers": "5.0.0", "trl": "0.11.4"}, "processing_class"),
        ({"transformers": "5.0.0", "trl": "0.12.0"}, ""),
        ({"transformers": "5.0.0"}, ""),
        ({"transformers": "5.0.0.dev0", "peft": "a fork"}, ""),
    ],
)
def test_known_pairs_are_errors(versions: dict[str, str], breaks: str) -> None:
    """On the versions where the released code was read, and on their neighbours that are fine."""
    found = version_pairs_are_compatible(_installed(**versions))
    assert [breaks in finding.message for finding in found] == ([True] if breaks else [])
    assert all(finding.severity is Severity.ERROR for finding in found)
    assert found.looked_at == len(versions)


def test_every_known_pair_has_been_seen() -> None:
    """A pair without a source is hearsay."""
    assert all(clash.source and clash.breaks for clash in CLASHES)
    assert len({(clash.one, clash.other) for clash in CLASHES}) == len(CLASHES)


def test_a_requirement_that_another_version_stands_in_for_is_a_warning() -> None:
    """Many pins are cautious; a build's local part does not matter."""
    world = _installed(
        {"transformers": ("tokenizers<0.22,>=0.21", "numpy>=1.17")},
        transformers="4.52.1",
        tokenizers="0.22.1",
        numpy="2.4.0+local",
    )
    found = version_pairs_are_compatible(world)
    assert [finding.severity for finding in found] == [Severity.WARNING]
    assert "transformers 4.52.1 requires tokenizers<0.22,>=0.21, and 0.22.1 is installed" in found[0].message


def test_a_requirement_that_is_missing_is_an_error() -> None:
    """Extras, other systems and lines that cannot be read are left alone."""
    requires = (
        "a-library-that-nobody-has>=1", "another-one; extra == 'vision'", "a-third; sys_platform == 'win32'", "not a requirement (",
    )  # fmt: skip
    found = version_pairs_are_compatible(_installed({"trl": requires}, trl="1.0.0"))
    assert [finding.severity for finding in found] == [Severity.ERROR]
    assert "requires a-library-that-nobody-has, which is not installed" in found[0].message
    assert "pip install 'a-library-that-nobody-has>=1'" in found[0].remedy


def test_what_is_installed_is_read_from_metadata() -> None:
    """Names as they are written there, versions that are really there."""
    environment = Environment("/project")
    assert environment.version("pytest") == pytest.__version__
    assert environment.version("a-library-that-nobody-has") is None
    assert environment.installed["numpy"]
    assert set(environment.requirements) == set(environment.installed)


def test_this_environment_is_compatible() -> None:
    """The suite itself runs on libraries that fit each other."""
    assert [
        f.message
        for f in version_pairs_are_compatible(Environment("/project"))
        if f.severity is Severity.ERROR
    ] == []
