"""`dry_run`: the user's trainer built with a small model, two steps, saved, resumed, evaluated: in a supervised child of its own.

The trainer is built twice, here and for `batches`: there with the user's own model, arguments and every row, here with a small model, few
rows and harmless arguments, within a deadline and a limit of memory; and what dies here must not take the batches with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.collected import ENVIRONMENT, Run

__all__ = ["MEMORY", "SECONDS", "provide", "run_of"]

SECONDS = 60.0
"""What a dry run may take, beside the import of torch and transformers."""
IMPORTS = 3
"""Imports of the size of torch that come before it: torch, transformers, trl."""
MEMORY = 8 * 2**30
"""Bytes at most, less where the machine has less."""
NEEDED = ("torch", "transformers", "accelerate")
DISTRIBUTED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_DEEPSPEED",
               "ACCELERATE_USE_FSDP", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_CONFIG_FILE")  # fmt: skip
"""Of a launcher: the child is one process on its own."""
NOT_OURS = ("TIMEOUT", "PROGRESSING_SLOW", "CANCELLED", "UNKNOWN", "INTERPRETER_UNREACHABLE")
"""Verdicts that say nothing about the user's code."""


def run_of(evidence: Evidence) -> Run:
    """The child, not started yet.

    Raises:
        MissingEvidence: no trainer is named, no dry run is wanted, or it cannot be made here.
    """
    pipeline = evidence.project.schema.pipeline
    if not pipeline.trainer:
        raise MissingEvidence("dry_run", 'add `[pipeline] trainer = "module:function"` to llmguard.toml')
    if not pipeline.dry_run:
        raise MissingEvidence(
            "dry_run", "switched off: remove `[pipeline] dry_run = false` from llmguard.toml"
        )
    if not all(map(find_spec, NEEDED)):
        raise MissingEvidence(
            "dry_run", "install torch, transformers and accelerate: pip install 'pytest-llmguard[train]'"
        )
    from llmguard.probe import Limits

    memory, deadline = _memory(), evidence.options.deadline
    return Run(
        evidence,
        "dry_run",
        ["dry_run"],
        module="llmguard.collect.dry_run",
        timeout=SECONDS + IMPORTS * evidence.project.schema.environment.import_timeout,
        spec={"memory": memory, "seconds": SECONDS},
        settings={
            "no_progress": min(deadline, SECONDS),
            "computing_is_progress": False,
            "hide_gpus": True,
            "limits": Limits(memory=memory, data=memory),
            "env": {**ENVIRONMENT, **dict.fromkeys(DISTRIBUTED)},
            "what": "the dry run",
        },
    )


def _memory() -> int:
    from llmguard.estimates.machine import host_memory
    from llmguard.probe.host import Host

    here = host_memory(Host())
    return MEMORY if here is None else max(2**30, min(MEMORY, here.free * 3 // 4))


def provide(evidence: Evidence, target: str) -> Mapping[str, Any]:
    """What the child found: see `llmguard.collect.dry_run`; with `ended` {verdict, message, stack} where it was ended in a stage.

    Raises:
        MissingEvidence: there is no dry run, or none that says anything here.
        EvidenceError: the child failed for reasons of its own.
    """
    run = evidence.dry_run
    result = run.result("dry_run")
    if not result["ok"]:
        result = _ended(run, result["error"])
    if result.get("unmeasured") and not result.get("failed"):
        raise MissingEvidence("dry_run", f"not tried: {result['unmeasured']}")
    return result


def _ended(run: Run, told: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a run that did not come to its end."""
    try:
        found: dict[str, Any] = json.loads((run.out / "dry_run.so_far").read_text("utf-8"))
    except (OSError, ValueError):
        raise EvidenceError("dry_run", str(told.get("message"))) from None
    verdict = str(told.get("type", "")).upper()
    slow_build = found.get("stage") == "build" and verdict == "SPIN"
    if verdict in NOT_OURS or slow_build:
        return {
            "unmeasured": f"it was not done in time, and was ended in its stage {found.get('stage')!r}: {told.get('message')}"
        }
    stack = str(told.get("stack", ""))
    own = _own_frame(stack, run.evidence.project.folder)
    return {
        **found,
        "ended": {"verdict": verdict, "message": told.get("message", ""), "stack": stack, "own": own},
    }


def _own_frame(stack: str, folder: Path) -> dict[str, Any]:
    """The innermost frame of the main thread that lies in the project, from a stack that was dumped; {} where there is none."""
    from llmguard.probe.stacks import main_thread

    for file, line, function in main_thread(stack):
        if Path(file).is_relative_to(folder) and "site-packages" not in file:
            return {"file": str(Path(file).relative_to(folder)), "line": line, "function": function}
    return {}
