"""Which library a dialect belongs to: its installed version where there is one, else the table."""

from __future__ import annotations

import functools
from pathlib import Path

from llmguard.configs import tables
from llmguard.configs.library import (
    Field,
    Library,
    folder_of,
    read_class_fields,
    read_enum,
    scan_class_fields,
    version_of,
)
from llmguard.configs.table_axolotl import AXOLOTL

__all__ = ["library_of", "reads_yaml_floats"]

_LETTERS = {"i": "int", "f": "float", "b": "bool", "s": "text", "l": "list", "d": "mapping", "o": "other"}
_TRL_SCRIPTS = ("ScriptArguments", "DatasetMixtureConfig")


@functools.cache
def library_of(dialect: str) -> Library | None:
    """The settings that a file of a dialect may hold; None for `plain`, whose keys are the user's own."""
    makers = {"transformers": _transformers, "trl": _trl, "llamafactory": _llamafactory, "axolotl": _axolotl}
    return makers[dialect]() if dialect in makers else None


@functools.cache
def reads_yaml_floats(dialect: str) -> bool:
    """Whether the library of a dialect turns `1e-4` into a number itself: axolotl does, LLaMA-Factory since it reads by OmegaConf."""
    if dialect == "axolotl":
        return True
    folder = folder_of("llamafactory") if dialect == "llamafactory" else None
    try:
        return folder is not None and "OmegaConf.load" in (folder / "hparams" / "parser.py").read_text(
            "utf-8"
        )
    except OSError:
        return False


def _transformers() -> Library:
    folder = folder_of("transformers")
    fields = scan_class_fields(folder / "training_args.py", "TrainingArguments") if folder else {}
    old = {**_table(tables.TRANSFORMERS_4), **_table(tables.TRANSFORMERS)}
    if not folder or len(fields) < 50:  # fewer is another layout of the sources, not fewer arguments
        choices = {"optim": _names(tables.OPTIMIZERS), "lr_scheduler_type": _names(tables.SCHEDULERS)}
        return Library(
            "transformers",
            tables.VERSIONS["transformers"],
            _table(tables.TRANSFORMERS),
            False,
            _gone(old),
            choices,
        )
    choices = {
        "optim": read_enum(folder / "training_args.py", "OptimizerNames"),
        "lr_scheduler_type": read_enum(folder / "trainer_utils.py", "SchedulerType"),
    }
    return Library(
        "transformers", version_of("transformers"), fields, True, frozenset(set(old) - set(fields)), choices
    )


def _base() -> Library:
    """What TRL and LLaMA-Factory build on; read once."""
    return library_of("transformers") or _transformers()


def _gone(old: dict[str, Field]) -> frozenset[str]:
    return frozenset(set(old) - set(_table(tables.TRANSFORMERS)))


def _trl() -> Library:
    base, folder = _base(), folder_of("trl")
    own = _trl_fields(folder) if folder else {}
    known = {**base.fields, **(own or _table(tables.TRL))}
    removed = (base.removed | _names(tables.TRL_0)) - set(known)
    version = version_of("trl") if own else tables.VERSIONS["trl"]
    return Library("trl", version, known, bool(own) and base.installed, removed, base.choices)


def _trl_fields(folder: Path) -> dict[str, Field]:
    """What any trainer's config admits, since a file does not say whose it is; defaults are the supervised trainer's."""
    places = (
        "experimental/*/*_config.py",
        "trainer/*_config.py",
        "trainer/model_config.py",
        "trainer/sft_config.py",
    )
    found: dict[str, Field] = {}
    for file in (file for place in places for file in sorted(folder.glob(place))):
        for name, new in scan_class_fields(file).items():
            old = found.get(name, new)
            found[name] = Field(name, old.kinds | new.kinds, old.optional or new.optional, new.default)
    return {**found, **scan_class_fields(folder / "scripts" / "utils.py", *_TRL_SCRIPTS)}


def _llamafactory() -> Library:
    base, folder = _base(), folder_of("llamafactory")
    own: dict[str, Field] = {}
    seq2seq = _table(tables.SEQ2SEQ)
    for file in sorted((folder / "hparams").glob("*_args.py")) if folder else []:
        own.update(read_class_fields(file))
    inherited = {**_table(tables.TRANSFORMERS_4), **_table(tables.TRANSFORMERS), **base.fields}
    known = {**seq2seq, **(base.fields if own else inherited), **(own or _table(tables.LLAMAFACTORY))}
    version = version_of("llamafactory") if own else tables.VERSIONS["llamafactory"]
    return Library("llamafactory", version, known, bool(own), base.removed - set(known), base.choices)


def _axolotl() -> Library:
    folder = folder_of("axolotl")
    own: dict[str, Field] = {}
    if folder:
        for file in [*folder.glob("integrations/*/args.py"), *folder.glob("utils/schemas/*.py")]:
            own.update(read_class_fields(file))
    known = {**_table(AXOLOTL), **own}
    return Library("axolotl", version_of("axolotl") if own else tables.VERSIONS["axolotl"], known, bool(own))


@functools.cache
def _table(text: str) -> dict[str, Field]:
    found: dict[str, Field] = {}
    for entry in text.split():
        name, _, letters = entry.partition("=")
        kinds = frozenset(_LETTERS[letter] for letter in letters if letter != "?")
        found[name] = Field(name, kinds, "?" in letters)
    return found


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())
