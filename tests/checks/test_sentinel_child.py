"""The generating child around the user's own function: what it returns, how it fails, and that it cannot hang the check."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmguard.checks.sentinel import base_model_fails_instruction_prompts
from llmguard.errors import EvidenceError, UsageError
from llmguard.sentinels import SENTINELS, Route, collect

OBEDIENT = """
from llmguard.sentinels import SENTINELS
ANSWERS = {s.prompt: s.example for s in SENTINELS}

def generate(prompts):
    return tuple(ANSWERS[p] for p in prompts)
"""


def run(folder: Path, source: str, **settings: float) -> object:
    """Completions of a project whose `generate` is the given source."""
    (folder / "mine.py").write_text(source, "utf-8")
    return collect(Route(generate="mine:generate", folder=folder), **settings)  # type: ignore[arg-type]  # floats alone


def test_a_function_alone_is_judged_by_the_bound(tmp_path: Path) -> None:
    """No model, no control: 32 of 32 followed is above the limit."""
    (tmp_path / "mine.py").write_text(OBEDIENT, "utf-8")
    completions = collect(Route(generate="mine:generate", folder=tmp_path))
    assert completions.control is None
    assert completions.verdict.user == len(SENTINELS)
    (finding,) = base_model_fails_instruction_prompts(completions)
    assert "[pipeline] generate = 'mine:generate'" in finding.message
    assert "there is no control" in finding.message


def test_a_function_that_samples_gives_the_same_twice(tmp_path: Path) -> None:
    """Seeds are set before it is called."""
    source = "import random\ndef generate(prompts):\n    return [str(random.random()) for _ in prompts]\n"
    first, second = run(tmp_path, source), run(tmp_path, source)
    assert first.user.texts == second.user.texts  # type: ignore[attr-defined]  # Completions
    assert len(set(first.user.texts)) == len(SENTINELS)  # type: ignore[attr-defined]  # Completions


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("def generate(prompts):\n    return None\n", "returned a NoneType, expected a list of 32 texts"),
        ("def generate(prompts):\n    return prompts[:5]\n", "returned a list of 5 texts, expected a list of 32"),
        ("def generate(prompts):\n    return [1 for _ in prompts]\n", "a list of 32 with a int in it"),
        ("def generate(prompts):\n    return {}[prompts[0]]\n", "KeyError"),
        ("def generate(prompts):\n    raise SystemExit(0)\n", "SystemExit"),
        ("def other(prompts):\n    return prompts\n", "mine has no generate"),
        ("def generate(prompts:\n", "SyntaxError"),
    ],
)  # fmt: skip
def test_mistakes_of_the_function_are_told_with_their_place(tmp_path: Path, source: str, told: str) -> None:
    """What it returned or raised, and where; no traceback."""
    with pytest.raises(EvidenceError) as caught:
        run(tmp_path, source)
    assert told in str(caught.value)
    assert "mine:generate" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_exception_names_the_users_line(tmp_path: Path) -> None:
    """File and line of the last frame that is the user's."""
    with pytest.raises(EvidenceError, match=r"mine\.py:3"):
        run(tmp_path, "def generate(prompts):\n    x = 1\n    return x / 0\n")


def test_a_function_that_kills_its_process_is_told(tmp_path: Path) -> None:
    """No response is no success."""
    with pytest.raises(EvidenceError, match="sentinel prompts"):
        run(tmp_path, "import os\ndef generate(prompts):\n    os._exit(0)\n")


def test_a_function_that_hangs_is_ended(tmp_path: Path) -> None:
    """Nothing moves: the probe ends it, long before its hard deadline."""
    source = "import threading\ndef generate(prompts):\n    threading.Event().wait()\n"
    with pytest.raises(EvidenceError, match="sentinel prompts"):
        run(tmp_path, source, no_progress=1.0)


def test_a_route_without_model_and_function_is_a_usage_error() -> None:
    """There is nothing to generate with."""
    with pytest.raises(UsageError, match="model"):
        Route()


def test_as_many_prompts_as_sentinels(tmp_path: Path) -> None:
    """Prompts are matched to sentinels by position."""
    with pytest.raises(UsageError, match="one for each of 32"):
        collect(Route(model=str(tmp_path), prompts=["a", "b"]))
