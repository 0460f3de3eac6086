"""The layer law: it holds here, and every way of breaking it is seen, with file, line and remedy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Plant = Callable[[dict[str, str]], Path]

CLEAN = {
    "src/llmguard/__init__.py": "import importlib\n",
    "src/llmguard/rows.py": "import numpy as np\n",
    "src/llmguard_core/__init__.py": "import torch\nfrom llmguard import require\n",
    "pytest_llmguard/__init__.py": "",
    "pytest_llmguard/plugin.py": "import pytest\nfrom pytest_llmguard.options import add\n",
    "pytest_llmguard/options.py": "import argparse\n",
}


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A small checkout that keeps the law, with some files replaced or added."""

    def write(files: dict[str, str]) -> Path:
        for name, text in {**CLEAN, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_this_checkout_keeps_the_law(script: ModuleType, root: Path) -> None:
    """No breach in the sources, and none in what `import llmguard` really loads."""
    assert [str(each) for each in (*script.breaches(root), *script.loaded(root))] == []


def test_a_checkout_that_keeps_the_law_has_no_breach(script: ModuleType, plant: Plant) -> None:
    """numpy at the top of a check module, torch at the top of the core, pytest in the plugin: all lawful."""
    root = plant({})
    assert script.breaches(root) == []
    assert script.loaded(root) == []


LAWFUL = {
    "torch in a function": ("src/llmguard/a.py", "def f() -> None:\n    import torch\n"),
    "torch in an async method": (
        "src/llmguard/a.py",
        "class A:\n    async def f(self):\n        from torch import nn\n",
    ),
    "torch for types": (
        "src/llmguard/a.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n",
    ),
    "a module of ours that is called like a library": (
        "src/llmguard/a.py",
        "from llmguard.torch import f\nfrom .datasets import g\n",
    ),
    "pydantic in the checks": ("src/llmguard/a.py", "import pydantic\n"),
    "the checks, in a plugin module that is loaded later": (
        "pytest_llmguard/later.py",
        "from llmguard import audit\n",
    ),
    "the checks, in a hook": (
        "pytest_llmguard/plugin.py",
        "def pytest_configure(config):\n    import llmguard\n",
    ),
    "a model, in a fixture": (
        "pytest_llmguard/later.py",
        "def lab():\n    from llmguard_core.lab import lab\n",
    ),
    "a name in a text": ("src/llmguard/a.py", '"""import torch"""\nx = "import pytest"\n'),
}


@pytest.mark.parametrize(("file", "text"), LAWFUL.values(), ids=LAWFUL)
def test_what_is_lawful_is_no_breach(script: ModuleType, plant: Plant, file: str, text: str) -> None:
    """The law asks for lazy imports, not for none."""
    assert script.breaches(plant({file: text})) == []


BROKEN = {
    "pytest in the checks": ("src/llmguard/a.py", "\nimport pytest\n", 2, "llmguard imports pytest"),
    "pytest in a function of the checks": ("src/llmguard/a.py", "def f():\n    from _pytest.config import Config\n", 2, "_pytest.config"),
    "pytest in the checks, for types": (
        "src/llmguard/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pytest\n", 3, "llmguard imports pytest",
    ),
    "pytest in the checks, by import_module": (
        "src/llmguard/a.py", 'import importlib\ndef f():\n    importlib.import_module("pytest")\n', 3, "llmguard imports pytest",
    ),
    "the core in the checks": ("src/llmguard/a.py", "def f():\n    import llmguard_core.lab\n", 2, "llmguard_core.lab"),
    "the plugin in the checks": ("src/llmguard/a.py", "import pytest_llmguard\n", 1, "pytest_llmguard"),
    "torch at the top": ("src/llmguard/checks/a.py", "import torch.nn as nn\n", 1, "torch.nn at the top"),
    "transformers in a class body": ("src/llmguard/a.py", "class A:\n    from transformers import AutoTokenizer\n", 2, "transformers"),
    "peft in a try": ("src/llmguard/a.py", "try:\n    import peft\nexcept ImportError:\n    pass\n", 2, "peft"),
    "trl in a default argument": ("src/llmguard/a.py", 'def f(x=__import__("trl")):\n    pass\n', 1, "trl"),
    "accelerate beside a type-checking block": (
        "src/llmguard/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import accelerate\n", 5,
        "accelerate",
    ),
    "pyarrow at the top": ("src/llmguard/a.py", "from pyarrow import parquet\n", 1, "pyarrow"),
    "numpy by way of the package": (
        "src/llmguard/__init__.py", "from llmguard.rows import read\n", "src/llmguard/rows.py:1", "`import llmguard` loads numpy",
    ),
    "pytest in the core": ("src/llmguard_core/a.py", "def f():\n    import pytest\n", 2, "llmguard_core imports pytest"),
    "the plugin in the core": ("src/llmguard_core/a.py", "import pytest_llmguard.plugin\n", 1, "pytest_llmguard.plugin"),
    "a private name in the core": ("src/llmguard_core/a.py", "from llmguard.rows import _read\n", 1, "the private name _read"),
    "a private module in the core": ("src/llmguard_core/a.py", "from llmguard._rows import read\n", 1, "the private name _rows"),
    "the checks at start-up": ("pytest_llmguard/plugin.py", "import pytest\nimport llmguard\n", 2, "every pytest start loads llmguard"),
    "numpy at start-up, two modules away": ("pytest_llmguard/options.py", "import numpy\n", 1, "every pytest start loads numpy"),
    "numpy at start-up, in the package": ("pytest_llmguard/__init__.py", "import numpy\n", 1, "every pytest start loads numpy"),
    "xdist at start-up": ("pytest_llmguard/plugin.py", "import xdist\n", 1, "every pytest start loads xdist"),
    "numpy at start-up, by a relative import": (
        "pytest_llmguard/options.py", "from . import more\nfrom .more import x\n",
        "pytest_llmguard/more.py:1", "every pytest start loads numpy",
    ),
    "the core at the top of a later module": ("pytest_llmguard/later.py", "from llmguard_core.lab import lab\n", 1, "llmguard_core.lab"),
    "torch at the top of a later module": ("pytest_llmguard/later.py", "import torch\n", 1, "torch at the top"),
}  # fmt: skip
ELSEWHERE = {
    "pytest_llmguard/more.py": "import numpy\n",
    "src/llmguard/_rows.py": "",
    "src/llmguard/checks/__init__.py": "",
}


@pytest.mark.parametrize(("file", "text", "place", "what"), BROKEN.values(), ids=BROKEN)
def test_a_breach_is_told_with_its_place_and_remedy(
    script: ModuleType, plant: Plant, file: str, text: str, place: int | str, what: str
) -> None:
    """Each way of breaking the law is told where the import stands: a line of the file, or of the module it reaches."""
    found = script.breaches(plant({**ELSEWHERE, file: text}))
    told = [str(each) for each in found if what in each.what]
    assert told, [str(each) for each in found] or "the breach was not seen"
    where = f"{file}:{place}" if isinstance(place, int) else place
    assert any(each.startswith(f"{where}: ") for each in told), told
    assert all("\n    remedy: " in each for each in told)


def test_what_import_llmguard_really_loads_is_seen(script: ModuleType, plant: Plant) -> None:
    """An import that no source line shows is found by asking `sys.modules`."""
    root = plant(
        {
            "src/llmguard/__init__.py": '__builtins__["__import__"]("yaml_of_ours")\n',
            "src/yaml_of_ours.py": "",
        }
    )
    assert [each.what for each in script.loaded(root)] == ["`import llmguard` loads yaml_of_ours"]


def test_an_import_that_fails_is_a_breach(script: ModuleType, plant: Plant) -> None:
    """A package that cannot be imported is told in one line."""
    (breach,) = script.loaded(plant({"src/llmguard/__init__.py": "import nowhere_to_be_found\n"}))
    assert "ModuleNotFoundError: No module named 'nowhere_to_be_found'" in breach.what


@pytest.mark.parametrize(("files", "code", "said"), [
    ({}, 0, "0 breaches"),
    ({"src/llmguard/a.py": "import torch\n"}, 1, "src/llmguard/a.py:1: "),
])  # fmt: skip
def test_the_script_exits_with_its_verdict(
    root: Path, plant: Plant, files: dict[str, str], code: int, said: str
) -> None:
    """It runs with nothing but the standard library, and says 0 or 1."""
    command = [sys.executable, "-I", "-S", str(root / "ci" / "layers.py"), str(plant(files))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_folder_that_is_no_checkout_is_told(root: Path, tmp_path: Path) -> None:
    """A wrong argument ends with its usage, not with an empty success."""
    done = subprocess.run(
        [sys.executable, str(root / "ci" / "layers.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
