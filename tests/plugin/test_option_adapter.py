"""`--llmguard-adapter NAME`: this adapter folder, whatever the project file says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Toy


def test_it_wins_over_the_file(toy: Toy, seen: Callable[..., dict[str, Any]]) -> None:
    """A folder is found from where pytest was started; the model stays as it is."""
    (toy.path / "here").mkdir()
    assert seen()["adapter"] == str(toy.path / "in-file-adapter")
    assert seen("--llmguard-adapter", "here") == {
        "model": "owner/in-file",
        "adapter": str(toy.path / "here"),
        "kind": None,
    }


def test_one_that_is_not_there_stays_a_path(toy: Toy, seen: Callable[..., dict[str, Any]]) -> None:
    """From the project's folder: the check that reads it says that it is missing."""
    assert seen("--llmguard-adapter", "nowhere")["adapter"] == str(toy.path / "nowhere")


def test_it_leaves_model_path_alone(seen: Callable[..., dict[str, Any]], monkeypatch: Any) -> None:
    """MODEL_PATH still wins over the file when only the adapter is replaced."""
    monkeypatch.setenv("MODEL_PATH", "owner/in-environment")
    assert seen("--llmguard-adapter", "nowhere")["model"] == "owner/in-environment"
