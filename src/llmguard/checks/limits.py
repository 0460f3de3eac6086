"""Limits: open files, processes, locked memory, and what the container leaves of memory, processors and shared memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, note, warning

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment
    from llmguard.probe.host import Cgroup, Segment

__all__ = [
    "container_leaves_memory", "locked_memory_is_enough", "open_file_limit_is_enough", "processes_can_be_started",
    "shared_memory_has_room", "threads_fit_the_processors",
]  # fmt: skip

KiB, MiB, GiB = 2**10, 2**20, 2**30
ENOUGH_FILES, TOO_FEW_FILES = 1024, 256
"""Every worker of a loader and every shard of a data set holds files open; below the second number a run has no chance."""
ENOUGH_PROCESSES, TOO_FEW_PROCESSES = 256, 16
"""Threads count: torch starts one a core, each worker of a loader as many again."""
MANY_ZOMBIES = 100
ENOUGH_LOCKED = GiB
LITTLE_MEMORY, TOO_LITTLE_MEMORY = 4 * GiB, GiB
"""Importing torch alone takes 0.6 GiB."""
SMALL_SHARED, FULL_SHARED = GiB, 64 * MiB
"""The default of Docker is 64 MiB: a few batches of a loader with workers."""
SWAPPING, LOW, MUCH_LESS = 0.25, 0.1, 0.75


def _size(count: float) -> str:
    for unit, size in (("GiB", GiB), ("MiB", MiB), ("KiB", KiB)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def _graded(environment: Environment, hopeless: bool) -> Callable[..., Finding]:
    """An error where the run has no chance and needs torch, else a warning."""
    return error if hopeless and environment.torch_needed_by else warning


@check
def open_file_limit_is_enough(environment: Environment) -> Yields:
    """A process may have as many files open as loaders, shards and downloads need."""
    soft, hard = environment.open_files
    if soft != -1 and soft < ENOUGH_FILES:
        yield _graded(environment, soft < TOO_FEW_FILES)(
            Where(what="ulimit -n"),
            what=f"a process may have {soft:,} files open",
            why=(
                "loader workers, shards and downloads hold files open; "
                "runs end with `Too many open files` or `received 0 items of ancdata`"
            ),
            cause="the default of the shell, the container or the job scheduler",
            remedy=_raise_files(hard),
            expected=f"at least {ENOUGH_FILES:,}",
            actual=f"{soft:,}, at most {'any number' if hard == -1 else f'{hard:,}'}",
        )
    return 1


def _raise_files(hard: int) -> str:
    wanted = 4 * ENOUGH_FILES if hard == -1 else min(hard, 4 * ENOUGH_FILES)
    if hard != -1 and hard < ENOUGH_FILES:
        return (
            f"it may be raised to {hard:,} alone, which is too low as well: have the hard limit raised "
            "(`docker run --ulimit nofile=65536`, limits.conf, the job scheduler)"
        )
    return f"run `ulimit -n {wanted}` before the run: it may be raised {'without bound' if hard == -1 else f'to {hard:,}'}"


@check
def processes_can_be_started(environment: Environment) -> Yields:
    """There is room for the workers and threads of a run: by the user's limit, the container's, and the kernel's own."""
    running = environment.host.processes(os.geteuid())
    soft, _ = environment.user_processes
    group = environment.host.cgroup()
    bounds = {
        "ulimit -u": (soft if soft != -1 else None, running.own),
        "pids.max of the container": (group.processes, group.running),
        "kernel.threads-max": (environment.host.numbers_of("/proc/sys/kernel/threads-max"), running.threads),
        "kernel.pid_max": (environment.host.numbers_of("/proc/sys/kernel/pid_max"), running.threads),
    }
    for name, (bound, used) in bounds.items():
        if bound is not None and bound - used < ENOUGH_PROCESSES:
            yield _no_room(environment, name, bound, used)
    for parent, name, count in running.zombies[:1]:
        if count >= MANY_ZOMBIES:
            yield _zombies(parent, name, count)
    return len(bounds)


