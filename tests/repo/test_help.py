"""What the command line tells of itself: each marker, option and hook with a sentence of help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def markers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`pytest --markers` in an empty folder: marker -> help, ours alone."""
    folder = tmp_path_factory.mktemp("empty")
    command = [sys.executable, "-m", "pytest", "--markers", "-p", "no:cacheprovider"]
    both = []
    for extra in ([], ["-p", "no:llmguard"]):
        done = subprocess.run([*command, *extra], cwd=folder, capture_output=True, text=True, check=True)
        both.append(dict(re.findall(r"^@pytest\.mark\.([^:]+): ?(.*)$", done.stdout, re.MULTILINE)))
    return {name: text for name, text in both[0].items() if name not in both[1]}


def test_every_marker_has_a_help_sentence(markers: dict[str, str]) -> None:
    """A marker that prints `None` or nothing helps nobody."""
    mute = [name for name, text in markers.items() if len(text.split()) < 3 or "None" in text]
    assert not mute


def test_the_markers_that_were_promised_are_there(markers: dict[str, str]) -> None:
    """The tiers, each family, bugs and GPU memory."""
    from llmguard.catalogue import FAMILIES, TIERS

    plain = {re.split(r"\W", name)[0] for name in markers}
    assert {*TIERS, *FAMILIES, "bug", "gpu_memory"} - plain == set()


def test_every_option_has_a_help_sentence(tmp_path: Path) -> None:
    """`pytest --help` says what each of our options and ini keys is for."""
    command = [sys.executable, "-m", "pytest", "--help", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    text = re.sub(r"\n {20,}", " ", done.stdout)
    options = dict(re.findall(r"^ +(--llmguard-[\w\-]+)(?:[=, ]\S+)? *(.*)$", text, re.MULTILINE))
    ini = dict(re.findall(r"^ +(llmguard_\w+) \([^)]*\):? *(.*)$", text, re.MULTILINE))
    assert options
    assert {name[2:].replace("-", "_") for name in options} <= set(ini), "an option without its ini twin"
    mute = [name for name, sentence in {**options, **ini}.items() if len(sentence.split()) < 3]
    assert not mute
