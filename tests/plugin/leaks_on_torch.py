"""Planted leaks with real tensors in host memory: run by tests/plugin/test_matrix_h.py as a session of its own."""

# ruff: noqa: ANN001, ANN201, ANN204  # a session's tests, as users write them

import functools
import gc

import pytest
import torch
from support.cycles import Engine

MIB = 2**20
KEPT = []


def held():
    from llmguard.memory.heap import heap_memory

    return heap_memory().allocated()


def tensor(size):
    return torch.ones(size // 4)


def step(kept):
    """One step of training a layer of 1 MiB."""
    layer = torch.nn.Linear(512, 512)
    adam = torch.optim.AdamW(layer.parameters())
    loss = layer(torch.ones(256, 512)).relu().sum()
    loss.backward(retain_graph=True)
    adam.step()
    kept += {"optimizer": [adam], "loss": [loss], "": []}[kept.name if isinstance(kept, Kept) else ""]


class Kept(list):
    """A list that says what of a step it is for."""

    def __init__(self, name):
        self.name = name


LOSSES, OPTIMIZERS = Kept("loss"), Kept("optimizer")


def test_warm_up():
    step([])


def test_clean_step():
    step([])


def test_h1_module_global():
    KEPT.append(tensor(2 * MIB))


def test_h1_just_one_mebibyte():
    KEPT.append(tensor(MIB))


def raises_with_a_tensor():
    held = tensor(2 * MIB)
    raise ValueError(f"no good: {held.shape}")


def test_h2_kept_exception():
    try:
        raises_with_a_tensor()
    except ValueError as error:
        KEPT.append(error)


def test_h3_failing_locals():
    held = tensor(4 * MIB)
    assert held is None


@pytest.fixture(scope="session")
def model():
    return {"weights": tensor(64 * MIB), "cache": []}


def test_h4_first_user_of_a_session_fixture(model):
    assert model


def test_h4_test_that_fills_a_session_fixture(model):
    model["cache"].append(tensor(2 * MIB))


@pytest.fixture(scope="session")
def layer():
    return torch.nn.Linear(1024, 1024)


@pytest.mark.parametrize("time", range(2))
def test_h4_gradients_of_a_session_fixture(layer, time):
    layer(torch.ones(2, 1024)).sum().backward()


def test_h4_gradients_that_are_kept_elsewhere(layer):
    KEPT.append(layer.weight.grad)
    layer.zero_grad()
    layer(torch.ones(2, 1024)).sum().backward()
    KEPT.append(layer.weight.grad.clone())


@pytest.mark.parametrize("argument", [tensor(16 * MIB)])
def test_h5_argument(argument):
    assert argument is not None


@functools.lru_cache
def rotary(length):
    return tensor(length)


def test_h6_lru_cache():
    rotary(2 * MIB)


def test_h9_optimizer():
    step(OPTIMIZERS)


class Callback:
    """Keeps the last batch."""

    def on_step(self, batch):
        self.batch = batch


CALLBACK = Callback()


def test_h9_callback():
    CALLBACK.on_step(tensor(2 * MIB))


def test_h10_losses():
    step(LOSSES)


def test_h11_cycle_that_needs_two_passes():
    gc.disable()
    before = held()
    model = [tensor(4 * MIB)]
    model.append(model)
    Engine(model)
    del model
    gc.collect()
    assert held() >= before + 4 * MIB, "the first collection freed it: the fault does not fire"
    gc.enable()


def test_h12_collector_off():
    gc.disable()
    kept = [tensor(4 * MIB)]
    kept.append(kept)


def test_h12_collector_is_still_off():
    assert not gc.isenabled()
    gc.enable()


@pytest.mark.parametrize("number", range(20))
def test_h19_drift(number):
    KEPT.append(tensor(64 * 1024))
