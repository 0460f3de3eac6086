"""How a check goes over many rows: in this process, or over shards in several. The answer is the same either way."""

from __future__ import annotations

import importlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmguard.contract import AnyCheck, RowCheck
from llmguard.findings import Findings
from llmguard.tally import Tally

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

__all__ = ["Engine", "Processes", "serial"]

SHARDED = "encoded"
"""The evidence that is cut into shards; its `source` keeps the numbers of the whole, so that all else can stay whole."""


class Engine(Protocol):
    """Runs a check on its evidence."""

    def __call__(self, check: AnyCheck, evidence: Mapping[str, Any]) -> Findings:
        """What the check finds."""


def serial(check: AnyCheck, evidence: Mapping[str, Any]) -> Findings:
    """The check in this process, on all rows at once."""
    return check(**evidence)


class Processes:
    """Row checks over shards of `rows` rows in worker processes, started when they are first needed; all else in this one.

    Fresh processes, no forks: safe beside threads. A script that uses it needs its `if __name__ == "__main__":`.
    """

    def __init__(self, workers: int | None = None, rows: int = 50_000) -> None:
        self.workers, self.rows = workers or _processors(), rows

    def __call__(self, check: AnyCheck, evidence: Mapping[str, Any]) -> Findings:
        """What the check finds: tallies of all shards, merged."""
        whole = evidence.get(SHARDED)
        if not isinstance(check, RowCheck) or whole is None or len(whole) <= self.rows:
            return check(**evidence)
        try:
            rest = self._store({name: value for name, value in evidence.items() if name != SHARDED})
        except (pickle.PicklingError, TypeError, AttributeError):
            return check(**evidence)  # evidence that cannot leave this process: the answer is the same here
        module = check.function.__module__
        jobs = [self._pool.submit(_map, module, check.name, rest, shard) for shard in whole.shards(self.rows)]
        return check.merge(job.result() for job in jobs)

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="llmguard-engine-")

    @cached_property
    def _pool(self) -> ProcessPoolExecutor:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        return ProcessPoolExecutor(self.workers, get_context("spawn"))

    @cached_property
    def _stored(self) -> dict[tuple[int, ...], tuple[Path, Any]]:
        return {}

    def _store(self, evidence: dict[str, Any]) -> Path:
        """What all shards share, written once for all checks that take the same; the values are kept, so that ids stay theirs."""
        key = tuple(id(value) for value in evidence.values())
        if key not in self._stored:
            path = Path(self._folder.name, f"{len(self._stored)}.pickle")
            path.write_bytes(pickle.dumps(evidence))
            self._stored[key] = (path, evidence)
        return self._stored[key][0]

    def close(self) -> None:
        """End the workers and remove what they shared."""
        if "_pool" in self.__dict__:
            self._pool.shutdown(cancel_futures=True)
        if "_folder" in self.__dict__:
            self._folder.cleanup()


def _processors() -> int:
    """Processors that this process may use, which in a container are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _map(module: str, name: str, rest: Path, shard: Any) -> Tally:
    check: RowCheck[Any] = getattr(importlib.import_module(module), name)
    return check.map(**{SHARDED: shard}, **_load(rest))


@lru_cache(maxsize=4)
def _load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = pickle.loads(path.read_bytes())  # noqa: S301  # our own file, in a folder for this user alone
    return found
