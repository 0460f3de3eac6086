"""The controlled verdict: does the user's own path make a model obey more than a clean path through the same model does?

Two exact tests on the same prompts, neither of them an approximation:

- McNemar's test, one-sided: of the prompts on which the two arms differ, how many would the user's arm win by chance?
- the Clopper-Pearson lower bound of the user's follow rate, against a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmguard.errors import UsageError
from llmguard.statistics.exact import ALPHA, lower_bound, mcnemar

__all__ = ["ALPHA", "LIMIT", "Verdict", "verdict"]

LIMIT = 0.70
"""Follow rate above which a base model is not a base model, as documented by those who met the bug."""


@dataclass(frozen=True)
class Verdict:
    """The numbers of one comparison; rates are shares of `n` prompts.

    `only_user`, `only_control`: prompts followed in one arm alone. `p_value`: exact, one-sided ("the user's arm follows
    more"), None without a control. `lower`: of the user's follow rate, with confidence 1 - `alpha`.
    """

    n: int
    user: int
    control: int | None
    only_user: int
    only_control: int
    p_value: float | None
    lower: float
    limit: float
    alpha: float

    @property
    def rate(self) -> float:
        """Follow rate of the user's arm."""
        return self.user / self.n

    @property
    def control_rate(self) -> float | None:
        """Follow rate of the clean arm."""
        return None if self.control is None else self.control / self.n

    @property
    def above_control(self) -> bool:
        """The user's arm follows more than the clean one, and chance does not explain it."""
        return self.p_value is not None and self.p_value < self.alpha

    @property
    def above_limit(self) -> bool:
        """Even the lower bound of the follow rate is above the limit."""
        return self.lower > self.limit


def verdict(
    user: Sequence[bool], control: Sequence[bool] | None, *, limit: float = LIMIT, alpha: float = ALPHA
) -> Verdict:
    """Compare followed / not followed, prompt by prompt; `control` in the same order, None where there is none.

    Raises:
        UsageError: no prompts, arms of different lengths, a limit or alpha outside of (0, 1).
    """
    for name, value in (("limit", limit), ("alpha", alpha)):
        if not 0 < value < 1:
            raise UsageError(name, value, "a share between 0 and 1")
    if not user:
        raise UsageError("user", list(user), "at least one judged completion")
    if control is not None and len(control) != len(user):
        raise UsageError(
            "control", f"{len(control)} completions", f"as many as the user's arm has: {len(user)}"
        )
    pairs = list(zip(user, control or [], strict=False))  # without a control there are no pairs
    only_user, only_control = sum(u and not c for u, c in pairs), sum(c and not u for u, c in pairs)
    return Verdict(
        n=len(user),
        user=sum(map(bool, user)),
        control=None if control is None else sum(map(bool, control)),
        only_user=only_user,
        only_control=only_control,
        p_value=None if control is None else mcnemar(only_user, only_control),
        lower=lower_bound(sum(map(bool, user)), len(user), alpha),
        limit=limit,
        alpha=alpha,
    )
