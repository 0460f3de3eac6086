"""The text of a conversation's shape as constants with holes for the contents: rendered once, then filled.

A shape is the roles of a conversation. Its recipe is what the format renders with marks in the place of the contents, and it is
believed once real rows of the shape, spread over the data, came out of both ways alike. Contents that a template may ask
questions about (an end of thinking within) are never filled in: such rows are rendered one by one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmguard.alignment.place import Target, body_of
from llmguard.alignment.targets import Targets
from llmguard.formats import ChatTemplate, Kind
from llmguard.formats.questions import Questions
from llmguard.rows import Turn

__all__ = ["FEWEST", "Recipe", "Shape", "asked_about", "recipe_of", "shape_of", "unsuited"]

Shape = tuple[str, ...]
FEWEST = 8
"""Rows of a shape from which on a recipe pays."""
MARK = "Qhole{0:03d}xhole{0:03d}Q"
MARKS = re.compile(rb"Qhole(\d{3})xhole\1Q")
LONGEST = 500
"""Turns of a conversation, so that marks have three digits."""


@dataclass(frozen=True)
class Recipe:
    """Texts of one shape.

    `parts`: bytes, or the number of the turn whose content stands there. `firsts`: the parts that start a piece; `kinds`: uint8 and
    `turns`: int16, of each piece. `target`: the shape with marks; `behind`: its pieces behind the last response.
    """

    target: Target
    parts: tuple[bytes | int, ...]
    firsts: tuple[int, ...]
    kinds: NDArray[np.uint8]
    turns: NDArray[np.int16]

    @property
    def answers(self) -> int:
        """Responses that are to be trained."""
        return sum(answer for answer, _ in self.target.contents)

    @property
    def body(self) -> Sequence[tuple[Kind, int, bytes]]:
        """The pieces up to the end of the last response."""
        return self.target.pieces[: len(self.kinds)]

    @property
    def behind(self) -> Sequence[tuple[Kind, int, bytes]]:
        """The pieces behind the last response."""
        return self.target.pieces[len(self.kinds) :]

    def fits(self, target: Target | None, contents: Sequence[bytes]) -> bool:
        """Whether filling in contents gives the pieces of a target that was rendered."""
        filled = [
            (kind, turn, MARKS.sub(lambda mark: contents[int(mark[1])], text))
            for kind, turn, text in self.target.pieces
        ]
        return target is not None and list(target.pieces) == filled


def shape_of(turns: tuple[Turn, ...] | None) -> Shape | None:
    """The roles of a conversation; None where its text hangs on more than roles and contents, or nothing in it is trained."""
    if not turns:
        return None
    roles = tuple([t.role for t in turns if t.wanted and not t.extra])
    return roles if len(roles) == len(turns) < LONGEST and "assistant" in roles else None


def recipe_of(shape: Shape, targets: Targets, samples: Sequence[tuple[Turn, ...]]) -> Recipe | None:
    """The recipe of a shape; None where its format renders one of the samples otherwise."""
    marked = tuple(Turn(role, MARK.format(i)) for i, role in enumerate(shape))
    target = targets.made(marked, targets.template)
    body = body_of(target) if target else []
    if target is None or not body:
        return None
    parts: list[bytes | int] = []
    firsts = []
    for _, _, text in body:
        firsts.append(len(parts))
        split = MARKS.split(text)
        parts += [int(s) if i % 2 else s for i, s in enumerate(split) if i % 2 or s or len(split) == 1]
    if not any(isinstance(p, int) for p in parts):
        return None
    kinds = np.array([p[0] for p in body], dtype=np.uint8)
    numbers = np.array([p[1] for p in body], dtype=np.int16)
    recipe = Recipe(target, tuple(parts), tuple(firsts), kinds, numbers)
    return recipe if all(_confirmed(recipe, targets, turns) for turns in samples) else None


def _confirmed(recipe: Recipe, targets: Targets, turns: tuple[Turn, ...]) -> bool:
    contents = targets.vocabulary.texts_as_bytes([t.content for t in turns])
    return recipe.fits(targets.made(turns, targets.template), contents)


def asked_about(targets: Targets) -> Questions | None:
    """Texts that change how a content is rendered or tokenised; None where that cannot be told."""
    vocabulary, template = targets.vocabulary, targets.template
    asked = template.questions if isinstance(template, ChatTemplate) else Questions()
    swallowing = (*vocabulary.swallows_after, *vocabulary.swallows_before, MARK[:5])
    return asked and Questions((*swallowing, *asked.within), asked.equal)


def unsuited(texts: Sequence[str], asked: Questions) -> set[int]:
    """The places of texts that no recipe is filled with: blank, with blanks at an edge, or what is asked about."""
    joined = "\0".join(texts)
    present = [a for a in asked.within if a[0] in joined and a in joined]
    found = {i for i, text in enumerate(texts) if not text or text.strip() != text}
    if present:
        found |= {i for i, text in enumerate(texts) if any(a in text for a in present)}
    if asked.equal:
        longest = max(map(len, asked.equal))
        found |= {i for i, text in enumerate(texts) if len(text) <= longest and text in asked.equal}
    return found
