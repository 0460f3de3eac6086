"""Few-shot examples are the same in every prompt.

Symptom: completions of a base model copy the style, the length and sometimes the words of the same few examples.
Severity: medium
Cause: one block of examples written into the builder, where three to four were to be drawn from a pool for each prompt.
First seen: written down by a fine-tuning project as medium
Cost: generated data that had to be thrown away.
Check: few_shot_examples_vary
Lesson: draw examples for each prompt by a seed, so that they vary and the run can still be repeated.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmguard import few_shot_examples_vary, no_prompt_holds_its_own_answer, require
from llmguard.errors import CheckFailed
from llmguard_core.fewshot import POOL, FewShot

BLOCK = "".join(f"Question: {example.asked}\nAnswer: {example.answer}\n\n" for example in POOL[::8])
ASKED = [f"What do people in {place} eat on the first day of the year?" for place in (
    "Tovia", "Marland", "Estrel", "Noria", "Halden", "Quill", "Verra", "Ossan", "Lenfold", "Carrow", "Pelham", "Sorrel",
)]  # fmt: skip


def broken(asked: str) -> str:
    """The block that is in the file, and the question."""
    return f"{BLOCK}Question: {asked}\nAnswer:"


def fixed(asked: str, seed: int = 0) -> str:
    """Examples drawn by the core for this prompt."""
    return FewShot(seed=seed).prompt(asked)


def _shown(prompt: str) -> frozenset[str]:
    """The examples of the pool that a prompt holds."""
    return frozenset(example.asked for example in POOL if example.asked in prompt)


def test_witness() -> None:
    """One set of examples for twelve prompts, against about as many sets as prompts."""
    assert len({_shown(broken(a)) for a in ASKED}) == 1
    drawn = [_shown(fixed(a)) for a in ASKED]
    assert len(set(drawn)) == len(ASKED)
    assert all(3 <= len(examples) <= 4 for examples in drawn)
    assert len(frozenset().union(*drawn)) > len(POOL) / 2


def test_witness_of_the_seed() -> None:
    """Drawn again they are the same, in any order of the prompts; by another seed they are others."""
    first = [fixed(a) for a in ASKED]
    assert [fixed(a) for a in reversed(ASKED)] == first[::-1]
    assert all(one != other for one, other in zip(first, [fixed(a, seed=1) for a in ASKED], strict=True))


def test_check_rejects(tokenizer: Any) -> None:
    """With how many examples they share."""
    with pytest.raises(CheckFailed, match=r"all 12 prompts start with the same \d examples"):
        require(few_shot_examples_vary([broken(a) for a in ASKED], tokenizer), strict=True)


def test_check_accepts(tokenizer: Any) -> None:
    """Drawn examples, none of which is the evaluated item; and one long instruction without examples that all prompts share."""
    prompts = [fixed(a) for a in ASKED]
    require(few_shot_examples_vary(prompts, tokenizer), strict=True)
    instruction = f"Note: {'answer in whole sentences, as a neighbour would. ' * 6}\n\n"
    require(few_shot_examples_vary([instruction + a for a in ASKED], tokenizer), strict=True)
    rows = [{"prompt": e.asked, "response": e.answer} for e in POOL]
    own = [fixed(r["prompt"]) for r in rows]
    require(no_prompt_holds_its_own_answer(own, rows, tokenizer), strict=True)
