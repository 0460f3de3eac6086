"""Which process gets which GPU: inside the list that the caller gave, by UUID, one process a GPU or a fair share of one. No torch.

    gpus = gpus_here()                          # what CUDA_VISIBLE_DEVICES leaves, in CUDA's order
    places = assign(gpus, workers=8, budget=4 * 2**30)
    with turn(places[3]):                       # one process at a time on a GPU, or as many as fit
        ...

CUDA reads its list as torch does (`torch.cuda._parse_visible_devices`): up to the first entry that names nothing, numbers by their
leading digits, UUIDs by their beginning; an entry that stands there twice leaves no device at all.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmguard.locks import Held, locked

if TYPE_CHECKING:
    from llmguard.probe.machine import Query

__all__ = [
    "CONTEXT", "SHARED", "Held", "Place", "VisibleGpu", "assign", "entries_of", "fraction_of", "gpus_here", "lock_folder", "named",
    "room_for", "shared", "turn", "variable_of", "visible",
]  # fmt: skip

CONTEXT = 640 * 2**20
"""Bytes that a process takes on a GPU beside its tensors: CUDA's context, kernels and workspaces, which no allocator counts."""
LEAST = 1 / 1024
"""A share of a GPU is never smaller than this, and so never zero or less, however many processes there are."""
SHARED = "LLMGUARD_GPU_SHARED"
"""Set in a process that has others of its session beside it on its GPU; what it starts inherits it."""
LONGEST, PATIENCE = 3600.0, 900.0
"""Seconds that one waits for a turn at all, and for one holder who does not end."""
LISTING = 30.0
"""Seconds for the driver and for nvidia-smi to name the devices."""
_NUMBER = re.compile(r"\+?(\d+)")


