"""What the kernel says of this machine: plain text of /proc, /sys and /dev below a root that tests may put elsewhere.

These files are the kernel's own and answer at once; nothing here touches a disk, a network volume or a driver.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cgroup", "Host", "Processes", "Segment"]

_UNLIMITED = 2**60
"""cgroup v1 writes "no limit" as the largest number of pages."""
_NVIDIA, _DISPLAYS = "0x10de", ("0x0300", "0x0302")
_XID = re.compile(r"^\d+,\d+,(\d+),.*NVRM: Xid \(PCI:([\da-fA-F:.]+)\): (\d+)")
_MOST_LINES = 20_000
_SEGMENT = re.compile(r"torch_(\d+)_\S+")


@dataclass(frozen=True)
class Cgroup:
    """What the control group of this process allows; None where it sets no bound. Bytes, processors, processes."""

    memory: int | None = None
    used: int = 0
    oom_kills: int = 0
    processors: float | None = None
    processes: int | None = None
    running: int = 0


@dataclass(frozen=True)
class Processes:
    """All processes: threads in all, threads of one user, zombies by their parent `(pid, name, count)`."""

    threads: int
    own: int
    zombies: tuple[tuple[int, str, int], ...]


@dataclass(frozen=True)
class Segment:
    """A shared-memory segment of torch: its owner's process id, bytes, and whether that process is seen here."""

    name: str
    owner: int
    size: int
    alive: bool


