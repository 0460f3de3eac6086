"""Files from the future, found among those that the project names; what is only old, recent or unreadable is left alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from llmguard import Finding, Findings, Severity
from llmguard.checks.file_times import FORGIVEN, no_file_is_from_the_future
from llmguard.evidence.mounts import Mounts
from llmguard.probe import ProbeResult, Verdict
from llmguard.probe.environment import Environment, Folder
from llmguard.probe.mounts import Named, Silent

WEEK = 7 * 86400.0


def made(path: Path, ahead: float = 0.0) -> Path:
    """A file whose time is so many seconds from now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    os.utime(path, (time.time() + ahead,) * 2)
    return path


def judged(*named: Path, output: Path | None = None, silent: tuple[Silent, ...] = ()) -> Findings:
    folders = (Folder("output_dir", str(output)),) if output else ()
    paths = tuple(Named("[data] train", str(each)) for each in named)
    return no_file_is_from_the_future(Mounts(paths, silent), Environment("/project", folders=folders))


def only(findings: Findings) -> Finding:
    assert [f.severity for f in findings] == [Severity.WARNING], findings
    return findings[0]


def test_the_latest_of_several_is_named_with_their_count(tmp_path: Path) -> None:
    """How far ahead, when, and how many of how many."""
    made(tmp_path / "train.jsonl")
    one, two = made(tmp_path / "a.yaml", 3600.0), made(tmp_path / "b.yaml", WEEK)
    found = only(judged(tmp_path / "train.jsonl", one, two))
    assert found.where.file == str(two)
    assert "2 of 3 files were changed later than now, up to 7.0 days" in found.message
    assert [f["file"] for f in found.evidence["files"]] == [str(two), str(one)]


def test_patterns_folders_and_links_are_followed(tmp_path: Path) -> None:
    """Shards of a split, the shard of a model folder, and a link counts as the file that it leads to, once."""
    made(tmp_path / "data/1.jsonl", WEEK)
    made(tmp_path / "model/model.safetensors", WEEK)
    (tmp_path / "again.jsonl").symlink_to("data/1.jsonl")
    found = judged(tmp_path / "data/*.jsonl", tmp_path / "model", tmp_path / "again.jsonl")
    assert "2 of 2 files" in only(found).message


def test_a_checkpoint_in_the_output_folder_is_seen(tmp_path: Path) -> None:
    """Nobody names it, and resuming takes it for the newest."""
    made(tmp_path / "out/checkpoint-2/trainer_state.json", WEEK)
    assert "checkpoint-2" in only(judged(output=tmp_path / "out")).message


@pytest.mark.parametrize(
    "ahead", [0.0, 2.0, FORGIVEN - 5, -WEEK, -60 * 365 * 86400.0, pytest.param(-time.time() + 1, id="1970")]
)
def test_what_is_old_or_of_this_moment_is_right(tmp_path: Path, ahead: float) -> None:
    """A server some minutes ahead, a copy that kept its times, an archive without any (1970, and before)."""
    found = judged(made(tmp_path / "a.jsonl", ahead))
    assert (list(found), found.looked_at) == ([], 1)


def test_what_is_not_there_is_not_judged(tmp_path: Path) -> None:
    """A missing file, a circle of links, a hidden folder, a hub id, a path that no path may be: other checks' business."""
    (tmp_path / "circle").symlink_to("circle")
    made(tmp_path / "src/.git/index", WEEK)
    strange = [tmp_path / "gone", tmp_path / "circle", tmp_path / "src", Path("org/model"), Path("a\0b")]
    found = judged(*strange, output=tmp_path / "no/such")
    assert (list(found), found.looked_at) == ([], 0)


def test_a_file_system_that_does_not_answer_is_not_touched(tmp_path: Path) -> None:
    """It would be waited for without end; the other files are still judged."""
    lost, here = made(tmp_path / "nas/a.jsonl", WEEK), made(tmp_path / "b.jsonl", WEEK)
    named = Named("[data] train", str(lost))
    result = ProbeResult(Verdict.HUNG_FS, "a look", 1.0, 1.0)
    silent = Silent((named,), str(lost.parent), "nfs4", "nas:/vol", result)
    assert "1 of 1 files" in only(judged(lost, here, silent=(silent,))).message


def test_the_clock_is_the_environments(tmp_path: Path) -> None:
    """Set back by a week, everything of today is from the future."""
    named = (Named("[data] train", str(made(tmp_path / "a.jsonl"))),)
    back = Environment("/project", now=lambda: time.time() - WEEK)
    assert "7.0 days" in only(no_file_is_from_the_future(Mounts(named, ()), back)).message
