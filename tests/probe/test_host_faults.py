"""Group C of the matrix: scratch folders, caches of compiled code, compilers, clocks, names and ports."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.hosts import in_namespace, machine, only, unshared
from support.matrix import Matrix, fault

from llmguard import Severity, probe
from llmguard.checks import host as host_checks
from llmguard.checks.host import (
    clock_is_right,
    kernels_can_be_compiled,
    processes_can_meet,
    temporary_folder_takes_files,
)
from llmguard.errors import EvidenceError
from llmguard.probe.environment import Environment
from llmguard.probe.machine import Meeting, Place, Places
from llmguard.probe.places import places_of, start_places

GiB, MiB, KiB = 2**30, 2**20, 2**10
TRITON = {"installed": {"triton": "3.3.0"}}


# -- scratch folders and compiled code


def _tried(folders: dict[str, Path], timeout: float = 10.0, **environ: str) -> Places:
    """What a probe says of these folders."""
    named = [(key, str(path)) for key, path in folders.items()]
    return places_of(start_places(named, dict(environ), timeout=timeout).wait(), named)


@fault("C7")
def test_folders_whose_code_may_not_run(root: Path, tmp_path: Path, matrix: Matrix) -> None:
    """A mount with noexec in a namespace: loading a library from it fails there, and the place is named."""
    point = tmp_path / "noexec"
    point.mkdir()
    script = tmp_path / "ask.py"
    script.write_text(
        "import ctypes, glob, json, shutil, sys, sysconfig\n"
        "from llmguard.probe.places import try_place\n"
        f"library = glob.glob(sysconfig.get_config_var('DESTSHARED') + '/_json*.so')[0]\n"
        f"shutil.copy(library, {str(point)!r} + '/code.so')\n"
        "try:\n"
        f"    ctypes.CDLL({str(point)!r} + '/code.so')\n"
        "    fired = ''\n"
        "except OSError as why:\n"
        "    fired = str(why)\n"
        f"print(json.dumps([fired, try_place('TRITON_CACHE_DIR', {str(point)!r})]))\n"
    )
    inside = unshared(f"mount -t tmpfs -o noexec tmpfs {point}")
    started = time.monotonic()
    fired, place = json.loads(in_namespace(inside(f"PYTHONPATH={root / 'src'} {sys.executable} {script}")))
    matrix.saw("noexec", seconds=time.monotonic() - started, deadline=60.0)
    assert "failed to map segment" in fired, "the fault did not fire"
    assert place["executable"] is False
    places = Places(
        probe.ProbeResult(probe.Verdict.OK, "x", 0, 1),
        (Place(**place),),
        compiler="/usr/bin/gcc",
        headers="/x/Python.h",
    )
    found = only(kernels_can_be_compiled(machine(gpu=True, places=places, **TRITON)))
    assert "the mount has `noexec`" in found.message
    assert found.where.key == "TRITON_CACHE_DIR"
    assert tmp_path.name in str(found.where.file)


@fault("C8")
def test_a_temporary_folder_that_is_full(root: Path, tmp_path: Path, matrix: Matrix) -> None:
    """A tmpfs of 64 KiB that is full: writing is tried, and ENOSPC named with its mount."""
    point = tmp_path / "full"
    point.mkdir()
    script = tmp_path / "ask.py"
    script.write_text(
        "import json\nfrom llmguard.probe.places import try_place\n"
        f"print(json.dumps(try_place('TMPDIR', {str(point)!r})))\n"
    )
    fill = f"(head -c 1000000 /dev/zero > {point}/old 2>/dev/null || true)"
    inside = unshared(f"mount -t tmpfs -o size=64k tmpfs {point}", fill)
    started = time.monotonic()
    place = Place(**json.loads(in_namespace(inside(f"PYTHONPATH={root / 'src'} {sys.executable} {script}"))))
    matrix.saw("ENOSPC", seconds=time.monotonic() - started, deadline=60.0)
    places = Places(probe.ProbeResult(probe.Verdict.OK, "x", 0, 1), (place,))
    found = only(temporary_folder_takes_files(machine(places=places)), Severity.ERROR)
    assert f"{point} ({point} tmpfs) takes no file: ENOSPC" in found.message
    assert "set TMPDIR" in found.remedy


@fault("C13")
def test_a_home_that_is_read_only(root: Path, tmp_path: Path, matrix: Matrix) -> None:
    """A read-only bind mount in a namespace: root too is refused there, which a mode of 0555 would not do."""
    home = tmp_path / "home"
    home.mkdir()
    script = tmp_path / "ask.py"
    script.write_text(
        "import json\nfrom llmguard.probe.places import try_place\n"
        f"print(json.dumps(try_place('TRITON_CACHE_DIR', {str(home / '.triton' / 'cache')!r})))\n"
    )
    inside = unshared(f"mount --bind {home} {home}", f"mount -o remount,bind,ro {home}")
    started = time.monotonic()
    place = Place(**json.loads(in_namespace(inside(f"PYTHONPATH={root / 'src'} {sys.executable} {script}"))))
    matrix.saw("EROFS", seconds=time.monotonic() - started, deadline=60.0)
    assert place.probed == str(home), "the nearest folder that exists is tried"
    places = Places(
        probe.ProbeResult(probe.Verdict.OK, "x", 0, 1),
        (place,),
        compiler="/usr/bin/gcc",
        headers="/x/Python.h",
    )
    found = only(kernels_can_be_compiled(machine(gpu=True, places=places, **TRITON)))
    assert "takes no file: EROFS (Read-only file system)" in found.message
    assert "set TRITON_CACHE_DIR" in found.remedy
    only(kernels_can_be_compiled(machine(gpu=False, places=places, **TRITON)), Severity.NOTE)
    assert kernels_can_be_compiled(machine(places=places, installed={})).looked_at == 0


def test_good_folders_pass_and_nothing_stays(tmp_path: Path) -> None:
    """Also one that does not exist yet; the real compiler and headers are looked for."""
    found = _tried({"TMPDIR": tmp_path, "TRITON_CACHE_DIR": tmp_path / "a" / "b"})
    assert [place.probed for place in found.tried] == [str(tmp_path)] * 2
    assert all(place.executable and place.errno == 0 and abs(place.skew) < 5 for place in found.tried)
    assert found.hung == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert found.compiler == (shutil.which("gcc") or shutil.which("cc") or shutil.which("clang") or "")
    host = machine(gpu=True, places=found, **TRITON)
    assert temporary_folder_takes_files(host) == []
    if found.compiler and found.headers:
        assert kernels_can_be_compiled(host) == []


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    """Neither is a parent tried, nor is a link to nowhere followed to one."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    found = _tried(
        {
            "TMPDIR": tmp_path / "file",
            "XDG_CACHE_HOME": tmp_path / "link" / "below",
            "HOME": tmp_path / "link",
        }
    )
    assert [place.message for place in found.tried] == ["Not a directory"] * 3
    assert "ENOTDIR" in only(temporary_folder_takes_files(machine(places=found)), Severity.ERROR).message


