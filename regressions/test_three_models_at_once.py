"""The evaluation loads base, SFT and DPO model at once.

Symptom: CUDA out of memory at the second or third model of an evaluation that a single model leaves half of the GPU to.
Severity: critical
Cause: the script loads all models first and compares them afterwards; or the one before is still held by a list, a closure or a traceback.
First seen: written down by a fine-tuning project as critical (base, SFT and DPO on one GPU; out of memory, or models that interfere)
Cost: evaluations that ended in their middle, and smaller batches for nothing.
Check: one_model_is_resident_at_a_time, llmguard_core.evaluate
Lesson: load, answer, release and prove it; then load the next one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.held import tensor_bytes

from llmguard import one_model_is_resident_at_a_time
from llmguard.findings import Findings
from llmguard_core.errors import OutOfMemory
from llmguard_core.evaluation import evaluate
from llmguard_core.generation import generate
from llmguard_core.loading import Loaded, load_base

pytestmark = pytest.mark.usefixtures("frozen")
NAMES = ("base", "sft", "dpo")
Load = Callable[[], Loaded]
Seen = Callable[[], object]

SCRIPT = """
def evaluate(prompts):
    base = AutoModelForCausalLM.from_pretrained("models/base")
    sft = AutoModelForCausalLM.from_pretrained("out/sft")
    dpo = AutoModelForCausalLM.from_pretrained("out/dpo")
    return {name: answers(model, prompts) for name, model in (("base", base), ("sft", sft), ("dpo", dpo))}
"""
ONE_BY_ONE = """
def evaluate(prompts):
    found = {}
    for name, path in PATHS.items():
        model = AutoModelForCausalLM.from_pretrained(path)
        found[name] = answers(model, prompts)
        del model
        torch.cuda.empty_cache()
    return found
"""


def broken(load: Load, rows: list[dict[str, str]], seen: Seen) -> dict[str, list[str]]:
    """What the script did, with three loads of a model that is as large."""
    base, sft, dpo = load(), load(), load()
    answers = {}
    for name, loaded in (("base", base), ("sft", sft), ("dpo", dpo)):
        answers[name] = generate(loaded, [row["prompt"] for row in rows], max_new_tokens=4)
        seen()
    return answers


def fixed(load: Load, rows: list[dict[str, str]], seen: Seen, out: Path) -> Any:
    """The core's evaluation of the same three."""
    models = dict.fromkeys(NAMES, load)
    return evaluate(models, rows, out=out, max_new_tokens=4, progress=lambda *_: seen())


@pytest.fixture
def load(lab_path: Any) -> Load:
    """A model, loaded anew with each call."""
    return lambda: load_base(lab_path.base, dtype="float32", device="cpu", environment=False)


class Peak:
    """The most that tensors held beyond the beginning whenever somebody looked, in bytes."""

    def __init__(self) -> None:
        self.start, self.most = tensor_bytes(), 0

    def __call__(self) -> None:
        self.most = max(self.most, tensor_bytes() - self.start)


def test_witness(load: Load, rows: list[dict[str, str]], tmp_path: Path) -> None:
    """Measured while they generate: three models against one; behind the core's evaluation nothing is left."""
    loaded = load()
    size = sum(p.nbytes for p in loaded.model.parameters())
    del loaded
    peaks: list[float] = []
    for run in (lambda seen: broken(load, rows, seen), lambda seen: fixed(load, rows, seen, tmp_path)):
        peak = Peak()
        run(peak)
        peaks.append(peak.most / size)
        assert tensor_bytes() - peak.start < 0.1 * size
    assert peaks[0] == pytest.approx(3, abs=0.2)
    assert peaks[1] == pytest.approx(1, abs=0.2)


def _judged(source: str, folder: Path) -> Findings:
    (folder / "evaluate.py").write_text(
        f"import torch\nfrom transformers import AutoModelForCausalLM\n{source}", "utf-8"
    )
    return one_model_is_resident_at_a_time(folder / "evaluate.py")


def test_check_rejects(tmp_path: Path) -> None:
    """In the script, as a note with its lines: on a large enough machine it may be meant."""
    (found,) = _judged(SCRIPT, tmp_path)
    assert "3 models are in memory at once: base, sft, dpo" in found.message
    assert "load, use and release one before the next" in found.remedy


def test_check_rejects_a_model_that_somebody_keeps(
    load: Load, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    """The core's evaluation goes on to no second model, and says so."""
    kept: list[Any] = []

    def keeping() -> Loaded:
        kept.append(load())
        return kept[-1]

    with pytest.raises(OutOfMemory, match="still there: "):
        evaluate(dict.fromkeys(NAMES, keeping), rows, out=tmp_path, max_new_tokens=1)
    assert len(kept) == 1


def test_check_accepts(tmp_path: Path) -> None:
    """One after the other, by hand and by the core."""
    for source in (ONE_BY_ONE, inspect.getsource(fixed)):
        found = _judged(source, tmp_path)
        assert found == []
        assert found.looked_at == 1
