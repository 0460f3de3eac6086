"""Preference pairs: chosen and rejected answer the same prompt, differ, and are the right way round."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from llmguard.contract import Yields, check
from llmguard.control import ENDS, ROLE_WORDS
from llmguard.findings import Finding, Where, error, warning
from llmguard.rows import Rows, Turn, as_rows, turns_of
from llmguard.vocabulary import vocabulary_of

__all__ = [
    "chosen_differs_from_rejected",
    "chosen_scores_above_rejected",
    "pair_responses_hold_no_control_tokens",
    "pairs_differ_within_max_length",
    "pairs_do_not_repeat_their_prompt",
    "pairs_share_their_prompt",
]


class _Pairs:
    """(row, chosen turns, rejected turns) of some rows, prompts included where the row has one; made anew each time, and never kept."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._count: int | None = None

    def __iter__(self) -> Iterator[tuple[int, tuple[Turn, ...], tuple[Turn, ...]]]:
        columns, count = self.rows.columns, 0
        for i, record in enumerate(self.rows.records if columns.preference else ()):
            chosen, rejected = turns_of(record, columns, "chosen"), turns_of(record, columns, "rejected")
            if chosen and rejected:
                count += 1
                yield i, chosen, rejected
        self._count = count

    def __len__(self) -> int:
        return sum(1 for _ in self) if self._count is None else self._count


def _some(rows: Rows, bad: list[int]) -> Where:
    return rows.where(bad[0])


@check
def chosen_differs_from_rejected(rows: Any) -> Yields:
    """In every pair the chosen response is another text than the rejected one (white space and end markers aside)."""
    source = as_rows(rows)
    pairs = _Pairs(source)
    bad = [i for i, c, r in pairs if _words(c[-1].content) == _words(r[-1].content)]
    if bad:
        yield error(
            _some(source, bad),
            what=f"{len(bad):,} of {len(pairs):,} pairs have the same chosen and rejected response",
            why=(
                "their loss is ln 2 = 0.6931 whatever the model does: no gradient, and the rewards look stuck"
            ),
            cause="both columns were filled from one, or ties were kept",
            remedy="drop ties",
            evidence={"rows": bad[:5]},
        )
    return len(pairs)


def _words(text: str) -> str:
    """A response without white space, and without the markers that may end it."""
    said = "".join(text.split())
    while marker := next((m for m in ENDS if said.endswith(m)), ""):
        said = said.removesuffix(marker)
    return said


@check
def pairs_share_their_prompt(rows: Any) -> Yields:
    """Where chosen and rejected are whole conversations, they ask the same: every turn before the last is equal."""
    source = as_rows(rows)
    pairs = _Pairs(source)
    bad = [
        i
        for i, c, r in pairs
        if [(t.role, t.content) for t in c[:-1]] != [(t.role, t.content) for t in r[:-1]]
    ]
    if bad:
        yield error(
            _some(source, bad),
            what=f"{len(bad):,} of {len(pairs):,} pairs have different prompts in chosen and rejected",
            why="the loss compares answers to different questions",
            cause="pairs were joined by position after one side had been filtered or sorted",
            remedy="join chosen and rejected by the prompt's id",
            evidence={"rows": bad[:5]},
        )
    return len(pairs)


@check
def pairs_do_not_repeat_their_prompt(rows: Any) -> Yields:
    """A response does not start with the prompt that it answers (TRL would render the prompt twice), nor with `Human:` and the prompt."""
    source = as_rows(rows)
    asked, bad = 0, list[int]()
    for i, c, r in _Pairs(source):
        if len(c) > 1 and len(c[-2].content.strip()) >= 12:
            asked += 1
            bad += [i] if _starts_with_prompt(c) or _starts_with_prompt(r) else []
    if len(bad) * 10 > asked:
        yield error(
            _some(source, bad),
            what=f"{len(bad):,} of {asked:,} pairs repeat the prompt at the start of a response",
            why="the prompt is rendered twice, and its second copy is trained as part of the answer",
            cause="data in the form prompt + answer, mapped to columns that hold the answer alone",
            remedy="strip the prompt from chosen and rejected",
            evidence={"rows": bad[:5]},
        )
    return asked


def _starts_with_prompt(turns: tuple[Turn, ...]) -> bool:
    asked = _unled(turns[-2].content)
    return len(asked) >= 12 and _unled(turns[-1].content).startswith(asked)


def _unled(text: str) -> str:
    """A text without the role word that it may start with."""
    led = ROLE_WORDS.match(text.strip())
    return text.strip()[led.end() if led else 0 :].strip()


