"""From evidence to words, without running anything."""

from __future__ import annotations

import dataclasses
import errno
import signal
from pathlib import Path

import pytest

from llmguard.probe import (
    Failure,
    Limits,
    Observed,
    ProbeResult,
    Survivor,
    Thread,
    Verdict,
    Window,
    scratch,
    stacks,
    waits,
)
from llmguard.probe.verdict import Case, judge

SILENT = Window(seconds=30.0, places={"S x": 30})


def _case(seen: Observed, **other: object) -> Case:
    case = Case(seen, python=True, finished=False, failure=None, output="", survivors=(), patience=30.0)
    return dataclasses.replace(case, **other)


def _hung(*wchans: str, window: Window = SILENT, state: str = "S", locks: tuple[str, ...] = ()) -> Observed:
    threads = tuple(Thread(1, 1 + n, "python", state, wchan) for n, wchan in enumerate(wchans))
    if window is SILENT:
        window = dataclasses.replace(SILENT, places={f"{state} {wchan}": 30 for wchan in wchans[:1]})
    return Observed(ended="no_progress", window=window, threads=threads, locks=locks)


@pytest.mark.parametrize(
    ("wchan", "family"),
    [
        ("request_wait_answer", waits.FILES),
        ("rpc_wait_bit_killable", waits.FILES),
        ("folio_wait_bit_common", waits.FILES),
        ("nfs_wait_bit_killable", waits.FILES),
        ("__wait_on_buffer", waits.FILES),
        ("futex_do_wait", waits.FUTEX),
        ("__futex_wait", waits.FUTEX),
        ("hrtimer_nanosleep", waits.SLEEP),
        ("do_wait", waits.CHILD),
        ("anon_pipe_read", waits.PIPE),
        ("pipe_read", waits.PIPE),
        ("poll_schedule_timeout.constprop.0", waits.POLL),
        ("ep_poll", waits.POLL),
        ("sk_wait_data", waits.NETWORK),
        ("locks_lock_inode_wait", waits.LOCK),
        ("0", waits.UNKNOWN),
        ("", waits.UNKNOWN),
        ("do_signal_stop", waits.UNKNOWN),
    ],
)
def test_wait_channels_have_families(wchan: str, family: str) -> None:
    """Kernel names differ by version and carry prefixes."""
    assert waits.family(wchan) == family


def test_a_kernel_that_tells_nothing_leaves_it_at_hung() -> None:
    """Without wait channels there is no confident class."""
    assert judge(_case(_hung("0", "0"))) is Verdict.HUNG
    assert judge(_case(_hung())) is Verdict.HUNG


def test_a_deadlock_needs_every_thread_in_a_futex() -> None:
    """One thread that waits for anything else could still release the others; so could one that wakes now and then."""
    assert judge(_case(_hung("futex_do_wait", "futex_do_wait"))) is Verdict.DEADLOCK
    assert judge(_case(_hung("futex_do_wait", "sk_wait_data"))) is Verdict.HUNG
    waking = dataclasses.replace(SILENT, switches=60)
    assert judge(_case(_hung("futex_do_wait", window=waking))) is Verdict.HUNG


def test_a_lock_is_polled_only_where_it_is_polled() -> None:
    """A variable that holds a path of a lock says nothing in a process that never wakes."""
    polling = dataclasses.replace(SILENT, switches=600)
    assert judge(_case(_hung("hrtimer_nanosleep", window=polling, locks=("/a.lock",)))) is Verdict.LOCK_POLL
    assert judge(_case(_hung("hrtimer_nanosleep", window=SILENT, locks=("/a.lock",)))) is Verdict.HUNG
    assert judge(_case(_hung("hrtimer_nanosleep", window=polling))) is Verdict.HUNG


