"""`--llmguard-json FILE`: written whenever it was asked for, whatever becomes of the session."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Toy

EMPTY = {"passed": 0, "failed": 0, "warned": 0, "skipped": 0, "accepted": 0, "error": 0}


def test_with_zero_checks(toy: Toy) -> None:
    """No check selected: the report is there, with zero of everything and no error."""
    report = toy.report(only="nothing_is_called_so")
    assert report == {"version": 1, "project": report["project"], "checks": [], "totals": EMPTY}


def test_in_a_folder_that_has_nothing_to_do_with_us(toy: Toy) -> None:
    """Also where no project file is."""
    (toy.path / "llmguard.toml").unlink()
    assert toy.report(only="")["project"] == "(no project file)"


def test_when_only_collecting(toy: Toy) -> None:
    """`--collect-only` runs no check and says so."""
    assert toy.report("--collect-only")["totals"] == EMPTY


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--no-such-option",), "unrecognized arguments: --no-such-option"),
        (("nowhere.py",), "file or directory not found: nowhere.py"),
        (("llmguard.toml::no_such_check",), "not found: "),
        (("--llmguard-sample", "0"), "--llmguard-sample: '0' is not allowed"),
        (("--llmguard-project", "nowhere.toml"), "no such file: "),
        (("-m", "preflight and ("), "Wrong expression passed to '-m'"),
    ],
)
def test_after_a_usage_error(toy: Toy, arguments: tuple[str, ...], told: str) -> None:
    """A wrong argument, ours or pytest's: the report holds the error; the exit code is pytest's."""
    result = toy.run("--llmguard-json", "r.json", *arguments, only="")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    report = toy.read("r.json")
    assert told in report["error"]
    assert (report["checks"], report["totals"]) == ([], EMPTY)


def test_after_a_broken_conftest(toy: Toy) -> None:
    """A conftest that cannot be imported ends the session before it starts; the report says so."""
    toy.write("conftest.py", "raise RuntimeError('my conftest')\n")
    assert toy.run("--llmguard-json", "r.json").ret == pytest.ExitCode.USAGE_ERROR
    assert "RuntimeError: my conftest" in toy.read("r.json")["error"]


@pytest.mark.parametrize(
    "hook", ["pytest_collection_finish", "pytest_sessionstart", "pytest_configure", "pytest_runtestloop"]
)
def test_after_an_internal_error(toy: Toy, hook: str) -> None:
    """A plugin that breaks in any hook: the report holds what was known, and the error."""
    toy.checks("toy_holds", f"\n\ndef {hook}():\n    raise RuntimeError('inside {hook}')\n")
    assert toy.run("--llmguard-json", "r.json").ret == pytest.ExitCode.INTERNAL_ERROR
    assert f"RuntimeError: inside {hook}" in toy.read("r.json")["error"]


def test_after_an_internal_error_in_a_worker(toy: Toy) -> None:
    """An internal error of a worker reaches the report of its controller."""
    toy.checks(
        "toy_holds", "\n\ndef pytest_runtest_protocol(item):\n    raise RuntimeError('inside a worker')\n"
    )
    toy.run("-n", "1", "--llmguard-json", "r.json")
    assert "inside a worker" in toy.read("r.json")["error"]


def test_after_an_interruption(toy: Toy) -> None:
    """Ctrl-C: the checks that ran are in the report, and that it is not the whole."""
    toy.checks(
        "toy_holds toy_warns",
        "\n\ndef pytest_runtest_call(item):\n    if 'warns' in item.name: raise KeyboardInterrupt\n",
    )
    assert toy.process("--llmguard-json", "r.json").returncode == pytest.ExitCode.INTERRUPTED
    report = toy.read("r.json")
    assert toy.outcomes(report) == {"toy_holds": "passed"}
    assert report["error"].startswith("interrupted: ")


def test_after_pytest_exit(toy: Toy) -> None:
    """`pytest.exit` with a code of its own: the code stays, the report says why."""
    toy.checks(
        "toy_holds", "\n\nimport pytest\ndef pytest_runtest_call(item):\n    pytest.exit('enough', 77)\n"
    )
    assert toy.run("--llmguard-json", "r.json").ret == 77
    assert "enough" in toy.read("r.json")["error"]


def test_after_a_test_module_that_cannot_be_collected(toy: Toy, axis: tuple[str, ...]) -> None:
    """A collection error elsewhere keeps all checks from running: that is no empty success."""
    toy.write("test_toy_broken.py", "import no_such_module_anywhere\n")
    report = toy.report(*axis)
    assert "no_such_module_anywhere" in report["error"]
    assert report["checks"] == [] or "-n" in axis  # xdist runs what could be collected


def test_help_writes_nothing(toy: Toy) -> None:
    """A report of an earlier run survives `pytest --help` and `--version` with the option in addopts."""
    toy.write("pytest.ini", "[pytest]\naddopts = --llmguard-json r.json\n")
    toy.write("r.json", "kept")
    for argument in ("--help", "--version", "--markers"):
        assert toy.run(argument).ret == 0
        assert (toy.path / "r.json").read_text() == "kept"


def test_an_old_report_is_replaced_whole(toy: Toy) -> None:
    """The new report takes the place of the old one, through a symbolic link, too."""
    toy.write("real/r.json", "x" * 100_000)
    (toy.path / "r.json").symlink_to(toy.path / "real" / "r.json")
    toy.run("--llmguard-json", "r.json")
    assert toy.read("real/r.json")["version"] == 1
    assert (toy.path / "r.json").is_symlink()
    assert [p.name for p in (toy.path / "real").iterdir()] == ["r.json"]


def test_an_old_report_stays_when_the_new_one_cannot_be_finished(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole or not at all: a disk that fills up while the report is written leaves the old one."""
    toy.write("r.json", "old")
    write_text = Path.write_text

    def full(self: Path, text: str, *rest: str, **named: str) -> int:
        if self.name.startswith(".r.json"):
            write_text(self, text[:10])
            raise OSError(28, "No space left on device")
        return write_text(self, text, *rest, **named)

    monkeypatch.setattr(Path, "write_text", full)
    toy.run("--llmguard-json", "r.json").stdout.fnmatch_lines(
        ["json report could not be written to *No space left*"]
    )
    assert (toy.path / "r.json").read_text() == "old"
    assert not list(toy.path.glob(".r.json*"))


