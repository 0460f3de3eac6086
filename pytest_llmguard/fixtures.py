"""The fixtures, each lazy: what it hands out is loaded when a test asks for it."""

from __future__ import annotations

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from llmguard_core.lab import Lab
    from pytest_llmguard.guard import Guard
    from pytest_llmguard.memory import GpuMemory

__all__ = ["gpu_memory", "lab", "llmguard", "probe", "sentinels"]


@pytest.fixture
def llmguard(request: pytest.FixtureRequest) -> Guard:
    """Run any check by its name: `llmguard.check(name, **evidence)`, `llmguard.require(…)`, `llmguard.audit(project)`."""
    from pytest_llmguard.guard import Guard

    return Guard(request.config, request.node)


@pytest.fixture(scope="session")
def lab() -> Lab:
    """Tiny tokenizer, base model, chat model and adapters, trained here in under a minute and cached; no download."""
    from llmguard_core.lab import lab

    return lab()


@pytest.fixture(scope="session")
def probe() -> ModuleType:
    """The `llmguard.probe` module: run code in a supervised child that can be killed, with limits and a verdict."""
    import llmguard.probe

    return llmguard.probe


@pytest.fixture(scope="session")
def sentinels() -> ModuleType:
    """The `llmguard.sentinels` module: sentinel prompts, each with its own strict judge."""
    import llmguard.sentinels

    return llmguard.sentinels


@pytest.fixture
def gpu_memory() -> GpuMemory:
    """Bytes on all GPUs, or on the heap where there is none: `.allocated`, `.peak`, `.grown`, `.settle()`, `.figures()`."""
    from pytest_llmguard.memory import GpuMemory

    return GpuMemory.of_this_process()
