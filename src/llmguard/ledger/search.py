"""From a symptom to the bugs that look like it: words of the question, found in the stories, rare ones counting for more."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llmguard.ledger.stories import Story

__all__ = ["Found", "find"]

WEIGHTS = {"Symptom": 3.0, "Cause": 1.0, "Cost": 1.0, "Check": 1.0, "Lesson": 1.0}
TITLE = 2.0
SATURATION = 1.2
"""The k1 of BM25: how soon the same word again stops to matter (Robertson and Zaragoza 2009)."""
STOP = frozenset(
    "a an and are as at be but by do does for from has have how i if in into is it its more my no not of off on only or our so than that"
    " nothing something everything"
    " the their them then there they this to too up was we were what when which who why will with".split()
)
SAME = {
    "oom": "memory", "cuda": "gpu", "vram": "memory", "eos": "terminator", "stops": "stop", "nan": "nan", "0.0": "zero", "0": "zero",
    "checkpoint": "checkpoint", "finetuning": "training", "train": "training", "trained": "training", "eval": "evaluation",
    "evaluate": "evaluation", "hang": "hang", "hung": "hang", "stuck": "hang", "freezes": "hang", "prompts": "prompt", "lora": "adapter",
}  # fmt: skip
"""Words that people use for the same thing."""


@dataclass(frozen=True)
class Found:
    """A story, how well it fits (higher is better), and the words that it was found by."""

    story: Story
    score: float
    words: tuple[str, ...]


def find(question: str, stories: Sequence[Story]) -> list[Found]:
    """The stories that share words with a question, best first; none where none does."""
    asked = dict.fromkeys(words_of(question))
    counted = [_counted(story) for story in stories]
    told = Counter(word for counts in counted for word in counts)
    found = []
    for story, counts in zip(stories, counted, strict=True):
        shared = [word for word in asked if word in counts]
        score = sum(_rarity(told[word], len(stories)) * _saturated(counts[word]) for word in shared)
        if shared:
            found.append(Found(story, score, tuple(shared)))
    return sorted(found, key=lambda one: (-one.score, one.story.slug))


def words_of(text: str) -> list[str]:
    """The words that tell something, in one form each."""
    raw = re.findall(r"[a-z]+|\d+\.\d+|\d+", text.lower().replace("_", " "))
    return [SAME.get(word, _stem(word)) for word in raw if word not in STOP]


def _stem(word: str) -> str:
    for ending, rest in (("ies", "y"), ("ing", ""), ("sses", "ss"), ("ed", ""), ("es", "e"), ("s", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            stem = word[: len(word) - len(ending)] + rest
            return SAME.get(stem, stem)
    return word


def _counted(story: Story) -> Counter[str]:
    found: Counter[str] = Counter()
    weighted = [
        (f"{story.title} {story.slug}", TITLE),
        *((story.fields.get(name, ""), w) for name, w in WEIGHTS.items()),
    ]
    for text, weight in weighted:
        for word in words_of(text):
            found[word] += weight  # type: ignore[assignment]  # weights are counts of a kind
    return found


def _rarity(having: int, of: int) -> float:
    return math.log(1 + (of - having + 0.5) / (having + 0.5))


def _saturated(count: float) -> float:
    return count * (SATURATION + 1) / (count + SATURATION)
