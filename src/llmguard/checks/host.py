"""The host: scratch folders take files, kernels can be compiled, the clock is right, processes of one run can meet."""

from __future__ import annotations

import datetime as dt
import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmguard.contract import Yields, check
from llmguard.errors import EvidenceError
from llmguard.findings import Finding, Where, error, note, warning

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment
    from llmguard.probe.machine import Meeting, Place

__all__ = ["clock_is_right", "kernels_can_be_compiled", "processes_can_meet", "temporary_folder_takes_files"]

MiB, GiB = 2**20, 2**30
ENOUGH_SCRATCH = 512 * MiB
"""Bytes that compiling kernels and packing shards want of a temporary folder."""
SKEW_SECONDS = 300.0
"""What TLS, tokens and signed downloads forgive."""
FAR_SECONDS = 3 * 86400.0
"""A release is unpacked with the time of its build, which may be of another time zone."""
INSTALLATION = "the newest file of this installation"
_FULL = (errno.ENOSPC, errno.EDQUOT)


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number))


@check
def temporary_folder_takes_files(environment: Environment) -> Yields:
    """The temporary folder (TMPDIR, else /tmp) answers, takes a file and has some room.

    Raises:
        EvidenceError: the probe that tries it did not come that far.
    """
    found = environment.places
    place = next((each for each in found.tried if each.key == "TMPDIR"), None)
    if place is not None:
        yield from _temporary(environment, place)
    elif found.hung[0] == "TMPDIR":
        yield _silent(environment, *found.hung, environment.places.result.explain())
    else:
        raise EvidenceError("places", found.result.explain())
    return 1


def _temporary(environment: Environment, place: Place) -> Iterator[Finding]:
    needed = bool(environment.torch_needed_by)
    if place.errno:
        made: Callable[..., Finding] = error if needed else warning
        full = place.errno in _FULL
        yield made(
            Where(place.path),
            what=f"{place.probed or place.path} ({place.mount or 'unknown mount'}) takes no file: {_name(place.errno)} ({place.message})",
            why="libraries that need a scratch file stop with `No usable temporary directory` or in the middle of a download",
            cause="it is full" if full else "it is mounted read-only, or belongs to another user",
            remedy=f"{'remove old files there' if full else 'mount it writable'}, or set TMPDIR to a local folder",
            expected="a file",
            actual=_name(place.errno),
        )
    elif place.free < ENOUGH_SCRATCH:
        yield warning(
            Where(place.path),
            what=f"{place.free / MiB:,.0f} MiB are free in {place.probed} ({place.mount})",
            why="compiled kernels, downloads and sorted shards pass through it",
            cause="a small tmpfs, or files of earlier runs",
            remedy="remove old files there, or set TMPDIR to a larger local folder",
            expected=f"at least {ENOUGH_SCRATCH / MiB:,.0f} MiB",
            actual=f"{place.free / MiB:,.0f} MiB",
        )


def _silent(environment: Environment, key: str, path: str, said: str) -> Finding:
    made: Callable[..., Finding] = error if environment.torch_needed_by else warning
    return made(
        Where(path, key=key),
        what=said,
        why="whatever is kept there hangs the run, without a message",
        cause="a network volume that does not answer",
        remedy=f"set {key} to a local folder, or have the volume mounted again",
        expected="an answer",
        actual="none",
    )


@check
def kernels_can_be_compiled(environment: Environment) -> Yields:
    """Where triton is installed: its caches take files that may be run, and there is a C compiler with Python's headers.

    torch.compile, flash attention and most fused kernels are compiled on the machine when they are first used.

    Raises:
        EvidenceError: the probe that tries the caches did not come to its end.
    """
    if environment.version("triton") is None:
        return 0
    found = environment.places
    for place in found.tried:
        if place.key != "TMPDIR":
            yield from _cache(environment, place)
        elif not place.executable:
            yield _noexec(environment, place)
    if found.hung[0] and found.hung[0] != "TMPDIR":
        yield _silent(environment, *found.hung, found.result.explain())
    elif not found.result.ok:
        raise EvidenceError("places", found.result.explain(), told_by="temporary_folder_takes_files")
    else:
        yield from _compiler(environment)
    return len(found.tried) + 1


def _graded(environment: Environment) -> Callable[..., Finding]:
    return warning if environment.gpu else note


def _cache(environment: Environment, place: Place) -> Iterator[Finding]:
    if place.errno:
        yield _graded(environment)(
            Where(place.path, key=place.key),
            what=f"{place.probed or place.path} ({place.mount or 'unknown mount'}) takes no file: {_name(place.errno)} ({place.message})",
            why="compiled kernels cannot be kept: the first step fails, or every process of every run compiles them anew",
            cause="a home folder that is mounted read-only, is full, or belongs to another user",
            remedy=f"set {place.key} to a folder on a local disk that can be written",
            expected="a file",
            actual=_name(place.errno),
        )
    elif not place.executable:
        yield _noexec(environment, place)


