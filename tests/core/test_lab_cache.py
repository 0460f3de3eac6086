"""The lab's cache: named by content, built once by many, never half, the same bytes each time; and no torch in the parent."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from llmguard_core.lab import LabError, build, cache, lab

COMMAND = [sys.executable, "-m", "llmguard_core.lab.build"]


def fake(name: str) -> str:
    """A library version like the installed one, but newer."""
    return f"{metadata.version(name)}.post1"


def test_the_folder_is_named_by_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same for the same sources and versions, another for another version of any library."""
    monkeypatch.setenv("LLMGUARD_LAB_DIR", str(tmp_path))
    first = lab().folder
    assert first.parent == tmp_path
    assert lab().folder == first
    for library in cache.LIBRARIES:
        with monkeypatch.context() as patched:
            patched.setattr(
                cache, "_version", lambda n, changed=library: fake(n) if n == changed else metadata.version(n)
            )
            assert lab().folder != first


def test_the_folder_changes_with_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An edited recipe never meets models of the old one."""
    monkeypatch.setenv("LLMGUARD_LAB_DIR", str(tmp_path / "labs"))
    for source in Path(cache.__file__).parent.glob("*.py"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    first = lab().folder
    with (tmp_path / "recipes.py").open("a") as recipes:
        recipes.write("# changed\n")
    assert lab().folder != first


def test_without_the_variable_it_lies_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where platformdirs says."""
    monkeypatch.delenv("LLMGUARD_LAB_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert lab().folder.parent.name == "lab"
    if sys.platform.startswith("linux"):
        assert lab().folder.parent == tmp_path / "llmguard" / "lab"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, and what to install."""

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(LabError, match=r"needs torch, which is not installed.*pytest-llmguard\[all\]"):
        lab()


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    """Where, what failed, what to do; no traceback of ours."""
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder", "utf-8")
    with pytest.raises(LabError) as caught:
        cache.Lab(in_the_way / "lab").path("tokenizer")
    message = str(caught.value)
    assert "could not build tokenizer" in message
    assert "NotADirectoryError" in message or "FileExistsError" in message
    assert "LLMGUARD_LAB_DIR" in message


def test_a_build_that_never_ends_is_cut_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The limit is in the message."""
    monkeypatch.setattr(cache, "LONGEST_BUILD", 0.01)
    with pytest.raises(LabError, match=r"no end after 0 s"):
        cache.Lab(tmp_path).path("tokenizer")


LAZY = "import json, sys; from llmguard_core.lab import lab; lab(); print(json.dumps(sorted(sys.modules)))"


def test_looking_for_the_lab_imports_nothing_heavy() -> None:
    """A warm lab costs the process that uses it no torch."""
    done = subprocess.run(
        [sys.executable, "-c", LAZY], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "transformers", "peft", "tokenizers", "numpy"}


def test_two_builders_at_once_build_once_and_the_same_bytes(tmp_path: Path) -> None:
    """One builds, the other waits and finds it done; and what they built is what the lab holds."""
    builders = [
        subprocess.Popen([*COMMAND, str(tmp_path), "foreign-base"], env=cache._environment())
        for _ in range(2)
    ]
    assert [b.wait(180) for b in builders] == [0, 0]
    kept = lab().foreign_base
    names = sorted(f.name for f in (tmp_path / "foreign-base").iterdir())
    assert names == sorted(f.name for f in kept.iterdir())
    assert "model.safetensors" in names
    for name in names:
        assert (tmp_path / "foreign-base" / name).read_bytes() == (kept / name).read_bytes(), name
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["foreign-base"]


def test_an_artefact_is_whole_or_not_there(tmp_path: Path) -> None:
    """A recipe that dies half-way leaves no artefact; the next builder removes its remains."""

    def dies(home: Path, out: Path, progress: Callable[[int, int, float], None]) -> None:
        (out / "config.json").write_text("{}", "utf-8")
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        build._build_one(tmp_path, "base", dies)
    assert not (tmp_path / "base").exists()
    assert len(list(tmp_path.glob(".unfinished-base-*"))) == 1
    build._sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second builder sees it under the lock and does nothing."""
    monkeypatch.setattr(build, "_side_by_side", lambda *_: pytest.fail("built again"))
    (tmp_path / "chat").mkdir()
    build.build(tmp_path, ["chat"])


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_progress_is_one_line_and_only_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], shown: bool
) -> None:
    """Step, steps, loss and seconds, each over the last; a log file gets nothing."""
    monkeypatch.setattr(sys, "stderr", stream())

    def makes(home: Path, out: Path, progress: Callable[[int, int, float], None]) -> None:
        for step in range(1, 26):
            progress(step, 25, 1.5)

    build._build_one(tmp_path, "base", makes)
    written = sys.stderr.getvalue()  # type: ignore[attr-defined]  # the stream put there above
    assert ("\r\x1b[Klab: base 20/25, loss 1.50" in written) is shown
    assert "\n" not in written
    assert (written.count("\r") == 4) is shown  # its name, two tens, the last step
