"""`sources`: the user's Python files, parsed: those that the project names, else the modules behind its `module:function` names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.project import Project
from llmguard.sources.read import Sources, read_sources

__all__ = ["provide", "targets"]


def targets(project: Project) -> list[str]:
    """Sources come once a project."""
    return []


def provide(evidence: Evidence, target: str) -> Sources:
    """The sources of the project."""
    project = evidence.project
    named = project.schema.environment.sources or list(dict.fromkeys(_behind_references(project)))
    if not named:
        raise MissingEvidence("sources", 'add `[environment] sources = ["train.py"]` to llmguard.toml')
    return read_sources(project.folder, named, project.schema.environment.requirements)


def _behind_references(project: Project) -> Iterator[str]:
    """The files of the modules that the project file refers to, where they lie in its folder."""
    pipeline = project.schema.pipeline
    for reference in (
        pipeline.encode,
        pipeline.collate,
        pipeline.trainer,
        pipeline.generate,
        project.schema.prompt.build,
    ):
        if reference:
            path = Path(*reference.partition(":")[0].split("."))
            for file in (path.with_suffix(".py"), path / "__init__.py", Path("src", path).with_suffix(".py")):
                if (project.folder / file).is_file():
                    yield str(file)
                    break
