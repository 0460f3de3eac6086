"""What the supervisor asks of the kernel: subreaper, death signal, limits, a wake-up when a child ends."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

from llmguard.probe import tree

__all__ = [
    "ASK_SIGNAL",
    "DUMP_SIGNAL",
    "apply_limits",
    "become_subreaper",
    "die_with_parent",
    "oom_kills",
    "wake_on_children",
]

_PDEATHSIG, _SUBREAPER = 1, 36
_LIMITS = {
    "core": "CORE",
    "data": "DATA",
    "file_size": "FSIZE",
    "open_files": "NOFILE",
    "user_processes": "NPROC",
}

DUMP_SIGNAL, ASK_SIGNAL = (int(getattr(signal, "SIGRTMAX", 0)) - back for back in (3, 4))
"""What a Python child listens to (see `bootstrap`); where there are no real-time signals these are negative, and nobody does."""


def become_subreaper() -> bool:
    """Inherit the orphans of everything below; False where the system knows no such thing."""
    return _prctl(_SUBREAPER, 1) == 0


def die_with_parent(parent: int) -> None:
    """End together with the parent; at once when it is gone already."""
    _prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(127)


def _prctl(option: int, value: int) -> int:
    """prctl(2); -1 where the system has none."""
    try:
        return int(ctypes.CDLL(None).prctl(option, value, 0, 0, 0))
    except (AttributeError, OSError):
        return -1


def wake_on_children() -> int:
    """A descriptor that becomes readable when a child, own or inherited, ends."""
    read_end, write_end = os.pipe()
    for end in (read_end, write_end):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return read_end


def apply_limits(limits: dict[str, int | None]) -> None:
    """Soft and hard; a limit that is already lower stays."""
    for name, suffix in _LIMITS.items():
        wanted = limits.get(name)
        if wanted is None:
            continue
        which = getattr(resource, f"RLIMIT_{suffix}")
        _, hard = resource.getrlimit(which)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))


def oom_kills() -> int:
    """Processes that the kernel has killed for want of memory since it started."""
    _, _, rest = tree.read("/proc/vmstat").partition("\noom_kill ")
    return int(rest.split(None, 1)[0]) if rest else 0
