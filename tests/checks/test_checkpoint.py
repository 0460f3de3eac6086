"""Checkpoints of earlier runs: what is whole by the ways of other tools passes, what is broken is named with the newest whole one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.checkpoint_files import write_checkpoint
from support.configs import Folder
from support.weights import adapter, write

from llmguard.auditing import Audit
from llmguard.checks.checkpoint import checkpoints_are_whole
from llmguard.evidence.checkpoints import Checkpoint, Checkpoints, read_checkpoint
from llmguard.evidence.saved import Old
from llmguard.findings import Findings
from llmguard.project import load_project

STATE = '{"global_step": 4, "max_steps": 9}'


def saved(out: Path, step: int) -> Path:
    """A checkpoint as transformers writes it."""
    place = out / f"checkpoint-{step}"
    place.mkdir(parents=True)
    write_checkpoint(place, step)
    return place


def judged(*folders: Path, resumed: bool = False) -> Findings:
    """The check on some checkpoints."""
    return checkpoints_are_whole(Checkpoints([read_checkpoint(folder) for folder in folders], resumed))


def of_lora(place: Path) -> None:
    """An adapter alone, as PEFT's Trainer saves."""
    adapter(place)
    (place / "trainer_state.json").write_text(STATE)


def without_resuming(place: Path) -> None:
    """`save_only_model`: weights and the state, nothing to go on with."""
    write(place / "model.safetensors", {"w": np.ones((2, 2), np.float32)})
    (place / "trainer_state.json").write_text(STATE)


def of_deepspeed(place: Path) -> None:
    """ZeRO keeps weights and optimizer in a folder of its own; the model beside it."""
    without_resuming(place)
    (place / "global_step4").mkdir()


@pytest.mark.parametrize("make", [of_lora, without_resuming, of_deepspeed])
def test_checkpoints_of_other_tools_pass(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """What is missing there is missing by design."""
    place = tmp_path / "checkpoint-4"
    place.mkdir()
    make(place)
    found = judged(place)
    assert not found
    assert found.looked_at == 1


def test_a_whole_one_passes_and_a_broken_one_is_a_warning(tmp_path: Path) -> None:
    """The newest that is whole is named; nobody is told to go on from a broken one."""
    whole, cut = saved(tmp_path, 2), saved(tmp_path, 4)
    assert not judged(whole, cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-9])
    (found,) = judged(whole, cut)
    assert found.severity.value == "warning"
    assert "model.safetensors: has" in found.message
    assert "go on from checkpoint-2" in found.remedy
    (whole / "trainer_state.json").unlink()
    both = judged(whole, cut, resumed=True)
    assert [f.severity.value for f in both] == ["warning", "error"]
    assert "start from the beginning: none is whole" in both[0].remedy


def test_shards_that_must_be_put_together_are_told(tmp_path: Path) -> None:
    """FSDP's and ZeRO's own formats, with the tool that merges them."""
    place = tmp_path / "checkpoint-4"
    (place / "pytorch_model_fsdp_0").mkdir(parents=True)
    (place / "trainer_state.json").write_text(STATE)
    (found,) = judged(place)
    assert found.severity.value == "warning"
    assert "shards of FSDP" in found.message
    assert "accelerate merge-weights" in found.remedy


def test_folders_of_the_project_and_of_its_configs_are_looked_at_once(tmp_path: Path) -> None:
    """Other names are no checkpoints; files are none, and a config that cannot be read hides nothing."""
    folder = Folder(tmp_path)
    for out in ("out", "other"):
        saved(tmp_path / out, 2)
    (tmp_path / "out" / "checkpoint-9").touch()
    (tmp_path / "out" / "checkpoint-best").mkdir()
    folder.write("a.yaml", "output_dir: other\nlearning_rate: 1.0e-4\n")
    folder.write("b.yaml", "output_dir: [\n")
    folder.project(config='files = ["a.yaml", "b.yaml"]', environment='output_dir = "./out"')
    audit = Audit(load_project(tmp_path, environ={}))
    result = audit.run(audit.registry.get("checkpoints_are_whole"))
    assert (result.outcome.value, result.looked_at) == ("passed", 2)


def of(step: int, **state: Any) -> Checkpoint:
    """What was read of a checkpoint."""
    return Checkpoint(f"checkpoint-{step}", step, **state)


def test_a_broken_checkpoint_is_told_with_what_to_go_on_from() -> None:
    """An empty folder and one with problems, each by itself; an error where a config resumes and it is the newest."""
    empty, torn, whole = of(2, empty=True), of(6, problems=["model.safetensors: is cut off"]), of(4)
    found = checkpoints_are_whole(Checkpoints([empty, whole, torn], resumed=True))
    assert [(f.where.file, f.severity.value) for f in found] == [
        ("checkpoint-2", "warning"),
        ("checkpoint-6", "error"),
    ]
    assert "the folder is empty: this checkpoint cannot be resumed from" in found[0].message
    assert "model.safetensors: is cut off: this checkpoint" in found[1].message
    assert all(
        f.remedy == "remove this folder and go on from checkpoint-4, the newest that is whole" for f in found
    )
    assert found.looked_at == 3
    newer = checkpoints_are_whole(Checkpoints([torn, of(8)], resumed=True))
    assert [f.severity.value for f in newer] == ["warning"]
    (none,) = checkpoints_are_whole(Checkpoints([empty]))
    assert none.severity.value == "warning"
    assert "none is whole" in none.remedy


def test_many_problems_are_counted_and_five_are_told() -> None:
    """Whoever has six shards missing reads five names and how many more."""
    problems = [f"model-{n}.safetensors: is not there" for n in range(6)]
    five, six = (
        checkpoints_are_whole(Checkpoints([of(2, problems=problems[:n])]))[0].message for n in (5, 6)
    )
    assert "model-4.safetensors: is not there: this checkpoint" in five
    assert "model-4.safetensors: is not there; and 1 more: this checkpoint" in six
    assert "model-5" not in six


def test_an_old_format_that_is_still_loaded_is_a_note() -> None:
    """A pickle of last year is loaded as it is; weights of Flax are not, and are a warning. Neither makes a checkpoint broken."""
    pickle = Old("pytorch_model*.bin", "a pickle", "save it again", loads=True)
    flax = Old("flax_model*.msgpack", "weights of Flax", "with transformers 4")
    old = of(2, old=[("pytorch_model.bin", pickle), ("flax_model.msgpack", flax)])
    note, warning = checkpoints_are_whole(Checkpoints([old], resumed=True))
    assert (note.severity.value, note.where.file) == ("note", "checkpoint-2/pytorch_model.bin")
    assert note.remedy == "convert it where you trust it: save it again"
    assert (warning.severity.value, warning.where.file) == ("warning", "checkpoint-2/flax_model.msgpack")
    assert "an old format: weights of Flax" in warning.message
