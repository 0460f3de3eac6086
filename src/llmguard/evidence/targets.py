"""Targets of the kinds whose providers need numpy: told from the project file alone, so that listing checks loads none of it."""

from __future__ import annotations

from llmguard.project import Project

__all__ = ["batches", "encoded", "results", "splits"]


def splits(project: Project) -> list[str]:
    """The splits that the project names."""
    return project.splits


def encoded(project: Project) -> list[str]:
    """Where encoded rows come from: splits through `encode`, the prepared folder (by its name), the Trainer."""
    schema = project.schema
    found = [s for s in project.splits if s != "test"] if schema.pipeline.encode else []
    found += [schema.data.encoded] if schema.data.encoded else []
    return [*found, *batches(project)]


def batches(project: Project) -> list[str]:
    """`collate` and `trainer`, as far as the project names them."""
    return [name for name in ("collate", "trainer") if getattr(project.schema.pipeline, name)]


def results(project: Project) -> list[str]:
    """The names of the result sets, in the project's order."""
    return list(project.schema.evaluation.results)
