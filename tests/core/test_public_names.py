"""The names of the core: each can be had from the package, none is loaded before it is asked for."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import llmguard_core


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", llmguard_core.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    """What it names is documented, and no submodule of the same name hides it once that is imported."""
    found = getattr(llmguard_core, name)
    assert found.__doc__
    assert name in dir(llmguard_core)
    assert name not in {module.name for module in pkgutil.iter_modules(llmguard_core.__path__)}


def test_a_name_that_does_not_exist_is_said() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llmguard_core.nothing


def test_importing_the_package_loads_nothing_heavy() -> None:
    """So that a command line can say `--help` at once."""
    code = (
        "import sys, llmguard_core; print({'torch', 'numpy', 'transformers', 'pydantic'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