def test_uninterruptible_sleep_is_a_device_or_file_system() -> None:
    """State D, whatever the kernel calls the place; but not because of a single look."""
    assert judge(_case(_hung("something_new", state="D"))) is Verdict.HUNG_FS
    once = dataclasses.replace(SILENT, places={"D io_schedule": 1, "S hrtimer_nanosleep": 29})
    assert judge(_case(_hung("io_schedule", window=once, state="D"))) is Verdict.HUNG


def test_a_deadline_tells_slow_from_hung() -> None:
    """By how long nothing has moved when it strikes."""
    short = Window(seconds=2.0, last_progress="imports")
    computing = Window(seconds=2.0, last_progress="computing")
    cut = Observed(ended="deadline", window=short)
    assert judge(_case(cut)) is Verdict.PROGRESSING_SLOW
    assert judge(_case(dataclasses.replace(cut, window=computing))) is Verdict.TIMEOUT
    assert judge(_case(dataclasses.replace(cut, window=SILENT))) is Verdict.HUNG


def test_a_busy_machine_does_not_hide_a_spin() -> None:
    """A loop that gets a tenth of a processor is runnable at every look all the same."""
    crowded = Window(seconds=30.0, cpu_seconds=3.0, places={"R 0": 29, "S x": 1})
    assert judge(_case(_hung("0", window=crowded, state="R"))) is Verdict.SPIN
    resting = dataclasses.replace(crowded, places={"S x": 29, "R 0": 1})
    assert judge(_case(_hung("hrtimer_nanosleep", window=resting))) is Verdict.HUNG


def test_survivors_are_told_unless_their_cause_is() -> None:
    """A setuid child that may not be killed is UNKILLABLE; one in a dead file system is HUNG_FS."""
    survivors = (Survivor(7, "sudo", "S", "do_wait", refused="Operation not permitted"),)
    unkillable = _case(_hung("do_wait"), survivors=survivors)
    assert judge(unkillable) is Verdict.UNKILLABLE
    assert judge(dataclasses.replace(unkillable, seen=_hung("request_wait_answer"))) is Verdict.HUNG_FS
    result = ProbeResult(Verdict.UNKILLABLE, "x", 1.0, 1.0, survivors=survivors)
    assert "7 sudo (state S, do_wait, Operation not permitted)" in result.explain()


@pytest.mark.parametrize(
    ("number", "oom_kills", "output", "verdict"),
    [
        (signal.SIGKILL, 1, "", Verdict.RESOURCE),
        (signal.SIGKILL, 0, "", Verdict.CRASHED),
        (signal.SIGXFSZ, 0, "", Verdict.RESOURCE),
        (signal.SIGABRT, 0, "what(): std::bad_alloc", Verdict.RESOURCE),
        (signal.SIGABRT, 0, "", Verdict.CRASHED),
        (signal.SIGSEGV, 1, "", Verdict.CRASHED),
    ],
)
def test_signals_are_told_apart(number: int, oom_kills: int, output: str, verdict: Verdict) -> None:
    """The kernel's own killing for want of memory is known by its counter."""
    seen = Observed(ended="exit", status=int(number), oom_kills=oom_kills)
    assert judge(_case(seen, output=output)) is verdict


@pytest.mark.parametrize(
    ("failure", "verdict"),
    [
        (Failure(("MemoryError",), ""), Verdict.RESOURCE),
        (Failure(("_ArrayMemoryError", "MemoryError"), "Unable to allocate"), Verdict.RESOURCE),
        (Failure(("OSError",), "x", errno=errno.EMFILE), Verdict.RESOURCE),
        (Failure(("OSError",), "x", errno=errno.EDQUOT), Verdict.RESOURCE),
        (Failure(("ImportError",), "x.so: failed to map segment from shared object"), Verdict.RESOURCE),
        (Failure(("ModuleNotFoundError", "ImportError"), "No module named 'x'"), Verdict.IMPORT_ERROR),
        (Failure(("FileNotFoundError", "OSError"), "x", errno=errno.ENOENT), Verdict.CRASHED),
    ],
)
def test_exceptions_are_told_apart(failure: Failure, verdict: Verdict) -> None:
    """Limits, imports, and the rest."""
    assert judge(_case(Observed(ended="exit", status=256), failure=failure)) is verdict


