"""The user's own Python files: syntax, names, imports, devices, models; each habit found, and what only looks like it left alone."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.configs import Folder, of, only

import llmguard
from llmguard.errors import MissingEvidence, UsageError
from llmguard.sources import as_sources, undefined
from llmguard.sources.habits import fixed_devices, residents


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder without anything."""
    return Folder(tmp_path)


def audit(folder: Folder, environment: str = 'sources = ["train.py"]', **tables: str) -> dict[str, object]:
    """The results of the family on the project, by check."""
    folder.project(**{"config": "", "environment": environment, **tables})
    return {r.check: r for r in folder.results(["source"], without=["attributes_exist"]).values()}


class TestParsing:
    """`sources_parse`."""

    CHECK = "sources_parse"

    def test_a_syntax_error_has_its_place(self, folder: Folder) -> None:
        """File, line and column; the other files are still checked."""
        folder.write("pkg/bad.py", "x = 1\ndef f(:\n    pass\n")
        folder.write("pkg/deep/good.py", "print(undefined_here)\n")
        results = audit(folder, 'sources = ["pkg"]')
        finding = only(results, self.CHECK, file="pkg/bad.py", line=2)
        assert "no valid Python" in finding.message
        if "names_are_defined_before_use" in of(results):
            assert only(results, "names_are_defined_before_use").where.file == "pkg/deep/good.py"

    def test_a_missing_file_says_what_lies_there(self, folder: Folder) -> None:
        """The path tried and the nearest name."""
        folder.write("trian.py", "")
        finding = only(audit(folder), self.CHECK, file="train.py")
        assert "tried" in finding.message
        assert "'trian.py'" in finding.remedy

    @pytest.mark.parametrize("data", [b"x = '\xff'\n", b"x = 1\0\n", b"# coding: klingon\nx = 1\n"])
    def test_bytes_that_are_no_source(self, data: bytes, folder: Folder) -> None:
        """Not UTF-8, a NUL, an unknown encoding."""
        (folder.path / "train.py").write_bytes(data)
        assert only(audit(folder), self.CHECK).where.file == "train.py"

    def test_a_generated_file_is_not_parsed(self, folder: Folder) -> None:
        """Megabytes are no source that anybody wrote."""
        folder.write("train.py", "x = 1\n" * 400_000)
        assert "larger than any source file" in only(audit(folder), self.CHECK).message

    def test_other_files_are_no_sources(self, folder: Folder) -> None:
        """A notebook or a shell script cannot be parsed as Python."""
        folder.write("train.sh", "python train.py\n")
        assert "no Python file" in only(audit(folder, 'sources = ["train.sh"]'), self.CHECK).message

    def test_folders_are_walked_without_what_is_not_the_projects(self, folder: Folder) -> None:
        """Hidden folders, environments and build folders are left out; warnings of the user's code stay his."""
        folder.write("pkg/a.py", 'x = "\\d"\n')
        folder.write("pkg/sub/b.py", "")
        for other in (
            ".git/c.py",
            "__pycache__/d.py",
            "env3/pyvenv.cfg",
            "env3/e.py",
            "build/f.py",
            "node_modules/g.py",
        ):
            folder.write(f"pkg/{other}", "x = (\n")
        results = audit(folder, 'sources = ["pkg", "pkg/a.py"]')
        assert self.CHECK not in of(results)
        assert results[self.CHECK].looked_at == 2  # type: ignore[attr-defined]  # a CheckResult

    def test_without_sources_the_modules_that_the_project_names(self, folder: Folder) -> None:
        """`[pipeline]` and `[prompt]` references lead to files; without any, the line to add is told."""
        folder.write("proj/train.py", "x = (\n")
        folder.write("src/lib/__init__.py", "")
        folder.write("src/lib.py", "y = (\n")
        results = audit(
            folder,
            "",
            pipeline='encode = "proj.train:encode"\ncollate = "torch.utils:x"',
            prompt='build = "lib:build"',
        )
        assert sorted(f.where.file or "" for f in of(results)[self.CHECK]) == ["proj/train.py", "src/lib.py"]
        skipped = audit(folder, "", data='train = ["a.jsonl"]')[self.CHECK]
        assert skipped.reason == 'add `[environment] sources = ["train.py"]` to llmguard.toml'  # type: ignore[attr-defined]  # a CheckResult

    def test_from_a_users_own_test(self, folder: Folder) -> None:
        """A path does as well."""
        file = folder.write("a.py", "x = (\n")
        assert llmguard.sources_parse(file).errors[0].where.file == "a.py"
        assert llmguard.sources_parse(str(folder.path)).looked_at == 1
        with pytest.raises(UsageError, match="path of a Python file"):
            as_sources(3)


