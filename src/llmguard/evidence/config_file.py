"""`config_file`: a training config as it was read, also when it could not be; `config` is the same where it could."""

from __future__ import annotations

import glob
from pathlib import Path

from llmguard.configs.config import Config
from llmguard.configs.document import Document, Problem
from llmguard.configs.nearest import nearest
from llmguard.configs.reading import SYNTAXES, has_yaml, read_document
from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.project import Project

__all__ = ["provide", "targets"]


def targets(project: Project) -> list[str]:
    """The config files that the project names, globs expanded; a pattern that matches nothing is kept as it is."""
    found: list[str] = []
    for pattern in project.schema.config.files:
        path = str(project.path(pattern))
        matches = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []  # noqa: PTH207  # patterns may be absolute
        found += [project.relative(match) for match in matches] or [pattern]
    return list(dict.fromkeys(found))


def provide(evidence: Evidence, target: str) -> Config:
    """The config file of the target; the project's ranges, data and model go with it."""
    project = evidence.project
    names = targets(project)
    if not names:
        raise MissingEvidence("config", 'add `[config] files = ["train.yaml"]` to llmguard.toml')
    name = target or names[0]
    path = project.path(name)
    return Config(
        file=name,
        document=_document(path),
        wanted=project.schema.config.dialect,
        roots=tuple(dict.fromkeys((project.folder, path.parent))),
        ranges=project.schema.config.range,
        train_files=tuple(project.files("train")),
        model=project.model_path,
        alone=len(names) == 1,
    )


def _document(path: Path) -> Document:
    if not path.exists():
        return Document(problem=_missing(path))
    if path.is_file() and SYNTAXES.get(path.suffix.lower()) == "yaml" and not has_yaml():
        raise MissingEvidence("config", "install PyYAML to have YAML configs checked: pip install pyyaml")
    return read_document(path)


def _missing(path: Path) -> Problem:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        folder = next((p for p in path.parents if p.is_dir()), path.parent)
        return Problem(
            f"there is no such file: tried {path} (the folder {path.parent} does not exist)",
            f"name a file below {folder}",
        )
    near = nearest(path.name, names)
    alike = [name for name in names if Path(name).suffix.lower() in SYNTAXES]
    hint = (
        f"write {near!r}"
        if near
        else f"name one of {', '.join(sorted(alike)[:8])}"
        if alike
        else "name the config of the run"
    )
    return Problem(f"there is no such file: tried {path}", f"{hint} in `[config] files`")
