"""Few-shot prompts for base models: text to be completed, examples drawn anew for each prompt, no role words."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from llmguard.errors import UsageError
from llmguard.overlap.hashing import words_of

__all__ = ["POOL", "STOP", "Example", "FewShot"]

STOP = "\n\n"
"""What follows a completed example, and so a completion: generation stops there."""


class Example(NamedTuple):
    """Something asked and its completion; `kind`: arithmetic, completion, fact, creative, explanation, or your own."""

    kind: str
    asked: str
    answer: str


@dataclass(frozen=True)
class FewShot:
    """Draws 3 or 4 examples (`shots`) for each prompt from `pool`, of as many kinds as there are.

    The draw depends on `seed` and on the prompt, not on the order of the prompts: the same prompt gets the same examples on every
    run and every machine. An example that is the evaluated item is never drawn: one that asks what the prompt asks, whole or within
    it, or that is among `never`, the texts of the evaluated items. Case, punctuation and space do not count.
    """

    pool: Sequence[Example] = ()
    seed: int = 0
    shots: tuple[int, int] = (3, 4)
    never: Iterable[str] = ()

    @cached_property
    def _left(self) -> list[tuple[str, Example]]:
        evaluated = {_said(text) for text in self.never}
        said = [(_said(example.asked), example) for example in self.pool or POOL]
        return [(text, e) for text, e in said if text not in evaluated and _said(e.answer) not in evaluated]

    def prompt(self, asked: str) -> str:
        """The text to be completed: the examples, a blank line behind each, then what is asked.

        Raises:
            UsageError: the pool has too few examples that are not the evaluated item.
        """
        shown = [f"{example.asked}\n{example.answer}{STOP}" for example in self.examples(asked)]
        return f"{''.join(shown)}{asked.strip()}\n"

    def examples(self, asked: str) -> list[Example]:
        """The examples for a prompt.

        Raises:
            UsageError: the pool has too few examples that are not the evaluated item.
        """
        draw, item = random.Random(f"{self.seed}\n{asked}"), _said(asked)
        left = [example for text, example in self._left if not _is_within(text, item)]
        count = draw.randint(*self.shots)
        if len(left) < count:
            raise UsageError("pool", len(left), f"at least {count} examples that are not the evaluated item")
        draw.shuffle(left)
        drawn: Counter[str] = Counter()
        ranked: list[tuple[int, Example]] = []
        for example in left:
            ranked.append((drawn[example.kind], example))
            drawn[example.kind] += 1
        ranked.sort(key=lambda each: each[0])  # each kind once before any comes twice
        return [example for _, example in ranked[:count]]


def _said(text: str) -> str:
    return " ".join(words_of(text))


def _is_within(example: str, item: str) -> bool:
    return example == item or (example.count(" ") > 2 and f" {example} " in f" {item} ")


POOL: tuple[Example, ...] = (
    Example("arithmetic", "What is 17 plus 25?", "17 + 25 = 42"),
    Example("arithmetic", "A box holds 6 eggs. How many eggs are in 4 boxes?", "4 boxes hold 4 x 6 = 24 eggs."),
    Example("arithmetic", "Half of 90 is", "45"),
    Example("arithmetic", "A train leaves at 9:40 and arrives at 11:10. How long is the journey?", "One and a half hours."),
    Example("arithmetic", "Mia had 15 marbles and gave 4 of them away. How many are left?", "15 - 4 = 11 marbles are left."),
    Example("arithmetic", "What is 8 times 7?", "8 x 7 = 56"),
    Example("completion", "The opposite of early is", "late."),
    Example("completion", "Monday, Tuesday, Wednesday,", "Thursday."),
    Example("completion", "Water freezes into ice and boils into", "steam."),
    Example("completion", "He opened the umbrella because it had started to", "rain."),
    Example("completion", "A young dog is called a puppy, a young cat is called a", "kitten."),
    Example("completion", "Bread is baked in an", "oven."),
    Example("fact", "What is the capital of Portugal?", "Lisbon."),
    Example("fact", "How many legs does a spider have?", "Eight."),
    Example("fact", "Which planet is closest to the sun?", "Mercury."),
    Example("fact", "Which metal is liquid at room temperature?", "Mercury, the metal."),
    Example("fact", "The longest bone of the human body is", "the thigh bone."),
    Example("fact", "On which continent does the Nile flow?", "Africa."),
    Example("creative", "A line about the sea in winter", "The grey waves kept their distance from the empty pier."),
    Example("creative", "A name for a bakery beside a station", "The Last Crumb Before Departure."),
    Example("creative", "The first sentence of a story about a lighthouse", "Nobody had lit the lamp for years, and yet it burned."),
    Example("creative", "Two lines on the first snow", "The street forgot its noise tonight,\nand every roof is wearing white."),
    Example("creative", "A slogan for a library", "Borrow a world, bring it back on Tuesday."),
    Example("creative", "What a clock might say to a calendar", "You count the days; I am the one who spends them."),
    Example("explanation", "Why does ice float on water?", "Ice is less dense than water, because water expands when it freezes."),
    Example("explanation", "Why do leaves fall in autumn?", "The tree saves water and energy in winter by letting its leaves go."),
    Example("explanation", "How does a bicycle bell ring?", "A lever turns small weights that strike the inside of a metal cap."),
    Example("explanation", "Why is the sky blue?", "Air scatters the short waves of sunlight, which look blue, more than the long ones."),
    Example("explanation", "Why does bread rise?", "Yeast eats sugar in the dough and gives off gas, which makes bubbles."),
    Example("explanation", "Why do we see lightning before we hear thunder?", "Light travels far faster than sound."),
)  # fmt: skip
"""Six examples of each kind; none of them from a benchmark."""
