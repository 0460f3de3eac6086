"""Machines that are not there: files of /proc, /sys and /dev, a driver's library, nvidia-smi, and a torch with a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmguard.probe.environment import Environment
from llmguard.probe.host import Host

__all__ = ["FINE", "Card", "World", "compile_libcuda", "cuda_torch", "host_of", "smi_report"]

FINE = "class Tensor: pass\n__version__ = '9.9.9'\n"
H100 = "NVIDIA H100 80GB HBM3"
GiB = 2**30

LIBCUDA = r"""
/* libcuda.so.1 as far as it is asked here; what it does stands in CUDA_STUB_* of the environment */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static long number(const char *name, long otherwise) { const char *s = getenv(name); return s ? atol(s) : otherwise; }
static int started;
int cuInit(unsigned flags) {
    if (getenv("CUDA_STUB_HANG")) for (;;) pause();
    if (getenv("CUDA_STUB_CRASH")) abort();
    started = number("CUDA_STUB_CODE", 0) == 0;
    return number("CUDA_STUB_CODE", 0);
}
int cuGetErrorName(int code, const char **text) { *text = "CUDA_ERROR_OF_THE_STUB"; return 0; }
int cuGetErrorString(int code, const char **text) { *text = "as it was told"; return 0; }
int cuDriverGetVersion(int *version) { *version = number("CUDA_STUB_VERSION", 12040); return 0; }
int cuDeviceGetCount(int *count) { *count = number("CUDA_STUB_COUNT", 1); return started ? 0 : 3; }
int cuDeviceGet(int *device, int which) { *device = which; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    const char *s = getenv("CUDA_STUB_NAME"); snprintf(name, size, "%s", s ? s : "NVIDIA H100 80GB HBM3"); return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = number("CUDA_STUB_MEMORY", 85017624576L); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    long sm = number("CUDA_STUB_SM", 90); *value = which == 75 ? sm / 10 : sm % 10; return 0;
}
int cuDeviceGetUuid(char *uuid, int device) { memset(uuid, 0x10 + device, 16); return 0; }
"""

CUDA_TORCH = """
class version:
    cuda = {cuda!r}
    hip = None
class _C:
    _cuda_getArchFlags = staticmethod(lambda: {arch!r})
class _Product:
    def __matmul__(self, other):
        {kernel}
        return self
    def __getitem__(self, key): return self
    def item(self): return {product}
def ones(*shape, device): return _Product()
class cuda:
    is_available = staticmethod(lambda: {count} > 0)
    device_count = staticmethod(lambda: {count})
    get_device_name = staticmethod(lambda number: "Fake GPU")
    @staticmethod
    def init():
        {init}
    @staticmethod
    def synchronize(number):
        {synchronize}
"""


def cuda_torch(
    *,
    count: int = 1,
    product: float = 64.0,
    init: str = "pass",
    kernel: str = "pass",
    synchronize: str = "pass",
    cuda: str = "12.4",
    arch: str = "sm_80 sm_90",
) -> str:
    """The text of a package torch that has GPUs."""
    return FINE + CUDA_TORCH.format(
        count=count, product=product, init=init, kernel=kernel, synchronize=synchronize, cuda=cuda, arch=arch
    )


def compile_libcuda(folder: Path) -> str:
    """The folder of the driver's library; "" where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return ""
    source = folder / "libcuda.c"
    source.write_text(LIBCUDA)
    command = [compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return str(folder)


def host_of(root: Path, files: Mapping[str, str]) -> Host:
    """A machine whose kernel says what stands in these files."""
    for path, text in files.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Host(str(root))


@dataclass(frozen=True)
class Card:
    """A GPU of the report: every field as nvidia-smi writes it."""

    name: str = H100
    total: str = "81559 MiB"
    used: str = "1 MiB"
    mode: str = "Default"
    mig: str = "Disabled"
    uuid: str = "GPU-10101010-1010-1010-1010-101010101010"
    processes: tuple[tuple[int, str, str], ...] = ()
    more: str = ""


def smi_report(*cards: Card, driver: str = "550.54.15", cuda: str = "12.4") -> str:
    """What `nvidia-smi -q -x` prints."""
    return f"""<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
\t<timestamp>Sat Nov 21 15:00:00 2026</timestamp>
\t<driver_version>{driver}</driver_version>
\t<cuda_version>{cuda}</cuda_version>
\t<attached_gpus>{len(cards)}</attached_gpus>
{"".join(map(_gpu, cards))}</nvidia_smi_log>
"""


def _gpu(card: Card) -> str:
    processes = "".join(
        f"<process_info><gpu_instance_id>N/A</gpu_instance_id><compute_instance_id>N/A</compute_instance_id><pid>{pid}</pid>"
        f"<type>C</type><process_name>{name}</process_name><used_memory>{used}</used_memory></process_info>"
        for pid, name, used in card.processes
    )
    return f"""\t<gpu id="00000000:3B:00.0">
\t\t<product_name>{card.name}</product_name>
\t\t<mig_mode><current_mig>{card.mig}</current_mig><pending_mig>{card.mig}</pending_mig></mig_mode>
\t\t<uuid>{card.uuid}</uuid>
\t\t<gpu_virtualization_mode><virtualization_mode>None</virtualization_mode></gpu_virtualization_mode>
\t\t<fb_memory_usage><total>{card.total}</total><reserved>551 MiB</reserved><used>{card.used}</used></fb_memory_usage>
\t\t<compute_mode>{card.mode}</compute_mode>
\t\t<processes>{processes}</processes>
{card.more}
\t</gpu>
"""


@dataclass
class World:
    """A machine to be: what is set up here is what its `Environment` finds."""

    folder: Path
    libcuda: str = ""
    environ: dict[str, str | None] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("project", "library", "bin", "empty", "root"):
            (self.folder / name).mkdir(exist_ok=True)
        tools = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        self.environ = {
            "PYTHONPATH": str(self.folder / "library"), "PATH": tools, "CUDA_VISIBLE_DEVICES": None,
            # where no driver is to be found: an empty folder does not keep the loader from the system's own
            "LD_LIBRARY_PATH": self.libcuda or None, **self.environ,
        }  # fmt: skip

    def torch(self, text: str) -> World:
        """Install this torch."""
        home = self.folder / "library" / "torch"
        home.mkdir(exist_ok=True)
        (home / "__init__.py").write_text(text)
        return self

    def devices(self, count: int = 1) -> World:
        """Device files, and the driver's own."""
        self.files |= {f"/dev/nvidia{n}": "" for n in range(count)} | {"/dev/nvidiactl": ""}
        self.files["/proc/driver/nvidia/version"] = (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12\n"
        )
        return self

    def smi(self, script: str) -> World:
        """Install this shell script as nvidia-smi."""
        file = self.folder / "bin" / "nvidia-smi"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return self

    def reports(self, *cards: Card, **versions: str) -> World:
        """Let nvidia-smi tell of these GPUs."""
        (self.folder / "report.xml").write_text(smi_report(*cards, **versions))
        return self.smi(f"cat {self.folder / 'report.xml'}")

    def environment(self, **settings: object) -> Environment:
        """The machine, for a project that needs a GPU; deadlines are short."""
        given: dict[str, object] = {
            "gpu": True, "import_timeout": 1.0, "driver_timeout": 1.5, "query_timeout": 1.5, "torch_needed_by": "[environment] gpu",
            "host": host_of(self.folder / "root", self.files), "environ": self.environ, **settings,
        }  # fmt: skip
        return Environment(str(self.folder / "project"), **given)  # type: ignore[arg-type]  # by name
