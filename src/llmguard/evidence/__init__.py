"""What checks read: each kind loaded once a session, lazily, by one provider, and bound to checks by parameter name.

A provider is a module with `provide(evidence, target) -> object` and, for kinds that come once a split, file or batch source,
`targets(project) -> list[str]` (which reads nothing but the project file).
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmguard.errors import EvidenceError, MissingEvidence, UsageError

if TYPE_CHECKING:
    from llmguard.evidence.collected import Collected
    from llmguard.project import Project

__all__ = ["KINDS", "Evidence", "Options"]

KINDS: dict[str, str] = {
    "adapter": "llmguard.evidence.adapter",
    "batches": "llmguard.evidence.batches",
    "completions": "llmguard.evidence.completions",
    "config": "llmguard.evidence.config",
    "encoded": "llmguard.evidence.encoded",
    "environment": "llmguard.evidence.environment",
    "files": "llmguard.evidence.files",
    "model": "llmguard.evidence.model",
    "pipeline": "llmguard.evidence.pipeline",
    "project": "llmguard.evidence.settings",
    "prompts": "llmguard.evidence.prompts",
    "rows": "llmguard.evidence.rows",
    "sources": "llmguard.evidence.sources",
    "template": "llmguard.evidence.template",
    "test": "llmguard.evidence.splits",
    "tokenizer": "llmguard.evidence.tokenizer",
    "train": "llmguard.evidence.splits",
}
"""Evidence kind -> the module that provides it. Kinds of later families are added here."""

SETTINGS: dict[str, Callable[[Any], Any]] = {
    "kind": lambda project: project.schema.model.kind,
    "max_length": lambda project: project.schema.pipeline.max_length,
    "train_on": lambda project: project.schema.pipeline.train_on,
}
"""Settings of the project file that checks may take by name beside evidence; None counts as missing."""

ONE_TARGET = frozenset({"encoded", "batches", "files", "rows", "prompts", "config"})


@dataclass(frozen=True)
class Options:
    """How evidence is gathered.

    `sample`: at most so many rows go through the user's own functions (whole files are read all the same).
    `share`: a folder that several processes of one session may share results of child processes in.
    `deadline`: seconds that a child running the user's code may take without any progress.
    """

    sample: int = 2000
    share: Path | None = None
    deadline: float = 60.0


class Evidence:
    """All evidence of one project; `get` loads a kind on first use and remembers also that it could not be had."""

    def __init__(self, project: Project, options: Options | None = None) -> None:
        self.project, self.options = project, options or Options()
        self._known: dict[tuple[str, str], Any] = {}
        self._lock = threading.RLock()

    def targets(self, kind: str) -> list[str]:
        """The targets of a kind in this project, without loading anything.

        Raises:
            UsageError: there is no such kind.
        """
        return list(_provider(kind).targets(self.project))

    def get(self, kind: str, target: str = "", *, over: str = "") -> Any:
        """The evidence of a kind for a target of the kind `over`.

        Raises:
            MissingEvidence: the project does not name it; says the line to add.
            EvidenceError: it is named and cannot be had.
            UsageError: there is no such kind.
        """
        if kind in SETTINGS:
            return self._setting(kind)
        key = (kind, target if over and kind in ONE_TARGET else "")
        with self._lock:
            if key not in self._known:
                self._known[key] = self._load(*key)
        found = self._known[key]
        if isinstance(found, (MissingEvidence, EvidenceError)):
            raise found.with_traceback(None)
        return found

    def _load(self, kind: str, target: str) -> Any:
        try:
            return _provider(kind).provide(self, target) if kind not in ("train", "test") else _provider(kind).provide(self, kind)
        except (MissingEvidence, EvidenceError) as known:
            return known

    def _setting(self, name: str) -> Any:
        value = SETTINGS[name](self.project)
        if value is None:
            raise MissingEvidence(name, f"set `{name}` in the project file")
        return value

    @cached_property
    def scratch(self) -> Path:
        """A folder of this session for what child processes write."""
        return Path(tempfile.mkdtemp(prefix="llmguard-"))

    @cached_property
    def collected(self) -> Collected:
        """What the children that load the tokenizer and run the user's own code brought back."""
        from llmguard.evidence.collected import Collected

        return Collected(self)

    def close(self) -> None:
        """Stop what still runs and remove the scratch folder."""
        if "collected" in self.__dict__:
            self.collected.close()
        if "scratch" in self.__dict__:
            shutil.rmtree(self.scratch, ignore_errors=True)


def _provider(kind: str) -> Any:
    if kind not in KINDS:
        raise UsageError("evidence", kind, f"one of {', '.join(sorted({*KINDS, *SETTINGS}))}")
    return importlib.import_module(KINDS[kind])