def _noexec(environment: Environment, place: Place) -> Finding:
    key = "TORCHINDUCTOR_CACHE_DIR" if place.key == "TMPDIR" else place.key
    return _graded(environment)(
        Where(place.path, key=place.key),
        what=f"code in {place.probed} ({place.mount}) may not be run: the mount has `noexec`",
        why="compiled kernels lie there and cannot be loaded: `failed to map segment from shared object`",
        cause="a hardened container or host",
        remedy=f"set {key} to a folder on a mount without noexec",
        expected="a mount that allows code",
        actual="noexec",
    )


def _compiler(environment: Environment) -> Iterator[Finding]:
    found = environment.places
    missing = [
        name for name, path in (("a C compiler", found.compiler), ("Python.h", found.headers)) if not path
    ]
    if missing:
        yield _graded(environment)(
            Where(what="compiler"),
            what=f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not here",
            why="triton builds a small library at its first kernel: `Failed to find C compiler`, or `Python.h: No such file`",
            cause="a slim image",
            remedy="install gcc and the headers of this Python (python3-dev), or set CC",
            expected="a C compiler and Python.h",
            actual=f"no {' and no '.join(missing)}",
        )


@check
def clock_is_right(environment: Environment) -> Yields:
    """The clock is not behind this very installation, and agrees with the machine's own clock and with the servers of its folders."""
    now = environment.now()
    checked = 0
    for source, there in _references(environment):
        checked += 1
        # an installation may be old, but not from the future
        behind = there - now > FAR_SECONDS if source == INSTALLATION else abs(there - now) > SKEW_SECONDS
        if behind:
            yield _skewed(source, now, there)
    return checked


def _references(environment: Environment) -> Iterator[tuple[str, float]]:
    """Other clocks, and what time it is by them."""
    yield INSTALLATION, environment.installed_at
    hardware = environment.host.hardware_clock
    if hardware is not None:
        yield "the machine's hardware clock", hardware
    if "places" in environment.__dict__:
        for place in environment.places.tried:
            if place.probed and not place.errno:
                yield f"the server of {place.probed}", environment.now() + place.skew


def _skewed(source: str, now: float, there: float) -> Finding:
    shown = [
        dt.datetime.fromtimestamp(t, dt.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC") for t in (now, there)
    ]
    gap = abs(there - now)
    said = f"{gap / 86400:,.1f} days" if gap > 86400 else f"{gap / 60:,.0f} minutes"
    return warning(
        Where(what="clock"),
        what=f"the clock says {shown[0]}, and {source} {shown[1]}: {said} apart",
        why="TLS, tokens and signed downloads are refused; the newest checkpoint is not the newest by its time",
        cause="a machine that was suspended, or without a time server",
        remedy="have the clock set (`chronyc makestep` or `timedatectl` on the host)",
        expected=shown[1],
        actual=shown[0],
    )


@check
def processes_can_meet(environment: Environment) -> Yields:
    """The machine's own name and localhost resolve, loopback connects, and MASTER_PORT, where it is set, is free."""
    found = environment.meeting
    if not found.result.ok:
        yield _waits(environment, found)
    for step, why in found.failures.items():
        yield _unmet(environment, step, why, found.name)
    if found.taken:
        yield _taken(environment, found.taken)
    return 4


def _distributed(environment: Environment) -> bool:
    return environment.gpu or bool(environment.variable("MASTER_PORT") or environment.variable("WORLD_SIZE"))


def _waits(environment: Environment, found: Meeting) -> Finding:
    made = warning if _distributed(environment) else note
    return made(
        Where(what=found.step or "network"),
        what=f"{found.result.explain()}; it was {found.step or 'starting'}",
        why="torchrun, Ray and loggers ask for their own name when they start, and wait as long",
        cause="a name server that does not answer",
        remedy="add the machine's name to /etc/hosts, or repair /etc/resolv.conf",
        expected="an answer",
        actual=found.result.verdict.value,
    )


def _unmet(environment: Environment, step: str, why: str, name: str) -> Finding:
    made: Callable[..., Finding] = warning if _distributed(environment) or "loopback" in step else note
    return made(
        Where(what="network"),
        what=f"{step}{f' ({name})' if 'own name' in step and name else ''} fails: {why}",
        why="processes of one run do not find each other: torchrun, gloo and Ray stop or wait at their start",
        cause="a container whose name is not in /etc/hosts, or without a loopback device",
        remedy=f"add `127.0.0.1 localhost {name}` to /etc/hosts, or set MASTER_ADDR=127.0.0.1 and GLOO_SOCKET_IFNAME=lo",
        expected="a connection",
        actual=why,
    )


def _taken(environment: Environment, taken: str) -> Finding:
    made: Callable[..., Finding] = error if environment.torch_needed_by else warning
    return made(
        Where(what="MASTER_PORT"),
        what=f"{taken} is in use",
        why="the run ends with EADDRINUSE, or joins the processes of another one and hangs",
        cause="a run of before that still lives, or another one on this machine",
        remedy="end it, or set MASTER_PORT to a free port (`torchrun --rdzv-endpoint=localhost:0` takes one)",
        expected="a free port",
        actual="in use",
    )


temporary_folder_takes_files.unit = "folders"
kernels_can_be_compiled.unit = "places"
clock_is_right.unit = "clocks"
processes_can_meet.unit = "steps"
