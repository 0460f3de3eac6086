"""Group G of the fault matrix, end to end: a project folder with one fault in it, audited as a user's is; and the same without it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.matrix import Matrix, fault

from llmguard.auditing import Audit
from llmguard.checks.environment import python_is_supported
from llmguard.checks.versions import version_pairs_are_compatible
from llmguard.probe.environment import Environment
from llmguard.project import load_project
from llmguard.report import CheckResult

PROJECT = """
[data]
train = "train.jsonl"
prompt = "prompt"
response = "response"
[config]
files = ["train.yaml"]
[environment]
sources = ["train.py"]
requirements = ["requirements.txt"]
"""
FILES = {
    "llmguard.toml": PROJECT,
    "train.jsonl": '{"prompt": "a", "response": "b"}\n' * 64,
    "train.yaml": (
        "learning_rate: 0.0001\nnum_train_epochs: 3\nper_device_train_batch_size: 4\ngradient_accumulation_steps: 2\n"
        "save_steps: 10\noutput_dir: out\ntrain_file: train.jsonl\n"
    ),
    "train.py": "import torch\n\n\ndef evaluate():\n    import peft\n    return torch, peft\n",
    "requirements.txt": "torch\npeft\n",
}
CASES = {
    "import-not-declared": (
        "G1",
        "train.py",
        "import torch",
        "import wandb\nimport torch",
        "imports_are_declared",
        "wandb",
    ),
    "import-of-evaluation": (
        "G2",
        "train.py",
        "import peft",
        "import lm_eval, peft",
        "imports_are_declared",
        "lm_eval",
    ),
    "unknown-key": (
        "G9",
        "train.yaml",
        "learning_rate",
        "learning_rte",
        "every_config_key_is_known",
        "learning_rate",
    ),
    "number-as-text": ("G9", "train.yaml", "0.0001", "2e-5", "every_config_value_has_its_type", '"2e-5"'),
    "wrong-type": (
        "G9",
        "train.yaml",
        "epochs: 3",
        "epochs: three",
        "every_config_value_has_its_type",
        "three",
    ),
    "unit-slip": ("G9", "train.yaml", "0.0001", "100.0", "every_config_value_is_in_range", "100"),
    "too-few-rows": (
        "G10",
        "train.yaml",
        "accumulation_steps: 2",
        "accumulation_steps: 64",
        "rows_fill_an_optimizer_step",
        "64",
    ),
    "saves-never": (
        "G10",
        "train.yaml",
        "save_steps: 10",
        "save_steps: 1000",
        "run_saves_what_it_trains",
        "save_steps is 1000",
    ),
    "no-rows": ("G11", "train.jsonl", FILES["train.jsonl"], "", "data_files_are_readable", "train.jsonl"),
    "no-data-file": (
        "G11",
        "llmguard.toml",
        "train.jsonl",
        "train2.jsonl",
        "data_files_are_readable",
        "train2.jsonl",
    ),
    "key-twice": (
        "G14",
        "train.yaml",
        "save_steps: 10",
        "save_steps: 10\nlearning_rate: 0.1",
        "no_config_key_is_given_twice",
        "learning_rate",
    ),
    "circle": (
        "G14",
        "train.yaml",
        "save_steps: 10",
        "more: &a\n  deeper: *a",
        "config_file_is_readable",
        "refers to itself",
    ),
}


def written(folder: Path, file: str = "", old: str = "", new: str = "") -> Path:
    """The project, with one text of one file replaced."""
    for name, text in FILES.items():
        assert name != file or old in text
        (folder / name).write_text(text.replace(old, new, 1) if name == file else text, "utf-8")
    return folder


def judged(folder: Path, name: str) -> CheckResult:
    """What one check says of a project: its result that is not green, if there is one."""
    session = Audit(load_project(folder, environ={}))
    results = [session.run(e, t) for e, t in session.plan() if e.name == name]
    return next((r for r in results if r.outcome.value not in ("passed", "skipped")), results[0])


@pytest.mark.parametrize("case", [pytest.param(CASES[n], id=n, marks=fault(CASES[n][0])) for n in CASES])
def test_a_fault_of_a_project_is_found_by_its_check(
    tmp_path: Path, matrix: Matrix, case: tuple[str, ...]
) -> None:
    """The check of that name fails or warns and says what it is; without the fault it passes."""
    _, file, old, new, name, said = case
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for folder in (right, wrong):
        folder.mkdir()
    assert judged(written(right), name).outcome.value == "passed"
    found = judged(written(wrong, file, old, new), name)
    matrix.saw(name)
    assert found.outcome.value in ("failed", "warned")
    assert said in found.findings[0].message


def machine(**versions: str) -> Environment:
    """A machine with these libraries."""
    found = Environment("/project")
    found.__dict__.update(installed=versions, requirements={})
    return found


@pytest.mark.parametrize(
    ("bad", "good", "said"),
    [
        pytest.param(
            {"transformers": "4.52.1", "accelerate": "1.2.1"},
            {"transformers": "4.52.1", "accelerate": "1.3.0"},
            "keep_torch_compile",
            marks=fault("G5"),
        ),
        pytest.param(
            {"torch": "2.2.2", "numpy": "2.0.1"},
            {"torch": "2.2.2", "numpy": "1.26.4"},
            "built against numpy 1",
            marks=fault("G6"),
        ),
        pytest.param(
            {"torch": "2.2.2", "numpy": "2.0.1"},
            {"torch": "2.3.0", "numpy": "2.0.1"},
            "Numpy is not available",
            marks=fault("G6"),
        ),
    ],
)
def test_pairs_whose_metadata_lies_are_known(
    matrix: Matrix, bad: dict[str, str], good: dict[str, str], said: str
) -> None:
    """The pair that breaks, and its neighbour that does not."""
    (found,) = version_pairs_are_compatible(machine(**bad))
    assert said in found.message
    assert version_pairs_are_compatible(machine(**good)) == []
    matrix.saw("version_pairs_are_compatible")


@fault("G8")
def test_a_python_that_is_unknown_to_us_is_told(matrix: Matrix) -> None:
    """And the one that runs this is right."""
    assert [f.severity.value for f in python_is_supported(Environment("/p", python=(3, 8)))] == ["warning"]
    assert python_is_supported(Environment("/p")) == []
    matrix.saw("python_is_supported")
