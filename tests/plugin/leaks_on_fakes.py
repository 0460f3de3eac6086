"""Planted leaks, and what looks like one, on fake devices: run by tests/plugin/test_matrix_h.py as a session of its own."""

# ruff: noqa: ANN001, ANN003, ANN201, ANN204  # a session's tests, as users write them

import functools
import gc
import multiprocessing
import subprocess
import sys

import pytest
from support.cycles import Engine

from llmguard import memory

GPU, OTHER = memory.devices()
MIB, GIB = 2**20, 2**30
KEPT = []
OLD = [GPU.tensor(8 * MIB)]
CHILDREN = []


def test_nothing():
    assert GPU.tensor(100 * MIB)


# H1 to H6


def test_h1_module_global():
    KEPT.append(GPU.tensor(2 * MIB))


def test_h1_just_one_mebibyte():
    KEPT.append(GPU.tensor(MIB))


def raises_with_a_tensor():
    tensor = GPU.tensor(2 * MIB)
    raise ValueError(f"no good: {tensor}")


def test_h2_kept_exception():
    try:
        raises_with_a_tensor()
    except ValueError as error:
        KEPT.append(error)


def test_h2_exception_of_raises_is_clean():
    with pytest.raises(ValueError, match="no good"):
        raises_with_a_tensor()


def test_h3_failing_locals():
    tensor = GPU.tensor(4 * MIB)
    raise RuntimeError(tensor)


def test_h3_failing_and_leaking():
    KEPT.append(GPU.tensor(4 * MIB))
    raises_with_a_tensor()


@pytest.fixture(scope="session")
def model():
    return {"weights": GPU.tensor(64 * MIB), "cache": []}


def test_h4_first_user_of_a_session_fixture(model):
    assert model


def test_h4_test_that_fills_a_session_fixture(model):
    model["cache"].append(GPU.tensor(2 * MIB))


@pytest.fixture
def bag():
    return []


def test_h4_function_fixture_is_gone(bag):
    bag.append(GPU.tensor(4 * MIB))


@pytest.mark.parametrize("tensor", [GPU.tensor(16 * MIB)])
def test_h5_argument(tensor):
    assert tensor


@pytest.mark.parametrize("gathered", [[]])
def test_h5_argument_that_gathers(gathered):
    gathered.append(GPU.tensor(2 * MIB))


@functools.lru_cache
def rotary(length):
    return GPU.tensor(length)


def test_h6_lru_cache():
    rotary(2 * MIB)


# H11, H12


class Node:
    """Two of these make a cycle."""


def cycle(tensor):
    one, two = Node(), Node()
    one.other, two.other, two.tensor = two, one, tensor
    return one


def test_h11_cycle_that_needs_two_passes():
    gc.disable()
    Engine(cycle(GPU.tensor(4 * MIB)))
    before = GPU.allocated()
    gc.collect()
    assert GPU.allocated() == before, "the first collection freed it: the fault does not fire"
    gc.enable()


def test_h12_collector_off():
    gc.disable()
    cycle(GPU.tensor(4 * MIB))


def test_h12_collector_is_still_off():
    assert not gc.isenabled()
    gc.enable()


def test_h12_user_freezes():
    gc.freeze()


def test_h12_is_still_frozen_and_leaks():
    assert gc.get_freeze_count()
    KEPT.append(GPU.tensor(2 * MIB))


def test_h12_clean_under_the_users_freeze():
    cycle(GPU.tensor(4 * MIB))


def test_h12_thaws():
    assert gc.get_freeze_count()
    gc.unfreeze()
    gc.collect()


# H13, H14


def test_h13_workspace_that_can_be_cleared():
    GPU.multiply()


def test_h13_workspace_that_stays():
    OTHER.multiply()


def test_h14_graph_pool():
    GPU.compile("graph", 32 * MIB)


def test_h14_graph_pool_again():
    GPU.compile("graph", 32 * MIB)


@pytest.mark.gpu_memory(leak="1 MiB", repeat=2)
def test_h14_compiles_once_when_repeated():
    GPU.compile("kernel", 32 * MIB)


@pytest.mark.gpu_memory(leak="1 MiB", repeat=2)
def test_h14_compiles_each_time():
    GPU.compile(object(), 4 * MIB)


# H15, H16


def test_h15_others_take():
    GPU.others = 50 * GIB


def test_h15_others_give_while_we_leak():
    GPU.others = 0
    KEPT.append(GPU.tensor(2 * MIB))


def test_h16_device_1_while_device_0_gives_back():
    OLD.clear()
    KEPT.append(OTHER.tensor(2 * MIB))


# H17, H24, H18


def start(size, **how):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child = GPU.child(size, pid=process.pid, **how)
    CHILDREN.append((process, child))
    return process, child


def test_h17_engine_lives_on():
    start(56 * GIB)


def test_h17_engine_is_ended():
    for process, child in CHILDREN:
        process.communicate()
        child.kill()
    CHILDREN.clear()
    assert GPU.driver() < 2 * GIB


def wait_for(event):
    event.wait()


class Loader:
    """Keeps its workers, as a DataLoader with persistent_workers=True does."""

    def __init__(self):
        context = multiprocessing.get_context("fork")
        self.stop = context.Event()
        self.worker = context.Process(target=wait_for, args=(self.stop,), daemon=True)
        self.worker.start()
        self.child = GPU.child(300 * MIB, pid=self.worker.pid)


LOADERS = []


def test_h24_persistent_worker():
    LOADERS.append(Loader())


def test_h24_worker_is_ended():
    loader = LOADERS.pop()
    loader.stop.set()
    loader.worker.join()
    loader.child.kill()


def test_h18_killed_child_is_late():
    process, child = start(8 * GIB, late=3.0, over=0.5)
    process.communicate()
    child.kill()
    start(0)
    assert GPU.driver() > 8 * GIB


def test_h18_helper_is_ended():
    CHILDREN.pop()[0].communicate()
    CHILDREN.clear()


# H20, H23


def test_h20_pinned():
    KEPT.append(GPU.pinned_tensor(2 * MIB))


def test_h20_pinned_and_dropped():
    assert GPU.pinned_tensor(64 * MIB)


def test_h23_notebook_output():
    sys.displayhook(GPU.tensor(2 * MIB))


# H19


@pytest.mark.parametrize("number", range(40))
def test_h19_drift(number):
    KEPT.append(GPU.tensor(40 * 1024))


def test_last():
    assert GPU.tensor(100 * MIB)
