"""What a project says of its model where no Trainer does: the config in its folder, and the attention that its files speak of."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmguard.collect.flash import NAME
from llmguard.project import Project

__all__ = ["declared_attention", "declared_config"]

LINE = 'add `[model] path = "…"` to llmguard.toml: the folder of the model, its config.json is enough'
FLASH = re.compile(
    r"""flash_attention_[234]|flash-attn\d|^\s*(?:flash_attention|flash_attn)\s*:\s*(?:true|fa2)\b""", re.M
)
OTHER = re.compile(r"""attn_implementation["']?\s*[:=]\s*["']?(eager|sdpa)\b""")
LARGEST = 2**20


def declared_config(project: Project) -> dict[str, Any]:
    """`config` of the project's model, or `missing`: why there is none."""
    path = project.model_path
    if path is None or not _has_config(str(path)):
        return {"missing": LINE}
    from transformers import AutoConfig

    trusted = project.schema.model.trust_remote_code
    try:
        return {"config": AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=trusted)}
    except Exception as fault:  # a config of any sort of damage, or one that is not in the local cache
        lines = str(fault).strip().splitlines() or [""]
        return {"missing": f"the model's config does not load: {type(fault).__name__}: {lines[0]}"[:300]}


def _has_config(path: str) -> bool:
    folder = Path(path)
    return (folder / "config.json").is_file() if folder.is_dir() else True


def declared_attention(project: Project) -> str | None:
    """The attention implementation that the project's configs, sources or imported modules name; None where they name none."""
    texts = list(_texts(project))
    if any(FLASH.search(t) for t in texts):
        return NAME
    named = {m[1] for t in texts for m in OTHER.finditer(t)}
    return named.pop() if len(named) == 1 else None


def _texts(project: Project) -> Iterator[str]:
    told = [*project.schema.config.files, *project.schema.environment.sources]
    files = [Path(project.path(t)) for t in told]
    pipeline = project.schema.pipeline
    for reference in filter(None, (pipeline.collate, pipeline.encode, pipeline.trainer, pipeline.generate)):
        module = sys.modules.get(reference.partition(":")[0])
        if module is not None and getattr(module, "__file__", None):
            files.append(Path(str(module.__file__)))
    for file in dict.fromkeys(files):
        for each in sorted(file.rglob("*.py")) if file.is_dir() else [file]:
            if each.is_file() and each.stat().st_size <= LARGEST:
                yield each.read_text("utf-8", "replace")
