"""Generation in several batches on a real tiny model: wrong padding and active dropout are found, right generation is left alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import llmguard
from llmguard.auditing import Audit
from llmguard.catalogue import CHECKS
from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.generations import PROMPTS, Generations, ask_again, from_answer, mixed, provide
from llmguard.project import load_project
from llmguard.report import CheckResult, Outcome
from llmguard.sentinels.repeated import respond
from llmguard_core.lab import lab

TEXTS = mixed([])
SOURCE = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HOME = {home!r}
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(HOME).float().eval()
tokenizer = AutoTokenizer.from_pretrained(HOME)
tokenizer.pad_token_id = 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def run(prompts, side="left", mask=True, **more):
    tokenizer.padding_side = side
    given = tokenizer(list(prompts), return_tensors="pt", padding=True)
    kept = {{"input_ids": given["input_ids"], "attention_mask": given["attention_mask"]}}
    if not mask:
        kept["attention_mask"] = torch.ones_like(given["input_ids"])
    settings = {{"do_sample": False, "max_new_tokens": 12, "pad_token_id": tokenizer.pad_token_id, **more}}
    with torch.inference_mode():
        rows = model.generate(**kept, **settings)
    return tokenizer.batch_decode(rows[:, given["input_ids"].shape[1]:], skip_special_tokens=True)


def right(prompts):
    return run(prompts)


def one_by_one(prompts):
    return [run([p])[0] for p in prompts]


def padded_on_the_right(prompts):
    return run(prompts, side="right")


def unmasked(prompts):
    return run(prompts, mask=False)


def sampling(prompts):
    return run(prompts, do_sample=True, temperature=1.0, top_k=0)


def with_dropout(prompts):
    layers = model.model.layers
    hooks = [l.register_forward_hook(lambda m, i, o: torch.nn.functional.dropout(o, 0.2)) for l in layers]
    try:
        return run(prompts)
    finally:
        [h.remove() for h in hooks]


def with_dropout_module(prompts):
    model.extra = torch.nn.Dropout(0.2)
    hooks = [l.register_forward_hook(lambda m, i, o: model.extra(o)) for l in model.model.layers]
    model.train()
    try:
        return run(prompts)
    finally:
        [h.remove() for h in hooks]
"""
NAMES = (
    "right",
    "one_by_one",
    "padded_on_the_right",
    "unmasked",
    "sampling",
    "with_dropout",
    "with_dropout_module",
)
repeats = llmguard.greedy_generation_repeats_itself
independent = llmguard.completions_do_not_depend_on_their_batch


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the user's module on the lab's base model."""
    folder = tmp_path_factory.mktemp("generation")
    (folder / "generating.py").write_text(SOURCE.format(home=str(lab().base)), "utf-8")
    before, threads = list(sys.path), torch.get_num_threads()
    yield folder
    sys.path[:] = before
    sys.modules.pop("generating", None)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def found(project: Path) -> dict[str, Generations]:
    """What each of the functions gives, asked in this process."""
    request = {"prompts": TEXTS, "alone": list(range(8)), "confirm": 4, "folder": str(project)}
    answers = {n: json.loads(json.dumps(respond({**request, "callable": f"generating:{n}"}))) for n in NAMES}
    return {n: from_answer(n, TEXTS, a) for n, a in answers.items()}


def severities(of: Any) -> list[str]:
    return [f.severity.value for f in of]


def user_module(project: Path) -> Any:
    return sys.modules["generating"]


def test_right_generation_is_left_alone(found: dict[str, Generations]) -> None:
    """Left padding with a mask, and a loop of batches of one: every prompt was looked at, nothing is found."""
    for name in ("right", "one_by_one"):
        assert repeats(found[name]).looked_at == PROMPTS
        assert independent(found[name]).looked_at == 8
        assert not repeats(found[name])
        assert not independent(found[name])


@pytest.mark.parametrize("name", ["padded_on_the_right", "unmasked"])
def test_wrong_padding_is_found(found: dict[str, Generations], project: Path, name: str) -> None:
    """The witness: the logits that the first new token is drawn from differ from those without padding; the check says so."""
    own = user_module(project)
    short, long = "Once upon", "Once upon a time there was a little fox who lived in the forest and"
    own.tokenizer.padding_side = "right" if name == "padded_on_the_right" else "left"
    given = own.tokenizer([short, long], return_tensors="pt", padding=True)
    mask = given["attention_mask"] if name == "padded_on_the_right" else None
    with torch.inference_mode():
        batched = own.model(given["input_ids"], attention_mask=mask).logits[0, -1]
        alone = own.model(own.tokenizer(short, return_tensors="pt")["input_ids"]).logits[0, -1]
    assert not torch.allclose(batched, alone, atol=1e-2)
    assert severities(independent(found[name])) == ["error"]
    assert not repeats(found[name])


def test_a_tokenizer_that_pads_on_the_right_is_named(found: dict[str, Generations]) -> None:
    """What lies in memory explains it."""
    (finding,) = independent(found["padded_on_the_right"])
    assert "a tokenizer in memory pads on the right" in finding.message
    assert finding.evidence["first"][0]["here"] != finding.evidence["first"][0]["there"]


@pytest.mark.parametrize("name", ["with_dropout", "with_dropout_module", "sampling"])
def test_generation_that_does_not_repeat_itself_is_found(
    found: dict[str, Generations], project: Path, name: str
) -> None:
    """The witness: two calls give two texts; the check on padding leaves such prompts to this one."""
    own = getattr(user_module(project), name)
    torch.manual_seed(5)
    assert own(TEXTS) != own(TEXTS)
    assert severities(repeats(found[name])) == ["error"]
    assert not [s for s in severities(independent(found[name])) if s == "error"]


def test_dropout_that_is_on_is_named(found: dict[str, Generations]) -> None:
    """A model in training mode with its dropout, as found in memory."""
    (finding,) = repeats(found["with_dropout_module"])
    assert "is in training mode, with dropout of up to 0.2" in finding.message


def test_sampling_that_is_declared_is_not_judged(found: dict[str, Generations]) -> None:
    """`[generation] temperature` above 0 says that it is meant."""
    assert not repeats(found["sampling"], temperature=0.7)
    assert not independent(found["unmasked"], temperature=0.7)
    assert repeats(found["sampling"], temperature=0.7).looked_at == 0


def generations(**changes: Any) -> Generations:
    """Sixteen prompts that are answered alike."""
    texts = [f"a long and quiet answer, number {i}" for i in range(16)]
    alone = dict(enumerate(texts[:8]))
    told = {"first": texts, "again": texts, "alone": alone, "copies": {}, **changes}
    return Generations("mine:generate", [f"prompt {i}" for i in range(16)], **told)


def test_near_ties_of_half_precision_are_no_fault() -> None:
    """What differs in a batch of copies too is rounding: a note. One prompt that differs late, by padding alone, is a warning."""
    same = generations()
    assert not independent(same)
    ties = {**same.alone, 0: "a long and quiet answer, of sorts", 1: "a long and quiet answer, or two"}
    assert severities(independent(generations(alone=ties, copies={0: same.first[0], 1: same.first[1]}))) == [
        "note"
    ]
    one = {**same.alone, 0: "something else altogether"}
    assert severities(independent(generations(alone=one, copies={0: one[0]}))) == ["warning"]
    late = {i: t[:-1] + "…" for i, t in same.alone.items()}
    assert severities(independent(generations(alone=late, copies=dict(list(late.items())[:4])))) == [
        "warning"
    ]
    two = {**same.alone, 0: "something else", 1: "nor this"}
    exact = {"models": [{"dtype": "float32"}]}
    assert severities(independent(generations(alone=two, copies=two))) == ["warning"]
    assert severities(independent(generations(alone=two, copies=two, facts=exact))) == ["error"]
    unsteady = [f"{t}!" for t in same.first[:8]] + list(same.first[8:])
    left = generations(alone=two, copies=two, again=unsteady)
    assert not independent(left)
    assert independent(left).looked_at == 0
    early = {i: f"no, {t}" for i, t in same.alone.items()}
    assert severities(independent(generations(alone=early, copies=dict(list(early.items())[:4])))) == [
        "error"
    ]


def test_one_completion_that_changes_is_a_warning() -> None:
    """A GPU may round otherwise once; a third of them is no accident."""
    again = list(generations().first)
    again[3] = "another"
    assert severities(repeats(generations(again=again))) == ["warning"]
    again[:4] = ["another"] * 4
    assert severities(repeats(generations(again=again))) == ["warning"]
    again[:6] = ["another"] * 6
    assert severities(repeats(generations(again=again))) == ["error"]


def test_prompts_are_of_many_lengths_and_not_in_their_order() -> None:
    """The project's own, of all lengths; with too few of them, or all of one length, sentinel prompts beside them."""
    own = [f"{'word ' * i}?" for i in range(1, 60)]
    chosen = mixed(own)
    lengths = [len(t) for t in chosen]
    assert len(chosen) == PROMPTS
    assert set(chosen) <= set(own)
    assert max(lengths) > 4 * min(lengths)
    assert lengths != sorted(lengths)
    for few in ([], ["What is this?"], [f"number {i:03d}" for i in range(50)]):
        chosen = mixed(few)
        assert len(set(chosen)) == PROMPTS
        assert max(map(len, chosen)) > 1.5 * min(map(len, chosen))
        assert bool(few) == bool(set(few) & set(chosen))