def _no_room(environment: Environment, name: str, bound: int, used: int) -> Finding:
    left = max(0, bound - used)
    return _graded(environment, left < TOO_FEW_PROCESSES)(
        Where(what=name),
        what=f"{used:,} of {bound:,} processes and threads are in use: {left:,} are left",
        why="a run ends with `can't start new thread` or `Resource temporarily unavailable`, often only when its loader starts",
        cause="a low limit of the shell, the container or the job scheduler, or processes of earlier runs that still live",
        remedy="end what is left of earlier runs (`ps -u $USER -L`); raise the limit (`ulimit -u`, `docker run --pids-limit`)",
        expected=f"room for {ENOUGH_PROCESSES}",
        actual=f"room for {left:,}",
    )


def _zombies(parent: int, name: str, count: int) -> Finding:
    return warning(
        Where(what=f"process {parent}"),
        what=f"{count:,} processes have ended and are not collected by their parent {name or '?'} ({parent})",
        why="each keeps its number: in the end no process can be started",
        cause="a container whose first process is no init, or a server that forgets its workers",
        remedy="start the container with `--init`; restart that parent",
        expected=f"fewer than {MANY_ZOMBIES}",
        actual=f"{count:,}",
    )


@check
def locked_memory_is_enough(environment: Environment) -> Yields:
    """Where there is InfiniBand, its buffers may be locked in memory; nothing else of a run asks for that."""
    soft, _ = environment.locked_memory
    if not environment.host.has_infiniband:
        return 0
    if soft != -1 and soft < ENOUGH_LOCKED and not environment.host.may_lock:
        yield warning(
            Where(what="ulimit -l"),
            what=f"a process may lock {_size(soft)} of memory, and this machine has InfiniBand",
            why="NCCL cannot register its buffers: it fails with `ibv_reg_mr` or falls back to slow sockets",
            cause="the default of the container or the shell",
            remedy="run the container with `--ulimit memlock=-1` or `--cap-add IPC_LOCK`",
            expected=f"at least {_size(ENOUGH_LOCKED)}",
            actual=_size(soft),
        )
    return 1


@check
def container_leaves_memory(environment: Environment) -> Yields:
    """What the container may use is there for the run, though tools show the whole machine; nothing was killed for memory yet."""
    host, group = environment.host, environment.host.cgroup()
    seen = host.numbers("/proc/meminfo")
    total, free = seen.get("MemTotal", 0), seen.get("MemAvailable", 0)
    left = free if group.memory is None else min(free, group.memory - group.used)
    if total and left < LITTLE_MEMORY:
        yield _little_memory(environment, left, total, group)
    elif group.memory is not None and total and group.memory < MUCH_LESS * total:
        yield _smaller_than_it_looks(group.memory, total)
    if group.oom_kills:
        yield _was_killed(group.oom_kills)
    yield from _swapping(environment, seen)
    return 1 if total else 0


def _little_memory(environment: Environment, left: int, total: int, group: Cgroup) -> Finding:
    bound = (
        f"the container may use {_size(group.memory)} of {_size(total)}"
        if group.memory is not None
        else f"the machine has {_size(total)}"
    )
    return _graded(environment, left < TOO_LITTLE_MEMORY)(
        Where(what="memory"),
        what=f"{_size(max(0, left))} of memory are left: {bound}",
        why="the kernel kills the run with SIGKILL (status 137) and no traceback, when a model is loaded or merged",
        cause="a small container, or other processes in it",
        remedy="give the container more memory, or end what uses it (`ps aux --sort -rss | head`)",
        expected=f"at least {_size(LITTLE_MEMORY)}",
        actual=_size(max(0, left)),
    )


def _smaller_than_it_looks(bound: int, total: int) -> Finding:
    return note(
        Where(what="memory"),
        what=f"the container may use {_size(bound)}, while `free` and psutil show {_size(total)}",
        why="what sizes itself by the machine is killed without a traceback",
        cause="a limit of the container (cgroup)",
        remedy=f"give {_size(bound)} where a program asks how much memory there is",
    )


def _was_killed(count: int) -> Finding:
    return warning(
        Where(what="memory"),
        what=f"{count:,} processes of this container were killed for want of memory",
        why="what ended without a traceback was killed, and will be again",
        cause="a run that took more than the container may use",
        remedy="give the container more memory, or load fewer copies of the model (low_cpu_mem_usage, fewer workers)",
        expected="none",
        actual=f"{count:,}",
    )


