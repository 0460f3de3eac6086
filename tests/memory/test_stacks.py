"""Where memory was allocated: on a CPU by watching torch, on a GPU by the allocator's own snapshot."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from llmguard.memory import stacks
from llmguard.memory.stacks import Site, allocation_sites, record

HERE = os.path.relpath(__file__)
KEPT: list[Any] = []
MIB = 2**20


@pytest.fixture(autouse=True)
def _nothing_kept() -> Any:
    yield
    KEPT.clear()


def forward() -> None:
    KEPT.append(torch.ones(MIB))
    torch.ones(2 * MIB)  # gone at once


def test_the_line_behind_what_is_alive_is_told() -> None:
    """By file, line and function, with the sum of what it allocated; what is gone is not told, views allocate nothing."""
    with record():
        for _ in range(3):
            forward()
        KEPT.append(KEPT[0][10:])
        other = torch.zeros(MIB) + 1
        first, second = allocation_sites()
        line = forward.__code__.co_firstlineno + 1
        assert (first.where, first.size, first.count) == (f"{HERE}:{line} in forward", 3 * 4 * MIB, 3)
        assert str(first) == f"12.00 MiB in 3 allocations: {HERE}:{line} in forward"
        assert second.where.endswith("in test_the_line_behind_what_is_alive_is_told")
        assert first.stack[1].endswith("in test_the_line_behind_what_is_alive_is_told")
        assert allocation_sites(limit=1) == [first]
        assert [site.where for site in allocation_sites(live=[other])] == [second.where]
        KEPT.clear()
        assert [site.where for site in allocation_sites()] == [second.where]


def test_gradients_and_libraries_are_told_by_the_users_own_line() -> None:
    """A layer's weights are made deep in torch; the line that wanted them is what a person can change."""
    with record():
        KEPT.append(torch.nn.Linear(512, 512))
        KEPT[0](torch.ones(1, 512)).sum().backward()
        told = allocation_sites()
    assert all(HERE in site.where for site in told), told
    assert sum(site.size for site in told) >= 2 * 4 * 512 * 512


def test_nothing_is_remembered_outside_and_the_memory_of_it_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new recording forgets the last one; the oldest entries go."""
    monkeypatch.setattr(stacks, "ENTRIES", 4)
    with record():
        KEPT.extend(torch.ones(MIB) for _ in range(9))
        assert sum(site.count for site in allocation_sites()) == 4
    KEPT.append(torch.ones(MIB))
    with record():
        assert allocation_sites() == []


class FakeCuda:
    """torch.cuda.memory: a snapshot of two devices, as torch writes it with and without addresses."""

    def __init__(self, *, addresses: bool) -> None:
        frames = [
            {"filename": "/env/site-packages/torch/nn/modules/linear.py", "line": 125, "name": "forward"},
            {"filename": "train.py", "line": 41, "name": "step"},
        ]
        block = {"state": "active_allocated", "size": 512, "requested_size": 500, "frames": frames}
        free = {"state": "inactive", "size": 512}
        older = {**block, "frames": None, "history": [{"frames": frames[:1]}]}
        blocks = [block, free, older]
        if addresses:
            blocks = [{**each, "address": 1000 + 512 * at} for at, each in enumerate(blocks)]
        self.segments = [
            {"device": 0, "address": 1000, "blocks": blocks},
            {"device": 1, "address": 9000, "blocks": [{**block, "size": 2048, "requested_size": 2048}]},
        ]
        self.asked: list[Any] = []

    def _snapshot(self) -> Any:
        return {"segments": self.segments}

    def _record_memory_history(self, **told: Any) -> None:
        self.asked.append(told)


@pytest.mark.parametrize("addresses", [True, False])
def test_a_gpus_snapshot_is_read_by_device(monkeypatch: pytest.MonkeyPatch, addresses: bool) -> None:
    """Blocks in use, by the first line that is no library's; a recording is bounded and ends."""
    fake = FakeCuda(addresses=addresses)
    monkeypatch.setattr(torch.cuda, "memory", fake)
    with record("cuda:0"):
        told = allocation_sites("cuda:0")
    library = "/env/site-packages/torch/nn/modules/linear.py:125 in forward"
    assert told == [
        Site("train.py:41 in step", 500, 1, ("train.py:41 in step",)),
        Site(library, 500, 1, (library,)),
    ]
    assert [site.size for site in allocation_sites("cuda:1")] == [2048]
    first, last = fake.asked
    assert (first["enabled"], first["max_entries"], first["stacks"]) == ("state", stacks.ENTRIES, "python")
    assert last == {"enabled": None}


def test_the_sites_of_some_tensors_are_found_by_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """What leaked, and nothing else."""
    fake = FakeCuda(addresses=False)
    monkeypatch.setattr(torch.cuda, "memory", fake)
    leaked = torch.ones(4)
    fake.segments[0]["address"] = leaked.untyped_storage().data_ptr()
    assert [site.where for site in allocation_sites("cuda:0", live=[leaked])] == ["train.py:41 in step"]
    assert allocation_sites("cuda:0", live=[]) == []
