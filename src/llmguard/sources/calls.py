"""Training configs that are written in code: calls of TrainingArguments, SFTConfig, LoraConfig and their like, as settings."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmguard.configs.config import Config
from llmguard.configs.dialects import Section
from llmguard.configs.document import OPAQUE, Document, Item
from llmguard.sources.read import SourceFile

__all__ = ["Call", "calls_of", "config_of", "imported_names", "last_name"]

_TRAINING_ARGUMENTS = ("TrainingArguments", "Seq2SeqTrainingArguments")


@dataclass(frozen=True)
class Call:
    """A call of a class of a training library: the class's own name, its library, the call's node."""

    library: str
    name: str
    node: ast.Call


def imported_names(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Name in this file -> (library, name there) for what comes from transformers, trl and peft; modules have no name there."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            library = node.module.partition(".")[0]
            found.update({a.asname or a.name: (library, a.name) for a in node.names})
        elif isinstance(node, ast.Import):
            found.update(
                {a.asname or a.name.partition(".")[0]: (a.name.partition(".")[0], "") for a in node.names}
            )
    return {name: where for name, where in found.items() if where[0] in ("transformers", "trl", "peft")}


def last_name(node: ast.AST) -> str:
    """The name that an expression ends with: `model` of `model` and of `self.model`; "" of anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def calls_of(tree: ast.Module) -> Iterator[Call]:
    """Every call of a class that is imported from transformers, trl or peft (confirmed by the import, not by the name)."""
    names = imported_names(tree)
    for node in ast.walk(tree) if names else ():
        if isinstance(node, ast.Call):
            target = node.func
            if isinstance(target, ast.Name) and names.get(target.id, ("", ""))[1]:
                yield Call(*names[target.id], node)
            elif (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id in names
            ):
                yield Call(names[target.value.id][0], target.attr, node)


def config_of(
    file: SourceFile, call: Call, constants: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]
) -> Config | None:
    """The settings of one call as a config, or None where the class is none of a training run."""
    if call.library == "transformers" and call.name in _TRAINING_ARGUMENTS:
        dialect = "transformers"
    elif call.library == "trl" and call.name.endswith("Config"):
        dialect = "trl"
    elif call.library == "peft" and call.name == "LoraConfig":
        dialect = "plain"
    else:
        return None
    items = tuple(_items(call, constants))
    section = Section(("lora",) if dialect == "plain" else (), dialect, items, told=True)
    document = Document(items, syntax="python")
    return Config(file.name, document, dialect, (file.path.parent,), ranges=ranges, given=(section,))


def _items(call: Call, constants: Mapping[str, Any]) -> Iterator[Item]:
    for keyword in call.node.keywords:
        place = (keyword.value.lineno, keyword.value.col_offset + 1)
        if keyword.arg is not None:
            yield Item(
                (call.name, keyword.arg),
                value_of(keyword.value, constants),
                keyword.lineno,
                keyword.col_offset + 1,
                quoted=True,
            )
            continue
        said = value_of(keyword.value, constants)
        for name, value in said.items() if isinstance(said, dict) else ():
            if isinstance(name, str):
                yield Item((call.name, name), value, *place, quoted=True)


def value_of(node: ast.expr, constants: Mapping[str, Any]) -> Any:
    """The value of an expression that is written out, or of a name that is set once to such a value; OPAQUE else."""
    if isinstance(node, ast.Name):
        return constants.get(node.id, OPAQUE)
    if isinstance(node, ast.Dict):
        keys = [value_of(key, constants) if key is not None else OPAQUE for key in node.keys]
        pairs = zip(keys, node.values, strict=True)
        return {key: value_of(value, constants) for key, value in pairs if isinstance(key, str)}
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return OPAQUE


def constants_of(tree: ast.Module) -> dict[str, Any]:
    """Names that a file sets exactly once, to a value written out, and never changes in place."""
    stored, changed = _stores(tree)
    values: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, value_of(node.value, values)
            if stored[name] == 1 and name not in changed and value is not OPAQUE:
                values[name] = value
    return values


def _stores(tree: ast.Module) -> tuple[Counter[str], set[str]]:
    """How often each name is set, and the names whose values are changed in place."""
    stored: Counter[str] = Counter()
    changed: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            stored[node.id] += 1
        elif isinstance(node, ast.arg):
            stored[node.arg] += 1
        elif isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.value, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                changed.add(node.value.id)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            changed.add(node.func.value.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            changed.update(node.names)
    return stored, changed
