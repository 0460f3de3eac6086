"""The controlled verdict: does the user's own path make a model obey more than a clean path through the same model does?

Two exact tests on the same prompts, neither of them an approximation:

- McNemar's test, one-sided: of the prompts on which the two arms differ, how many would the user's arm win by chance?
- the Clopper-Pearson lower bound of the user's follow rate, against a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb, exp, fsum, lgamma, log, log1p

from llmguard.errors import UsageError

__all__ = ["ALPHA", "LIMIT", "Verdict", "binomial_tail", "lower_bound", "mcnemar", "upper_bound", "verdict"]

LIMIT = 0.70
"""Follow rate above which a base model is not a base model, as documented by those who met the bug."""
ALPHA = 0.05
_BISECTIONS = 60  # halvings of [0, 1]: the bound is exact to the last bit that prints


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


def mcnemar(wins: int, losses: int) -> float:
    """Exact one-sided p-value: at least so many wins among wins + losses, were both equally likely."""
    n = wins + losses
    return sum(comb(n, k) for k in range(wins, n + 1)) / (1 << n)


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p), summed term by term."""
    if k <= 0 or p >= 1:
        return 1.0 if k <= n else 0.0
    if p <= 0 or k > n:
        return 0.0
    return min(1.0, fsum(_term(i, n, p) for i in range(k, n + 1)))


def _term(k: int, n: int, p: float) -> float:
    return exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log1p(-p))


def lower_bound(k: int, n: int, alpha: float = ALPHA) -> float:
    """Clopper-Pearson: the rate below which k of n or more would be seen with probability under `alpha`."""
    return 0.0 if k == 0 else _crossing(lambda p: binomial_tail(k, n, p) >= alpha)


def upper_bound(k: int, n: int, alpha: float = ALPHA) -> float:
    """Clopper-Pearson: the rate above which k of n or fewer would be seen with probability under `alpha`."""
    return 1.0 if k == n else _crossing(lambda p: 1.0 - binomial_tail(k + 1, n, p) < alpha)


def _crossing(reached: Callable[[float], bool]) -> float:
    """Where a condition that holds for large rates only begins to hold."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return (low + high) / 2