@pytest.mark.skipif(undefined.find_ruff() is None, reason="ruff is not installed")
class TestNames:
    """`names_are_defined_before_use`."""

    CHECK = "names_are_defined_before_use"

    def test_used_before_it_is_set(self, folder: Folder) -> None:
        """The documented bug: a refactoring moved the use above the definition. The witness: it raises when it runs."""
        text = "def train(rows, epochs):\n    warmup = int(total_steps * 0.1)\n    total_steps = len(rows) * epochs\n    return warmup\n"
        space: dict[str, object] = {}
        exec(text, space)  # noqa: S102  # the test's own lines
        with pytest.raises(UnboundLocalError):
            space["train"]([1], 1)  # type: ignore[operator]  # a function
        folder.write("train.py", text)
        finding = only(audit(folder), self.CHECK, file="train.py", line=2)
        assert "used in line 2, before line 3 sets it" in finding.message

    def test_set_nowhere(self, folder: Folder) -> None:
        """With the name that is set and spelt alike."""
        folder.write("train.py", "learning_rate = 1\nprint(learning_rte)\nprint(np.zeros(3))\n")
        found = of(audit(folder))[self.CHECK]
        assert [f.where.line for f in found] == [2, 3]
        assert found[0].remedy == "did you mean `learning_rate`"
        assert found[1].remedy == "import or set `np` first"

    def test_at_module_level_and_in_classes(self, folder: Folder) -> None:
        """Decorated functions, class bodies, lambdas: wherever the name stands."""
        folder.write(
            "train.py",
            "print(later)\nlater = 1\n\nclass A:\n    @decorate\n    def f(self):\n        return (lambda: gone)()\n",
        )
        found = of(audit(folder))[self.CHECK]
        assert [(f.where.line, f.actual) for f in found] == [(1, "later"), (5, "decorate"), (7, "gone")]

    def test_what_may_be_saved_is_a_warning(self, folder: Folder) -> None:
        """A loop's second round, a handler that catches it, names made at run time, type hints."""
        folder.write(
            "train.py",
            """\
            def loop(rows):
                for row in rows:
                    if row:
                        print(last)
                    last = row

            def guarded():
                try:
                    return maybe
                except Exception:
                    return None

            def hinted(x: Missing) -> Other:
                y: Third = 1
                return x
            """,
        )
        found = of(audit(folder))[self.CHECK]
        assert {(f.actual, f.severity.value) for f in found} == {
            (name, "warning") for name in ("last", "maybe", "Missing", "Other", "Third")
        }
        folder.write("train.py", "globals().update(x=1)\nprint(x)\n")
        assert only(audit(folder), self.CHECK).severity.value == "warning"

    def test_code_that_is_right(self, folder: Folder) -> None:
        """Globals of other functions, built-ins, quoted hints, notebooks' names, noqa, comprehensions, walrus, star imports."""
        folder.write(
            "train.py",
            """\
            from __future__ import annotations
            from os.path import *
            import typing

            if typing.TYPE_CHECKING:
                from torch import Tensor

            def a() -> "Float[Tensor, 'batch seq']":
                global total
                total = 1

            def b(x: Tensor):
                return total + len(__file__) + sum(n for n in range(3) if (m := n)) + m

            def c():
                return helper() + join("a")

            def helper():
                return get_ipython() or display(1)

            print(unknown)  # noqa: F821
            """,
        )
        results = audit(folder)
        assert self.CHECK not in of(results)
        assert results[self.CHECK].outcome.value == "passed"  # type: ignore[attr-defined]  # a CheckResult

    def test_many_files_at_once(self, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        """More files than fit one call of ruff are checked all the same."""
        monkeypatch.setattr(undefined, "_AT_ONCE", 2)
        for n in range(5):
            folder.write(f"pkg/m{n}.py", f"print(gone_{n})\n")
        found = of(audit(folder, 'sources = ["pkg"]'))[self.CHECK]
        assert [f.actual for f in found] == [f"gone_{n}" for n in range(5)]

    def test_nothing_of_the_users_folder_is_touched(self, folder: Folder) -> None:
        """No cache, no configuration of theirs is read, no file is written."""
        folder.write("train.py", "print(gone)\n")
        folder.write("ruff.toml", 'lint.ignore = ["F821"]\nbroken = \n')
        folder.project(config="", environment='sources = ["train.py"]')
        before = sorted(folder.path.rglob("*"))
        assert self.CHECK in of(audit(folder))
        assert sorted(folder.path.rglob("*")) == before


def test_without_ruff_the_check_is_skipped_with_the_line(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never silently green."""
    monkeypatch.setattr("llmguard.checks.source.find_ruff", lambda: None)
    folder.write("train.py", "print(gone)\n")
    result = audit(folder)["names_are_defined_before_use"]
    assert (result.outcome.value, result.reason) == (
        "skipped",
        "install ruff to have names checked: pip install ruff",
    )  # type: ignore[attr-defined]  # a CheckResult


def test_ruff_is_looked_for_beside_the_interpreter_then_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This environment's own first."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(
        undefined.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name))
    )
    monkeypatch.setattr(shutil, "which", lambda name: f"/path/{name}")
    assert undefined.find_ruff() == "/path/ruff"
    (tmp_path / "ruff").write_text("")
    assert undefined.find_ruff() == str(tmp_path / "ruff")


class TestImports:
    """`imports_are_declared`."""

    CHECK = "imports_are_declared"
    ENGINES = pytest.mark.parametrize("with_deptry", [True, False])

    @pytest.fixture(autouse=True)
    def _engine(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without deptry our own reading of the metadata decides alone."""
        if request.node.callspec.params.get("with_deptry") if hasattr(request.node, "callspec") else False:
            pytest.importorskip("deptry")
        else:
            monkeypatch.setattr(
                "llmguard.sources.imports._seconded_by_deptry", lambda sources, declared: None
            )

    @ENGINES
    def test_an_import_that_nobody_declared(self, with_deptry: bool, folder: Folder) -> None:
        """The documented bug: `chromadb`, inside a function of a late stage."""
        folder.write("requirements.txt", "numpy\n")
        folder.write(
            "train.py",
            "import os\nimport numpy as np\n\ndef late():\n    import chromadb.api\n    from chromadb import x\n",
        )
        finding = only(audit(folder), self.CHECK, file="train.py", line=5)
        assert "`chromadb` is imported here and 1 more places" in finding.message
        assert "requirements.txt" in finding.message

    @ENGINES
    def test_imports_that_are_declared_or_ours(self, with_deptry: bool, folder: Folder) -> None:
        """Other names of the same thing, own modules, the standard library, relative ones, tests' own needs."""
        folder.write(
            "requirements.txt",
            """\
            # what it needs
            -r more/base.txt
            -c constraints.txt
            --no-binary :all:
            PyYAML>=6 ; python_version > "3"   # comment
            scikit-learn[extra]==1.0 \\
                --hash=sha256:abc
            flash_attn @ https://example.org/flash_attn-2.0.whl
            git+https://github.com/unslothai/unsloth.git@main
            -e ./vendored
            """,
        )
        folder.write(
            "more/base.txt",
            "pillow\nopencv-python-headless\ngoogle-cloud-storage\ngit+ssh://git@host/x.git#egg=eggy\n",
        )
        folder.write("vendored/pyproject.toml", '[project]\nname = "vend"\n')
        folder.write("vendored/vend/__init__.py", "")
        folder.write("proj/__init__.py", "")
        folder.write("helper.py", "")
        folder.write("src/inner/__init__.py", "")
        folder.write(
            "train.py",
            """\
            from __future__ import annotations
            import json, sys
            import yaml, sklearn.metrics, flash_attn, unsloth, PIL.Image, cv2, eggy, vend
            from google.cloud import storage
            import proj, helper, inner
            from . import sibling
            from typing import TYPE_CHECKING
            if TYPE_CHECKING:
                import only_for_types
            """,
        )
        folder.write("test_train.py", "import hypothesis_of_tests\n")
        folder.write("tests/helpers.py", "import needed_by_tests\n")
        results = audit(folder, 'sources = ["train.py", "test_train.py", "tests"]')
        assert self.CHECK not in of(results), [f.message for f in of(results)[self.CHECK]]
        assert results[self.CHECK].looked_at >= 15  # type: ignore[attr-defined]  # a CheckResult

    @ENGINES
    def test_what_comes_along_or_is_optional_is_a_note(self, with_deptry: bool, folder: Folder) -> None:
        """numpy comes with torch; wandb's absence is handled."""
        folder.write("requirements.txt", "torch\n")
        folder.write(
            "train.py",
            """\
            import numpy
            try:
                import wandb
            except ImportError:
                wandb = None
            if find_spec("swanlab"):
                import swanlab
            """,
        )
        results = audit(folder)
        assert self.CHECK not in of(results)
        notes = of(results, "note")[self.CHECK]
        assert [("comes with torch" in n.message, "absence is handled" in n.message) for n in notes] == [
            (True, False),
            (False, True),
            (False, True),
        ]

    DECLARED = pytest.mark.parametrize(
        ("name", "text"),
        [
            ("pyproject.toml", '[project]\nname = "x"\nversion = "1"\ndependencies = ["chromadb>=1"]\n'),
            ("pyproject.toml", '[project]\nname = "x"\nversion = "1"\n[project.optional-dependencies]\nrag = ["chromadb"]\n'),
            ("pyproject.toml", '[dependency-groups]\nrag = ["chromadb", {include-group = "x"}]\n'),
            ("pyproject.toml", '[tool.poetry.dependencies]\npython = "^3.10"\nchromadb = "*"\n'),
            ("pyproject.toml", '[tool.poetry.group.rag.dependencies]\nchromadb = {version = "*"}\n'),
            ("pyproject.toml", '[tool.uv]\ndev-dependencies = ["chromadb"]\n'),
            ("setup.cfg", "[options]\ninstall_requires =\n    chromadb>=1\n"),
            ("setup.cfg", "[options.extras_require]\nrag =\n    chromadb\n"),
            ("setup.py", "from setuptools import setup\nsetup(install_requires=['chromadb==1.0'])\n"),
            ("setup.py", "from setuptools import setup\nsetup(extras_require={'rag': ['chromadb']})\n"),
            ("environment.yml", "dependencies:\n  - python=3.11\n  - conda-forge::chromadb=1.0\n"),
            ("environment.yml", "dependencies:\n  - pip\n  - pip:\n    - chromadb\n"),
            ("Pipfile", '[packages]\nchromadb = "*"\n'),
            ("requirements-train.txt", "chromadb\n"),
            ("requirements/gpu.txt", "chromadb\n"),
            ("requirements.txt", "./wheels/chromadb-1.0-py3-none-any.whl\n"),
            ("requirements.txt", "./chromadb\n"),
            ("requirements.txt", "--requirement other.txt\n"),
        ],
    )  # fmt: skip

    @DECLARED
    def test_wherever_projects_declare(self, name: str, text: str, folder: Folder) -> None:
        """Each kind of file is found in the project's folder by itself, or by its name."""
        folder.write("other.txt", "chromadb\n")
        folder.write(name, text)
        folder.write("train.py", "import chromadb\n")
        assert self.CHECK not in of(audit(folder))
        named = audit(folder, f'sources = ["train.py"]\nrequirements = ["{name}"]')
        assert self.CHECK not in of(named)
        assert named[self.CHECK].outcome.value == "passed"  # type: ignore[attr-defined]  # a CheckResult

    def test_no_declaration_at_all_says_the_line_to_add(self, folder: Folder) -> None:
        """A pyproject.toml with nothing but tools declares nothing."""
        folder.write("train.py", "import chromadb\n")
        folder.write("pyproject.toml", "[tool.ruff]\nline-length = 100\n")
        result = audit(folder)[self.CHECK]
        assert result.outcome.value == "skipped"  # type: ignore[attr-defined]  # a CheckResult
        assert "`[environment] requirements" in result.reason  # type: ignore[attr-defined]  # a CheckResult

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("gone.txt", None),
            ("pyproject.toml", "[project\n"),
            ("setup.py", "x = (\n"),
            ("environment.yml", "a: [1\n"),
            ("setup.cfg", "x\n"),
        ],
    )
    def test_requirements_that_cannot_be_read(self, name: str, text: str | None, folder: Folder) -> None:
        """A named file that is missing or broken is a finding, not a silence."""
        folder.write("train.py", "import chromadb\n")
        if text is not None:
            folder.write(name, text)
        results = audit(folder, f'sources = ["train.py"]\nrequirements = ["{name}"]')
        finding = only(results, self.CHECK, file=name)
        assert "requirements cannot be read" in finding.message
        assert finding.severity.value == "error"

    def test_a_deptry_without_a_verdict_does_not_decide(
        self, folder: Folder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where it ends without a report, or never ends, our own reading stands."""
        monkeypatch.undo()

        def silent(*_: object, **__: object) -> None:
            raise subprocess.TimeoutExpired("deptry", 60)

        monkeypatch.setattr(subprocess, "run", silent)
        folder.write("requirements.txt", "numpy\n")
        file = folder.write("train.py", "import chromadb\n")
        assert len(llmguard.imports_are_declared(file).errors) == 1


def test_imports_raise_missing_evidence_in_a_users_own_test(folder: Folder) -> None:
    """There, too, nothing is silently green."""
    file = folder.write("train.py", "import chromadb\n")
    with pytest.raises(MissingEvidence, match="requirements"):
        llmguard.imports_are_declared(file)


class TestDevices:
    """`device_is_not_hard_coded`."""

    CHECK = "device_is_not_hard_coded"

    @pytest.mark.parametrize(
        "text",
        ['device = "cpu"\n', 'device = torch.device("cuda:0")\n', 'class A:\n    def f(self):\n        self.device = "mps"\n',
         'DEVICE: str = "cuda"\n', 'device = "cpu"\nprint(device)\ndevice = "cpu"\n'],
    )  # fmt: skip
    def test_always_the_same_device_is_a_note(self, text: str, folder: Folder) -> None:
        """A note with the line, never more."""
        folder.write("train.py", text)
        results = audit(folder)
        assert self.CHECK not in of(results)
        assert "is always" in of(results, "note")[self.CHECK][0].message

    @pytest.mark.parametrize(
        "text",
        ['device = "cuda" if torch.cuda.is_available() else "cpu"\n', 'if ok():\n    device = "cuda"\nelse:\n    device = "cpu"\n',
         "device = args.device\n", 'device = torch.device(name)\n', 'device_name = "cpu"\n', 'def f(device="cpu"): ...\n',
         'device = "auto"\n', "device: str\n"],
    )  # fmt: skip
    def test_a_device_that_is_chosen(self, text: str) -> None:
        """Asked for, set in branches, passed in."""
        assert list(fixed_devices(ast.parse(text))) == []


class TestModels:
    """`one_model_is_resident_at_a_time`."""

    CHECK = "one_model_is_resident_at_a_time"

    def test_three_models_of_an_evaluation(self, folder: Folder) -> None:
        """The documented bug: base, SFT and DPO loaded, then compared."""
        folder.write(
            "train.py",
            """\
            def compare():
                base = AutoModelForCausalLM.from_pretrained("base")
                sft = AutoModelForCausalLM.from_pretrained("sft").to("cuda").eval()
                dpo, info = transformers.AutoModelForCausalLM.from_pretrained("dpo"), 1
                dpo = transformers.AutoModelForCausalLM.from_pretrained("dpo")
            """,
        )
        note = of(audit(folder), "note")[self.CHECK][0]
        assert "3 models are in memory at once: base, sft, dpo (lines 2, 3, 5)" in note.message

    def test_models_in_a_comprehension(self) -> None:
        """All of them are held at once."""
        text = "def f(names):\n    return {n: AutoModelForCausalLM.from_pretrained(n) for n in names}\n"
        assert [r.collected for r in residents(ast.parse(text))] == [True]

    @pytest.mark.parametrize(
        "text",
        [
            "model = AutoModelForCausalLM.from_pretrained(a)\ntokenizer = AutoTokenizer.from_pretrained(a)\n",
            "model = AutoModelForCausalLM.from_pretrained(a)\nref_model = AutoModelForCausalLM.from_pretrained(a)\n",
            "student = Qwen2ForCausalLM.from_pretrained(a)\nteacher = Qwen2ForCausalLM.from_pretrained(b)\n",
            "base = AutoModelForCausalLM.from_pretrained(a)\nrun(base)\ndel base\nsft = AutoModelForCausalLM.from_pretrained(b)\n",
            "base = AutoModelForCausalLM.from_pretrained(a)\nbase = None\nsft = AutoModelForCausalLM.from_pretrained(b)\n",
            "model = AutoModelForCausalLM.from_pretrained(a)\nmodel = AutoModelForCausalLM.from_pretrained(b)\n",
            "if lora:\n    a = AutoModelForCausalLM.from_pretrained(x)\nelse:\n    b = AutoModelForCausalLM.from_pretrained(y)\n",
            "base = AutoModelForCausalLM.from_pretrained(a)\nmodel = PeftModel.from_pretrained(base, adapter)\n",
            "def f():\n    return AutoModelForCausalLM.from_pretrained(a)\ndef g():\n    return AutoModelForCausalLM.from_pretrained(b)\n",
            "for name in names:\n    model = AutoModelForCausalLM.from_pretrained(name)\n",
            "llm = LLM(a)\nembedder = AutoModel.from_pretrained(b)\n",
        ],
    )
    def test_one_after_the_other_or_companions(self, text: str) -> None:
        """Tokenizers, references, teachers, released models, branches, adapters, functions of their own, loops."""
        assert list(residents(ast.parse(text))) == []
