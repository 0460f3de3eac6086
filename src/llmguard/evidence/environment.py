"""`environment`: the machine, tried in probes when a check asks for it."""

from __future__ import annotations

from collections.abc import Iterator

from llmguard.configs.config import is_open
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.probe.environment import Environment, Folder
from llmguard.project import Project

__all__ = ["provide"]

NEEDS_TORCH = ("trainer", "collate", "generate")
"""The keys of `[pipeline]` whose functions handle tensors."""


def provide(evidence: Evidence, target: str) -> Environment:
    """What the project file asks of the machine; nothing is tried yet."""
    project = evidence.project
    wanted = project.schema.environment
    return Environment(
        folder=str(project.folder),
        torch_needed_by=_needed_by(project),
        torch_wanted_by="[model] path" if project.model_path else "",
        gpu=wanted.gpu or bool(wanted.gpu_name or wanted.gpu_count),
        gpu_name=wanted.gpu_name or "",
        gpu_count=wanted.gpu_count,
        gpu_memory=wanted.gpu_memory if isinstance(wanted.gpu_memory, int) else None,
        import_timeout=wanted.import_timeout,
        folders=tuple(dict.fromkeys((*_folders(project), *_of_configs(evidence)))),
        checkpoint_size=wanted.checkpoint_size if isinstance(wanted.checkpoint_size, int) else None,
    )


def _needed_by(project: Project) -> str:
    """The first key of the project file that cannot do without torch, as it is written there."""
    wanted = project.schema.environment
    for name in ("gpu", "gpu_name", "gpu_count"):  # `gpu_memory` alone may be about another machine
        if getattr(wanted, name):
            return f"[environment] {name}"
    for name in NEEDS_TORCH:
        if getattr(project.schema.pipeline, name):
            return f"[pipeline] {name}"
    return "[model] adapter" if project.schema.model.adapter else ""


def _of_configs(evidence: Evidence) -> Iterator[Folder]:
    """Where the training configs write, where that is somewhere else than `[environment] output_dir`: what is checked is what is used.

    Configs on a file system that does not answer are not read.
    """
    project = evidence.project
    if not project.schema.config.files or evidence.get("mounts").silent:
        return
    named = {folder.path for folder in _folders(project)}
    for target in evidence.targets("config"):
        try:
            config = evidence.get("config", target, over="config")
        except (EvidenceError, MissingEvidence):
            continue
        for setting in config.settings:
            if setting.name == "output_dir" and isinstance(setting.value, str) and not is_open(setting.value):
                path = str(project.path(setting.value))
                if path not in named:
                    yield Folder("output_dir", path, f"{config.file}:{setting.item.line}")


def _folders(project: Project) -> tuple[Folder, ...]:
    wanted = project.schema.environment
    named = [("output_dir", wanted.output_dir), *(("cache_dirs", path) for path in wanted.cache_dirs)]
    return tuple(Folder(key, str(project.path(path))) for key, path in named if path)
