"""Bugs told in public threads that show only when a model runs: packing, padding in generation, dropout, None among ids.

As beside: the fault is shown first without our checks, then found by name, and the sound variant is left alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support.bugs import CASES, case, cases_of, severities
from transformers import LlamaConfig, LlamaForCausalLM

import llmguard
from llmguard.collect.isolation import Emitted, isolation_of
from llmguard.evidence.generations import Generations, from_answer
from llmguard.sentinels.repeated import respond

Batch = dict[str, Any]
PROMPTS = [f"{'a b c d e f g '[: 3 * (i % 5) + 1]}{i}" for i in range(16)]
IDS = torch.arange(60)[None] * 7 % 90 + 5
POSITIONS = torch.cat([torch.arange(25), torch.arange(35)])[None]


class Bench:
    """A tiny model of random weights whose completions hang on every token of the prompt, and a module of the user's own."""

    def __init__(self, place: Path, tokenizer: Any) -> None:
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=128, initializer_range=0.6, attn_implementation="sdpa", **sizes)
        self.model: Any = LlamaForCausalLM(config).eval()
        self.place, self.tokenizer = place, tokenizer
        self.module: Any = ModuleType("mine")

    def generate(self, prompts: list[str], side: str = "left", mask: bool = True) -> list[str]:
        """Greedy; padded on a side, with or without a mask."""
        ids = [[3 + ord(c) % 120 for c in p] for p in prompts]
        width = max(map(len, ids))
        pads = [[0] * (width - len(i)) for i in ids]
        padded = [p + i if side == "left" else i + p for p, i in zip(pads, ids, strict=True)]
        real = [[0] * len(p) + [1] * len(i) for p, i in zip(pads, ids, strict=True)]
        seen = torch.tensor(real if side == "left" else [r[::-1] for r in real])
        given = {"input_ids": torch.tensor(padded), "attention_mask": seen if mask else torch.ones_like(seen)}
        with torch.inference_mode():
            rows = self.model.generate(
                **given, do_sample=False, max_new_tokens=6, pad_token_id=0, eos_token_id=127
            )
        return [" ".join(map(str, row)) for row in rows[:, width:].tolist()]

    def asked(self, function: Callable[[list[str]], list[str]]) -> Generations:
        """The completions of a function, as a project's own is asked."""
        self.module.generate = function
        sys.modules["mine"] = self.module
        request = {
            "callable": "mine:generate",
            "prompts": PROMPTS,
            "alone": [0, 1, 2, 5, 6, 10, 11, 15],
            "confirm": 4,
        }
        answer = respond({**request, "folder": str(self.place)})
        return from_answer("mine:generate", PROMPTS, answer)

    def isolation(self, **columns: Any) -> Batch:
        """What is measured on one packed row of two documents."""
        return isolation_of(Emitted([{"input_ids": IDS, **columns}], self.model.config))

    def mixes(self, **columns: Any) -> bool:
        """Whether the first document reaches the second in this very model."""
        other = torch.cat([IDS[:, :25] + 1, IDS[:, 25:]], dim=1)
        with torch.inference_mode():
            before, after = (self.model(input_ids=i, use_cache=False, **columns).logits for i in (IDS, other))
        return not torch.allclose(before[:, 25:], after[:, 25:], atol=1e-4)


@pytest.fixture(scope="module")
def bench(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    path, threads = list(sys.path), torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("bench"), tiny)
    torch.set_num_threads(threads)
    sys.path[:] = path
    sys.modules.pop("mine", None)


@case("PK-02")
def positions_restart_alone(b: Bench) -> None:
    """Positions start again with each document, under sdpa and a mask of ones: attention goes on over the boundary."""
    broken = {"position_ids": POSITIONS, "attention_mask": torch.ones_like(IDS)}
    document = (POSITIONS == 0).cumsum(1)
    own = (document[:, :, None] == document[:, None]) & torch.tril(torch.ones(60, 60, dtype=torch.bool))
    sound = {"position_ids": POSITIONS, "attention_mask": own[:, None]}
    assert b.mixes(**broken)
    assert not b.mixes(**sound)
    assert severities(llmguard.documents_do_not_see_each_other(b.isolation(**broken))) == ["error"]
    assert severities(llmguard.documents_do_not_see_each_other(b.isolation(**sound))) == []


