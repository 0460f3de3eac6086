"""GPU, the hardware: it is what the project asked for, its memory is free, and it counts no errors."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmguard.checks.gpu_build import visible
from llmguard.checks.gpu_driver import severity, wanted_here
from llmguard.contract import Yields, check
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.findings import Finding, Where, error, note, warning
from llmguard.probe.machine import Device

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment
    from llmguard.probe.machine import Card, Query

__all__ = ["gpu_is_healthy", "gpu_is_the_one_asked_for", "gpu_memory_is_free"]

TOLERANCE = 0.95
"""A GPU sold as 80 GB shows a little less: firmware and ECC take their part."""
HELD = 0.1
"""The share of a GPU's memory that may be in use before it counts as held by others; the driver itself takes some hundred MiB."""
SETTLE_SECONDS, PAUSE_SECONDS, FLAT = 10.0, 1.0, 2
"""How long memory that is still being given back is waited for; so many looks without a change say that it is not."""
FATAL = {48: "uncorrected memory error", 74: "NVLink error", 79: "fallen off the bus", 95: "uncontained memory error",
         119: "its firmware does not answer", 120: "its firmware crashed", 140: "unrecovered memory error"}  # fmt: skip
"""Xid numbers that are the hardware's or the firmware's, not a program's (NVIDIA, Xid Errors)."""
_BUSY = ("Exclusive_Process", "Exclusive_Thread")
GiB = 2**30


@check
def gpu_is_the_one_asked_for(environment: Environment) -> Yields:
    """As many GPUs are visible as the project asks for, each of its model and with its memory (`gpu_memory`, where a GPU is needed).

    Raises:
        MissingEvidence: the project names no model, number or memory.
        EvidenceError: nothing tells which devices there are; another check says why.
    """
    if not (environment.gpu_name or environment.gpu_count or environment.gpu_memory):
        raise MissingEvidence(
            "gpu_name", 'add `[environment] gpu_name = "H100"`, `gpu_count` or `gpu_memory = "80 GB"`'
        )
    have = _devices(environment)
    wrong = list(_differences(environment, have))
    if wrong:
        yield _another(environment, have, wrong)
    return max(1, len(have))


def _devices(environment: Environment) -> list[Device]:
    """What the run will see: from the driver, else from nvidia-smi."""
    devices: list[Device] = list(environment.driver.devices) if environment.driver.works else []
    if not devices and environment.query.cards:
        devices = [Device(card.name, card.total or 0, uuid=card.uuid) for card in environment.query.cards]
    if not devices:
        raise EvidenceError("gpu", "nothing tells which GPUs there are", told_by="cuda_driver_starts")
    chosen = environment.variable("CUDA_VISIBLE_DEVICES")
    return visible(chosen, devices) if chosen else devices


def _differences(environment: Environment, have: list[Device]) -> Iterator[str]:
    name, count, memory = environment.gpu_name, environment.gpu_count, environment.gpu_memory
    if count is not None and len(have) != count:
        yield f"{count} GPUs were asked for and {len(have)} are visible"
    others = sorted({each.name for each in have if not _is_named(name, each.name)})
    if others:
        yield f"{name} was asked for and it is {', '.join(others)}"
    small = [each for each in have if memory and each.memory < TOLERANCE * memory]
    if memory and small:
        yield f"{memory / 1e9:.0f} GB were asked for and {small[0].name} has {small[0].memory / 1e9:.1f} GB{_sliced(small[0].name)}"


def _is_named(wanted: str, name: str) -> bool:
    """Every word that was asked for is in the name: "H100" is "NVIDIA H100 80GB HBM3", and "A100" is not "A10"."""
    words = set(re.split(r"[\s/_-]+", name.lower()))
    return set(re.split(r"[\s/_-]+", wanted.lower())) - {""} <= words


def _sliced(name: str) -> str:
    """Names of MIG slices and of virtual GPUs end with their size."""
    return ": it is a slice of one" if re.search(r"MIG \d+g|^GRID |-\d+[CQBA]$", name) else ""


def _another(environment: Environment, have: list[Device], wrong: list[str]) -> Finding:
    asked = [
        environment.gpu_name,
        environment.gpu_count and f"x{environment.gpu_count}",
        environment.gpu_memory,
    ]
    table = [f"{each.name}, {each.memory / GiB:.1f} GiB" for each in have]
    return error(
        Where(what="GPU"),
        what="; ".join(wrong),
        why="batch sizes, memory estimates and prices were made for the other one: it runs out of memory, or takes longer",
        cause="a provider that gave what was free, a pod that was moved, a slice, or CUDA_VISIBLE_DEVICES",
        remedy="return the machine and ask again, or change `[environment]` and the batch size to what is here",
        expected=" ".join(str(part) for part in asked if part),
        actual="; ".join(table) or "none",
        evidence={"devices": table},
    )


@check
def gpu_memory_is_free(environment: Environment) -> Yields:
    """No other process holds the memory of the GPUs, or the only place in one that takes a single process.

    Memory that is still being given back by a process that has just ended is waited for.

    Raises:
        MissingEvidence: no NVIDIA GPU here, and the project asks for none.
        EvidenceError: nvidia-smi does not tell; another check says why.
    """
    cards = _cards(environment)
    if any(_is_held(card) or _is_blocked(card) for card in cards):
        cards = _settled(environment).cards or cards
    for number, card in enumerate(cards):
        if _is_blocked(card):
            yield _blocked(environment, number, card)
        elif _is_held(card):
            yield _held(environment, number, card)
    untold = [number for number, card in enumerate(cards) if card.used is None or card.total is None]
    if untold and not any(card.mig for card in cards):
        raise EvidenceError(
            "gpu", f"nvidia-smi does not tell the memory of GPU {untold[0]}", told_by="nvidia_smi_answers"
        )
    return len(cards)


