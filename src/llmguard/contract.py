"""What makes a function a check: its name is a sentence, it takes evidence by name and yields findings.

    @check
    def adapter_is_trained(adapter: Adapter) -> Yields:
        '''The adapter changes something: some B matrix is not zero.'''
        for name in adapter.zero_tensors:
            yield error(Where(file=name), what=..., why=..., cause=..., remedy=...)
        return len(adapter.tensors)          # how many things were looked at

Row by row checks over a whole data set are *map and merge*: one process, several, or a cluster give the same answer.

    @row_check
    def every_row_has_a_supervised_token(encoded: Encoded) -> Tally: ...   # map: one shard -> partial

    @every_row_has_a_supervised_token.explain                              # merge: sum of partials -> findings
    def _(tally: Tally) -> Iterator[Finding]: ...
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, ParamSpec

from llmguard.errors import UsageError
from llmguard.findings import Finding, Findings
from llmguard.tally import Tally

__all__ = ["Check", "RowCheck", "Yields", "check", "row_check"]

P = ParamSpec("P")
Yields = Generator[Finding, None, int]
"""What a check function is: findings, then how many things it looked at."""


class Check(Generic[P]):
    """A check: call it with evidence, get `Findings`; `name` is its id everywhere."""

    def __init__(self, function: Callable[P, Generator[Finding, None, int]], unit: str = "rows") -> None:
        functools.update_wrapper(self, function)
        self.function, self.unit = function, unit
        self.name = function.__name__

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Findings:
        """Run the check on its evidence."""
        found: list[Finding] = []
        looked_at = _drain(self.function(*args, **kwargs), found)
        return Findings(found, check=self.name, looked_at=looked_at, unit=self.unit)

    @functools.cached_property
    def parameters(self) -> dict[str, bool]:
        """Evidence by parameter name -> whether the check can do without it."""
        found = inspect.signature(self.function).parameters.values()
        return {p.name: p.default is not inspect.Parameter.empty for p in found}

    def __repr__(self) -> str:
        return f"<check {self.name}>"


class RowCheck(Generic[P]):
    """A check over many rows as map and merge: `map(shard) -> Tally`, `merge(tallies) -> Findings`."""

    def __init__(self, function: Callable[P, Tally], unit: str = "rows") -> None:
        functools.update_wrapper(self, function)
        self.function, self.unit = function, unit
        self.name = function.__name__
        self._explain: Callable[[Tally], Iterator[Finding]] | None = None

    def explain(self, function: Callable[[Tally], Iterator[Finding]]) -> Callable[[Tally], Iterator[Finding]]:
        """Decorate the function that turns the summed tally into findings."""
        self._explain = function
        return function

    def map(self, *args: P.args, **kwargs: P.kwargs) -> Tally:
        """One shard of the evidence to its partial result: small, picklable, summable."""
        return self.function(*args, **kwargs)

    def merge(self, tallies: Iterable[Tally]) -> Findings:
        """The partial results of all shards, in any order, to findings.

        Raises:
            UsageError: no explanation was declared for this check.
        """
        if self._explain is None:
            raise UsageError("check", self.name, "a row check with an @<name>.explain function")
        total = Tally.sum(tallies)
        return Findings(self._explain(total), check=self.name, looked_at=total.looked_at, unit=self.unit)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Findings:
        """Run the check on its evidence, taken as one shard."""
        return self.merge([self.map(*args, **kwargs)])

    @functools.cached_property
    def parameters(self) -> dict[str, bool]:
        """Evidence by parameter name -> whether the check can do without it."""
        found = inspect.signature(self.function).parameters.values()
        return {p.name: p.default is not inspect.Parameter.empty for p in found}

    def __repr__(self) -> str:
        return f"<row check {self.name}>"


def _drain(generator: Generator[Finding, None, int], found: list[Finding]) -> int:
    while True:
        try:
            found.append(next(generator))
        except StopIteration as stop:
            return int(stop.value or 0)


def check(function: Callable[P, Generator[Finding, None, int]]) -> Check[P]:
    """Make a generator function a check; what it returns is how many things it looked at."""
    return Check(function)


def row_check(function: Callable[P, Tally]) -> RowCheck[P]:
    """Make a shard -> Tally function a check; give it its findings with `@<name>.explain`."""
    return RowCheck(function)


AnyCheck = Check[Any] | RowCheck[Any]
