"""What the sentinel prompts gave, judged: the user's own way to generate, and a clean control on the same model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from llmguard.sentinels.diagnose import Facts, Reason, diagnose
from llmguard.sentinels.judging import Judgement
from llmguard.sentinels.prompts import SENTINELS, Sentinel
from llmguard.sentinels.verdict import ALPHA, LIMIT, Verdict, verdict

__all__ = ["Arm", "Completions", "Unanswered", "alike", "from_response", "judged"]

SHORTEST_PREFIX = 8  # characters: two completions cut at different lengths are the same from here on


@dataclass(frozen=True)
class Arm:
    """One way to generate: its completions, one a sentinel, their judgements, and the prompts as the model saw them.

    `prompts` and `prompt_ids` are empty where the user's own code generates, out of sight. `seconds`: of generation alone.
    """

    name: str
    texts: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    prompts: tuple[str, ...] = ()
    prompt_ids: tuple[tuple[int, ...], ...] = ()
    seconds: float = 0.0

    @property
    def followed(self) -> tuple[bool, ...]:
        """Followed or not, one a sentinel."""
        return tuple(j.followed for j in self.judgements)

    @property
    def blank(self) -> int:
        """How many completions hold no text at all."""
        return sum(not t.strip() for t in self.texts)


@dataclass(frozen=True)
class Completions:
    """Evidence of the sentinel checks: two arms over the same sentinels; `control` is None where no model could be loaded.

    `what` names the path under test for a person; `facts` is what the diagnosis reads.
    """

    what: str
    sentinels: tuple[Sentinel, ...]
    user: Arm
    control: Arm | None
    facts: Facts = field(default_factory=Facts)
    limit: float = LIMIT
    alpha: float = ALPHA

    def __len__(self) -> int:
        return len(self.sentinels)

    @cached_property
    def verdict(self) -> Verdict:
        """The numbers: paired exact test and exact bound."""
        control = None if self.control is None else self.control.followed
        return verdict(self.user.followed, control, limit=self.limit, alpha=self.alpha)

    @cached_property
    def reasons(self) -> tuple[Reason, ...]:
        """Why the user's arm follows, as far as facts say."""
        return diagnose(self.facts)


@dataclass(frozen=True)
class Unanswered:
    """In the place of completions: the route that the project names did not give any, and why."""

    what: str
    reason: str


def judged(name: str, texts: Sequence[str], sentinels: Sequence[Sentinel] = SENTINELS, **rest: Any) -> Arm:
    """An arm from its completions, one a sentinel, each judged by its own judge."""
    judgements = tuple(s.judge(t) for s, t in zip(sentinels, texts, strict=True))
    return Arm(name, tuple(texts), judgements, **rest)


def from_response(name: str, answer: Mapping[str, Any], sentinels: Sequence[Sentinel]) -> Arm:
    """An arm from what the generating child wrote."""
    ids = tuple(tuple(p) for p in answer["prompt_ids"] or ())
    prompts = tuple(answer["prompt_texts"] or ())
    return judged(
        name, answer["texts"], sentinels, prompts=prompts, prompt_ids=ids, seconds=float(answer["seconds"])
    )


def alike(some: Sequence[str], others: Sequence[str]) -> float:
    """The share of completions that are the same text, or the beginning of one another, in two arms."""
    return sum(map(_same, some, others)) / len(some) if some else 0.0


def _same(one: str, other: str) -> bool:
    short, long = sorted((one.strip(), other.strip()), key=len)
    return short == long or (len(short) >= SHORTEST_PREFIX and long.startswith(short))
