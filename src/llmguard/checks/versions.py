"""Environment, versions: the training libraries that are installed fit each other; read from metadata, nothing is imported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, warning

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment

__all__ = ["version_pairs_are_compatible"]


@dataclass(frozen=True)
class Clash:
    """Two ranges of versions that break each other although their metadata allows the pair."""

    one: str
    other: str
    breaks: str
    source: str


CLASHES = (
    Clash(
        "transformers>=4.52,<5", "accelerate<1.3",
        "the Trainer calls Accelerator.unwrap_model(keep_torch_compile=…), which came with accelerate 1.3", "transformers#38339",
    ),
    Clash(
        "transformers==4.56.0", "accelerate<1.10",
        "the Trainer reads Accelerator.parallelism_config, which came with accelerate 1.10", "transformers#40668",
    ),
    Clash(
        "transformers>=5", "peft<0.18",
        "peft imports HybridCache from transformers, which 5 no longer has", "peft#3333",
    ),
    Clash(
        "transformers>=5", "trl<0.12",
        "trl hands `tokenizer` to the Trainer, which takes only `processing_class` since 5", "trl 0.11.4, sft_trainer.py",
    ),
    Clash(
        "torch<2.3", "numpy>=2",
        "torch was built against numpy 1: every conversion between the two fails with 'Numpy is not available'", "pytorch#107302",
    ),
)  # fmt: skip
"""Read in the released wheels of both sides."""


@check
def version_pairs_are_compatible(environment: Environment) -> Yields:
    """No pair of installed training libraries is known to break, and each finds the versions that it requires.

    Known pairs are errors; a requirement that another version stands in for is a warning, since many such pins are cautious.
    Extras are not looked at: nobody can tell which of them were meant.
    """
    yield from _known(environment)
    for name in sorted(environment.installed):
        yield from _unmet(environment, name)
    return len(environment.installed)


def _known(environment: Environment) -> Iterator[Finding]:
    for clash in CLASHES:
        one, other = Requirement(clash.one), Requirement(clash.other)
        have = [environment.installed.get(side.name) for side in (one, other)]
        if have[0] and have[1] and _within(one.specifier, have[0]) and _within(other.specifier, have[1]):
            pair = f"{one.name} {have[0]} and {other.name} {have[1]}"
            yield error(
                Where(what="python environment"),
                what=f"{pair} break each other: {clash.breaks} ({clash.source})",
                why="the run stops with a TypeError, an AttributeError or an ImportError, often only at its first step or save",
                cause="metadata that allows the pair, so that pip says nothing",
                remedy=f"upgrade {other.name} until it is no longer {other.specifier}",
                expected=f"not {clash.one} with {clash.other}",
                actual=pair,
            )


def _unmet(environment: Environment, name: str) -> Iterator[Finding]:
    for text in environment.requirements.get(name, ()):
        try:
            needed = Requirement(text)
        except InvalidRequirement:
            continue
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        have = environment.version(needed.name)
        if have is None:
            yield _absent(environment, name, needed)
        elif not _within(needed.specifier, have):
            yield _other_version(environment, name, needed, have)


def _within(allowed: SpecifierSet, version: str) -> bool:
    """Builds and pre-releases count as what they are; a version that is none is let through."""
    try:
        return allowed.contains(version, prereleases=True)
    except InvalidVersion:
        return True


def _absent(environment: Environment, name: str, needed: Requirement) -> Finding:
    return error(
        Where(what="python environment"),
        what=f"{name} {environment.installed[name]} requires {needed.name}, which is not installed",
        why="its import fails, or a part of it that is reached only hours into a run",
        cause="an installation without dependencies (`--no-deps`), or a package that was removed",
        remedy=f"python -m pip install '{needed.name}{needed.specifier}'",
        expected=f"{needed.name}{needed.specifier}",
        actual="not installed",
    )


def _other_version(environment: Environment, name: str, needed: Requirement, have: str) -> Finding:
    return warning(
        Where(what="python environment"),
        what=f"{name} {environment.installed[name]} requires {needed.name}{needed.specifier}, and {have} is installed",
        why="the two were never tested together; what breaks shows only when it is reached",
        cause="a later `pip install` that changed it, with a message that nobody saw",
        remedy=f"python -m pip install '{needed.name}{needed.specifier}', or upgrade {name}",
        expected=f"{needed.name}{needed.specifier}",
        actual=have,
    )


version_pairs_are_compatible.unit = "libraries"