def test_a_folder_that_hangs_is_named_by_what_is_missing() -> None:
    """The one that was under way; what came before it has its own verdict, what comes after was not tried."""
    result = probe.ProbeResult(
        probe.Verdict.HUNG_FS,
        "trying the folders",
        1.0,
        1.0,
        payload={"tried": [{"key": "TMPDIR", "path": "/tmp", "probed": "/tmp", "free": GiB}]},
    )
    found = places_of(
        result, [("TMPDIR", "/tmp"), ("XDG_CACHE_HOME", "/net/cache"), ("TRITON_CACHE_DIR", "/net/triton")]
    )
    assert found.hung == ("XDG_CACHE_HOME", "/net/cache")
    host = machine(gpu=True, places=found, **TRITON)
    assert temporary_folder_takes_files(host) == []
    told = only(kernels_can_be_compiled(host), Severity.ERROR)
    assert "set XDG_CACHE_HOME to a local folder" in told.remedy
    first = places_of(probe.ProbeResult(probe.Verdict.HUNG_FS, "trying", 1.0, 1.0), [("TMPDIR", "/net/tmp")])
    silent = only(temporary_folder_takes_files(machine(gpu=True, places=first)), Severity.ERROR)
    assert (silent.where.file, silent.where.key) == ("/net/tmp", "TMPDIR")
    assert "set TMPDIR to a local folder" in silent.remedy
    nothing = places_of(
        probe.ProbeResult(probe.Verdict.CRASHED, "trying the folders", 1.0, 1.0), [("HOME", "/x")]
    )
    with pytest.raises(EvidenceError):
        temporary_folder_takes_files(machine(places=nothing))


