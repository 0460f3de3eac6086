"""`make finetune`: what it prepares is a run that loads, whether real rows are there or not."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from llmguard_core.config import load_config

pytestmark = pytest.mark.needs_torch


@pytest.fixture(scope="module")
def example(root: Path) -> Any:
    """The script of the example, as a module."""
    spec = importlib.util.spec_from_file_location("finetune_example", root / "examples/finetune/run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder in the place of the lab's model: nothing is trained here."""
    (tmp_path / "lab/base").mkdir(parents=True)
    monkeypatch.setattr(example, "lab", lambda: type("Lab", (), {"base": tmp_path / "lab/base"}))
    monkeypatch.delenv("MODEL_PATH", raising=False)


@pytest.mark.usefixtures("model")
def test_without_real_rows_sums_of_the_same_form_are_made(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMGUARD_REAL_DATA", str(tmp_path / "nowhere"))
    assert example.prepare(tmp_path / "run") == "generated sums"
    assert load_config(tmp_path / "run/pretrain.yaml", objective="sft").train.method == "full"
    for objective in ("sft", "evaluate"):
        config = load_config(tmp_path / "run/config.yaml", objective=objective)
    assert config.train.output_dir == tmp_path / "run/tuned"
    rows = {name: read(tmp_path / f"run/{name}.jsonl") for name in ("text", "train", "validation", "test")}
    assert [len(some) for some in rows.values()] == [
        example.TEXT,
        example.TRAIN,
        example.VALIDATION,
        example.TEST,
    ]
    asked = [row["question"] for some in rows.values() for row in some]
    assert len(set(asked)) == len(asked)
    for row in rows["test"]:
        has, gets, gives = map(int, re.findall(r"\d+", row["question"]))
        assert row["answer"].endswith(f"#### {has + gets - gives}")


@pytest.mark.usefixtures("model")
def test_real_rows_are_taken_where_they_are(
    example: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_data: Path
) -> None:
    monkeypatch.setenv("LLMGUARD_REAL_DATA", str(real_data))
    if not (real_data / "data/gsm8k").is_dir():
        pytest.skip(f"no data/gsm8k in {real_data}")
    assert example.prepare(tmp_path / "run") == "GSM8K"
    rows = read(tmp_path / "run/train.jsonl")
    assert len(rows) == example.TRAIN
    assert all(len(row["question"]) + len(row["answer"]) < example.LONGEST for row in rows)


def read(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