def test_into_a_pipe(toy: Toy) -> None:
    """A pipe or device is written into, never replaced by a file."""
    pipe = toy.path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text("utf-8")))
    reader.start()
    toy.run("--llmguard-json", "pipe")
    reader.join(10)
    assert got[0].startswith('{\n "version": 1')
    assert pipe.is_fifo()


def test_what_cannot_be_written_is_told(toy: Toy) -> None:
    """A report that was asked for and cannot be written makes a green session end with pytest's internal error code."""
    toy.checks("toy_holds")
    toy.write("file", "")
    result = toy.run("--llmguard-json", "file/r.json")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["json report could not be written to *file/r.json: *"])


def test_a_failed_session_keeps_its_code(toy: Toy) -> None:
    """A red session stays red with its own code when the report cannot be written."""
    toy.write("file", "")
    assert toy.run("--llmguard-json", "file/r.json").ret == pytest.ExitCode.TESTS_FAILED


def test_from_the_ini_file(toy: Toy) -> None:
    """The twin, from the ini file's folder; parent folders are made."""
    toy.write("pytest.ini", "[pytest]\nllmguard_json = a/b/r.json\n")
    toy.run()
    assert toy.read("a/b/r.json")["version"] == 1


def test_without_a_terminal(toy: Toy) -> None:
    """The report needs no terminal reporter."""
    toy.run("-p", "no:terminal", "--llmguard-json", "r.json")
    assert len(toy.read("r.json")["checks"]) == 10


def test_its_own_exit_code_is_pytests_for_nothing_collected(toy: Toy) -> None:
    """Nothing selected is pytest's code for that, report or not."""
    assert (
        toy.run("--llmguard-json", "r.json", only="nothing_is_called_so").ret
        == pytest.ExitCode.NO_TESTS_COLLECTED
    )
