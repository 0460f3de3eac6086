"""Sentinels from a project file: which route it names, and the check's outcome on it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmguard.auditing import Audit
from llmguard.catalogue import Entry
from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence, Options
from llmguard.evidence.completions import provide, route_of
from llmguard.formats import text_format
from llmguard.project import load_project
from llmguard.report import CheckResult, Outcome
from llmguard.sentinels import SENTINELS

NAME = "base_model_fails_instruction_prompts"
ENTRY = Entry(NAME, "llmguard.checks.sentinel", "sentinel", "sentinel", ("completions",))


def evidence(folder: Path, text: str) -> Evidence:
    """The evidence of a project file of this text."""
    (folder / "llmguard.toml").write_text(text, "utf-8")
    return Evidence(load_project(folder / "llmguard.toml"))


def outcome(folder: Path, text: str) -> CheckResult:
    """What the check says of a project file of this text."""
    found = evidence(folder, text)
    try:
        return Audit(found.project, evidence=found).run(ENTRY)
    finally:
        found.close()


def test_bare_instructions_are_the_default_of_a_base_model(tmp_path: Path) -> None:
    """The prompt as it is, on the CPU, the adapter left alone."""
    (tmp_path / "m").mkdir()
    route = route_of(evidence(tmp_path, '[model]\npath = "m"\nkind = "base"\nadapter = "a"\n'))
    assert (route.model, route.shown, route.device) == (str(tmp_path / "m"), "m", "cpu")
    assert route.prompts is route.build is route.generate is route.adapter is None
    assert not route.chat_template
    assert not route.adapter_active
    assert route.add_special_tokens


def test_the_chat_template_format_goes_through_the_template(tmp_path: Path) -> None:
    """As the project says that it prompts."""
    route = route_of(evidence(tmp_path, '[model]\npath = "m"\n[prompt]\nformat = "chat-template"\n'))
    assert route.chat_template


def test_a_text_format_gives_the_prompts(tmp_path: Path) -> None:
    """Written by the format, one a sentinel, encoded as the project says."""
    text = '[model]\npath = "m"\n[prompt]\nformat = "zephyr"\nadd_special_tokens = false\n'
    project = evidence(tmp_path, text).project
    told: Any = SimpleNamespace(
        project=project, options=Options(), get=lambda kind: text_format("zephyr", "</s>")
    )
    route = route_of(told)
    assert route.prompts is not None
    assert route.prompts[0] == f"<|user|>\n{SENTINELS[0].prompt}</s>\n<|assistant|>\n"
    assert len(route.prompts) == len(SENTINELS)
    assert not route.add_special_tokens


def test_a_builder_gets_a_row_of_the_projects_own(tmp_path: Path) -> None:
    """With every column that it may read, and the instruction in the prompt's place."""
    (tmp_path / "train.jsonl").write_text('{"ask": "a", "say": "b", "topic": "c"}\n', "utf-8")
    text = '[model]\npath = "m"\n[prompt]\nbuild = "mine:build"\n[data]\ntrain = "train.jsonl"\nprompt = "ask"\nresponse = "say"\n'
    route = route_of(evidence(tmp_path, text))
    assert (route.build, route.column, route.as_messages) == ("mine:build", "ask", False)
    assert route.row == {"ask": "a", "say": "b", "topic": "c"}


def test_a_builder_of_conversations_gets_messages(tmp_path: Path) -> None:
    """One message of the user's, also where the data cannot be read."""
    text = '[model]\npath = "m"\n[prompt]\nbuild = "mine:build"\n[data]\ntrain = "none.jsonl"\nmessages = "turns"\n'
    route = route_of(evidence(tmp_path, text))
    assert (route.column, route.as_messages, route.row) == ("turns", True, {})


def test_a_generate_function_wins_and_knows_the_adapter_as_a_suspect(tmp_path: Path) -> None:
    """Prompts are then its own business."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text("{}", "utf-8")
    text = '[model]\npath = "m"\nadapter = "a"\n[prompt]\nbuild = "mine:build"\n[pipeline]\ngenerate = "mine:generate"\n'
    route = route_of(evidence(tmp_path, text))
    assert (route.generate, route.build, route.adapter) == ("mine:generate", None, str(tmp_path / "a"))
    assert not route.adapter_active


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[model]\npath = "m"\n', 'kind = "base"'),
        ('[model]\npath = "m"\nkind = "chat"\n', 'kind = "base"'),
        ('[model]\nkind = "base"\n', '[model] path = "…"'),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_loaded(tmp_path: Path, text: str, line: str) -> None:
    """A skip with the line to add: no kind, another kind, no model."""
    with pytest.raises(MissingEvidence) as caught:
        provide(evidence(tmp_path, text), "")
    assert line in str(caught.value)
    assert outcome(tmp_path, text).outcome is Outcome.SKIPPED


def test_a_function_that_fails_fails_the_check(tmp_path: Path) -> None:
    """A route that cannot answer is no green and no skip: the user's line is named."""
    (tmp_path / "mine.py").write_text("def generate(prompts):\n    return prompts[0].split()[99]\n", "utf-8")
    result = outcome(tmp_path, '[model]\nkind = "base"\n[pipeline]\ngenerate = "mine:generate"\n')
    assert result.outcome is Outcome.FAILED
    assert (
        "could not be asked: [pipeline] generate = 'mine:generate': IndexError" in result.findings[0].message
    )
    assert "mine.py:2" in result.findings[0].message


@pytest.mark.needs_torch
def test_a_model_that_is_not_there_fails_the_check(tmp_path: Path) -> None:
    """Sentinels need weights."""
    result = outcome(tmp_path, '[model]\npath = "./nowhere"\nkind = "base"\n')
    assert result.outcome is Outcome.FAILED
    assert "nowhere" in result.findings[0].message


@pytest.mark.needs_torch
def test_a_planted_leak_fails_and_names_the_template(tmp_path: Path) -> None:
    """Project file to finding: a base model, prompted through the template that its tokenizer ships."""
    from llmguard_core.lab import lab

    model = lab().base_with_template
    text = f'[model]\npath = "{model}"\nkind = "base"\n[prompt]\nformat = "chat-template"\n'
    result = outcome(tmp_path, text)
    assert result.outcome is Outcome.FAILED
    assert "<|im_start|> in 32 of 32" in result.findings[0].message
    assert result.looked_at == len(SENTINELS)
