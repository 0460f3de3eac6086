"""`mounts`: every path that the project file names, and the file systems among them that do not answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmguard.evidence import Evidence
from llmguard.probe.mounts import Named, Silent, silent_among
from llmguard.project import SPLITS, Project

__all__ = ["Mounts", "provide"]

SECONDS = 10.0
"""An automounter may take some seconds to wake a server up."""


@dataclass(frozen=True)
class Mounts:
    """Every path the project names, and what does not answer of what they lie on."""

    named: tuple[Named, ...]
    silent: tuple[Silent, ...]


def provide(evidence: Evidence, target: str) -> Mounts:
    """The named paths, looked up in the table of mounts; asked, in a probe, are those beyond this machine alone."""
    named = tuple(_named(evidence.project))
    seconds = min(SECONDS, evidence.project.schema.environment.import_timeout)
    return Mounts(named, silent_among(named, seconds))


def _named(project: Project) -> Iterator[Named]:
    schema = project.schema
    model = project.model_override or schema.model.path
    single = {
        "[model] path": model,
        "[model] tokenizer": schema.model.tokenizer,
        "[model] adapter": schema.model.adapter,
        "[data] encoded": schema.data.encoded,
        "[queue] directory": schema.queue.directory,
    }
    several = {
        **{f"[data] {split}": getattr(schema.data, split) for split in SPLITS},
        "[config] files": schema.config.files,
        "[evaluation] results": list(schema.evaluation.results.values()),
        "[environment] requirements": schema.environment.requirements,
        "[environment] sources": schema.environment.sources,
    }
    for key, text in single.items():
        if text:
            yield Named(key, str(project.path(text)))
    for key, texts in several.items():
        yield from (Named(key, str(project.path(text))) for text in texts)