@check
def pairs_differ_within_max_length(rows: Any, tokenizer: Any, max_length: int) -> Yields:
    """Chosen and rejected still differ once both are cut to `max_length`."""
    source = as_rows(rows)
    pairs = list(itertools.islice(_Pairs(source), 2000))
    texts = ["\n".join(t.content for t in turns) for _, c, r in pairs for turns in (c, r)]
    ids = tokenizer(texts)["input_ids"] if texts else []
    bad = [
        p[0]
        for n, p in enumerate(pairs)
        if ids[2 * n][:max_length] == ids[2 * n + 1][:max_length] and ids[2 * n] != ids[2 * n + 1]
    ]
    if bad:
        yield error(
            _some(source, bad),
            what=(
                f"{len(bad):,} of {len(pairs):,} pairs are equal in their first {max_length} tokens: "
                "truncation takes the difference away"
            ),
            why="such pairs teach nothing, and their loss stays at ln 2",
            cause="prompts, or a common start of both answers, that fill max_length",
            remedy="raise max_length, or drop these pairs",
            evidence={"rows": bad[:5]},
        )
    return len(pairs)


@check
def chosen_scores_above_rejected(rows: Any) -> Yields:
    """Where pairs carry scores (`score_chosen`, `score_rejected`), chosen has the higher one.

    Without scores, swapped columns are suspected by statistics.

    The suspicion (a warning): chosen responses are refusals or empty far more often than rejected ones.
    """
    source = as_rows(rows)
    pairs = _Pairs(source)
    scored, bad = 0, list[int]()
    for i, r in enumerate(source.records):
        if _number(r.get("score_chosen")) and _number(r.get("score_rejected")):
            scored += 1
            bad += [i] if r["score_chosen"] < r["score_rejected"] else []
    if bad:
        many = len(bad) * 2 > scored
        yield (error if many else warning)(
            _some(source, bad),
            what=(f"{len(bad):,} of {scored:,} scored pairs have a lower score for chosen than for rejected"),
            why="trained so, the model learns to prefer the worse answer",
            cause="the two columns are swapped" if many else "scores and choice come from different judges",
            remedy="swap the columns" if many else "drop the pairs whose score contradicts the choice",
            evidence={"rows": bad[:5]},
        )
    if not scored and pairs:
        yield from _suspected(source, pairs)
    return len(pairs)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _suspected(rows: Rows, pairs: _Pairs) -> Iterator[Finding]:
    poor = np.array([(i, _poor(c[-1].content), _poor(r[-1].content)) for i, c, r in pairs], dtype=np.int64)
    chosen, rejected = poor[:, 1].astype(bool), poor[:, 2].astype(bool)
    only_chosen, only_rejected = int((chosen & ~rejected).sum()), int((rejected & ~chosen).sum())
    if only_chosen >= 5 and only_chosen > 4 * max(only_rejected, 1):
        bad = poor[chosen & ~rejected, 0].tolist()
        yield warning(
            rows.where(bad[0]),
            what=(
                f"in {only_chosen:,} of {len(pairs):,} pairs chosen alone is empty, a refusal or a "
                f"fragment; rejected alone in {only_rejected:,}"
            ),
            why="if the columns are swapped, the model is trained to prefer the worse answer",
            cause="chosen and rejected were swapped when the data were written",
            remedy="read ten pairs; swap the columns if they are",
            evidence={"rows": bad[:5]},
        )


def _poor(text: str) -> bool:
    said = text.strip().lower()
    return len(said) < 3 or said.startswith(
        ("i'm sorry, but i can", "i am sorry, but i can", "i cannot ", "i can't ", "as an ai")
    )


@check
def pair_responses_hold_no_control_tokens(rows: Any, tokenizer: Any) -> Yields:
    """Responses of pairs hold no control tokens of a chat template: they are rendered later, and would be rendered twice."""
    source = as_rows(rows)
    vocabulary = vocabulary_of(tokenizer)
    special = {i for i, s in enumerate(vocabulary.special) if s}
    pairs = list(itertools.islice(_Pairs(source), 500))
    texts = [t[-1].content for _, c, r in pairs for t in (c, r)]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    bad = [pairs[n // 2][0] for n, row in enumerate(ids) if special & set(row)]
    if len(set(bad)) * 2 > len(pairs):
        yield error(
            _some(source, bad),
            what=(
                f"{len(set(bad)):,} of {len(pairs):,} pairs hold control tokens of a template in their "
                "responses"
            ),
            why=(
                "the trainer renders the template itself: turns and BOS come twice, in the middle of a "
                "sequence"
            ),
            cause="the data were rendered before they were stored",
            remedy="store plain responses and let the trainer render them",
            evidence={"rows": sorted(set(bad))[:5]},
        )
    return len(pairs)
