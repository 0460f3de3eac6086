"""Few-shot prompts: drawn anew for each item, the same on every run, text to be completed, never the item itself."""

from __future__ import annotations

from collections import Counter

import pytest
from support.tiny import byte_level

from llmguard import base_prompts_carry_no_role_words, base_prompts_carry_no_template, few_shot_examples_vary
from llmguard.control import CONTROL, ROLE_WORDS
from llmguard.errors import UsageError
from llmguard_core.fewshot import POOL, STOP, Example, FewShot

ITEMS = [f"How many apples are {n} apples and {n + 1} apples?" for n in range(60)]


def test_prompts_hold_three_or_four_examples_of_different_kinds() -> None:
    """And then what is asked, for the model to complete."""
    few = FewShot()
    sizes: Counter[int] = Counter()
    for item in ITEMS:
        examples, prompt = few.examples(item), few.prompt(item)
        sizes[len(examples)] += 1
        assert len({e.kind for e in examples}) == len(examples)
        assert prompt == "".join(f"{e.asked}\n{e.answer}{STOP}" for e in examples) + f"{item}\n"
    assert set(sizes) == {3, 4}


def test_draws_vary_between_prompts_and_not_between_runs() -> None:
    """By seed and item alone: neither the order of the items nor those before them matter."""
    first = {item: FewShot(seed=1).prompt(item) for item in ITEMS}
    again = {item: FewShot(seed=1).prompt(item) for item in reversed(ITEMS)}
    other = {item: FewShot(seed=2).prompt(item) for item in ITEMS}
    shown = {item: prompt.removesuffix(f"{item}\n") for item, prompt in first.items()}
    assert first == again
    assert sum(first[i] == other[i] for i in ITEMS) < 3
    assert len(set(shown.values())) > 55
    drawn = {example for item in ITEMS for example in FewShot(seed=1).examples(item)}
    assert len(drawn) > len(POOL) - 4


def test_the_checks_find_neither_repetition_nor_roles() -> None:
    """As a user's own prompts would be judged; one fixed block of examples is found."""
    tok, prompts = byte_level(), [FewShot().prompt(item) for item in ITEMS]
    assert not few_shot_examples_vary(prompts, tok)
    assert not base_prompts_carry_no_role_words(prompts, tok, "base")
    assert not base_prompts_carry_no_template(prompts, tok, "base")
    fixed = "".join(f"Question: {e.asked}\n{e.answer}{STOP}" for e in POOL[-5:])
    assert few_shot_examples_vary([f"{fixed}Question: {item}\n" for item in ITEMS], tok)


@pytest.mark.parametrize(
    "item",
    [
        POOL[0].asked,
        f"  {POOL[0].asked.upper()}!! ",
        f"Answer in one word, please. {POOL[0].asked} Think first.",
    ],
)
def test_the_evaluated_item_is_never_an_example(item: str) -> None:
    """Nor is it when it is written otherwise, or stands within a longer prompt; elsewhere the same example is drawn."""
    few = [FewShot(POOL[:6], seed=seed) for seed in range(40)]
    assert not any(POOL[0] in each.examples(item) for each in few)
    assert any(POOL[0] in each.examples("What is 3 plus 4?") for each in few)


def test_items_that_are_evaluated_elsewhere_are_never_examples() -> None:
    """`never` takes the texts of the whole evaluation, asked or answered."""
    never = [POOL[0].asked.lower(), POOL[1].answer]
    for seed in range(40):
        assert not {POOL[0], POOL[1]} & set(
            FewShot(POOL[:6], seed=seed, never=never).examples("What is 3 plus 4?")
        )


def test_a_pool_of_ones_own_and_a_number_of_ones_own() -> None:
    """Kinds are used evenly where there are fewer than examples; too small a pool is refused with what is left of it."""
    pool = [Example(kind, f"{kind} {n}", "x") for kind in ("a", "b") for n in range(5)]
    for item in ITEMS[:10]:
        drawn = FewShot(pool, shots=(4, 4)).examples(item)
        assert Counter(e.kind for e in drawn) == {"a": 2, "b": 2}
    assert FewShot(pool, shots=(0, 0)).prompt("Two and two make") == "Two and two make\n"
    with pytest.raises(UsageError, match="pool=2"):
        FewShot(pool[:3], shots=(3, 3)).examples("a 1")


def test_the_pool_is_plain_text_of_all_kinds() -> None:
    """Six of each kind, no role words, no control tokens, no blank line that would end an example early."""
    assert Counter(e.kind for e in POOL) == dict.fromkeys(
        ("arithmetic", "completion", "fact", "creative", "explanation"), 6
    )
    for example in POOL:
        text = f"{example.asked}\n{example.answer}"
        assert STOP not in text
        assert not ROLE_WORDS.search(text)
        assert not any(token in text for token in CONTROL)
    assert len({e.asked for e in POOL}) == len(POOL)