@dataclass(frozen=True)
class Host:
    """The machine below `root` ("" is the real one)."""

    root: str = ""

    def read(self, path: str) -> str:
        """The text of a file, "" where there is none for us."""
        try:
            return Path(self.root + path).read_text("utf-8", "replace")
        except OSError:
            return ""

    def names(self, path: str) -> list[str]:
        """The names in a folder, none where there is none for us."""
        try:
            return sorted(entry.name for entry in Path(self.root + path).iterdir())
        except OSError:
            return []

    # -- GPUs

    @property
    def nvidia_devices(self) -> tuple[str, ...]:
        """The device files of NVIDIA GPUs (/dev/dxg under WSL, /dev/nvhost-gpu on Jetson)."""
        found = [name for name in self.names("/dev") if re.fullmatch(r"nvidia\d+|dxg|nvhost-gpu", name)]
        return tuple(f"/dev/{name}" for name in found)

    @property
    def nvidia_cards(self) -> int:
        """NVIDIA GPUs on the PCI bus, whether or not a driver has them."""
        devices = [f"/sys/bus/pci/devices/{name}" for name in self.names("/sys/bus/pci/devices")]
        kinds = [
            (self.read(f"{each}/vendor").strip(), self.read(f"{each}/class").strip()[:6]) for each in devices
        ]
        return sum(vendor == _NVIDIA and kind in _DISPLAYS for vendor, kind in kinds)

    @property
    def has_nvidia(self) -> bool:
        """Whether there is any trace of an NVIDIA GPU."""
        return bool(self.nvidia_devices or self.nvidia_cards or self.driver_version)

    @property
    def has_amd(self) -> bool:
        """Whether there is an AMD GPU for computing."""
        return "kfd" in self.names("/dev")

    @property
    def driver_version(self) -> str:
        """The version of the NVIDIA kernel module that is loaded, "" for none."""
        found = re.search(r"NVRM version:.*?(\d+\.\d+(?:\.\d+)?)", self.read("/proc/driver/nvidia/version"))
        return found[1] if found else ""

    @property
    def has_infiniband(self) -> bool:
        """Whether there is a network card whose buffers must be locked in memory."""
        return any(name.startswith("uverbs") for name in self.names("/dev/infiniband"))

    def xids(self) -> tuple[tuple[str, int, float], ...]:
        """Errors that the NVIDIA driver has written to the kernel's log: bus, number, hours ago; none where it is not for us."""
        now = float((self.read("/proc/uptime").split() or ["0"])[0])
        found = []
        for line in self._kernel_log().splitlines():
            if seen := _XID.search(line):
                found.append((seen[2], int(seen[3]), max(0.0, now - int(seen[1]) / 1e6) / 3600))
        return tuple(found)

    def _kernel_log(self) -> str:
        """What is in /dev/kmsg now; it is read without waiting for more."""
        lines: list[bytes] = []
        try:
            log = os.open(f"{self.root}/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return ""
        with contextlib.suppress(OSError):  # there is no more, or it was overwritten meanwhile
            while len(lines) < _MOST_LINES and (line := os.read(log, 8192)):
                lines.append(line)
        os.close(log)
        return b"".join(lines).decode("utf-8", "replace")

    # -- memory, processors, processes

    def numbers(self, path: str) -> dict[str, int]:
        """A file of `name: number kB` or `name number` lines; kB become bytes."""
        found: dict[str, int] = {}
        for line in self.read(path).splitlines():
            words = line.replace(":", " ").split()
            if len(words) > 1 and words[1].lstrip("-").isdigit():
                found[words[0]] = int(words[1]) * (1024 if words[2:3] == ["kB"] else 1)
        return found

    def numbers_of(self, path: str) -> int | None:
        """The number that a file holds; None where it holds none."""
        text = self.read(path).strip()
        return int(text) if text.isdigit() else None

    @property
    def hardware_clock(self) -> float | None:
        """The time of the machine's own clock; None where there is none, or where it keeps local time."""
        if "LOCAL" in self.read("/etc/adjtime"):
            return None
        return self.numbers_of("/sys/class/rtc/rtc0/since_epoch")

    @property
    def may_lock(self) -> bool:
        """Whether this process has the right to lock memory beyond its limit (CAP_IPC_LOCK)."""
        found = re.search(r"^CapEff:\s*([0-9a-f]+)", self.read("/proc/self/status"), re.MULTILINE)
        return bool(found and int(found[1], 16) >> 14 & 1)

    @property
    def processors(self) -> int:
        """Processors that this process may run on."""
        if self.root:
            return len(re.findall(r"^processor\s*:", self.read("/proc/cpuinfo"), re.MULTILINE))
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def oom_score_adjustment(self) -> int:
        """-1000 (never killed for memory) to 1000 (killed first)."""
        text = self.read("/proc/self/oom_score_adj").strip()
        return int(text) if text.lstrip("-").isdigit() else 0

    def processes(self, uid: int) -> Processes:
        """Count threads and zombies; `uid` is the user whose threads are counted apart."""
        threads = own = 0
        names: dict[int, str] = {}
        dead: dict[int, int] = {}
        for pid in (int(name) for name in self.names("/proc") if name.isdigit()):
            said = dict(line.partition(":\t")[::2] for line in self.read(f"/proc/{pid}/status").splitlines())
            names[pid] = said.get("Name", "")
            if said.get("State", "").startswith("Z"):
                parent = int(said.get("PPid", "0") or 0)
                dead[parent] = dead.get(parent, 0) + 1
                continue
            count = int(said.get("Threads", "0") or 0)
            threads += count
            own += count if said.get("Uid", "").split()[:1] == [str(uid)] else 0
        zombies = [(parent, names.get(parent, ""), count) for parent, count in dead.items()]
        return Processes(threads, own, tuple(sorted(zombies, key=lambda each: -each[2])))

    def torch_segments(self) -> tuple[Segment, ...]:
        """Segments that torch's loaders have put into /dev/shm and not taken away."""
        found = []
        for name in self.names("/dev/shm"):
            if named := _SEGMENT.fullmatch(name):
                with contextlib.suppress(OSError):
                    size = Path(f"{self.root}/dev/shm/{name}").stat().st_blocks * 512
                    alive = Path(f"{self.root}/proc/{named[1]}").exists()
                    found.append(Segment(name, int(named[1]), size, alive))
        return tuple(found)

    def shared_memory(self) -> tuple[int, int] | None:
        """Size of /dev/shm and what is free in it, bytes; None where there is none."""
        try:
            seen = os.statvfs(f"{self.root}/dev/shm")
        except OSError:
            return None
        return seen.f_blocks * seen.f_frsize, seen.f_bavail * seen.f_frsize

    # -- control groups

    def cgroup(self) -> Cgroup:
        """The bounds of all groups that this process is in, version 1 and 2 alike: the tightest counts."""
        folders = list(self._cgroup_folders())
        memory, used = self._tightest(
            folders, ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        processes, running = self._tightest(folders, ("pids.max", "pids.current"))
        return Cgroup(memory, used, self._oom_kills(folders), self._quota(folders), processes, running)

    def _cgroup_folders(self) -> Iterator[str]:
        """The folder of each group, from the process's own up to what is mounted here."""
        own = [
            line.split(":", 2) for line in self.read("/proc/self/cgroup").splitlines() if line.count(":") > 1
        ]
        for line in self.read("/proc/self/mountinfo").splitlines():
            left, _, right = line.partition(" - ")
            fields, kind = left.split(), right.split()
            if len(fields) < 5 or not kind or kind[0] not in ("cgroup", "cgroup2"):
                continue
            names = set(kind[-1].split(","))
            for _, controllers, path in own:
                if (kind[0] == "cgroup2") if not controllers else names & set(controllers.split(",")):
                    yield from _upwards(fields[4], fields[3], path)

    def _tightest(self, folders: list[str], *files: tuple[str, str]) -> tuple[int | None, int]:
        """The lowest bound of all groups, and what that group uses."""
        pairs = [
            (int(bound), int(used))
            for folder in folders
            for limit, use in files
            if (bound := self.read(f"{folder}/{limit}").strip()).isdigit() and int(bound) < _UNLIMITED
            if (used := self.read(f"{folder}/{use}").strip()).isdigit()
        ]
        return min(pairs, default=(None, 0))

    def _oom_kills(self, folders: list[str]) -> int:
        files = [f"{folder}/{file}" for folder in folders for file in ("memory.events", "memory.oom_control")]
        return max((self.numbers(file).get("oom_kill", 0) for file in files), default=0)

    def _quota(self, folders: list[str]) -> float | None:
        found = []
        for folder in folders:
            quota, period = [*self.read(f"{folder}/cpu.max").split(), "", ""][:2]
            quota = quota or self.read(f"{folder}/cpu.cfs_quota_us").strip()
            period = period or self.read(f"{folder}/cpu.cfs_period_us").strip()
            if quota.isdigit() and period.isdigit() and int(period):
                found.append(int(quota) / int(period))
        return min(found, default=None)


def _upwards(point: str, mounted: str, path: str) -> Iterator[str]:
    """Folders from a group's own to the mount point; `mounted` is the group that lies at the mount point."""
    inside = path.removeprefix(mounted.rstrip("/")) if path.startswith(mounted.rstrip("/") + "/") else ""
    below = inside or (path if mounted == "/" else "")
    parts = [part for part in below.split("/") if part and part != ".."]
    for count in range(len(parts), -1, -1):
        yield "/".join([point, *parts[:count]])
