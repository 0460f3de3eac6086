"""Keys that nothing reads: slips, former names, names of other people's scripts."""

from __future__ import annotations

from collections.abc import Iterator

from llmguard.configs.config import Config
from llmguard.configs.dialects import FOREIGN, Section
from llmguard.configs.document import Item
from llmguard.configs.libraries import library_of
from llmguard.configs.library import Library
from llmguard.configs.names import HOW, RENAMED, own_name, synonym_of
from llmguard.configs.nearest import typo_of
from llmguard.findings import Finding, Where, error, note, warning

__all__ = ["unknown_keys"]

_READ_BY_SCRIPTS = frozenset({"max_seq_length", "torch_dtype", "tokenizer", "model_name"})
"""Former names that people's own scripts read under that name to this day."""
_CORE_NAMES = (
    "learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_seq_length",
    "weight_decay", "warmup_ratio", "warmup_steps", "lora_alpha", "lora_dropout", "num_epochs", "batch_size", "max_length",
    "save_strategy", "eval_strategy", "lr_scheduler_type", "max_grad_norm",
)  # fmt: skip


def unknown_keys(config: Config) -> Iterator[Finding]:
    """A finding for each key that the library of its section does not know; the user's own keys in one note."""
    for section in config.sections:
        if section.dialect == FOREIGN:
            continue
        library = library_of(section.dialect)
        if library is None:
            yield from _slips_in_own(config, section)
            continue
        own = []
        for item in section.items:
            if item.name in library.fields or item.name.startswith("_") or item.name in ("env", "config"):
                continue
            found = _unknown(config, section, item, library)
            if found is None:
                own.append(item)
            else:
                yield found
        if own:
            yield _own_keys(config, library, own)


def _unknown(config: Config, section: Section, item: Item, library: Library) -> Finding | None:
    """What is wrong with a key that a library does not know, or None where it may well be the user's own."""
    names = {other.name for other in section.items}
    if item.name in library.removed or (
        item.name in RENAMED and RENAMED[item.name] in library.fields and library.name == "trl"
    ):
        return _former(config, section, item, library)
    slip = typo_of(item.name, [name for name in library.fields if name not in names])
    if slip and item.is_scalar:
        return _slip(config, item, slip, library)
    meant = synonym_of(item.name)
    if section.told and meant in library.fields and meant not in names:
        return _slip(config, item, str(meant), library)
    if section.told and item.is_scalar:
        return _alien(config, item, library)
    return None


def _former(config: Config, section: Section, item: Item, library: Library) -> Finding:
    new = RENAMED.get(item.name)
    remedy = HOW.get(item.name, f"write `{new}` instead" if new in library.fields else "remove the line")
    if not item.is_scalar or "{value}" in remedy:
        remedy = remedy.replace("{value}", str(item.value))
    certain = section.told or (
        item.name not in _READ_BY_SCRIPTS and item.name == "evaluation_strategy" and library.installed
    )
    make = error if certain else note if item.name == "torch_dtype" else warning
    return make(
        Where(config.file, line=item.line, column=item.column, key=item.key),
        what=f"`{item.name}` is no setting of {library.label}"
        + (f"; it is called `{new}` today" if new else ""),
        why="the config class refuses the name with a TypeError, or the setting is never made",
        cause="a config written for an older version",
        remedy=remedy,
        expected=new or "",
        actual=item.name,
    )


def _slip(config: Config, item: Item, meant: str, library: Library) -> Finding:
    return error(
        Where(config.file, line=item.line, column=item.column, key=item.key),
        what=f"`{item.name}` is no setting of {library.label}; did you mean `{meant}`",
        why=f"the value {item.value!r} is refused or ignored: `{meant}` keeps its default",
        cause="a slip of the keyboard, or a name of another tool",
        remedy=f"write `{meant}`",
        expected=meant,
        actual=item.name,
    )


def _alien(config: Config, item: Item, library: Library) -> Finding:
    in_code = config.document.syntax == "python" and library.installed
    make = error if in_code else warning
    return make(
        Where(config.file, line=item.line, column=item.column, key=item.key),
        what=f"`{item.name}` is no setting of {library.label}",
        why="the call ends in a TypeError"
        if in_code
        else "a key that the library does not know is refused or ignored",
        cause="a key of the project's own script in a file whose dialect is given, or a name of another version",
        remedy="remove it"
        if in_code
        else 'remove it; where your own script reads it, set `[config] dialect = "auto"` in the project file',
        actual=item.name,
    )


def _own_keys(config: Config, library: Library, items: list[Item]) -> Finding:
    shown = ", ".join(f"`{item.key}`" for item in items[:8])
    more = f" and {len(items) - 8} more" if len(items) > 8 else ""  # as many as are shown
    return note(
        Where(config.file, line=items[0].line, column=items[0].column),
        what=f"not among the settings of {library.label}, so taken for the project's own: {shown}{more}",
        remedy="nothing, where your own script reads them",
    )


def _slips_in_own(config: Config, section: Section) -> Iterator[Finding]:
    """In a user's own config every key is fine, except one that is a letter away from a setting which is nowhere else."""
    names = {own_name(s.path, item.name) for s in config.sections for item in s.items}
    for item in section.items:
        if (
            not isinstance(item.value, (int, float, str))
            or own_name(section.path, item.name)
            or item.name in config.ranges
        ):
            continue
        meant = typo_of(item.name, _CORE_NAMES)
        if meant and own_name(section.path, meant) not in {*names, None}:
            yield warning(
                Where(config.file, line=item.line, column=item.column, key=item.key),
                what=f"`{item.name}` looks like a slip for `{meant}`, which the file does not set",
                why=f"whoever reads `{meant}` finds nothing and takes a default",
                cause="a slip of the keyboard",
                remedy=f"write `{meant}`, where it is meant",
                expected=meant,
                actual=item.name,
            )