def _cards(environment: Environment) -> tuple[Card, ...]:
    wanted_here(environment)
    if not environment.query.cards:
        raise EvidenceError("gpu", "nvidia-smi tells nothing of the GPUs", told_by="nvidia_smi_answers")
    return environment.query.cards


def _share(card: Card) -> float:
    return card.used / card.total if card.used is not None and card.total else 0.0


def _is_held(card: Card) -> bool:
    return _share(card) > HELD


def _is_blocked(card: Card) -> bool:
    return card.mode == "Prohibited" or (card.mode in _BUSY and bool(card.processes))


def _settled(environment: Environment) -> Query:
    """Ask again while memory is being given back; our own probes of the GPU are waited for first."""
    environment.finish_gpu()
    stop, last, flat = time.monotonic() + SETTLE_SECONDS, environment.ask_again(), 0
    while any(_is_held(card) for card in last.cards) and flat < FLAT and time.monotonic() < stop:
        time.sleep(PAUSE_SECONDS)
        again = environment.ask_again()
        flat = 0 if _in_use(again) < _in_use(last) else flat + 1
        last = again if again.cards else last
    return last


def _in_use(query: Query) -> int:
    return sum(card.used or 0 for card in query.cards)


def _held(environment: Environment, number: int, card: Card) -> Finding:
    used, total = card.used or 0, card.total or 0
    short = environment.gpu_memory is not None and total - used < TOLERANCE * environment.gpu_memory
    made = error if short else (warning if environment.gpu else note)
    return made(
        Where(what=f"GPU {number}"),
        what=f"{used / GiB:.1f} of {total / GiB:.1f} GiB of {card.name} are in use ({_share(card):.0%}): {_holders(environment, card)}",
        why="the run has only the rest: it ends with an out-of-memory error that its own sizes do not explain",
        cause="a run of before that still lives, an inference server, a notebook, or another tenant",
        remedy="end these processes if they are yours; else take another GPU (CUDA_VISIBLE_DEVICES)",
        expected=f"at most {HELD:.0%} in use",
        actual=f"{_share(card):.0%}",
        evidence={"processes": [list(each) for each in card.processes[:10]]},
    )


def _holders(environment: Environment, card: Card) -> str:
    if not card.processes:
        return "by no process that nvidia-smi shows, so by another container, or by one that is gone"
    shown = []
    for pid, name, used in card.processes[:5]:
        gone = (
            ""
            if environment.host.read(f"/proc/{pid}/stat")
            else ", no such process here: gone, or in another container"
        )
        shown.append(f"{name or 'process'} ({pid}{f', {used / GiB:.1f} GiB' if used else ''}{gone})")
    return "by " + ", ".join(shown)


def _blocked(environment: Environment, number: int, card: Card) -> Finding:
    holders = f", and it has one: {_holders(environment, card)}" if card.processes else ""
    return severity(environment)(
        Where(what=f"GPU {number}"),
        what=f"{card.name} is in compute mode {card.mode}{holders}",
        why="the run is refused with `all CUDA-capable devices are busy or unavailable`",
        cause="a mode that an administrator or a scheduler has set",
        remedy="end the other process, or have the mode set back (`nvidia-smi -c DEFAULT`, as root)",
        expected="Default, or no other process",
        actual=card.mode,
    )


@check
def gpu_is_healthy(environment: Environment) -> Yields:
    """No GPU counts uncorrected errors, asks for a reset, is slowed down by heat or power, or has just failed by the kernel's log.

    Raises:
        MissingEvidence: no NVIDIA GPU here, and the project asks for none.
        EvidenceError: nvidia-smi does not tell; another check says why.
    """
    cards = _cards(environment)
    for number, card in enumerate(cards):
        if card.unhealthy:
            yield _unhealthy(environment, number, card)
        if card.throttled:
            yield _throttled(environment, number, card)
    for bus, number, hours in environment.host.xids():
        if number in FATAL:
            yield _xid(environment, bus, number, hours)
    return len(cards)


def _unhealthy(environment: Environment, number: int, card: Card) -> Finding:
    return severity(environment)(
        Where(what=f"GPU {number}"),
        what=f"{card.name} ({card.bus}): {'; '.join(card.unhealthy)}",
        why="the run ends with an Xid in the middle, or computes with wrong numbers",
        cause="failing memory; a pending remap is applied by a reset and is then fine",
        remedy="have the GPU reset (`nvidia-smi -r`, or a restart of the machine); when it comes back, have it replaced",
        expected="no errors",
        actual="; ".join(card.unhealthy),
    )


def _throttled(environment: Environment, number: int, card: Card) -> Finding:
    made = warning if environment.gpu else note
    return made(
        Where(what=f"GPU {number}"),
        what=f"{card.name} ({card.bus}) is slowed down: {', '.join(card.throttled)}",
        why="steps take up to several times as long, and all GPUs of a run wait for the slowest",
        cause="cooling or power supply of the server",
        remedy="take another machine, or tell the provider",
        expected="no slowdown",
        actual=", ".join(card.throttled),
    )


def _xid(environment: Environment, bus: str, number: int, hours: float) -> Finding:
    made = warning if environment.gpu else note
    return made(
        Where(what="kernel log"),
        what=f"Xid {number} ({FATAL[number]}) of {bus}, {hours:.1f} hours ago",
        why="the GPU may hang or fail again until it is reset",
        cause="hardware or firmware; no program causes this one",
        remedy="restart the machine (79, 119, 120 need it); when it comes back, have the GPU replaced",
        expected="no such entry",
        actual=f"Xid {number}",
    )


for _check in (gpu_is_the_one_asked_for, gpu_memory_is_free, gpu_is_healthy):
    _check.unit = "devices"
