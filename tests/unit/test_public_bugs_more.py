"""Bugs told in public threads whose trace is not in token rows: configs, adapters, splits, texts, disks, imports.

As beside: the fault is shown first without our checks, then found by name, and the sound variant is left alone.
"""

from __future__ import annotations

import json
import math
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.bugs import CASES, case, cases_of, severities
from support.configs import Folder, of

import llmguard
from llmguard.evidence.adapter import Adapter, read_adapter
from llmguard.evidence.model import read_model
from llmguard.probe import ProbeResult, Verdict
from llmguard.probe.environment import Environment, Writing
from llmguard.probe.environment import Folder as Volume

ROWS, WIDTH = 40, 8
SAVED = "base_model.model.model.layers.0.self_attn.q_proj"
HEAD = "output_dir: out\nlr_scheduler_type: linear\nreport_to: none\nlogging_steps: 10\nsave_total_limit: 2\n"
DPO = "dataset_name: a/b\nuse_peft: true\nreport_to: none\nsave_total_limit: 1\nlogging_steps: 10\nprecompute_ref_log_probs: false\n"
Arrays = dict[str, "np.ndarray[Any, Any]"]


@dataclass
class Place:
    """A folder of a case's own."""

    path: Path

    def config(self, check: str, text: str, **tables: str) -> list[str]:
        """What a config check says of train.yaml: severities."""
        return severities(of(Folder(self.path).config(text, **tables)).get(check, []))

    def adapter(self, name: str, tensors: Arrays, **config: Any) -> Adapter:
        """A saved adapter, read as an audit reads it."""
        write(self.path / name / "adapter_model.safetensors", tensors)
        told = {"base_model_name_or_path": "base", "r": 2, **config}
        (self.path / name / "adapter_config.json").write_text(json.dumps(told))
        return read_adapter(self.path / name)

    def base(self, width: int = WIDTH) -> Any:
        """The folder of a base model with one attention matrix."""
        weights = {
            "model.embed_tokens.weight": np.ones((ROWS, width), np.float32),
            "model.layers.0.self_attn.q_proj.weight": np.ones((width, width), np.float32),
        }
        write(self.path / "base" / "model.safetensors", weights)
        (self.path / "base" / "config.json").write_text(
            json.dumps({"hidden_size": width, "vocab_size": ROWS})
        )
        return read_model(str(self.path / "base"), "base")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def write(file: Path, tensors: Arrays) -> None:
    """A safetensors file, by the description of the format."""
    header, at = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in tensors.values()))


def lora(prefix: str = SAVED, width: int = WIDTH, b: float = 0.5) -> Arrays:
    """The two matrices of a LoRA module."""
    return {
        f"{prefix}.lora_A.weight": np.ones((2, width), np.float32),
        f"{prefix}.lora_B.weight": np.full((width, 2), b, np.float32),
    }


@case("CF-01")
def rate_is_text(p: Place) -> None:
    """A learning rate in scientific notation without a dot is text to YAML 1.1."""
    assert isinstance(yaml.safe_load("learning_rate: 1e-4")["learning_rate"], str)
    assert p.config("every_config_value_has_its_type", f"{HEAD}learning_rate: 1e-4\n") == ["error"]
    assert p.config("every_config_value_has_its_type", f"{HEAD}learning_rate: 1.0e-4\n") == []


@case("CF-02")
def no_is_false(p: Place) -> None:
    """A strategy that is called `no` arrives as a truth value."""
    assert yaml.safe_load("save_strategy: no")["save_strategy"] is False
    assert p.config("every_config_value_has_its_type", f"{HEAD}save_strategy: no\n") == ["error"]
    assert p.config("every_config_value_has_its_type", f'{HEAD}save_strategy: "no"\n') == []


@case("CF-06")
def saves_never(p: Place) -> None:
    """The first checkpoint would come after the last step."""
    steps, every = 10, 500
    assert [s for s in range(1, steps + 1) if s % every == 0] == []
    assert p.config("run_saves_what_it_trains", f"{HEAD}max_steps: {steps}\nsave_steps: {every}\n") == [
        "warning"
    ]
    assert p.config("run_saves_what_it_trains", f"{HEAD}max_steps: {steps}\nsave_steps: 5\n") == []