def test_nothing_seen_is_no_verdict() -> None:
    """An empty report is UNKNOWN, never OK."""
    assert judge(_case(Observed())) is Verdict.UNKNOWN


MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:40 / /mnt/my\\040data rw,relatime shared:5 master:1 - nfs4 server:/export rw
41 27 0:41 / /mnt/a rw - xfs /dev/vdb rw
42 27 0:42 / /mnt/a rw - tmpfs over rw
"""


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/mnt/my data/x", ("/mnt/my data", "nfs4", "server:/export")),
        ("/mnt/my data2", ("/", "ext4", "/dev/vda")),
        ("/mnt/a", ("/mnt/a", "tmpfs", "over")),
        ("/", ("/", "ext4", "/dev/vda")),
    ],
)
def test_mounts_are_read_from_text(path: str, mount: tuple[str, str, str]) -> None:
    """Escaped blanks, mounts over mounts, prefixes that are none."""
    assert scratch.mount_of(path, MOUNTS) == mount


def test_mounts_that_cannot_be_read_are_unknown() -> None:
    """Other systems have no such table."""
    assert scratch.mount_of("/x", "") == ("", "", "")
    assert scratch.mount_of("/x", "garbage\n1 2 3 - \n") == ("", "", "")


@pytest.mark.parametrize("kind", ["nfs4", "fuse.mfs", "lustre", "9p"])
def test_scratch_files_avoid_the_network(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even asking whether such a folder exists may block."""
    remote, local = tmp_path / "remote", tmp_path / "local"
    local.mkdir()
    remote.mkdir()
    table = f"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / {remote} rw - {kind} b rw\n"
    monkeypatch.setattr(scratch, "mountinfo", lambda: table)
    made = scratch.make([str(remote), "relative", str(tmp_path / "missing"), str(local)])
    assert Path(made).parent == local
    with pytest.raises(OSError, match="no local folder"):
        scratch.make([str(remote)])


DUMP = """\
Timeout (0:00:01)!
Thread 0x00007f0000000001 (most recent call first):
  File "/old.py", line 1 in old
Thread 0x00007f0000000002 (most recent call first):
  File "/usr/lib/python3/threading.py", line 324 in wait
Current thread 0x00007f0000000003 (most recent call first):
  File "<frozen importlib._bootstrap>", line 241 in _call
  File "/x/torch/__init__.py", line ??? in <module>
  File "/y/llmguard/probe/bootstrap.py", line 70 in _run
"""


def test_the_main_thread_is_the_last_one_dumped() -> None:
    """Its innermost frame that is neither the import system nor ours is the place."""
    assert stacks.place(DUMP) == "/x/torch/__init__.py:0 in <module>"
    assert stacks.main_thread(DUMP)[0] == ("<frozen importlib._bootstrap>", 241, "_call")
    assert stacks.place("") == ""
    assert stacks.place("Current thread 0x1 (most recent call first):\n  <no Python frame>\n") == ""


def test_limits_for_an_import_have_room_for_torch() -> None:
    """Above what importing torch was measured to need."""
    limits = Limits.for_import().to_json()
    assert limits["core"] == 0
    assert limits["data"] is None
    assert (limits["memory"] or 0) >= 4 * 539 * 2**20
    assert (limits["open_files"] or 0) >= 64


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_words(verdict: Verdict) -> None:
    """Also one with nothing to go on."""
    text = ProbeResult(verdict, "the thing", 1.0, 2.0).explain()
    assert text.startswith("the thing: ")
    assert len(text) > len("the thing: ") + 8
    assert "None" not in text or verdict in (Verdict.CRASHED, Verdict.EXITED_EARLY)
