"""Sentinel prompts: a base model continues text, it does not obey."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, note, warning
from llmguard.sentinels.completions import Arm, Completions, Unanswered

__all__ = ["base_model_fails_instruction_prompts"]

NATURAL = 0.2  # follow rate from which a clean base model's own obedience is worth a note
MOSTLY_BLANK = 0.5  # share of empty completions from which an arm says nothing
SHOWN = 3  # prompts quoted in a finding's evidence
WHY = (
    "a base model that obeys before any training is not the base model of the experiment: what training adds cannot be"
    " told from what leaked in, and every later comparison is wrong"
)


@check
def base_model_fails_instruction_prompts(
    completions: Completions | Unanswered, kind: str | None = None
) -> Yields:
    """A base model does not follow the sentinel prompts on the user's own route more than on a clean one, nor beyond the limit.

    Modern base models follow some instructions by nature, so the verdict is controlled. Two exact statements about the
    same n prompts: the user's arm follows *more than the control* (one-sided McNemar, p < alpha), and its follow rate is
    *above the limit* (Clopper-Pearson lower bound). Four quadrants:

    ====================  ==================================================  =============================================
                          not above the limit                                 above the limit
    ====================  ==================================================  =============================================
    not above control     passes; with a note where both arms obey some,      error: the model obeys in both arms, so it is
                          a warning where the rate is over the limit and      no base model, whatever the route: an instruct
                          too few prompts were asked to prove it              checkpoint, or merged weights
    above control         error: something on the route makes it obey         error: the same, and in full
    ====================  ==================================================  =============================================

    Without a control (a `generate` function and no model) the bound alone decides. An arm that is mostly empty proves
    nothing and is a warning; a route that gives no completions at all is an error. A model declared as `chat` is not
    judged. Cannot see: a leak that these prompts do not show.
    """
    if kind == "chat":
        return 0
    if isinstance(completions, Unanswered):
        yield _unanswered(completions)
        return 0
    yield from _blank(completions)
    verdict = completions.verdict
    if verdict.above_control or verdict.above_limit:
        yield _obeys(completions)
    elif verdict.rate > verdict.limit:
        yield _unproved(completions)
    elif verdict.control is not None and verdict.rate >= NATURAL:
        yield _by_nature(completions)
    return len(completions)


def _where(completions: Completions) -> Where:
    return Where(what=completions.what)


def _numbers(completions: Completions) -> str:
    v = completions.verdict
    rate = f"follows {v.user} of {v.n} sentinel prompts ({v.rate:.0%}, at least {v.lower:.0%} with {1 - v.alpha:.0%} confidence)"
    if v.control is None or v.p_value is None:
        return f"{rate}; there is no control"
    return (
        f"{rate}, the same model on bare instructions {v.control} ({v.control_rate:.0%});"
        f" {v.only_user} only here, {v.only_control} only there, exact p = {v.p_value:.2g}"
    )


def _obeys(completions: Completions) -> Finding:
    v = completions.verdict
    # where the control obeys as well, the route is not to blame: what is known of the checkpoint comes first
    reasons = sorted(
        completions.reasons, key=lambda r: r.code != "instruct-checkpoint" and not v.above_control
    )
    return error(
        _where(completions),
        what=f"the base model {_numbers(completions)}",
        why=WHY,
        cause="; ".join(r.sentence for r in reasons),
        remedy="; ".join(r.remedy for r in reasons),
        expected=f"no more than the clean control, and at most {v.limit:.0%}",
        actual=f"{v.rate:.0%} followed" + ("" if v.control is None else f", control {v.control_rate:.0%}"),
        evidence=_evidence(completions),
    )


def _unanswered(route: Unanswered) -> Finding:
    return error(
        Where(what=route.what),
        what=f"the sentinel prompts could not be asked: {route.reason}",
        why="the route that evaluates the model does not work, so nothing is known of what the model obeys",
        cause="the model does not load here, or the project's own function or builder fails on a plain instruction",
        remedy="run that route once by hand on the prompt 'List three prime numbers.'",
    )


def _unproved(completions: Completions) -> Finding:
    v = completions.verdict
    return warning(
        _where(completions),
        what=f"the base model {_numbers(completions)}: over the limit of {v.limit:.0%}, and {v.n} prompts are too few to prove it",
        why=WHY,
        cause="; ".join(r.sentence for r in completions.reasons),
        remedy="ask more sentinel prompts (all of them at once), and look at the first completions below",
        evidence=_evidence(completions),
    )


def _by_nature(completions: Completions) -> Finding:
    return note(
        _where(completions),
        what=f"the base model {_numbers(completions)}: alike in both arms, so the route is not what makes it obey",
        why="modern base models have seen instructions in pre-training; compare later models with this rate, not with zero",
        evidence=_evidence(completions),
    )


def _blank(completions: Completions) -> Iterable[Finding]:
    for arm in (completions.user, completions.control):
        if arm is not None and arm.blank > MOSTLY_BLANK * len(completions):
            yield warning(
                _where(completions),
                what=f"{arm.blank} of {len(completions)} completions of {arm.name} are empty",
                why="an empty completion follows nothing: this comparison would be green for any model",
                cause="a terminator generated at once, a stop text that stands in the prompt, or new tokens cut off with the prompt",
                remedy="look at what the route returns for one prompt before it is cut and stripped",
                evidence=_evidence(completions),
            )


def _evidence(completions: Completions) -> dict[str, Any]:
    v = completions.verdict
    return {
        "n": v.n, "followed": v.user, "control": v.control, "only here": v.only_user, "only there": v.only_control,
        "p": v.p_value, "lower bound": round(v.lower, 4), "limit": v.limit,
        "reasons": [{"code": r.code, **r.evidence} for r in completions.reasons],
        "followed here": [s.id for s, f in zip(completions.sentinels, completions.user.followed, strict=True) if f],
        "first completions": _first(completions, completions.user),
    }  # fmt: skip


def _first(completions: Completions, arm: Arm) -> list[dict[str, str]]:
    rows = list(zip(completions.sentinels, arm.texts, arm.judgements, strict=True))
    chosen = [r for r in rows if r[2].followed][:SHOWN] or rows[:SHOWN]
    return [{"prompt": s.prompt, "completion": text[:160], "judged": j.why} for s, text, j in chosen]