@case("CF-07")
def steps_before_epochs(p: Place) -> None:
    """Three steps are given beside five epochs, and the steps win."""
    assert p.config("max_steps_agrees_with_epochs", f"{HEAD}max_steps: 3\nnum_train_epochs: 5\n") == [
        "warning"
    ]
    assert p.config("max_steps_agrees_with_epochs", f"{HEAD}num_train_epochs: 5\n") == []


@case("CF-08")
def resumed_by_itself(p: Place) -> None:
    """Another run's checkpoints lie where this one will write and, with many scripts, start from."""
    state = p.path / "out" / "checkpoint-500" / "trainer_state.json"
    text, check = f"{HEAD}num_train_epochs: 1\n", "output_dir_holds_no_old_checkpoint"
    assert p.config(check, text) == []
    state.parent.mkdir(parents=True)
    state.write_text('{"global_step": 500}')
    assert p.config(check, text) == ["warning"]
    assert p.config(check, f"{text}resume_from_checkpoint: true\n") == []


@case("LN-06")
def half_overflows(p: Place) -> None:
    """A model with the range of bfloat16 is trained in half precision, which ends at 65,504."""
    with np.errstate(over="ignore"):
        assert np.isinf(np.float16(70000.0))
    assert p.config("precision_settings_agree", f"{HEAD}fp16: true\ntorch_dtype: bfloat16\n") == ["warning"]
    assert p.config("precision_settings_agree", f"{HEAD}bf16: true\ntorch_dtype: bfloat16\n") == []


@case("DP-01")
def loss_stands_still(p: Place) -> None:
    """With a beta of zero, the preference loss is ln 2 whatever the model does."""
    assert {round(-math.log(1 / (1 + math.exp(-0.0 * margin))), 4) for margin in (-9, 0, 9)} == {0.6931}
    assert p.config("every_config_value_is_in_range", f"{DPO}beta: 0\n") == ["error"]
    assert p.config("every_config_value_is_in_range", f"{DPO}beta: 0.1\n") == []


@case("PE-01")
def wrapped_twice(p: Place) -> None:
    """Trained weights are loaded into an adapter that was wrapped again: no name fits, and B stays at zero."""
    trained, active = lora(), lora(f"base_model.model.{SAVED}", b=0.0)
    assert not trained.keys() & active.keys()
    loaded = {name: trained.get(name, values) for name, values in active.items()}
    assert severities(llmguard.adapter_is_trained(p.adapter("loaded", loaded))) == ["error"]
    assert severities(llmguard.adapter_is_trained(p.adapter("trained", trained))) == []


@case("PE-07")
def added_tokens_not_saved(p: Place) -> None:
    """Tokens were added, and the adapter that knows them was saved without their embeddings."""

    class Tokenizer:
        def __len__(self) -> int:
            return ROWS + 5

        def get_vocab(self) -> dict[str, int]:
            return {f"t{i}": i for i in range(len(self))}

    base, tokenizer, check = p.base(), Tokenizer(), llmguard.adapter_keeps_added_tokens
    assert len(tokenizer) > base.embedding_rows
    assert not any("embed" in name for name in lora())
    assert severities(check(p.adapter("bare", lora()), base, tokenizer)) == ["error"]
    rows = {"base_model.model.model.embed_tokens.weight": np.ones((ROWS + 5, WIDTH), np.float32)}
    saving = p.adapter("saving", lora() | rows, modules_to_save=["embed_tokens"])
    assert severities(check(saving, base, tokenizer)) == []


@case("PE-10")
def saved_in_shards(p: Place) -> None:
    """Each process held a part of the weights; what was saved has no elements."""
    empty = {name: np.zeros((0,), np.float32) for name in lora()}
    assert all(values.size == 0 for values in empty.values())
    assert severities(llmguard.adapter_is_trained(p.adapter("empty", empty))) == ["error"]
    assert severities(llmguard.adapter_is_trained(p.adapter("whole", lora()))) == []


