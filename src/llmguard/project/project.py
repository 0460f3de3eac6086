"""A project: its file, its tables, and every path and `module:function` resolved from that file's folder."""

from __future__ import annotations

import glob
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llmguard.project.schema import Schema

__all__ = ["SPLITS", "Project"]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Project:
    """What `llmguard.toml` says, ready to be used. `file` is None for the project that says nothing."""

    file: Path | None
    schema: Schema
    model_override: str | None = None
    folder_override: Path | None = None

    @classmethod
    def empty(cls, folder: Path) -> Project:
        """The project of a folder without a project file: only the environment can be checked."""
        return cls(file=None, schema=Schema(), folder_override=folder)

    @cached_property
    def folder(self) -> Path:
        """The folder that paths and imports are resolved from."""
        if self.file is not None:
            return self.file.parent
        return (self.folder_override or Path()).resolve()

    @property
    def name(self) -> str:
        """The name shown in reports: the project file, relative to where it is used."""
        return self.file.name if self.file else "(no project file)"

    def path(self, text: str) -> Path:
        """A path of the project file, resolved from that file's folder; `~` is expanded."""
        return Path(self.folder, Path(text).expanduser())

    def files(self, split: str) -> list[Path]:
        """The data files of a split in a fixed order, globs expanded; a pattern that matches nothing is kept as it is."""
        found: list[Path] = []
        for pattern in getattr(self.schema.data, split):
            path = self.path(pattern)
            matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(path)) else []  # noqa: PTH207  # absolute patterns
            found += [Path(m) for m in matches] or [path]
        return list(dict.fromkeys(found))

    @property
    def splits(self) -> list[str]:
        """The splits that the project names, in the order train, validation, test."""
        return [s for s in SPLITS if getattr(self.schema.data, s)]

    @property
    def model_path(self) -> str | None:
        """The model: MODEL_PATH from the environment, else `[model] path`; a folder where there is one."""
        return self._model_or_id(self.model_override or self.schema.model.path)

    @property
    def tokenizer_path(self) -> str | None:
        """The tokenizer: `[model] tokenizer`, else the model's."""
        own = self.schema.model.tokenizer
        return self._model_or_id(own) if own else self.model_path

    def _model_or_id(self, text: str | None) -> str | None:
        if text is None:
            return None
        local = self.path(text)
        return str(local) if local.exists() or looks_like_path(text) else text

    @property
    def adapter_path(self) -> Path | None:
        """The adapter's folder."""
        return self.path(self.schema.model.adapter) if self.schema.model.adapter else None

    def relative(self, path: Path | str) -> str:
        """A path as reports show it: from the project's folder where it lies there."""
        try:
            return str(Path(path).relative_to(self.folder))
        except ValueError:
            return str(path)

    def replaced(self, **tables: Any) -> Project:
        """The project with some values of `[model]` replaced (command line options that win over the file)."""
        model = self.schema.model.model_copy(update=tables)
        return replace(
            self,
            schema=self.schema.model_copy(update={"model": model}),
            model_override=tables.get("path", self.model_override),
        )


def looks_like_path(text: str) -> bool:
    """Whether a model name can only be a path: absolute, dotted or deep. A hub id is `owner/name`, or a bare `name` (gpt2)."""
    return text.startswith(("/", ".", "~")) or text.count("/") > 1 or "\\" in text or text.endswith("/")
