"""Folders that are whole or not there, checkpoints that are verified before anyone trusts them, the newest of them chosen."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoint_files import write_checkpoint
from support.matrix import fault

from llmguard.locks import Held, locked
from llmguard_core.checkpoints import atomic_folder, checkpoints, newest, verify
from llmguard_core.checkpoints.folder import replaceable, staged, tidy, write_file
from llmguard_core.checkpoints.verify import step_of
from llmguard_core.errors import CheckpointError


def save(out: Path, step: int) -> Path:
    with atomic_folder(out / f"checkpoint-{step}") as place:
        write_checkpoint(place, step)
    return out / f"checkpoint-{step}"


def plain(out: Path, step: int) -> Path:
    """As transformers saves: no manifest."""
    place = out / f"checkpoint-{step}"
    place.mkdir(parents=True)
    write_checkpoint(place, step)
    return place


def test_a_folder_appears_whole_with_the_size_and_hash_of_every_file(tmp_path: Path) -> None:
    """Nothing is under its name before the block has ended."""
    final = tmp_path / "new" / "checkpoint-2"
    with atomic_folder(final) as place:
        write_checkpoint(place, 2)
        (place / "inner").mkdir()
        (place / "inner" / "a file").write_bytes(b"1234")
        assert not final.exists()
    table = json.loads((final / "manifest.json").read_text())["files"]
    assert table["inner/a file"] == {
        "size": 4,
        "sha256": "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4",
    }
    assert verify(final) == []
    assert [p.name for p in final.parent.iterdir()] == ["checkpoint-2"]


def test_a_block_that_fails_leaves_no_trace_and_the_folder_of_before(tmp_path: Path) -> None:
    """Also when it was about to be replaced."""
    save(tmp_path, 2)
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "checkpoint-2") as place:
        (place / "half").write_bytes(bytes(1 // 0))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-2"]
    assert verify(tmp_path / "checkpoint-2") == []


@pytest.mark.parametrize("moment", ["before", "between", "after"])
@fault("L9")
def test_edge_20_a_save_cut_off_is_never_chosen_and_is_cleared_away(tmp_path: Path, moment: str) -> None:
    """Before the rename, between the two renames of a folder that was being replaced, and after them."""
    save(tmp_path, 2)
    final = save(tmp_path, 4)
    staging = staged(final).parent
    staging.mkdir()
    if moment == "before":
        shutil.copytree(final, staging / final.name)
    elif moment == "between":
        shutil.copytree(final, staging / final.name)
        final.rename(staging / "replaced")
    else:
        shutil.copytree(final, staging / "replaced")
    assert newest(tmp_path) == final
    assert verify(final) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_a_save_that_goes_on_is_not_cleared_away(tmp_path: Path) -> None:
    """Someone else looks for the newest checkpoint meanwhile."""
    save(tmp_path, 2)
    with atomic_folder(tmp_path / "checkpoint-4") as place:
        write_checkpoint(place, 4)
        assert newest(tmp_path) == tmp_path / "checkpoint-2"
        assert place.is_dir()
    assert newest(tmp_path) == tmp_path / "checkpoint-4"


def test_a_removal_cut_off_is_finished(tmp_path: Path) -> None:
    """Half a folder under its old name would be a broken checkpoint."""
    save(tmp_path, 2).rename(tmp_path / ".removing-checkpoint-2")
    tidy(tmp_path)
    assert list(tmp_path.iterdir()) == []


def damage(name: str) -> Callable[[Path], object]:
    """Ways in which checkpoints are not whole."""
    ways: dict[str, Callable[[Path], object]] = {
        "no state": lambda c: (c / "trainer_state.json").unlink(),
        "state cut off": lambda c: (c / "trainer_state.json").write_text('{"global_'),
        "negative step": lambda c: (c / "trainer_state.json").write_text('{"global_step": -4}'),
        "step as text": lambda c: (c / "trainer_state.json").write_text('{"global_step": "4"}'),
        "another step": lambda c: (c / "trainer_state.json").write_text('{"global_step": 9}'),
        "no weights": lambda c: (c / "model.safetensors").unlink(),
        "weights cut off": lambda c: os.truncate(c / "model.safetensors", 300),
        "no optimizer": lambda c: (c / "optimizer.pt").unlink(),
        "no scheduler": lambda c: (c / "scheduler.pt").unlink(),
        "no random states": lambda c: (c / "rng_state.pth").unlink(),
        "empty optimizer": lambda c: (c / "optimizer.pt").write_bytes(b""),
        "optimizer cut off": lambda c: os.truncate(c / "optimizer.pt", 100),
        "empty folder": lambda c: [p.unlink() for p in c.iterdir()],
    }
    return ways[name]


TOLD = {
    "no state": "trainer_state.json: is not there",
    "state cut off": "trainer_state.json: cannot be read: JSONDecodeError",
    "negative step": "trainer_state.json: global_step is -4: the state is corrupt",
    "step as text": "trainer_state.json: global_step is '4'",
    "another step": "trainer_state.json: global_step is 9, the folder says 4",
    "no weights": "checkpoint-4: holds no weights",
    "weights cut off": "model.safetensors: has 300 bytes, its header speaks of",
    "no optimizer": "optimizer.pt: is not there",
    "no scheduler": "scheduler.pt: is not there",
    "no random states": "rng_state*.pth: is not there",
    "empty optimizer": "optimizer.pt: is no whole archive",
    "optimizer cut off": "optimizer.pt: is no whole archive",
    "empty folder": "checkpoint-4: holds no weights",
}
"""Edge cases 15, 16, 17, 62, and what is like them."""


@pytest.mark.parametrize("way", sorted(TOLD))
@fault("L3", "L4", "L7")
def test_edges_15_16_17_62_a_checkpoint_that_is_not_whole_is_passed_over_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """As transformers leaves it, without a manifest: each kind of damage is seen, the one before is taken."""
    plain(tmp_path, 2)
    target = plain(tmp_path, 4)
    assert verify(target) == []
    damage(way)(target)
    assert any(problem.startswith(TOLD[way]) for problem in verify(target)), verify(target)
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path) == tmp_path / "checkpoint-2"
    assert "checkpoint-4 is passed over" in caplog.text


@pytest.mark.parametrize("way", sorted(TOLD))
def test_with_a_manifest_the_same_damage_is_seen(tmp_path: Path, way: str) -> None:
    """The manifest is one more witness, never one less."""
    target = save(tmp_path, 4)
    damage(way)(target)
    assert verify(target)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"version": 1}', '{"version": 2, "files": {}}', '{"version": 1, "files": {"a": 3}}'],
)
@fault("L8")
def test_a_manifest_that_cannot_be_read_is_a_problem(tmp_path: Path, text: str) -> None:
    """It never counts as if there were none."""
    target = save(tmp_path, 4)
    (target / "manifest.json").write_text(text)
    assert any(problem.startswith("manifest.json:") or "a: is named" in problem for problem in verify(target))


def test_one_changed_byte_is_told_by_file(tmp_path: Path) -> None:
    """The size is the same."""
    target = save(tmp_path, 4)
    content = bytearray((target / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (target / "model.safetensors").write_bytes(content)
    (problem,) = verify(target)
    assert problem.startswith("model.safetensors: its ")
    assert "SHA-256" in problem


def test_what_only_resuming_needs_is_not_asked_of_weights(tmp_path: Path) -> None:
    """`save_only_model` leaves weights that load and a run that cannot go on."""
    target = plain(tmp_path, 4)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        (target / name).unlink()
    assert verify(target, resume=False) == []
    assert len(verify(target)) == 4


def test_a_missing_folder_is_a_problem_not_an_exception(tmp_path: Path) -> None:
    """A file in its place, too."""
    assert verify(tmp_path / "nowhere") == ["nowhere: is not there, or is no folder"]
    (tmp_path / "file").touch()
    assert verify(tmp_path / "file")


def test_checkpoints_are_ordered_by_number_not_by_name_or_time(tmp_path: Path) -> None:
    """checkpoint-10 follows checkpoint-9; what is named otherwise is none."""
    for step in (10, 9, 100):
        save(tmp_path, step)
    (tmp_path / "checkpoint-old").mkdir()
    (tmp_path / "checkpoint-9-copy").mkdir()
    assert [step_of(c) for c in checkpoints(tmp_path)] == [9, 10, 100]
    assert newest(tmp_path) == tmp_path / "checkpoint-100"
    with pytest.raises(CheckpointError, match="not named"):
        step_of(tmp_path / "checkpoint-old")


def test_nothing_there_is_nothing(tmp_path: Path) -> None:
    """A folder that does not exist, and an empty one."""
    assert newest(tmp_path / "nowhere") is None
    assert newest(tmp_path) is None


def test_only_what_was_written_here_is_replaced(tmp_path: Path) -> None:
    """A folder with other things in it is never taken for a saved model."""
    assert replaceable(tmp_path / "nowhere")
    target = save(tmp_path, 2)
    assert replaceable(target)
    (target / "notes.txt").write_text("mine")
    assert not replaceable(target)
    assert not replaceable(plain(tmp_path, 4))


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """And leaves nothing beside it."""
    write_file(tmp_path / "a", b"1")
    write_file(tmp_path / "a", b"22")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"22"}


def test_verifying_imports_no_torch() -> None:
    """The daemon of a queue looks after checkpoints for weeks."""
    script = (
        "import sys, llmguard_core.checkpoints as c; c.newest('/nowhere'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    """A process killed with SIGKILL leaves the file, and nobody has to guess whether it still counts."""
    path = tmp_path / "lock"
    script = (
        "import os, signal, pathlib\nfrom llmguard.locks import locked\n"
        f"with locked(pathlib.Path({str(path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert path.exists()
    with locked(path), pytest.raises(Held, match=f"process {os.getpid()}"), locked(path):
        pass
    assert not path.exists()