@case("PE-13")
def another_base(p: Place) -> None:
    """An adapter is merged into a base that it was not trained on: by its shapes, or by its own word."""
    base, check = p.base(), llmguard.adapter_belongs_to_its_base
    assert severities(check(p.adapter("wide", lora(width=16)), base)) == ["error"]
    other = p.adapter("other", lora(), base_model_name_or_path="someone/stage-one")
    assert severities(check(other, base)) == ["warning"]
    assert severities(check(p.adapter("own", lora()), base)) == []


@case("DA-01")
def rows_of_test_in_train(p: Place) -> None:
    """Rows of the test split were copied into train before it was shuffled."""
    rows = [
        {
            "prompt": f"Which of the {i} bridges of the old town was finished first?",
            "response": f"Bridge {i}.",
        }
        for i in range(3, 12)
    ]
    train, test = rows[:6], rows[6:]
    assert severities(llmguard.no_test_row_is_in_train(test, [*train, *test[:2]])) == ["error"]
    assert severities(llmguard.no_test_row_is_in_train(test, train)) == []


LONG = "An answer of more than a few words, number"


@case("DA-03")
def none_as_text(p: Place) -> None:
    """A missing cell went through an f-string and became a word."""
    cells = [f"{LONG} {i}." for i in range(6)]
    broken = [{"prompt": f"Question {i}?", "response": f"{c}"} for i, c in enumerate([*cells, None, None])]
    assert broken[-1]["response"] == "None"
    sound = [
        {"prompt": f"Question {i}?", "response": c} for i, c in enumerate([*cells, "None of them is true."])
    ]
    assert severities(llmguard.no_content_is_a_word_for_nothing(broken)) == ["error"]
    assert severities(llmguard.no_content_is_a_word_for_nothing(sound)) == []


@case("DA-04")
def no_answer(p: Place) -> None:
    """Rows whose output was missing were kept with an empty one."""
    sound = [{"prompt": f"Question {i}?", "response": f"{LONG} {i}."} for i in range(6)]
    broken = [*sound, {"prompt": "Question?", "response": ""}, {"prompt": "Question!", "response": " \n"}]
    assert [r for r in broken if not r["response"].strip()] == broken[-2:]
    assert severities(llmguard.every_response_has_text(broken)) == ["error"]
    assert severities(llmguard.every_response_has_text(sound)) == []


@case("EN-04")
def import_hangs(p: Place) -> None:
    """`import torch` does not come back, and says nothing."""
    torch = p.path / "library" / "torch" / "__init__.py"
    torch.parent.mkdir(parents=True)
    environ: dict[str, str | None] = {"PYTHONPATH": str(p.path / "library")}
    for text, expected in (
        ("import time\ntime.sleep(1e6)\n", ["error"]),
        ("__version__ = '9'\nclass Tensor: pass\n", []),
    ):
        torch.write_text(text)
        began = time.monotonic()
        machine = Environment(
            str(p.path), import_timeout=1.0, environ=environ, torch_wanted_by="[model] path"
        )
        assert severities(llmguard.torch_imports_in_time(machine)) == expected
        assert time.monotonic() - began < 60


@case("EN-05")
def disk_full(p: Place) -> None:
    """What is free on the volume is less than one checkpoint takes."""
    need, folder = 2**30, Volume("output_dir", str(p.path))
    for free, expected in ((need // 2, ["error"]), (need + 1, ["warning"]), (8 * need, [])):
        machine = Environment("/project", folders=(folder,), checkpoint_size=need)
        told = {
            "claimed": free,
            "accepted": 2**20,
            "written": 2**20,
            "asked": 2**20,
            "seconds": 0.001,
            "corrupt": False,
        }
        result = ProbeResult(Verdict.OK, "writing", 0.1, 120.0)
        machine.__dict__["writings"] = (Writing(folder, result, {**told, "mount": ["/", "ext4", "disk"]}),)
        assert severities(llmguard.output_dir_takes_a_checkpoint(machine)) == expected


@pytest.mark.parametrize("bug", cases_of(__name__))
def test_public_bug(bug: str, place: Place) -> None:
    """The bug of this id: its fault fires, the check finds it, and the sound variant is left alone."""
    CASES[bug](place)
