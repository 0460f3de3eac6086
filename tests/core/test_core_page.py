"""docs/core.md: its example runs as it stands there, its commands do, and its tables name what there is."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import llmguard_core
from llmguard_core.__main__ import main
from llmguard_core.lab import lab

pytestmark = [
    pytest.mark.needs_torch,
    # peft still asks transformers 5 for the old name
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


@pytest.fixture
def page(root: Path) -> str:
    """The page."""
    return (root / "docs/core.md").read_text("utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the page takes it to be: a base model, eight rows to train on, four to evaluate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_PATH", raising=False)
    (tmp_path / "model").symlink_to(lab().base)
    for name, count in (("train", 8), ("test", 4)):
        rows = [
            {"id": f"{name}{n}", "prompt": f"What is {n} + 2?", "response": f"It is {n + 2}."}
            for n in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.setattr("llmguard_core.training.run.png", lambda records, path: None)
    return tmp_path


def block(page: str, language: str) -> str:
    """The page's only block in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return str(found)


def test_the_example_runs_as_it_stands(page: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It trains, saves an adapter that loads by its own folder, and prints one completion."""
    names: dict[str, Any] = {}
    exec(compile(block(page, "python"), "docs/core.md", "exec"), names)  # noqa: S102  # the page's own code is the subject
    assert names["result"].steps == 2
    assert (here / "out/final/adapter_model.safetensors").is_file()
    assert any("verified against its base" in line for line in names["tuned"].route)
    assert capsys.readouterr().out.splitlines()[-1].startswith("['")


def test_the_commands_run_with_the_config(page: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One after another, each with exit code 0; the comparison at the end is JSON."""
    (here / "run.yaml").write_text(block(page, "yaml"))
    for line in block(page, "sh").splitlines():
        capsys.readouterr()
        python, module, name, *arguments = shlex.split(line)
        assert (python, module, name) == ("python", "-m", "llmguard_core")
        assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["models"]) == {"base", "tuned"}
    assert told["comparisons"][0]["n"] == 4


def test_the_table_of_parts_is_whole(page: str, root: Path) -> None:
    """Every module and folder of the core but its own machinery, every public name but those of errors and types."""
    parts = page.partition("## Its parts")[2].partition("## Guards")[0]
    named = set(re.findall(r"`(\w+)`", parts))
    core = root / "src/llmguard_core"
    modules = {p.stem for p in core.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert modules - named == {"__init__", "__main__", "commands", "encoded", "errors"}
    assert set(llmguard_core.__all__) - named <= {"CoreError", "Loaded", "read_rows"}
    assert named - modules <= set(llmguard_core.__all__)
