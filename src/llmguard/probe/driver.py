"""The NVIDIA driver, asked without torch: `cuInit` through ctypes, and nvidia-smi; each in a probe of its own.

A driver that is stuck hangs whoever asks it, for ever, sometimes only one of the two ways. Return codes: cuda.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

from llmguard.probe.launch import Probe, start
from llmguard.probe.machine import Card, Device, Driver, Query
from llmguard.probe.result import ProbeResult

__all__ = ["driver_of", "query_of", "start_driver", "start_query"]

GRACE = 0.5
MiB = 2**20
_UNTOLD = (
    "",
    "n/a",
    "[n/a]",
    "[not supported]",
    "[unknown error]",
    "unknown error",
    "err!",
    "gpu requires reset",
)

_CUINIT = """
import ctypes
found = {"stage": "loading libcuda.so.1"}
def at(stage):
    found["stage"] = stage
    report(found)
def asked(call, kind, *rest):
    value = kind()
    return value.value if getattr(library, call)(ctypes.byref(value), *rest) == 0 else None
def text(call):
    value = ctypes.c_char_p()
    return (value.value or b"").decode() if getattr(library, call)(found["code"], ctypes.byref(value)) == 0 else ""
def device(number):
    handle = ctypes.c_int()
    if library.cuDeviceGet(ctypes.byref(handle), number):
        return {"name": "", "memory": 0, "capability": [0, 0], "uuid": ""}
    name, raw = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    library.cuDeviceGetName(name, 256, handle)
    told = library.cuDeviceGetUuid(raw, handle) == 0
    u = raw.raw.hex()
    return {
        "name": name.value.decode("utf-8", "replace"), "memory": asked("cuDeviceTotalMem_v2", ctypes.c_size_t, handle) or 0,
        "capability": [asked("cuDeviceGetAttribute", ctypes.c_int, which, handle) or 0 for which in (75, 76)],
        "uuid": f"GPU-{u[:8]}-{u[8:12]}-{u[12:16]}-{u[16:20]}-{u[20:]}" if told else "",
    }
at("loading libcuda.so.1")
try:
    library = ctypes.CDLL("libcuda.so.1")
except OSError as why:
    found["why"] = str(why)
    report(found)
