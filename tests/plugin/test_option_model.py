"""`--llmguard-model NAME`: this model, whatever the project file and the environment say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.plugin.conftest import Toy


def test_it_wins_over_the_file_and_the_environment(
    toy: Toy, seen: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option, then MODEL_PATH, then `[model] path`; a folder is found from where pytest was started."""
    folder = toy.path / "here"
    folder.mkdir()
    assert seen()["model"] == "owner/in-file"
    monkeypatch.setenv("MODEL_PATH", "owner/in-environment")
    assert seen()["model"] == "owner/in-environment"
    assert seen("--llmguard-model", "here")["model"] == str(folder)
    assert seen("--llmguard-model", "owner/name")["model"] == "owner/name"


def test_it_leaves_the_rest_of_the_file(toy: Toy, seen: Callable[..., dict[str, Any]]) -> None:
    """Only the model is replaced."""
    assert seen("--llmguard-model", "owner/name")["adapter"] == str(toy.path / "in-file-adapter")
