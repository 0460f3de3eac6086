"""Metrics of one output against its reference, and of many: total over empty, blank and one-character texts, and over no texts at all.

An output is judged with a status: `empty` and `unparseable` are counted apart from `wrong`, for they say nothing of what a model knows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from llmguard.errors import UsageError

__all__ = [
    "METRICS",
    "Judged",
    "contains",
    "exact_match",
    "final_number",
    "gsm8k",
    "judge",
    "rate_of",
    "summary",
    "token_f1",
]

_NUMBER = r"-?\(?[$€£]?\s?-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?<=\d)\s?%?"
_MARKED = (
    re.compile(rf"####\s*({_NUMBER})"),
    re.compile(rf"\\boxed\s*\{{\s*(?:\\(?:text|mathrm)\s*\{{)?\s*(?:\\?\$)?\s*({_NUMBER})"),
    re.compile(
        rf"(?:final answer|answer)(?:\s+is)?\s*[:=]?\s*(?:\*\*|\\?\$|\\\()*\s*({_NUMBER})", re.IGNORECASE
    ),
)
_ANY = re.compile(rf"(?<![\w.])({_NUMBER})")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Judged:
    """What a metric says of one output: a score from 0 to 1, and `right`, `wrong`, `empty` or `unparseable`; what was read out of it."""

    score: float
    status: str
    extracted: str | None = None


def exact_match(output: str, reference: str) -> Judged:
    """Right where both texts are the same but for case, white space and a full stop at the end."""
    text = _normal(output)
    return Judged(float(text == _normal(reference)), _status(text == _normal(reference)), output.strip())


def contains(output: str, reference: str) -> Judged:
    """Right where the reference stands in the output as whole words; an empty reference stands nowhere."""
    wanted = _normal(reference)
    found = bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", _normal(output)) is not None
    return Judged(float(found), _status(found), wanted if found else output.strip()[:200])


def token_f1(output: str, reference: str) -> Judged:
    """F1 over the words of both, as counted by SQuAD (without its dropping of articles); right only at 1."""
    ours, theirs = Counter(_WORD.findall(output.lower())), Counter(_WORD.findall(reference.lower()))
    common = sum((ours & theirs).values())
    score = 2 * common / (sum(ours.values()) + sum(theirs.values())) if common else 0.0
    return Judged(score, _status(score == 1.0), output.strip())


def gsm8k(output: str, reference: str) -> Judged:
    """Right where the final numbers of both are equal as numbers; an output without a number is unparseable."""
    found, wanted = final_number(output), final_number(reference)
    if found is None:
        return Judged(0.0, "unparseable")
    return Judged(float(found == wanted), _status(found == wanted), format(found, "f"))


def final_number(text: str) -> Decimal | None:
    """The number that a worked answer ends in: behind `####`, in a box, behind "answer is", else the last; None where there is none.

    Thousands commas, currencies, per cent signs and a full stop behind it do not count: `$1,000.` is 1000, `3.0` is 3.
    """
    for pattern in (*_MARKED, _ANY):
        for match in reversed(list(pattern.finditer(text))):
            number = _decimal(match.group(1))
            if number is not None:
                return number
    return None


def _decimal(text: str) -> Decimal | None:
    digits = re.sub(r"[^\d.]", "", text)
    try:
        value = Decimal(digits)
    except InvalidOperation:
        return None
    return (-value if "-" in text else value).normalize() + 0  # -0 is 0


METRICS: dict[str, Callable[[str, str], Judged]] = {
    "contains": contains,
    "exact_match": exact_match,
    "gsm8k": gsm8k,
    "token_f1": token_f1,
}


def judge(output: str, reference: str, metric: str = "exact_match") -> Judged:
    """One output against its reference; an output without a visible character is `empty` whatever the metric.

    Raises:
        UsageError: no metric of that name.
    """
    if metric not in METRICS:
        raise UsageError("metric", metric, f"one of {', '.join(METRICS)}")
    if not output.strip():
        return Judged(0.0, "empty")
    return METRICS[metric](output, reference)


def rate_of(outputs: Sequence[str], pattern: str | re.Pattern[str]) -> float | None:
    """The share of outputs in which a pattern stands (a marker, a required format); None where there are no outputs."""
    found = re.compile(pattern, re.DOTALL) if isinstance(pattern, str) else pattern
    return sum(found.search(o) is not None for o in outputs) / len(outputs) if outputs else None


def summary(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts by status, and the mean score with its exact interval where scores are right or wrong; None where there are no records."""
    from llmguard.statistics.exact import clopper_pearson

    records = list(records)
    counts = Counter(str(r.get("status", "unknown")) for r in records)
    scores = [float(r["score"]) for r in records if isinstance(r.get("score"), (int, float))]
    told: dict[str, Any] = {"items": len(records)}
    told |= {k: counts.get(k, 0) for k in ("right", "wrong", "empty", "unparseable")}
    told["score"] = sum(scores) / len(scores) if scores else None
    right = sum(s == 1.0 for s in scores)
    exact = clopper_pearson(right, len(scores)) if scores and set(scores) <= {0.0, 1.0} else None
    return {**told, "interval": [exact.low, exact.high] if exact else None}


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".").rstrip()


def _status(right: bool) -> str:
    return "right" if right else "wrong"
