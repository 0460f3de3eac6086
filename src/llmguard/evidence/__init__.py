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
    from llmguard.evidence.collected import Collected, Run
    from llmguard.project import Project

__all__ = ["KINDS", "Evidence", "Options"]

KINDS: dict[str, str] = {
    "adapter": "llmguard.evidence.adapter",
    "adapter_effect": "llmguard.evidence.adapter_effect",
    "adapter_files": "llmguard.evidence.adapter_files",
    "batches": "llmguard.evidence.batches",
    "checkpoints": "llmguard.evidence.checkpoints",
    "completions": "llmguard.evidence.completions",
    "config": "llmguard.evidence.config",
    "config_file": "llmguard.evidence.config_file",
    "context": "llmguard.evidence.context",
    "dry_run": "llmguard.evidence.dry_run",
    "encoded": "llmguard.evidence.encoded",
    "endpoint": "llmguard.evidence.endpoint",
    "environment": "llmguard.evidence.environment",
    "files": "llmguard.evidence.files",
    "generations": "llmguard.evidence.generations",
    "hub_cache": "llmguard.evidence.hub_cache",
    "isolation": "llmguard.evidence.isolation",
    "loading": "llmguard.evidence.loading",
    "memory": "llmguard.evidence.memory",
    "model": "llmguard.evidence.model",
    "mounts": "llmguard.evidence.mounts",
    "overlaps": "llmguard.evidence.overlaps",
    "pipeline": "llmguard.evidence.pipeline",
    "prepared": "llmguard.evidence.prepared",
    "project": "llmguard.evidence.settings",
    "prompts": "llmguard.evidence.prompts",
    "remote": "llmguard.evidence.remote",
    "repository": "llmguard.evidence.repository",
    "results": "llmguard.evidence.results",
    "rows": "llmguard.evidence.rows",
    "sources": "llmguard.evidence.sources",
    "stops": "llmguard.evidence.stops",
    "template": "llmguard.evidence.template",
    "test": "llmguard.evidence.splits",
    "tokenizer": "llmguard.evidence.tokenizer",
    "train": "llmguard.evidence.splits",
    "trainer": "llmguard.evidence.trainer",
    "validation": "llmguard.evidence.splits",
}
"""Evidence kind -> the module that provides it. Kinds of later families are added here."""

SETTINGS: dict[str, Callable[[Any], Any]] = {
    "add_special_tokens": lambda project: project.schema.prompt.add_special_tokens,
    "alpha": lambda project: project.schema.evaluation.alpha,
    "group": lambda project: project.schema.data.group,
    "kind": lambda project: project.schema.model.kind,
    "max_length": lambda project: project.schema.pipeline.max_length,
    "temperature": lambda project: project.schema.generation.temperature,
    "smallest_effect": lambda project: project.schema.evaluation.smallest_effect,
    "train_on": lambda project: project.schema.pipeline.train_on,
}
"""Settings of the project file that checks may take by name beside evidence; None counts as missing."""

SETTING_LINES: dict[str, str] = {
    "group": '[data] group = "document_id"',
    "kind": '[model] kind = "base"` (or `"chat"',
    "max_length": "[pipeline] max_length = 512",
}
"""The line to add for a setting that has no default."""

BY_NAME = frozenset({"train", "validation", "test"})
"""Splits that are evidence of their own, whatever a check is repeated over."""
ONE_TARGET = frozenset(
    {"encoded", "batches", "isolation", "files", "rows", "prompts", "config", "config_file", "results"}
)


@dataclass(frozen=True)
class Options:
    """How evidence is gathered.

    `sample`: at most so many rows go through the user's own functions (whole files are read all the same).
    `share`: a folder that several processes of one session may share results of child processes in.
    `deadline`: seconds that a child running the user's code may take without any progress.
    `gpu`: models may be put on a GPU (a project's `[environment] gpu` says so as well).
    """

    sample: int = 2000
    share: Path | None = None
    deadline: float = 60.0
    gpu: bool = False


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
        from llmguard.evidence import targets

        light = {
            "encoded": targets.encoded,
            "batches": targets.batches,
            "prompts": targets.splits,
            "rows": targets.splits,
            "files": targets.splits,
            "results": targets.results,
        }
        return list((light.get(kind) or _provider(kind).targets)(self.project))

    def get(self, kind: str, target: str = "", *, over: str = "") -> Any:
        """The evidence of a kind for a target of the kind `over`.

        Raises:
            MissingEvidence: the project does not name it; says the line to add.
            EvidenceError: it is named and cannot be had.
            UsageError: there is no such kind.
        """
        if kind in SETTINGS:
            return self._setting(kind)
        if kind == "encoded" and over == "batches":
            return self._before(target)
        if kind == "prompts" and over == "encoded" and not self._generation_is_told():
            raise MissingEvidence(
                "prompts",
                'add `[prompt] build = "module:function"` (or `format = "…"`): how prompts are built for generation',
            )
        key = (kind, self._target(kind, target, over))
        with self._lock:
            if key not in self._known:
                self._known[key] = self._load(*key)
        found = self._known[key]
        if isinstance(found, (MissingEvidence, EvidenceError)):
            raise found.with_traceback(None)
        return found

    def _generation_is_told(self) -> bool:
        """Whether the project says how it prompts: by a builder, a format, or being a chat model."""
        schema = self.project.schema
        return bool(schema.prompt.build or schema.prompt.format or schema.model.kind == "chat")

    def _before(self, target: str) -> Any:
        """The encoded rows that went into a batch, for checks that compare both sides of a collator."""
        before = self.get("batches", target, over="batches").before
        if before is None:
            raise MissingEvidence("encoded", 'add `[pipeline] encode = "module:function"` to llmguard.toml')
        return before

    def _target(self, kind: str, target: str, over: str) -> str:
        """The target of a kind for a check that is repeated over another kind."""
        if kind not in ONE_TARGET or not over:
            return ""
        if kind == over:
            return target
        if kind in ("rows", "prompts", "files"):
            return target if target in self.project.splits else "train"
        choices = self.targets(kind)
        return target if target in choices else (choices[0] if choices else "")

    def _load(self, kind: str, target: str) -> Any:
        try:
            return _provider(kind).provide(self, kind if kind in BY_NAME else target)
        except (MissingEvidence, EvidenceError) as known:
            return known

    def _setting(self, name: str) -> Any:
        value = SETTINGS[name](self.project)
        if value is None:
            raise MissingEvidence(name, f"add `{SETTING_LINES[name]}` to llmguard.toml")
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

    @cached_property
    def dry_run(self) -> Run:
        """The child that makes the dry run; not started yet.

        Raises:
            MissingEvidence: the project names no trainer, or wants no dry run.
        """
        from llmguard.evidence.dry_run import run_of

        return run_of(self)

    def close(self) -> None:
        """Stop what still runs and remove the scratch folder."""
        if "collected" in self.__dict__:
            self.collected.close()
        if "dry_run" in self.__dict__:
            self.dry_run.close()
        if tried := self._known.get(("environment", "")):
            tried.close()
        if "scratch" in self.__dict__:
            shutil.rmtree(self.scratch, ignore_errors=True)


def _provider(kind: str) -> Any:
    if kind not in KINDS:
        raise UsageError("evidence", kind, f"one of {', '.join(sorted({*KINDS, *SETTINGS}))}")
    return importlib.import_module(KINDS[kind])