def _swapping(environment: Environment, seen: dict[str, int]) -> Iterator[Finding]:
    total, free = seen.get("MemTotal", 0), seen.get("MemAvailable", 0)
    swapped = seen.get("SwapTotal", 0) - seen.get("SwapFree", 0)
    if total and swapped > SWAPPING * total and free < LOW * total:
        yield warning(
            Where(what="memory"),
            what=f"{_size(swapped)} are swapped out and {_size(free)} of {_size(total)} are free: the machine is swapping",
            why="everything takes many times as long, and hangs are reported that are none",
            cause="more processes than memory",
            remedy="end what uses the memory (`ps aux --sort -rss | head`)",
            expected="memory without swap",
            actual=_size(swapped),
        )
    if environment.host.oom_score_adjustment > 500:
        yield note(
            Where(what="memory"),
            what=f"this process is among the first to be killed for memory (oom_score_adj {environment.host.oom_score_adjustment})",
        )


@check
def threads_fit_the_processors(environment: Environment) -> Yields:
    """Where the container has a quota of processor time, threads are limited to it; libraries start one for each core they see."""
    quota, seen = environment.host.cgroup().processors, environment.host.processors
    told = environment.variable("OMP_NUM_THREADS")
    threads = int(told) if told.isdigit() else seen
    if quota is not None and threads > max(1.0, 1.5 * quota):
        wanted = max(1, int(quota))
        yield warning(
            Where(what="processors"),
            what=f"the container may use {quota:g} processors, and libraries will start {threads} threads"
            + (" (OMP_NUM_THREADS)" if told else f": they see {seen}"),
            why="threads wait for each other and are halted by the kernel in turns: tokenizing and loading take several times as long",
            cause="a quota of the container (cgroup), which `os.cpu_count()` does not show",
            remedy=f"set OMP_NUM_THREADS={wanted}, and at most as many workers of loaders",
            expected=f"{wanted} threads",
            actual=f"{threads} threads",
        )
    return 1


@check
def shared_memory_has_room(environment: Environment) -> Yields:
    """/dev/shm is large enough for the batches that workers of a loader hand over, and free of what dead ones have left."""
    room, segments = environment.host.shared_memory(), environment.host.torch_segments()
    if room is None:
        return 0
    total, free = room
    stale = [segment for segment in segments if not segment.alive]
    if total < SMALL_SHARED or free < FULL_SHARED:
        yield _small_shared(total, free)
    if stale and sum(each.size for each in stale) > min(LOW * total, GiB):
        yield _stale(stale, total)
    return 1


def _small_shared(total: int, free: int) -> Finding:
    return warning(
        Where("/dev/shm"),
        what=f"{_size(total)} of shared memory, {_size(free)} of it free",
        why="loaders with workers end with `Bus error` or `unable to open shared memory object`, or wait for ever",
        cause="the 64 MiB that Docker gives"
        if total < SMALL_SHARED
        else "segments that are in use, or left by processes that were killed",
        remedy="start the container with `--shm-size 16g` (or `--ipc host`), or use num_workers = 0",
        expected=f"at least {_size(SMALL_SHARED)}",
        actual=f"{_size(total)}, {_size(free)} free",
    )


def _stale(stale: list[Segment], total: int) -> Finding:
    size, owners = sum(each.size for each in stale), sorted({each.owner for each in stale})
    return warning(
        Where("/dev/shm"),
        what=f"{len(stale):,} segments of torch hold {_size(size)} of {_size(total)}: left by {', '.join(map(str, owners[:5]))}",
        why="they take shared memory until they are removed: new loaders end with `Bus error`",
        cause="loaders of runs that were killed",
        remedy="remove them when no other container shares this /dev/shm: "
        + " ".join(f"/dev/shm/torch_{owner}_*" for owner in owners[:5]),
        expected="none",
        actual=_size(size),
        evidence={"segments": [each.name for each in stale[:10]]},
    )


for _check in (
    open_file_limit_is_enough, processes_can_be_started, locked_memory_is_enough, container_leaves_memory,
    threads_fit_the_processors, shared_memory_has_room,
):  # fmt: skip
    _check.unit = "limits"
