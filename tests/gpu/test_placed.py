"""Placement on real hardware: UUIDs are those of the driver, of nvidia-smi and of torch; workers are where they were put."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmguard.placement import gpus_here

pytestmark = [pytest.mark.needs_torch, pytest.mark.gpu]
SEEN = """
import json, torch
print(json.dumps([str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count())]))
"""


def seen(**environ: str) -> list[str]:
    """The UUIDs that torch sees in a process with this environment."""
    told = subprocess.check_output(
        [sys.executable, "-c", SEEN], env={**os.environ, **environ}, text=True, timeout=300
    )
    return [uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}" for uuid in json.loads(told)]


def test_devices_are_the_ones_that_torch_sees() -> None:
    """In the same order, with the same UUIDs, also where the caller's list is short or turned around."""
    here = gpus_here()
    assert [gpu.entry for gpu in here] == seen()
    assert all(gpu.total and gpu.total > 2**30 for gpu in here)
    turned = ",".join(reversed([gpu.entry for gpu in here]))
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": turned}
    assert (
        [gpu.entry for gpu in gpus_here(environ=environ)]
        == turned.split(",")
        == seen(CUDA_VISIBLE_DEVICES=turned)
    )


def test_a_uuid_shows_one_device_and_its_free_memory_is_told() -> None:
    """What a worker gets; nvidia-smi and the driver agree on what is free, up to contexts and what the driver keeps for itself."""
    import torch

    gpu = gpus_here()[-1]
    assert seen(CUDA_VISIBLE_DEVICES=gpu.entry) == [gpu.entry]
    if gpu.free is None:
        pytest.skip("nvidia-smi does not tell what is free here")
    free = torch.cuda.mem_get_info(torch.cuda.device_count() - 1)[0]
    assert abs(free - gpu.free) < 3 * 2**30


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no nvidia-smi in this container")
def test_nvidia_smi_names_them_alike() -> None:
    """`nvidia-smi -L` lists every GPU of the machine: ours are among them."""
    listed = subprocess.check_output(["nvidia-smi", "-L"], text=True, timeout=60)
    whole = [gpu.entry for gpu in gpus_here() if not gpu.entry.startswith("MIG-")]
    assert [uuid for uuid in whole if uuid not in listed] == []


WORKERS = """
import json, os, time
import pytest, torch

@pytest.mark.gpu
@pytest.mark.parametrize("number", range(4))
def test_computes(number):
    start = time.monotonic()
    one = torch.ones(64, 64, device="cuda")
    assert float((one @ one)[0, 0]) == 64.0
    assert torch.cuda.device_count() == 1
    line = {"device": os.environ["CUDA_VISIBLE_DEVICES"], "uuid": str(torch.cuda.get_device_properties(0).uuid)}
    with open("said.jsonl", "a") as file:
        file.write(json.dumps({**line, "start": start, "end": time.monotonic()}) + "\\n")
"""


def test_workers_compute_where_they_were_put(tmp_path: Path) -> None:
    """More workers than GPUs: each sees one, by UUID, and on one GPU there is one test at a time."""
    (tmp_path / "test_it.py").write_text(WORKERS)
    gpus = [gpu.entry for gpu in gpus_here()]
    environ = {k: v for k, v in os.environ.items() if k not in ("LLMGUARD_GPU_TURN", "PYTEST_XDIST_WORKER")}
    environ["LLMGUARD_LOCKS"] = str(tmp_path / "locks")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        "--gpu",
        "-n",
        str(len(gpus) + 1),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert {line["device"] for line in lines} <= set(gpus)
    assert all(line["uuid"].removeprefix("GPU-") == line["device"].removeprefix("GPU-") for line in lines)
    for one in lines:
        beside = [o for o in lines if o is not one and o["device"] == one["device"]]
        assert not any(o["start"] <= one["start"] < o["end"] for o in beside), lines
