"""Plots of runs for the HTML report: what a training run has drawn of itself into the project's output folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmguard.errors import ProjectError
from llmguard.probe.mounts import where_it_lies
from llmguard.probe.scratch import is_remote
from llmguard.project import load_project

if TYPE_CHECKING:
    from pytest_llmguard.manager import Manager

__all__ = ["plots_of"]

NAME = "metrics.svg"
"""What `llmguard_core` draws beside its checkpoints: loss, gradient norm, memory, samples."""
LARGEST = 1 << 20


def plots_of(manager: Manager) -> list[tuple[str, bytes]]:
    """A caption and an SVG for each project of the session that has one; files on network volumes are left alone: they may hang."""
    return [
        found
        for project in dict.fromkeys(str(r["project"]) for r in manager.records.values())
        for found in _of(manager, project)
    ]


def _of(manager: Manager, name: str) -> Iterator[tuple[str, bytes]]:
    file = Path(manager.config.rootpath, name)
    try:
        project = load_project(file)
        told = project.schema.environment.output_dir
        if not told or is_remote(where_it_lies(str(project.path(told)))[1]):
            return
        plot = project.path(told) / NAME
        if 0 < plot.stat().st_size <= LARGEST:
            yield project.relative(plot), plot.read_bytes()
    except (OSError, ProjectError):  # no project file, no plot: a report is written all the same
        return