else:
    found["library"] = "libcuda.so.1"
    with open("/proc/self/maps") as maps:
        found["library"] = next((line.split(None, 5)[5].strip() for line in maps if "libcuda" in line), found["library"])
    at("cuInit")
    found["code"] = library.cuInit(0)
    found["error"] = f"{text('cuGetErrorName')}: {text('cuGetErrorString')}" if found["code"] else ""
    version = asked("cuDriverGetVersion", ctypes.c_int) or 0
    found["cuda"] = [version // 1000, version % 1000 // 10]
    if found["code"] == 0:
        at("counting the devices")
        count = asked("cuDeviceGetCount", ctypes.c_int) or 0
        at("describing the devices")
        found["devices"] = [device(number) for number in range(count)]
    at("done")
"""


def start_driver(
    environ: Mapping[str, str | None], *, timeout: float, order: str | None = "PCI_BUS_ID"
) -> Probe:
    """Load libcuda, start it and have it describe all devices, also those that CUDA_VISIBLE_DEVICES hides; no context is made.

    `order`: CUDA_DEVICE_ORDER; as nvidia-smi counts by default, None for CUDA's own (the fastest first).
    """
    seen = {**environ, "CUDA_VISIBLE_DEVICES": None, "CUDA_DEVICE_ORDER": order}
    return start(
        _CUINIT,
        timeout=timeout,
        no_progress=timeout,
        kill_grace=GRACE,
        env=seen,
        what="start of the CUDA driver (cuInit)",
    )


def driver_of(result: ProbeResult) -> Driver:
    """What libcuda said, as far as it came."""
    told: dict[str, Any] = dict(result.payload) if isinstance(result.payload, dict) else {}
    devices = tuple(
        Device(each["name"], each["memory"], (each["capability"][0], each["capability"][1]), each["uuid"])
        for each in told.pop("devices", ())
    )
    major, minor = told.pop("cuda", (0, 0))
    return Driver(result, cuda=(major, minor), devices=devices, **told)


def start_query(environ: Mapping[str, str | None], *, timeout: float) -> Probe:
    """Ask nvidia-smi for everything; numbers and names in English, whatever the locale."""
    return start(
        ["nvidia-smi", "-q", "-x"], timeout=timeout, no_progress=timeout, kill_grace=GRACE, max_output=4 * MiB,
        env={"LC_ALL": "C", "LANGUAGE": "C", **environ}, what="nvidia-smi",
    )  # fmt: skip


def query_of(result: ProbeResult) -> Query:
    """What nvidia-smi said."""
    if not result.ok:
        return Query(result)
    try:
        # warnings come before and after, on the other stream
        found = ElementTree.fromstring(
            result.output[result.output.index("<") : result.output.rindex(">") + 1]
        )
    except (ValueError, ElementTree.ParseError):
        return Query(result, unreadable=result.output.strip()[:300] or "nothing")
    if found.tag != "nvidia_smi_log":
        return Query(result, unreadable=result.output.strip()[:300])
    cards = tuple(_card(one) for one in found.findall("gpu"))
    return Query(result, _text(found, "driver_version"), _text(found, "cuda_version"), cards)


def _card(gpu: ElementTree.Element) -> Card:
    name, uuid, mode = (_text(gpu, field) for field in ("product_name", "uuid", "compute_mode"))
    total, used = (_bytes(_text(gpu, f"fb_memory_usage/{field}")) for field in ("total", "used"))
    fields = {
        "product_name": name,
        "uuid": uuid,
        "compute_mode": mode,
        "memory total": total,
        "memory used": used,
    }
    mig, virtual = (
        _text(gpu, "mig_mode/current_mig"),
        _text(gpu, "gpu_virtualization_mode/virtualization_mode"),
    )
    return Card(
        name, uuid, gpu.get("id", ""), total, used, mode,
        mig=mig == "Enabled",
        virtual=virtual if virtual not in ("", "None") else "",
        processes=tuple(_processes(gpu)),
        unhealthy=tuple(_unhealthy(gpu)),
        throttled=tuple(_throttled(gpu)),
        untold=tuple(field for field, value in fields.items() if value in ("", None)),
    )  # fmt: skip


def _text(node: ElementTree.Element, path: str) -> str:
    """The text at a path; "" where it says that it does not know."""
    text = (node.findtext(path) or "").strip()
    return "" if text.lower() in _UNTOLD else text


def _bytes(text: str) -> int | None:
    found = re.fullmatch(r"([\d.]+)\s*(B|KiB|MiB|GiB)", text)
    return (
        int(float(found[1]) * {"B": 1, "KiB": 1024, "MiB": MiB, "GiB": 1024 * MiB}[found[2]])
        if found
        else None
    )


def _processes(gpu: ElementTree.Element) -> Iterator[tuple[int, str, int | None]]:
    for each in gpu.findall("processes/process_info"):
        pid = _text(each, "pid")
        if pid.isdigit():
            yield int(pid), _text(each, "process_name"), _bytes(_text(each, "used_memory"))


def _unhealthy(gpu: ElementTree.Element) -> Iterator[str]:
    """Errors that do not go away by themselves; older and newer names of the fields."""
    volatile = gpu.find("ecc_errors/volatile")
    counts = [each for each in (volatile.iter() if volatile is not None else ()) if not len(each)]
    parents = ["double_bit/total", *(each.tag for each in counts if "uncorrectable" in each.tag)]
    wrong = sum(
        int(text) for path in parents if volatile is not None and (text := _text(volatile, path)).isdigit()
    )
    if wrong:
        yield f"{wrong} uncorrected memory errors since its last start"
    for path, said in (
        ("remapped_rows/remapped_row_pending", "a row of its memory waits to be remapped at the next reset"),
        ("remapped_rows/remapped_row_failure", "rows of its memory could not be remapped any more"),
        ("gpu_reset_status/reset_required", "it asks to be reset"),
        ("gpu_recovery_action", "it asks to be recovered"),
    ):
        text = _text(gpu, path)
        if text and text not in ("No", "None"):
            yield said if text == "Yes" else f"{said} ({text})"


def _throttled(gpu: ElementTree.Element) -> Iterator[str]:
    """Slowdowns by heat or power supply; idle clocks and power caps that are set are none."""
    for family in ("clocks_event_reasons", "clocks_throttle_reasons"):
        for each in gpu.findall(f"{family}/*"):
            kind = each.tag.removeprefix("clocks_event_reason_").removeprefix("clocks_throttle_reason_")
            if (each.text or "").strip() == "Active" and kind in _SLOW:
                yield _SLOW[kind]


_SLOW = {
    "hw_slowdown": "hardware slowdown", "hw_thermal_slowdown": "too hot", "hw_power_brake_slowdown": "power brake of the server",
    "hw_power_brake": "power brake of the server", "sw_thermal_slowdown": "hot, slowed down by the driver",
}  # fmt: skip
