"""A project of trainer factories, sound ones and ones with a mistake each: tests/checks/dry_run_factories.py with its models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from support import runs
from support.tiny import byte_level

__all__ = ["FACTORIES", "RUNNER", "factories"]

ROOM = Path(__file__).resolve().parents[1] / "checks"
FACTORIES, RUNNER = ROOM / "dry_run_factories.py", ROOM / "dry_run_runner.py"


def factories(folder: Path) -> Path:
    """A project with the factories, a small model with weights, and the config of a large one without."""
    model, tokenizer = runs.model(), byte_level()
    for name in ("small", "large"):
        tokenizer.save_pretrained(folder / name)
    model.save_pretrained(folder / "small")
    large = {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
    }
    config = {**model.config.to_dict(), **large, "num_key_value_heads": 4, "head_dim": 64}
    (folder / "large/config.json").write_text(json.dumps(config, default=str), "utf-8")
    shutil.copy(FACTORIES, folder / "factories.py")
    return folder