def test_little_room_for_scratch_files() -> None:
    """A warning; the folder works."""
    place = Place("TMPDIR", "/tmp", "/tmp", "/tmp tmpfs", free=10 * MiB)
    places = Places(probe.ProbeResult(probe.Verdict.OK, "x", 0, 1), (place,))
    assert "10 MiB are free in /tmp" in only(temporary_folder_takes_files(machine(places=places))).message


@fault("C12")
def test_no_compiler_for_kernels(tmp_path: Path, matrix: Matrix) -> None:
    """A PATH without one: only where triton is installed, since nothing else compiles."""
    (tmp_path / "bin").mkdir()
    started = time.monotonic()
    found = _tried({"TMPDIR": tmp_path}, PATH=str(tmp_path / "bin"), CC="")
    matrix.saw("no compiler", seconds=time.monotonic() - started, deadline=10.0)
    assert found.compiler == ""
    told = only(kernels_can_be_compiled(machine(gpu=True, places=found, **TRITON)))
    assert "a C compiler" in told.message
    assert "install gcc" in told.remedy
    assert kernels_can_be_compiled(machine(gpu=True, places=found, installed={})) == []


# -- clock

NOW = 1_790_000_000.0
HARDWARE = {"/sys/class/rtc/rtc0/since_epoch": f"{NOW:.0f}\n"}


@pytest.mark.parametrize(
    ("off", "files", "told"),
    [
        pytest.param(3600.0, HARDWARE, ("the machine's hardware clock", "60 minutes apart"), marks=fault("C14")),
        pytest.param(-10 * 365 * 86400.0, {}, ("the newest file of this installation", "days apart"), marks=fault("C14")),
        pytest.param(10 * 365 * 86400.0, HARDWARE, ("3,650.0 days apart",), marks=fault("C14")),
        (2 * 86400.0, HARDWARE, ("2.0 days apart",)),
        (60.0, HARDWARE, ()),
        (3600.0, {**HARDWARE, "/etc/adjtime": "0.0 0 0\n0\nLOCAL\n"}, ()),
        (0.0, {}, ()),
        (-86400.0, {}, ()),  # unpacked with the time of another zone, or built today
    ],
)  # fmt: skip
def test_a_clock_that_is_wrong(
    tmp_path: Path, matrix: Matrix, off: float, files: dict[str, str], told: tuple[str, ...]
) -> None:
    """Behind its own installation, or apart from the host's own clock, unless that keeps local time."""
    host = machine(tmp_path, files, now=lambda: NOW + off, installed_at=NOW)
    found = clock_is_right(host)
    assert bool(found) is bool(told)
    if told:
        matrix.saw("clock is wrong", seconds=0.0, deadline=1.0)
        assert [word for word in told if word not in only(found).message] == [], found


@fault("C14")
def test_a_clock_apart_from_that_of_a_file_server(matrix: Matrix) -> None:
    """Seen by the time of a file that was just written there."""
    place = Place("HOME", "/net/home", "/net/home", skew=3600.0)
    places = Places(
        probe.ProbeResult(probe.Verdict.OK, "x", 0, 1), (place, Place("TMPDIR", "/tmp", "/tmp", skew=0.2))
    )
    found = only(clock_is_right(machine(places=places)))
    matrix.saw("clock is wrong", seconds=0.0, deadline=1.0)
    assert "the server of /net/home" in found.message


def test_a_folder_that_could_not_be_written_has_no_clock() -> None:
    """Its time was never seen, so that it agrees with nothing: only the installation was looked at."""
    full = Place("HOME", "/net/home", "/net/home", errno=28)
    unseen = Place("TMPDIR", "/tmp", "")
    found = clock_is_right(
        machine(places=Places(probe.ProbeResult(probe.Verdict.OK, "x", 0, 1), (full, unseen)))
    )
    assert (list(found), found.looked_at) == ([], 1)


# -- meeting


def _met(**environ: str | None) -> Environment:
    calm = {"MASTER_PORT": None, "MASTER_ADDR": None, "RANK": None, "WORLD_SIZE": None}
    return machine(environ={**calm, **environ}, quick_timeout=2.0)


def test_processes_meet_here() -> None:
    """This machine: nothing is in the way."""
    machine = _met()
    errors = [found for found in processes_can_meet(machine) if found.severity is Severity.ERROR]
    assert errors == []
    assert machine.meeting.result.ok


