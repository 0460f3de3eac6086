"""Sentinels on real, tiny models: the clean route passes, each leak fails and is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from llmguard.checks.sentinel import base_model_fails_instruction_prompts
from llmguard.collect.user import UserError
from llmguard.errors import EvidenceError
from llmguard.findings import Finding
from llmguard.sentinels import LIMIT, SENTINELS, Completions, Route, collect
from llmguard.sentinels.generate import respond
from llmguard_core.lab import Lab, lab

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"  # peft calls it when it wraps any model
)
PROMPTS = [s.prompt for s in SENTINELS]


@pytest.fixture(scope="module")
def models() -> Lab:
    """The lab, built by whoever needs it first."""
    return lab()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small spend their time waiting for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generate in this process: what the child does, without starting one for every test."""

    def ask(request: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        try:
            return dict(json.loads(json.dumps(respond(request))))
        except UserError as told:
            raise EvidenceError("completions", str(told.told)) from None

    monkeypatch.setattr("llmguard.sentinels.route.ask", ask)


@pytest.fixture
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's folder is put on sys.path: of this process, for once."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def only_error(completions: Completions) -> Finding:
    """The one finding of a failed check."""
    (finding,) = base_model_fails_instruction_prompts(completions).errors
    return finding


@pytest.mark.usefixtures("_here")
def test_the_clean_route_on_a_base_model_passes(models: Lab) -> None:
    """Bare instructions: it continues the text, and obeys none; both arms are the same and are generated once."""
    completions = collect(Route(model=str(models.base)))
    assert not base_model_fails_instruction_prompts(completions)
    assert completions.verdict.user == completions.verdict.control == 0
    assert completions.user.texts == completions.control.texts  # type: ignore[union-attr]  # a local model has a control
    assert completions.user.blank == 0
    assert list(completions.user.prompts) == PROMPTS


@pytest.mark.usefixtures("_here")
def test_a_template_that_is_shipped_and_not_applied_passes(models: Lab) -> None:
    """Negative control: published base models ship one."""
    assert not base_model_fails_instruction_prompts(collect(Route(model=str(models.base_with_template))))


@pytest.mark.usefixtures("_here")
def test_an_applied_template_fails_and_is_named(models: Lab) -> None:
    """The documented bug: the base model's own tokenizer turns instructions into turns, and it obeys."""
    completions = collect(Route(model=str(models.base_with_template), chat_template=True))
    finding = only_error(completions)
    assert completions.verdict.lower > LIMIT
    assert completions.verdict.p_value is not None
    assert completions.verdict.p_value < 1e-6
    assert [r.code for r in completions.reasons] == ["chat-template"]
    assert "<|im_start|> in 32 of 32" in finding.message
    assert str(models.base_with_template) in finding.message


@pytest.mark.usefixtures("_here")
def test_prompts_written_by_hand_with_role_tokens_fail_too(models: Lab) -> None:
    """The tokens do it, whoever writes them: here the tokenizer has no template at all."""
    prompts = [f"<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n" for p in PROMPTS]
    completions = collect(Route(model=str(models.base), prompts=prompts))
    assert [r.code for r in completions.reasons] == ["role-tokens"]
    assert "role tokens" in only_error(completions).message


@pytest.mark.usefixtures("_here")
def test_prompts_given_as_ids_are_judged_by_their_tokens(models: Lab) -> None:
    """A builder may return ids: what they decode to is looked at."""
    arm = {"name": "t", "prompts": PROMPTS, "chat_template": True}
    told = respond({"model": {"path": str(models.base_with_template)}, "arms": [arm]})
    completions = collect(Route(model=str(models.base), prompts=told["arms"]["t"]["prompt_ids"]))
    assert "<|im_start|> in 32 of 32" in only_error(completions).message


@pytest.mark.usefixtures("_here")
def test_an_adapter_left_active_is_named(models: Lab) -> None:
    """The control on the same model has it off."""
    route = Route(model=str(models.base), adapter=str(models.adapter), adapter_active=True)
    completions = collect(route)
    assert completions.verdict.control == 0
    assert [r.code for r in completions.reasons] == ["adapter"]
    assert f"the adapter {models.adapter} was active" in only_error(completions).message


@pytest.mark.usefixtures("_here")
def test_an_adapters_folder_given_as_the_model_is_an_adapter_left_active(models: Lab) -> None:
    """Transformers loads base and adapter from such a folder without a word."""
    completions = collect(Route(model=str(models.adapter)))
    assert [r.code for r in completions.reasons] == ["adapter"]
    assert completions.verdict.above_control


@pytest.mark.usefixtures("_here")
def test_an_adapter_that_is_off_changes_nothing(models: Lab) -> None:
    """Negative control: the project names its adapter, and the base model is evaluated without it."""
    completions = collect(Route(model=str(models.base), adapter=str(models.adapter)))
    assert not base_model_fails_instruction_prompts(completions)


@pytest.mark.usefixtures("_here")
def test_an_untrained_adapter_that_is_on_changes_nothing(models: Lab) -> None:
    """B is zero: the outputs are the base model's."""
    route = Route(model=str(models.base), adapter=str(models.broken_adapter), adapter_active=True)
    completions = collect(route)
    assert completions.user.texts == completions.control.texts  # type: ignore[union-attr]  # a local model has a control


@pytest.mark.usefixtures("_here")
def test_a_chat_model_declared_as_base_fails_and_is_named(models: Lab) -> None:
    """It obeys bare instructions as well: above the limit in both arms, by name and by its terminator."""
    completions = collect(Route(model=str(models.chat)))
    assert completions.verdict.above_limit
    assert not completions.verdict.above_control
    message = only_error(completions).message
    assert "its name is 'chat'" in message
    assert "<|im_end|>" in message
    assert not base_model_fails_instruction_prompts(completions, kind="chat")


LEAKY = """
from transformers import AutoModelForCausalLM, AutoTokenizer

def generate(prompts):
    tokenizer = AutoTokenizer.from_pretrained({tokenizer!r})
    model = AutoModelForCausalLM.from_pretrained({model!r})
    texts = []
    for prompt in prompts:
        turns = [{{"role": "user", "content": prompt}}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) if {template} else prompt
        ids = tokenizer(text, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=40, do_sample=False)
        texts.append(tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))
    return texts
"""


def with_function(folder: Path, name: str, *, loads: Path, template: bool, **route: str) -> Completions:
    """Completions of a project whose own function loads a model and generates, with or without the template."""
    source = LEAKY.format(tokenizer=route["model"], model=str(loads), template=template)
    (folder / f"{name}.py").write_text(source, "utf-8")
    return collect(Route(generate=f"{name}:generate", folder=folder, **route), sentinels=SENTINELS[:12])  # type: ignore[arg-type]  # texts alone


@pytest.mark.usefixtures("_here", "_own_path")
def test_a_function_that_applies_the_template_is_recognised_by_what_it_says(
    models: Lab, tmp_path: Path
) -> None:
    """Its prompts cannot be seen: its completions are those of the same model with the template applied."""
    base = models.base_with_template
    completions = with_function(tmp_path, "templated", loads=base, template=True, model=str(base))
    assert completions.user.prompts == ()
    assert [r.code for r in completions.reasons] == ["chat-template"]
    assert (
        "100% of the completions are those of the same model with that template"
        in only_error(completions).message
    )


@pytest.mark.usefixtures("_here", "_own_path")
def test_a_function_that_leaves_the_adapter_on_is_recognised_by_what_it_says(
    models: Lab, tmp_path: Path
) -> None:
    """Its completions are those of the base model with the project's adapter."""
    known = {"model": str(models.base), "adapter": str(models.adapter)}
    completions = with_function(tmp_path, "adapted", loads=models.adapter, template=False, **known)
    assert [r.code for r in completions.reasons] == ["adapter"]
    assert "100% of the completions are those of the base model with it" in only_error(completions).message


@pytest.mark.usefixtures("_here", "_own_path")
def test_a_function_that_does_neither_passes(models: Lab, tmp_path: Path) -> None:
    """Negative control, with a template on the tokenizer and an adapter in the project."""
    base = models.base_with_template
    known = {"model": str(base), "adapter": str(models.adapter)}
    assert not base_model_fails_instruction_prompts(
        with_function(tmp_path, "clean", loads=base, template=False, **known)
    )


@pytest.mark.usefixtures("_here", "_own_path")
def test_an_adapter_of_another_base_is_no_suspect_and_no_obstacle(models: Lab, tmp_path: Path) -> None:
    """It cannot be put on this model: the control is had without it."""
    known = {"model": str(models.base), "adapter": str(models.foreign_adapter)}
    completions = with_function(tmp_path, "unfitting", loads=models.base, template=False, **known)
    assert completions.control is not None
    assert completions.facts.same_as == {}
    assert not base_model_fails_instruction_prompts(completions)


@pytest.mark.usefixtures("_own_path")
def test_a_builder_gets_rows_as_the_projects_data_has_them(models: Lab, tmp_path: Path) -> None:
    """The other columns as they are, the instruction as a text or as one message."""
    source = "def text(row):\n    return row['topic'] + row['ask']\n\ndef turns(row):\n    return row['ask'][0]['content']\n"
    (tmp_path / "builders.py").write_text(source, "utf-8")
    arm = {"prompts": ["Say hello."], "column": "ask", "row": {"topic": "Tom. ", "ask": "?"}}
    arms = [
        {**arm, "name": "text", "build": "builders:text"},
        {**arm, "name": "turns", "build": "builders:turns", "as_messages": True},
    ]
    request = {
        "model": {"path": str(models.base)},
        "arms": arms,
        "folder": str(tmp_path),
        "max_new_tokens": 1,
    }
    answer = respond(request)["arms"]
    assert answer["text"]["prompt_texts"] == ["Tom. Say hello."]
    assert answer["turns"]["prompt_texts"] == ["Say hello."]


def test_a_batch_gives_what_its_prompts_give_one_by_one(models: Lab) -> None:
    """Left padding, mask and positions are right: in fp32 every row is what it is alone; and twice the same."""
    some = ["Tom", "Marel is a town in the", "\n".join(PROMPTS[:6]), *PROMPTS[:8]]
    alone = [{"name": str(i), "prompts": [p]} for i, p in enumerate(some)]
    request = {
        "model": {"path": str(models.base)},
        "arms": [{"name": "all", "prompts": some}],
        "max_new_tokens": 24,
    }
    answer = respond({**request, "arms": [*request["arms"], *alone]})
    assert answer["arms"]["all"]["ids"] == [answer["arms"][str(i)]["ids"][0] for i in range(len(some))]
    assert respond(request)["arms"]["all"]["ids"] == answer["arms"]["all"]["ids"]


def test_completions_end_before_their_terminator(models: Lab) -> None:
    """The terminator is cut off, said so, and never in the text."""
    arm = {"name": "t", "prompts": PROMPTS[:4], "chat_template": True}
    answer = respond({"model": {"path": str(models.chat)}, "arms": [arm], "max_new_tokens": 40})["arms"]["t"]
    assert answer["ended"] == [True] * 4
    assert not any("<|" in text for text in answer["texts"])
    cut = respond({"model": {"path": str(models.chat)}, "arms": [arm], "max_new_tokens": 2})["arms"]["t"]
    assert cut["ended"] == [False] * 4
    assert [len(i) for i in cut["ids"]] == [2] * 4


@pytest.mark.parametrize(
    ("model", "arm", "told"),
    [
        ({"path": "nowhere"}, {}, "model"),
        ({"path": "base", "adapter": "foreign-adapter"}, {"adapter": True}, "model"),
        ({"path": "base"}, {"chat_template": True}, "chat template"),
        ({"path": "base"}, {"prompts": [""]}, "has no token"),
        ({"path": "base"}, {"prompts": [[5, 99_999]]}, "99999"),
        ({"path": "base"}, {"prompts": [[-1]]}, "-1"),
        ({"path": "base"}, {"prompts": [None]}, "or text"),
        ({"path": "base"}, {"build": "nothing:here"}, "nothing:here"),
    ],
)
def test_what_cannot_be_used_is_told_and_not_raised_as_it_came(
    models: Lab,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, str],
    arm: dict[str, Any],
    told: str,
) -> None:
    """A model that does not load, prompts that are none, a builder that is not there."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    models.build_all()
    where = {key: str(models.folder / value) for key, value in model.items()}
    request = {
        "model": where,
        "arms": [{"name": "user", "prompts": PROMPTS[:1], **arm}],
        "folder": str(tmp_path),
    }
    with pytest.raises(UserError) as caught:
        respond(request)
    assert told in f"{caught.value.told['what']}: {caught.value.told['message']}"


END_TO_END = """
import json, sys
from llmguard.checks.sentinel import base_model_fails_instruction_prompts
from llmguard.sentinels import Route, collect
completions = collect(Route(model=sys.argv[1], build="prompts:build", column="instruction", folder=sys.argv[2]))
findings = base_model_fails_instruction_prompts(completions)
heavy = sorted({"torch", "transformers", "numpy"} & set(sys.modules))
print(json.dumps([[f.message for f in findings], findings.looked_at, heavy]))
"""
BUILDER = """
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({model!r})

def build(row):
    turns = [{{"role": "user", "content": row["instruction"]}}]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=True)
"""


def test_end_to_end_in_a_child_and_the_parent_never_imports_torch(models: Lab, tmp_path: Path) -> None:
    """The user's own prompt builder, run in the supervised child, leaks the template; the parent judges without torch."""
    model = str(models.base_with_template)
    (tmp_path / "prompts.py").write_text(BUILDER.format(model=model), "utf-8")
    command = [sys.executable, "-c", END_TO_END, model, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    messages, looked_at, heavy = json.loads(done.stdout)
    assert len(messages) == 1
    assert "with prompts of prompts:build" in messages[0]
    assert "<|im_start|> in 32 of 32" in messages[0]
    assert looked_at == len(SENTINELS)
    assert heavy == []
