"""Attributes that nothing has, in the user's own files; and those that only look so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from support.configs import Folder, of

from llmguard import Finding, Severity
from llmguard.errors import EvidenceError
from llmguard.sources import as_sources, attributes

pytest.importorskip("mypy")
CHECK = "attributes_exist"
HELPERS = "def load():\n    return 1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def told(folder: Folder, **files: str) -> list[Finding]:
    """What the check says of `train.py` and other files of the project."""
    for name, text in files.items():
        folder.write(f"{name}.py" if "/" in name else f"{name.replace('__', '/')}.py", text)
    folder.project(config="", environment='sources = ["."]')
    return of(folder.results(["source"])).get(CHECK, [])


def test_attributes_of_modules_are_errors(folder: Folder) -> None:
    """Of the standard library and of one's own files, imported by name or asked for; with the name that was meant."""
    code = "import json\nimport helpers\nfrom helpers import laod\n\n\ndef main():\n    json.laods('1')\n    helpers.laod()\n"
    found = told(folder, train=code, helpers=HELPERS)
    assert [(f.where.line, f.actual, f.remedy) for f in found] == [
        (3, "laod", "did you mean `load`"),
        (7, "laods", "did you mean `loads`"),
        (8, "laod", "did you mean `load`"),
    ]
    assert {f.severity for f in found} == {Severity.ERROR}
    assert "the module `json` has no attribute `laods` (mypy attr-defined)" in found[1].message


def test_attributes_of_ones_own_classes_are_warnings(folder: Folder) -> None:
    """Fields, and what methods set, are known."""
    code = """
    class Config:
        rate: float = 1.0
        def __init__(self):
            self.steps = 3
    def main():
        config = Config()
        return config.stesp, config.rate, config.steps
    """
    (found,) = told(folder, train=code)
    assert (found.severity, found.remedy, found.where.line) == (
        Severity.WARNING,
        "did you mean `steps`",
        8,
    )


@pytest.mark.parametrize("code", [
    "import torch\nx = []\nx = torch.tensor(x)\nx.to('cpu')\n",  # another value under the same name
    "text = 'a b'\ntext = text.split()\ntext.append('c')\n",
    "model = None\ndef load():\n    global model\n    model = open\ndef use():\n    return model.generate\n",
    "settings = {'a': 1, 'b': []}\nsettings['b'].append(2)\n",  # of the join of two types nothing is known
    "import importlib\nimportlib.util.find_spec('x')\n",  # a part of a package
    "import json\ntry:\n    json.fast\nexcept AttributeError:\n    pass\n",
    "try:\n    from helpers import fast\nexcept ImportError:\n    fast = None\n",
    "import json\nif hasattr(json, 'fast'):\n    json.fast('1')\n",
    "class Logs:\n    def log(self):\n        return self.logger\nclass Own(Logs):\n    pass\n",  # a mixin
    "class Box:\n    pass\nbox = Box()\nbox.size = 3\nprint(box.size)\n",  # set from outside
    "class Bag:\n    def __getattr__(self, name):\n        return name\nBag().anything\n",
    "from transformers import Trainer\nclass Own(Trainer):\n    def f(self):\n        return self.accelerator\n",
    "import sys\nif sys.platform == 'win32':\n    import os\n    os.startfile('x')\n",
    "import os\nif os.name == 'nt':\n    import msvcrt\n    msvcrt.getch()\n",  # on another system
    "from transformers import TrainingArguments\nTrainingArguments('out').anything\n",  # not seen without running
])  # fmt: skip
def test_what_only_looks_absent(folder: Folder, code: str) -> None:
    assert [f.message for f in told(folder, train=code, helpers=HELPERS)] == []


def test_files_of_one_name_are_each_looked_at(folder: Folder) -> None:
    """mypy refuses two modules of one name; and each script imports what lies beside it, and not its namesake elsewhere."""
    bad = "import json\nfrom helpers import {0}\njson.laods({0})\n"
    files = {f"{place}__train": bad.format(place[0]) for place in ("a", "b", "my-c")}
    beside = {f"{place}__helpers": f"{place[0]} = 1\n" for place in ("a", "b", "my-c")}
    found = told(folder, **files, **beside)
    assert sorted(str(f.where.file) for f in found) == ["a/train.py", "b/train.py", "my-c/train.py"]
    assert {f.actual for f in found} == {"laods"}


def test_packages_are_looked_at_as_a_whole(folder: Folder) -> None:
    """What a package takes from its own modules is there, by relative names too; what it does not have is told."""
    (folder.path / "pkg").mkdir()
    (folder.path / "pkg/fast.so").write_bytes(b"")
    package = {
        "pkg/__init__": "from .load import rows\n",
        "pkg/load": "def rows():\n    return []\n",
        "pkg/sub/__init__": "from ..load import rows, lines\n",
    }
    found = told(folder, train="from pkg import rows, sub, fast\n", **package)
    assert [(f.where.file, f.actual) for f in found] == [("pkg/sub/__init__.py", "lines")]


def test_a_file_that_mypy_refuses_hides_no_other(folder: Folder) -> None:
    """One that is named like a module of Python's own, beside one with a mistake."""
    (found,) = told(folder, typing="import os\n", train="import json\njson.laods('1')\n")
    assert found.where.file == "train.py"


def test_where_mypy_looks_at_nothing_it_is_not_green(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mypy that is broken: skipped, with what it said."""
    broken = [sys.executable, "-c", "import sys; print('no typeshed'); sys.exit(2)"]
    monkeypatch.setattr("llmguard.checks.source_attributes.find_mypy", lambda: broken)
    folder.write("train.py", "x = 1\n")
    folder.project(config="", environment='sources = ["train.py"]')
    result: Any = {r.check: r for r in folder.results(["source"]).values()}[CHECK]
    assert (result.outcome.value, "no typeshed" in result.reason) == ("skipped", True)


def test_a_mypy_that_takes_too_long_is_left(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipped, with the reason; a project of hundreds of files does not make preflight wait."""
    monkeypatch.setattr(attributes, "_SECONDS", 0.2)
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(EvidenceError, match=r"not done with 1 files in 0\.2 s"):
        list(attributes.absent_attributes(as_sources(folder.write("train.py", "x = 1\n")), slow))


def test_the_users_settings_and_folder_are_left_alone(folder: Folder) -> None:
    """Neither is a configuration of theirs read, nor a cache written."""
    folder.write("mypy.ini", "[mypy]\nignore_errors = True\n")
    assert len(told(folder, train="import json\njson.laods('1')\n")) == 1
    assert sorted(p.name for p in folder.path.iterdir()) == ["llmguard.toml", "mypy.ini", "train.py"]


def test_without_mypy_it_is_skipped_with_the_line(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never silently green; one on the path will do."""
    monkeypatch.setattr(attributes.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(attributes.shutil, "which", lambda name: f"/bin/{name}")
    assert attributes.find_mypy() == ["/bin/mypy"]
    monkeypatch.setattr(attributes.shutil, "which", lambda name: None)
    folder.write("train.py", "x = 1\n")
    folder.project(config="", environment='sources = ["train.py"]')
    result: Any = {r.check: r for r in folder.results(["source"]).values()}[CHECK]
    assert (result.outcome.value, "pip install mypy" in result.reason) == ("skipped", True)