@fault("C16")
def test_a_port_that_is_in_use(matrix: Matrix) -> None:
    """A real listener on MASTER_PORT; a rank that only connects is not asked, another machine's address is not tried."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        machine = _met(MASTER_PORT=port)
        found = [each for each in processes_can_meet(machine) if each.severity is Severity.ERROR]
        matrix.saw("port is in use", seconds=machine.meeting.result.seconds, deadline=2.0)
        assert f"127.0.0.1:{port} is in use" in found[0].message
        for other in ({"RANK": "1"}, {"MASTER_ADDR": "192.0.2.1"}):
            assert [
                e for e in processes_can_meet(_met(MASTER_PORT=port, **other)) if e.severity is Severity.ERROR
            ] == []
    assert [e for e in processes_can_meet(_met(MASTER_PORT=port)) if e.severity is Severity.ERROR] == []


BROKEN_NAME = """
import socket
real = socket.getaddrinfo
def broken(host, *rest, **more):
    {what}
    return real(host, *rest, **more)
socket.getaddrinfo = broken
"""


@pytest.fixture
def named(tmp_path: Path) -> Iterator[Callable[[str], dict[str, str | None]]]:
    """An environment in which names are looked up as this line says."""

    def made(what: str) -> dict[str, str | None]:
        (tmp_path / "sitecustomize.py").write_text(BROKEN_NAME.format(what=what))
        return {"PYTHONPATH": str(tmp_path)}

    return made


@fault("C15")
def test_a_name_that_does_not_resolve(named: Callable[[str], dict[str, str | None]], matrix: Matrix) -> None:
    """The machine's own: a note, and a warning where several processes are to meet."""
    broken = named("if host == socket.gethostname(): raise socket.gaierror(-2, 'Name or service not known')")
    machine = _met(**broken)
    found = only(processes_can_meet(machine), Severity.NOTE)
    matrix.saw("own name does not resolve", seconds=machine.meeting.result.seconds, deadline=2.0)
    assert (
        f"resolving the own name ({socket.gethostname()}) fails: Name or service not known" in found.message
    )
    only(processes_can_meet(_met(WORLD_SIZE="2", **broken)), Severity.WARNING)


SLOW = "import time; time.sleep(1e6)"


@fault("C15")
def test_a_name_server_that_does_not_answer(
    named: Callable[[str], dict[str, str | None]], matrix: Matrix
) -> None:
    """Bounded, with the step that waits."""
    started = time.monotonic()
    machine = _met(**named(SLOW))
    found = only(processes_can_meet(machine), Severity.NOTE)
    matrix.saw(machine.meeting.result, seconds=time.monotonic() - started)
    assert "it was resolving the own name" in found.message
    (waits,) = (f for f in processes_can_meet(_met(WORLD_SIZE="2", **named(SLOW))) if "it was" in f.message)
    assert waits.severity is Severity.WARNING, "a run of two processes will wait there too"


@fault("C15")
def test_loopback_that_does_not_connect(root: Path, matrix: Matrix) -> None:
    """A network namespace whose loopback is down."""
    script = """
import json
from llmguard.probe import meeting
found = meeting.meeting_of(meeting.start_meeting({}, timeout=5.0).wait())
print(json.dumps(dict(found.failures)))
"""
    command = ["unshare", "-Urn", sys.executable, "-c", script]
    environ = {**os.environ, "PYTHONPATH": str(root / "src"), "MASTER_PORT": ""}
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environ)
    if done.returncode:
        pytest.skip(f"no network namespaces here: {done.stderr.strip().splitlines()[-1:]}")
    matrix.saw("loopback does not connect", seconds=time.monotonic() - started, deadline=5.0)
    failures = json.loads(done.stdout)
    assert "connecting over loopback" in failures
    meeting = Meeting(probe.ProbeResult(probe.Verdict.OK, "x", 0, 1), failures=failures)
    found = [each for each in processes_can_meet(machine(meeting=meeting)) if "loopback" in each.message]
    assert found[0].severity is Severity.WARNING
    assert "unreachable" in found[0].message.lower()


def test_thresholds_stand_where_they_are_documented() -> None:
    """What TLS forgives is minutes, not hours."""
    assert 60 <= host_checks.SKEW_SECONDS <= 600
