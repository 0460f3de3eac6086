"""`--gpu`: who computes where. Loaded only where it was given.

Under xdist each worker gets one GPU of the caller's list, by UUID, in its environment before it imports anything (not the worker's
number, which may be somebody else's device). Several on one GPU share it by `--llmguard-budget`, or take turns (`turns.py`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import pytest

from llmguard.estimates.interval import size_text
from llmguard.placement import SHARED, Place, VisibleGpu, assign, gpus_here, named, variable_of
from pytest_llmguard.ladder import option
from pytest_llmguard.turns import Turns

__all__ = ["Session", "Worker", "place"]

KEY = "llmguard_gpu"
"""Of the workerinput: where the worker computes."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def place(config: pytest.Config) -> None:
    """Find out what there is to compute on, and see to it that tests do so in turn.

    Raises:
        pytest.UsageError: `--gpu` was given where there is no GPU.
    """
    told: Mapping[str, Any] | None = getattr(config, "workerinput", None)
    if told is None:
        from pytest_llmguard.gpu import require_gpu

        plugin: Turns = Session(config, require_gpu())
    else:  # its controller has asked already
        plugin = Worker(config, told.get(KEY) or {})
    config.pluginmanager.register(plugin, "llmguard-placement")


class Worker(Turns):
    """A worker of xdist: its controller has decided, and has put the decision into its environment."""

    def __init__(self, config: pytest.Config, told: Mapping[str, Any]) -> None:
        super().__init__(config)
        fields = {**told.get("place", {}), "gpus": tuple(told.get("place", {}).get("gpus", ()))}
        self._place, self._caller = Place(**fields), int(told.get("caller", 0))
        self.wrong = _put(str(told.get("variable", "")), str(told.get("value", "")))

    @property
    def place(self) -> Place:
        """As the controller said."""
        return self._place

    @property
    def caller(self) -> int:
        """As the controller said."""
        return self._caller


class Session(Turns):
    """The controller of xdist, or the one process that there is."""

    def __init__(self, config: pytest.Config, answer: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.kind, self.count = str(answer.get("kind") or "cuda"), int(answer["devices"])
        self.uuids = [str(uuid) for uuid in answer.get("uuids", ())]
        self.inputs: dict[int, dict[str, Any]] = {}

    @cached_property
    def gpus(self) -> tuple[VisibleGpu, ...]:
        """What the caller's list leaves, with what is free on it; asked where workers are to be placed."""
        return gpus_here(self.kind, self.count)

    @cached_property
    def _own(self) -> Place:
        known = self.uuids or [gpu.entry for gpu in named(self.kind, self.count, os.environ)]
        return Place(tuple(known))

    @property
    def place(self) -> Place:
        """All of the caller's GPUs: nobody else is here."""
        return self._own

    def places(self, workers: int) -> list[Place]:
        """Where so many workers compute; one alone has all GPUs."""
        if workers == 1:
            return [self._own]
        return assign(self.gpus, workers, option(self.config, "budget"))

    def pytest_report_header(self) -> str:
        """Who computes where."""
        workers = _workers(self.config)
        if workers < 2:
            return f"gpu: {self.count} ({self.kind})"
        return f"gpu: {_told(self.gpus, self.places(workers), option(self.config, 'budget'))}"

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: Sequence[Any]) -> None:
        """Put each worker's GPU into its environment, before the worker imports anything; a worker that replaces it inherits it."""
        here = [spec for spec in specs if spec.popen]  # others run on machines of their own
        variable = variable_of(self.kind, os.environ)
        for spec, place in zip(here, self.places(len(here)), strict=True) if here else ():
            value = ",".join(place.gpus) if len(here) > 1 else ""
            own = spec.env.get(variable)  # `--tx popen//env:CUDA_VISIBLE_DEVICES=1`: the caller has placed it
            told = {"place": place.to_json(), "variable": variable, "value": value, "caller": self.count}
            if own is not None:
                told |= {"place": Place((own,)).to_json(), "value": own}
            elif variable and value:
                spec.env[variable] = value
            spec.env[SHARED] = "1" if own is None and place.shared else ""
            spec.env |= _threads(len(here), {**os.environ, **spec.env})
            self.inputs[id(spec)] = told

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell the worker what was decided for it."""
        node.workerinput[KEY] = self.inputs.get(id(node.gateway.spec), {})


def _put(variable: str, value: str) -> str:
    """See to it that this worker has its GPU and no other; what is wrong where that is too late."""
    found = os.environ.get(variable)
    if not variable or not value or found == value:
        return ""
    if "torch" in sys.modules:
        return (
            f"not run: {variable}={found!r} in this worker, which was given {value!r}: a conftest or a plugin has set it, and torch is"
            " imported already. Leave the variable to --gpu (it keeps to the list of the caller), or run with -n 0"
        )
    os.environ[variable] = value
    return ""


def _workers(config: pytest.Config) -> int:
    """How many workers xdist will start, as `--tx` says (`-n 4` is four of them); 0 without xdist."""
    option = config.option
    if getattr(option, "dist", "no") == "no":
        return 0
    counts = (spec.partition("*")[0] for spec in getattr(option, "tx", None) or ())
    return sum(int(count) if count.isdigit() else 1 for count in counts)


def _threads(workers: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Threads for each worker, where the user has not said: together no more than there are processors."""
    from llmguard.probe.host import Host

    host = Host()
    quota = host.cgroup().processors
    cores = min(host.processors, max(1, int(quota))) if quota else host.processors
    return {name: str(max(1, cores // workers)) for name in THREADS if name not in environ}


def _told(gpus: Sequence[VisibleGpu], places: Sequence[Place], budget: int | None) -> str:
    """`8 workers on 1 GPU (GPU-1010): take turns`."""
    if not gpus:
        return f"{len(places)} workers on what there is, in no order: its devices could not be told"
    names = ", ".join(gpu.entry for gpu in gpus)
    plural = "" if len(gpus) == 1 else "s"
    crowd = max(places, key=lambda each: each.workers)
    if crowd.workers == 1:
        how = "one each"
    elif crowd.at_once > 1:
        how = f"{crowd.at_once} at once on each, of {size_text(budget or 0)}"
    else:
        how = "those on the same one take turns" if len(gpus) > 1 else "they take turns"
    return f"{len(places)} workers on {len(gpus)} GPU{plural} ({names}): {how}"
