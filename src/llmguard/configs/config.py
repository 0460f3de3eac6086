"""`Config`: a training config ready to be judged: its settings by the names our rules use, each with its place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmguard.configs.dialects import FOREIGN, Section, sections_of
from llmguard.configs.document import OPAQUE, Document, Item
from llmguard.configs.libraries import library_of
from llmguard.configs.library import Field
from llmguard.configs.names import OUR_NAMES, canonical_name, own_name
from llmguard.configs.reading import read_document
from llmguard.configs.rules import RULES, Rule
from llmguard.errors import UsageError
from llmguard.findings import Where

__all__ = ["Config", "Setting", "as_config", "as_number", "is_open"]

_OPEN = re.compile(r"\$\{[^}]*\}|\{\{.*\}\}|\$[A-Z_]+|<[A-Z_ ]+>")
_NUMBER = re.compile(r" *[-+]?([0-9]+(_[0-9]+)*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)? *")


def is_open(value: object) -> bool:
    """Whether a value is filled in later: an interpolation, an environment variable, a value of a custom tag."""
    return value is OPAQUE or (isinstance(value, str) and bool(_OPEN.search(value)))


def as_number(value: object) -> float | None:
    """A number, also where it is written as text; None for everything else, truth values included."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value.replace("_", ""))
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


@dataclass(frozen=True)
class Setting:
    """One setting of a run: the name our rules use, the item of the file, whose dialect it is in.

    `told`: the project named the dialect; `syntax`: `yaml`, `json`, `toml` or `python`; `field`: what the library says of it.
    """

    name: str
    item: Item
    dialect: str
    file: str = "config"
    told: bool = False
    syntax: str = ""
    field: Field | None = None

    @property
    def value(self) -> Any:
        """The value as the file's parser reads it."""
        return self.item.value

    @property
    def number(self) -> float | None:
        """The value as a number, where it is one or reads like one."""
        return as_number(self.item.value)

    @property
    def rule(self) -> Rule | None:
        """What our rules say of it; None for settings we know nothing about."""
        rule = RULES.get(self.name)
        return None if rule and rule.library and self.dialect == "plain" else rule

    def written(self, value: object) -> str:
        """A line that makes the setting, as the file's syntax writes it: `bf16: true`, `"bf16": true`, `bf16=True`."""
        name, text = self.item.name, str(value)
        if self.syntax == "python":
            return f"{name}={text.title() if text in ('true', 'false') else text}"
        return (
            f'"{name}": {text}'
            if self.syntax == "json"
            else f"{name} = {text}"
            if self.syntax == "toml"
            else f"{name}: {text}"
        )

    @property
    def where(self) -> Where:
        """File, line, column and key."""
        return Where(self.file, line=self.item.line, column=self.item.column, key=self.item.key)


@dataclass(frozen=True)
class Config:
    """A config file of a training run.

    `file`: the name that reports show; `roots`: the folders that relative paths in it may start from; `ranges`: `[config.range]`
    of the project; `train_files`: `[data] train`; `alone`: whether the project names no other config;
    `given`: the sections, where they are known beforehand (calls in code).
    """

    file: str
    document: Document
    wanted: str = "auto"
    roots: tuple[Path, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    train_files: tuple[Path, ...] = ()
    model: str | None = None
    alone: bool = True
    given: tuple[Section, ...] | None = None

    @cached_property
    def _sections(self) -> tuple[list[Section], str]:
        return (list(self.given), "") if self.given is not None else sections_of(self.document, self.wanted)

    @property
    def sections(self) -> list[Section]:
        """The mappings of the file, each with its dialect."""
        return self._sections[0]

    @property
    def owner(self) -> str:
        """Whose config it is where it is none of a training run (`DeepSpeed`, `Accelerate`, …), else empty."""
        return self._sections[1]

    @property
    def dialect(self) -> str:
        """The dialect of the file: that of its first section that is not plain."""
        known = [s.dialect for s in self.sections if s.dialect != "plain"]
        return known[0] if known else "plain"

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """Every setting that our rules or the library of its dialect know, in file order."""
        return tuple(setting for section in self.sections for setting in self._settings(section))

    def _settings(self, section: Section) -> Iterator[Setting]:
        if section.dialect == FOREIGN:
            return
        library = library_of(section.dialect)
        for item in section.items:
            if library:
                name, known = canonical_name(section.dialect, item.name), library.fields.get(item.name)
                if (
                    known is None
                    and item.name not in library.removed
                    and name not in RULES
                    and name not in OUR_NAMES
                ):
                    continue
            else:
                own = own_name(section.path, item.name) or (item.name if item.name in self.ranges else None)
                if own is None or not item.is_scalar:
                    continue
                name, known = own, None
            yield Setting(name, item, section.dialect, self.file, section.told, self.document.syntax, known)


def as_config(value: Any) -> Config:
    """A config, the path of one, or a mapping of settings.

    Raises:
        UsageError: something else.
    """
    if isinstance(value, Config):
        return value
    if isinstance(value, Mapping):
        return Config("config", Document(tuple(_items(value, ()))))
    if isinstance(value, (str, Path)):
        path = Path(value)
        return Config(str(value), read_document(path), roots=(path.parent, Path()))
    raise UsageError("config", value, "a Config, the path of a config file, or a mapping of settings")


def _items(value: Any, path: tuple[str | int, ...]) -> Iterator[Item]:
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield Item((*path, str(name)), child)
            yield from _items(child, (*path, str(name)))
    elif isinstance(value, list):
        for n, child in enumerate(value):
            yield from _items(child, (*path, n))