@case("EP-10")
def padded_on_the_right(b: Bench) -> None:
    """A decoder is given rows padded on the right: short prompts go on from padding."""

    def broken(prompts: list[str]) -> list[str]:
        return b.generate(prompts, side="right")

    assert broken(PROMPTS)[0] != broken(PROMPTS[:1])[0]
    assert b.generate(PROMPTS)[0] == b.generate(PROMPTS[:1])[0]
    assert severities(llmguard.completions_do_not_depend_on_their_batch(b.asked(broken))) == ["error"]
    assert severities(llmguard.completions_do_not_depend_on_their_batch(b.asked(b.generate))) == []


@case("EV-01")
def padded_without_a_mask(b: Bench) -> None:
    """Rows padded on the left and no attention mask: what is measured depends on the batch size."""

    def broken(prompts: list[str]) -> list[str]:
        return b.generate(prompts, mask=False)

    def one_by_one(prompts: list[str]) -> list[str]:
        return [b.generate([p])[0] for p in prompts]

    assert broken(PROMPTS)[0] != broken(PROMPTS[:1])[0]
    assert severities(llmguard.completions_do_not_depend_on_their_batch(b.asked(broken))) == ["error"]
    assert severities(llmguard.completions_do_not_depend_on_their_batch(b.asked(one_by_one))) == []


@case("EV-08", "EV-10")
def another_answer_each_time(b: Bench) -> None:
    """Dropout is active while the model is evaluated (or sampling, where greedy was meant): each call says something else."""
    layers = b.model.model.layers

    def broken(prompts: list[str]) -> list[str]:
        dropped = [
            m.register_forward_hook(lambda _, __, out: torch.nn.functional.dropout(out, 0.3)) for m in layers
        ]
        texts = b.generate(prompts)
        [hook.remove() for hook in dropped]
        return texts

    def sampled(prompts: list[str]) -> list[str]:
        return [f"{t} {torch.randint(99, (1,)).item()}" for t in b.generate(prompts)]

    for function in (broken, sampled):
        assert function(PROMPTS) != function(PROMPTS)
        assert severities(llmguard.greedy_generation_repeats_itself(b.asked(function))) == ["error"]
    assert severities(llmguard.greedy_generation_repeats_itself(b.asked(b.generate))) == []


@case("DP-03")
def none_among_the_ids(b: Bench) -> None:
    """A BOS that the tokenizer does not have is put before the ids: None, which no tensor takes."""
    ids = b.tokenizer("How many apples?")["input_ids"]
    broken, sound = [{"input_ids": [b.tokenizer.bos_token_id, *ids]}], [{"input_ids": ids}]
    with pytest.raises((TypeError, RuntimeError)):
        torch.tensor(broken[0]["input_ids"])
    assert severities(llmguard.every_token_id_is_a_number(broken)) == ["error"]
    assert severities(llmguard.every_token_id_is_a_number(sound)) == []


@case("DP-07")
def noise_in_the_rewards(b: Bench) -> None:
    """The policy drops out and its reference does not: the first rewards are not 0, and do not repeat."""
    from llmguard.collect.trainer import _dropout

    torch.manual_seed(1)
    policy = torch.nn.Sequential(torch.nn.Embedding(9, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 9))
    ids = torch.tensor([1, 4, 2, 7])

    def rewards() -> Any:
        return (policy.train()(ids).log_softmax(-1) - policy.eval()(ids).log_softmax(-1)).sum()

    assert rewards().abs() > 1e-3
    facts = {"preference": True, "dropout": _dropout(policy)}
    assert severities(llmguard.preference_policy_has_no_dropout(facts)) == ["warning"]
    policy[1].p = 0.0
    assert rewards().abs() < 1e-6
    assert severities(llmguard.preference_policy_has_no_dropout({**facts, "dropout": _dropout(policy)})) == []


@pytest.mark.parametrize("bug", cases_of(__name__))
def test_public_bug(bug: str, bench: Bench) -> None:
    """The bug of this id: its fault fires, the check finds it, and the sound variant is left alone."""
    CASES[bug](bench)