@dataclass(frozen=True)
class VisibleGpu:
    """A GPU that the caller may use. `entry` is what names it, alone, in the variable of visible devices: its UUID where that is known.

    Bytes; None where nobody told. `others`: processes that were on it when it was looked at (containers do not show them).
    """

    entry: str
    name: str = ""
    total: int | None = None
    free: int | None = None
    others: tuple[int, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where one worker runs its GPU tests.

    `gpus`: entries of its GPUs (none: left as they are); `workers`: how many of the session share them; `at_once`: how many of those
    may compute at the same time; `fraction`: the share of the memory that its allocator may give out, None for no limit.
    """

    gpus: tuple[str, ...] = ()
    workers: int = 1
    at_once: int = 1
    fraction: float | None = None

    @property
    def shared(self) -> bool:
        """Whether readings of the whole device say nothing of this worker."""
        return self.workers > 1

    def to_json(self) -> dict[str, Any]:
        """What `Place(**…)` takes; lists in the place of tuples."""
        return {**asdict(self), "gpus": list(self.gpus)}


def shared(environ: Mapping[str, str] | None = None) -> bool:
    """Whether other processes of this session share this process's GPU: readings of the whole device then mean nothing."""
    return (os.environ if environ is None else environ).get(SHARED) == "1"


def variable_of(kind: str, environ: Mapping[str, str]) -> str:
    """The variable that hides devices from a process: CUDA's, HIP's (beside or above ROCR's), Level Zero's; "" where there is none."""
    if kind == "rocm":
        own = [name for name in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if name in environ]
        return own[0] if own else "HIP_VISIBLE_DEVICES"
    return {"cuda": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK"}.get(kind, "")


def visible(text: str | None, uuids: Sequence[str]) -> list[int]:
    """Numbers of the devices that a list of visible devices leaves, in its order; all where it is None (not set).

    `uuids`: of all devices, in CUDA's order ("" where one is not known).
    """
    if text is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in entries_of(text):
        number = _numbered(entry, uuids)
        if number is None:
            break
        if number in found:
            return []
        found.append(number)
    return found


def entries_of(text: str) -> list[str]:
    """The entries of a list up to the first that can name nothing: numbers, or UUIDs where the first is one; none where one is twice."""
    given = [entry.strip() for entry in text.split(",")]
    kind = next((prefix for prefix in ("GPU-", "MIG-") if given[0].upper().startswith(prefix)), "")
    found: list[str] = []
    for entry in given:
        digits = None if kind else _NUMBER.match(entry)
        named = entry if kind and entry.upper().startswith(kind) else digits[1] if digits else ""
        if not named:
            break
        if named in found:
            return []
        found.append(named)
    return found


def _numbered(entry: str, uuids: Sequence[str]) -> int | None:
    """The number of the device that an entry names, by number or by a beginning of its UUID that no other has."""
    if entry.isdigit():
        return int(entry) if int(entry) < len(uuids) else None
    named = [number for number, uuid in enumerate(uuids) if uuid.lower().startswith(entry.lower())]
    return named[0] if len(named) == 1 else None


def gpus_here(
    kind: str = "cuda", count: int = 0, environ: Mapping[str, str] | None = None, *, timeout: float = LISTING
) -> tuple[VisibleGpu, ...]:
    """The GPUs that the caller may use, in the order of its list; asked of the driver and of nvidia-smi, each in a bounded probe.

    `count`: how many torch found: they are named by the caller's own entries, or by number, where nothing tells their UUIDs.
    """
    environ = os.environ if environ is None else environ
    text = environ.get(variable_of(kind, environ))
    if kind == "cuda" and (text or "").strip().upper().startswith("MIG-"):
        return tuple(VisibleGpu(entry) for entry in entries_of(str(text)))
    found = _nvidia(text, environ, timeout) if kind == "cuda" else ()
    return found or named(kind, count, environ)


def named(kind: str, count: int, environ: Mapping[str, str]) -> tuple[VisibleGpu, ...]:
    """So many GPUs by the entries of the caller's list, or by number where there is none; nobody is asked."""
    text = environ.get(variable_of(kind, environ))
    entries = entries_of(text) if text is not None else [str(number) for number in range(count)]
    return tuple(VisibleGpu(entry) for entry in entries[:count])


def _nvidia(text: str | None, environ: Mapping[str, str], timeout: float) -> tuple[VisibleGpu, ...]:
    from llmguard.probe.driver import driver_of, query_of, start_driver, start_query

    order = environ.get("CUDA_DEVICE_ORDER")
    with (
        start_driver(environ, timeout=timeout, order=order) as driver,
        start_query(environ, timeout=timeout) as tool,
    ):
        devices, query = driver_of(driver.wait()).devices, query_of(tool.wait())
    described = [(d.uuid, d.name, d.memory or None) for d in devices] or [
        (c.uuid, c.name, c.total) for c in query.cards
    ]
    uuids = [uuid for uuid, *_ in described]
    return tuple(_described(*described[number], query, number) for number in visible(text, uuids))


def _described(uuid: str, name: str, memory: int | None, query: Query, number: int) -> VisibleGpu:
    card = next((c for c in query.cards if uuid and c.uuid == uuid), None)
    told = card is not None and card.total is not None and card.used is not None
    free = card.total - card.used if card is not None and told else None  # type: ignore[operator]  # neither is None
    others = tuple(pid for pid, *_ in card.processes) if card is not None else ()
    return VisibleGpu(uuid or str(number), name, (card.total if card else None) or memory, free, others)


def room_for(gpu: VisibleGpu, budget: int | None) -> int:
    """How many processes of `budget` bytes each, and a context each, the free memory of a GPU takes; 1 where it is not known."""
    if not budget or gpu.free is None:
        return 1
    return max(1, int(gpu.free // (budget + CONTEXT)))


def fraction_of(total: float, free: float, processes: int) -> float:
    """The share of a GPU's memory that each of several processes may give out to tensors: what is free, less their contexts.

    Above 0 and at most 1, whatever is asked: with too many processes it is too small to work with, and says so by running out.
    """
    if total <= 0:
        return 1.0
    each = min(free, total) / max(1, processes) - CONTEXT
    return min(1.0, max(LEAST, each / total))


def assign(gpus: Sequence[VisibleGpu], workers: int, budget: int | None = None) -> list[Place]:
    """A place for each worker: one GPU each, in turn over the list; several on one GPU share it by their budget, or take turns.

    `budget`: bytes that a worker's tensors may take; None: those on one GPU take turns.
    """
    if not gpus:
        return [Place((), workers) for _ in range(workers)]
    return [_place(gpus[number % len(gpus)], number, len(gpus), workers, budget) for number in range(workers)]


def _place(gpu: VisibleGpu, number: int, gpus: int, workers: int, budget: int | None) -> Place:
    beside = len(range(number % gpus, workers, gpus))
    if beside == 1:
        return Place((gpu.entry,))
    at_once = min(beside, room_for(gpu, budget))
    limit = None
    if budget and gpu.total:
        fair = fraction_of(gpu.total, gpu.total if gpu.free is None else gpu.free, at_once)
        limit = min(fair, max(LEAST, budget / gpu.total))
    return Place((gpu.entry,), beside, at_once, limit)


def lock_folder(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of this user's locks on GPUs (LLMGUARD_LOCKS names another): one for all sessions, also where their TMPDIR differs.

    Raises:
        OSError: none can be made that is this user's own.
    """
    own = (os.environ if environ is None else environ).get("LLMGUARD_LOCKS")
    name = f"llmguard-{os.getuid()}"
    candidates = [Path(own)] if own else [Path("/tmp", name), Path(tempfile.gettempdir(), name)]
    refused = OSError("no folder for locks")
    for folder in candidates:
        try:
            folder.mkdir(mode=0o700, parents=bool(own), exist_ok=True)
            known = folder.lstat()
        except OSError as why:
            refused = why
            continue
        if known.st_uid == os.getuid() and folder.is_dir() and not folder.is_symlink():
            return folder
        refused = PermissionError(f"{folder} belongs to another user")
    raise refused


@contextmanager
def turn(
    place: Place, *, folder: Path | None = None, wait: float = LONGEST, patience: float = PATIENCE
) -> Iterator[None]:
    """The right to compute on the GPUs of a place: alone, or beside so many others as fit; for this user's processes that ask for it.

    GPUs are locked in one order for all, so that two who want several never wait for each other.

    Raises:
        Held: others kept it for too long; names the GPU and the holder.
        OSError: there is no place for locks.
    """
    folder = lock_folder() if folder is None else folder
    with ExitStack() as stack:
        for gpu in sorted(set(place.gpus)):
            name = re.sub(r"[^\w-]", "_", gpu)
            beside = place.at_once > 1
            try:
                stack.enter_context(
                    locked(folder / f"gpu-{name}.lock", wait, shared=beside, patience=patience)
                )
                if beside:
                    seats = [folder / f"gpu-{name}.{seat}.lock" for seat in range(place.at_once)]
                    stack.enter_context(locked(seats, wait, patience=patience))
            except Held as why:
                raise Held(f"GPU {gpu} is {why}") from None
        yield