QUICK = """
def whole(prompts):
    return ["done"] * len(prompts)

def by_its_batch(prompts):
    return [f"{max(map(len, prompts)) - len(p)} letters were missing" for p in prompts]

def broken(prompts):
    return None
"""


def audited(folder: Path, function: str, check: str, more: str = "") -> CheckResult:
    """A check on a project that generates with a function of QUICK."""
    (folder / "quick.py").write_text(QUICK, "utf-8")
    rows = [{"prompt": "w" * n, "response": "yes"} for n in range(1, 40)]
    (folder / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    text = f'[data]\ntest = "test.jsonl"\n[pipeline]\ngenerate = "quick:{function}"\n{more}'
    (folder / "llmguard.toml").write_text(text, "utf-8")
    audit = Audit(load_project(folder / "llmguard.toml"))
    try:
        return audit.run(next(e for e in CHECKS if e.name == check))
    finally:
        audit.evidence.close()


def test_a_project_is_asked_in_a_child(tmp_path: Path) -> None:
    """From the project file to the outcome, on the project's own prompts; a function that is broken fails one of the two checks."""
    batch, again = independent.name, repeats.name
    assert audited(tmp_path, "whole", batch).outcome is Outcome.PASSED
    found = audited(tmp_path, "by_its_batch", batch)
    assert found.outcome is Outcome.FAILED
    assert set(found.findings[0].evidence["first"][0]["prompt"]) == {"w"}
    assert audited(tmp_path, "by_its_batch", again).outcome is Outcome.PASSED
    broken = audited(tmp_path, "broken", again)
    assert broken.outcome is Outcome.FAILED
    assert "expected a list of 16 texts" in broken.findings[0].message
    assert audited(tmp_path, "broken", batch).outcome is Outcome.SKIPPED
    told = audited(tmp_path, "by_its_batch", batch, "[generation]\ntemperature = 0.5\n")
    assert told.outcome is Outcome.SKIPPED


def test_without_a_function_nothing_is_asked(tmp_path: Path) -> None:
    """The line to add is said; a function that ends its process is told."""
    (tmp_path / "llmguard.toml").write_text('[model]\nkind = "base"\n')
    with pytest.raises(MissingEvidence, match=r"\[pipeline\] generate"):
        provide(Evidence(load_project(tmp_path / "llmguard.toml")), "")
    (tmp_path / "ending.py").write_text("import os\ndef generate(prompts):\n    os._exit(3)\n")
    ended = ask_again("ending:generate", ["a", "b"], folder=tmp_path)
    (finding,) = repeats(ended)
    assert finding.severity.value == "error"
    assert "could not be asked" in finding.message
