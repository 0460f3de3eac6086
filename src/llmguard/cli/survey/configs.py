"""Training configs and where runs write to: by the keys that training configs have."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llmguard.cli.survey.models import read_json
from llmguard.cli.survey.tree import Tree

if sys.version_info >= (3, 11):
    import tomllib
else:  # the parser came into the standard library with 3.11
    import tomli as tomllib

__all__ = ["Config", "configs_in", "output_folders_in"]

KEYS = frozenset(
    """learning_rate lr num_train_epochs num_epochs epochs max_steps per_device_train_batch_size micro_batch_size batch_size
    gradient_accumulation_steps warmup_ratio warmup_steps weight_decay lr_scheduler_type lr_scheduler optimizer optim bf16 fp16
    lora_r lora_alpha lora_rank lora_target_modules sequence_len cutoff_len max_length max_seq_length max_seq_len base_model
    model_name_or_path finetuning_type stage output_dir save_steps eval_steps logging_steps seed""".split()
)
ENOUGH = 3
"""Keys of `KEYS` that make a file a training config."""
MODEL_KEYS = ("model_name_or_path", "base_model", "model_name", "model_id", "pretrained_model_name_or_path")
NO_CONFIGS = frozenset(
    {
        "pyproject.toml",
        "llmguard.toml",
        "ruff.toml",
        "package.json",
        "tsconfig.json",
        "trainer_state.json",
        "training_args.json",
    }
)
OUTPUTS = re.compile(r"(^|/)(out|output|outputs|checkpoints|ckpts|runs)$")
CHECKPOINT = re.compile(r"^checkpoint-\d+$")
LARGEST = 1 << 20


@dataclass(frozen=True)
class Config:
    """A training config, with the model and the output folder that it names ('' where it names none)."""

    path: str
    model: str = ""
    output_dir: str = ""


def configs_in(tree: Tree) -> list[Config]:
    """Files that have at least `ENOUGH` keys of training configs, nested ones included."""
    files = [
        f for f in tree.ending(".yaml", ".yml", ".json", ".toml") if PurePosixPath(f).name not in NO_CONFIGS
    ]
    found = [_config(tree.root, f) for f in files]
    return [c for c in found if c is not None]


def _config(root: Path, path: str) -> Config | None:
    values = _flat(_read(root / path))
    if len(KEYS & values.keys()) < ENOUGH:
        return None
    model = next(
        (str(values[k]) for k in MODEL_KEYS if isinstance(values.get(k), str) and values[k].strip()), ""
    )
    output = values.get("output_dir")
    return Config(path, model, output if isinstance(output, str) else "")


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST:
            return {}
        if path.suffix == ".toml":
            return tomllib.loads(path.read_text("utf-8"))
        if path.suffix == ".json":
            return read_json(path)
        import yaml

        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, ImportError):
        return {}
    except Exception as bad:  # yaml.YAMLError is no ValueError, and yaml may not be there to be named
        if type(bad).__module__.partition(".")[0] != "yaml":
            raise
        return {}


def _flat(value: Any, depth: int = 0) -> dict[str, Any]:
    """Keys of a config and of the tables in it, without their path."""
    if not isinstance(value, Mapping) or depth > 3:  # deeper tables are no training arguments
        return {}
    inner = [_flat(v, depth + 1) for v in value.values()]
    found = {k: v for part in inner for k, v in part.items()}
    return {**found, **{str(k): v for k, v in value.items() if not isinstance(v, Mapping)}}


def output_folders_in(tree: Tree, configs: list[Config]) -> list[str]:
    """Where runs write to: as the configs say, else folders with checkpoints in them, else by the usual names."""
    said = [c.output_dir for c in configs if c.output_dir]
    parents = [str(PurePosixPath(f).parent) for f in tree.folders if CHECKPOINT.match(PurePosixPath(f).name)]
    usual = [f for f in tree.folders if OUTPUTS.search(f)]
    return list(dict.fromkeys([*said, *(p for p in parents if p != "."), *usual]))
