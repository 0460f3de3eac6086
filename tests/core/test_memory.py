"""Memory is read on whatever device there is, given back, and what is still held is named."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest
import torch

from llmguard_core import memory
from llmguard_core.errors import OutOfMemory
from llmguard_core.memory import Device, pick_device, proved_released, release, weak

CPU = Device(torch.device("cpu"))
KEPT: list[Any] = []


class Model(torch.nn.Module):
    """Forty megabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(10_000_000))


class Holder:
    """What a trainer is to a model."""

    def __init__(self, model: Model) -> None:
        self.model = model


def test_the_cpu_is_read_as_process_and_machine() -> None:
    """Allocated is what this process has resident; free and total are the machine's, or the control group's."""
    assert 1e7 < CPU.allocated() < CPU.total()
    assert 0 < CPU.free() <= CPU.total()
    assert CPU.reserved() > 0
    CPU.empty_cache()
    CPU.synchronize()
    assert str(CPU).startswith("cpu: ")


def test_the_device_asked_for_is_taken_and_else_the_cpu_with_a_notice(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No accelerator is no error here, and no silence either."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level(logging.INFO):
        assert pick_device().device.type in ("cpu", "mps", "xpu")
    assert pick_device("cpu").on_cpu
    if pick_device().on_cpu:
        assert "running on the CPU" in caplog.text


class FakeAccelerator:
    """torch.cuda's questions, answered by a device of 8 GB."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def memory_allocated(self, device: Any) -> int:
        return 3_000_000_000

    def memory_reserved(self, device: Any) -> int:
        return 5_000_000_000

    def mem_get_info(self, device: Any) -> tuple[int, int]:
        return 2_000_000_000, 8_000_000_000

    def empty_cache(self) -> None:
        self.asked.append("empty_cache")

    def synchronize(self, device: Any) -> None:
        self.asked.append("synchronize")


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_an_accelerators_unused_reserve_counts_as_free(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What the allocator keeps for later can be used by torch again."""
    fake = FakeAccelerator()
    monkeypatch.setattr(torch, kind, fake)
    device = Device(torch.device(kind, 0))
    assert device.free() == 4_000_000_000
    assert device.total() == 8_000_000_000
    release([], device=device)
    assert fake.asked == ["synchronize", "empty_cache"]


def test_mps_is_asked_by_its_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.mps knows no memory_allocated."""

    class Mps:
        current_allocated_memory = staticmethod(lambda: 1)
        driver_allocated_memory = staticmethod(lambda: 2)
        recommended_max_memory = staticmethod(lambda: 10)
        synchronize = empty_cache = staticmethod(lambda: None)

    monkeypatch.setattr(torch, "mps", Mps)
    device = Device(torch.device("mps"))
    assert (device.allocated(), device.reserved(), device.free(), device.total()) == (1, 2, 9, 10)
    device.synchronize()
    device.empty_cache()


def test_release_empties_containers_and_objects_and_frees_their_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A list, a dict and an object, each the only one to hold a model of 40 MB; the log says what came free."""
    held: list[Any] = [Model()]
    named: dict[str, Any] = {"model": Model()}
    holder = Holder(Model())
    references = weak(held[0], named["model"], holder.model)
    with caplog.at_level(logging.INFO):
        freed = release(held, named, holder, device=CPU)
    proved_released(references)
    assert (held, named, vars(holder)) == ([], {}, {})
    assert freed > 80_000_000
    assert "released" in caplog.text


def test_models_in_circles_are_collected() -> None:
    """Modules and hooks that point to each other wait for the collector, which is called."""
    gc.disable()
    try:
        model = Model()
        model.itself = [model]  # type: ignore[assignment]  # not a submodule: that is the point
        references = weak(model)
        holder = [model]
        del model
        release(holder, device=CPU)
        proved_released(references)
    finally:
        gc.enable()


def test_more_than_half_in_use_after_a_release_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And less is none."""
    monkeypatch.setattr(torch, "cuda", FakeAccelerator())
    with caplog.at_level(logging.WARNING):
        release([], device=Device(torch.device("cuda", 0)))
    assert "more than half" not in caplog.text
    monkeypatch.setattr(FakeAccelerator, "memory_allocated", lambda *_: 4_100_000_000)
    with caplog.at_level(logging.WARNING):
        release([], device=Device(torch.device("cuda", 0)))
    assert "more than half is in use (51 %)" in caplog.text


def test_what_still_holds_a_model_is_named_by_its_module_variable() -> None:
    """A list at module level, as caches are."""
    KEPT.append(Model())
    try:
        with pytest.raises(
            OutOfMemory,
            match=r"Model is held by 38\.15 MiB, module global: module variable `KEPT` of \S*test_memory\.py: list of 1 -> Model\.",
        ):
            proved_released(weak(KEPT[0]))
    finally:
        KEPT.clear()


def test_what_still_holds_a_model_is_named_by_its_attribute() -> None:
    """A trainer that was forgotten."""
    trainer = Holder(Model())
    with pytest.raises(
        OutOfMemory, match=r"Model is held by .*variable `trainer` of .*: Holder\.model -> Model\."
    ):
        proved_released(weak(trainer.model))


def test_weights_that_outlive_their_model_are_told() -> None:
    """A state dict holds the same memory as the model, and nothing of the model: the model is gone and nothing came free."""
    model = Model()
    references = weak(model)
    KEPT.append(model.state_dict())
    del model
    try:
        with pytest.raises(
            OutOfMemory, match=r"1 weights of a model .*`KEPT`.*OrderedDict key 'weight' -> Tensor"
        ):
            proved_released(references)
    finally:
        KEPT.clear()
    proved_released(references)


def test_nothing_left_is_nothing_said() -> None:
    """The proof holds for what is gone, and for nothing at all."""
    proved_released([])
    proved_released(weak(Model()))


def test_the_machine_without_proc_is_read_by_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no /proc/meminfo."""
    from llmguard.estimates import machine

    monkeypatch.setattr(machine, "host_memory", lambda host: None)
    free, total = memory._machine()
    assert 0 < free < total
