"""The paths that a config names: what each of them is, and whether it is there."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmguard.configs.config import Config, is_open
from llmguard.configs.dialects import FOREIGN
from llmguard.configs.document import Item
from llmguard.configs.names import canonical_name, own_name
from llmguard.configs.nearest import nearest

__all__ = ["Claim", "claims_of", "find", "hub_cache", "in_cache", "is_there", "near_names"]

_MODELS = frozenset(
    "model tokenizer adapter_path ref_model reward_model reward_model_path teacher_model_name_or_path".split()
)
_FILES = frozenset("train_file validation_file test_file".split())
_JSON = frozenset("deepspeed accelerator_config fsdp_config".split())
_DATA_SUFFIX = re.compile(
    r"\.(jsonl?|parquet|csv|tsv|txt|arrow|zst|gz|ya?ml|gguf|safetensors|bin)$", re.IGNORECASE
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_SHIPPED = ("deepspeed_configs/", "examples/deepspeed/", "examples/accelerate/", "deepspeed/")
"""Folders of axolotl's and LLaMA-Factory's own repositories, which such configs are run from."""


@dataclass(frozen=True)
class Claim:
    """One path in a config: `kind` is `model`, `data`, `json`, `template` or `checkpoint`; `only_local`: it can be no hub id."""

    item: Item
    text: str
    kind: str
    only_local: bool
    shipped: bool = False


def claims_of(config: Config) -> Iterator[Claim]:
    """Every path or hub id that a config names, except where the run writes to."""
    for section in config.sections:
        for item in section.items:
            if section.dialect != FOREIGN:
                yield from _claims(config, section.dialect, section.path, item)
    if config.dialect == "axolotl":
        yield from _axolotl_data(config)


def _claims(config: Config, dialect: str, section: tuple[str | int, ...], item: Item) -> Iterator[Claim]:
    name = own_name(section, item.name) if dialect == "plain" else canonical_name(dialect, item.name)
    for text in _texts(item):
        if name in _MODELS:
            for part in text.split(",") if name == "adapter_path" else [text]:
                yield Claim(item, part.strip(), "model", _must_be_local(config, part.strip()))
        elif name in _FILES or (name == "dataset_name" and dialect == "trl"):
            yield Claim(item, text, "data", _must_be_local(config, text))
        elif name in _JSON and text.endswith(".json"):
            yield Claim(item, text, "json", True, text.removeprefix("./").startswith(_SHIPPED))
        elif name == "chat_template_path" or (name == "chat_template" and text.endswith((".jinja", ".j2"))):
            yield Claim(item, text, "template", _must_be_local(config, text))
        elif name == "resume_from_checkpoint" and text.lower() not in (
            "true",
            "false",
            "auto",
            "latest",
            "last",
        ):
            yield Claim(item, text, "checkpoint", True)
        elif (
            name == "dataset_dir"
            and dialect == "llamafactory"
            and not text.upper().startswith(("ONLINE", "REMOTE:"))
        ):
            yield Claim(item, text, "data", True)


def _texts(item: Item) -> list[str]:
    values = item.value if isinstance(item.value, list) else [item.value]
    return [
        v
        for v in values
        if isinstance(v, str) and v.strip() and "://" not in v and not is_open(v) and "\n" not in v
    ]


def _axolotl_data(config: Config) -> Iterator[Claim]:
    for item in config.document.items:
        group, key = item.path[0], item.path[2] if len(item.path) == 3 else None  # datasets[0].path
        if group in ("datasets", "test_datasets", "pretraining_dataset") and key in ("path", "data_files"):
            for text in _texts(item):
                yield Claim(item, text, "data", key == "data_files" or _must_be_local(config, text))


def _must_be_local(config: Config, text: str) -> bool:
    """Whether a name can be no hub id: by its form, or because its first folder lies here."""
    if text.startswith(("/", ".", "~")) or "\\" in text or _DATA_SUFFIX.search(text):
        return True
    if _HUB_ID.fullmatch(text):
        return any((root / text.split("/", maxsplit=1)[0]).is_dir() for root in config.roots)
    return not _NAME.fullmatch(text)


def find(config: Config, text: str) -> tuple[Path | None, list[Path]]:
    """The first place where a path of a config exists (None where none does), and all the places tried."""
    expanded = os.path.expandvars(_expanded(text))
    tried: list[Path] = []
    for root in config.roots or (Path.cwd(),):
        place = Path(root, expanded).absolute()
        if place not in tried:
            tried.append(place)
        if is_there(place) or (
            glob.has_magic(str(place)) and any(Path(place.anchor).glob(str(place.relative_to(place.anchor))))
        ):
            return place, tried
    return None, tried


def is_there(place: Path) -> bool:
    """Whether a path exists; a name that no file system takes does not."""
    try:
        return place.exists()
    except (OSError, ValueError):  # too long, forbidden, a NUL in it
        return False


def _expanded(text: str) -> str:
    try:
        return str(Path(text).expanduser())
    except (RuntimeError, ValueError):  # `~somebody` whom this machine does not know, or a NUL in the name
        return text


def near_names(tried: list[Path]) -> list[str]:
    """What lies where a missing path was looked for and is spelt most like it."""
    for place in tried:
        parent, missing = place.parent, place.name
        while not parent.is_dir() and parent != parent.parent:
            parent, missing = parent.parent, parent.name
        try:
            names = [entry.name for entry in os.scandir(parent)]
        except OSError:
            continue
        near = nearest(missing, names)
        if near:
            return [str(parent / near)]
    return []


def hub_cache() -> Path:
    """The folder that hub models are cached in, as huggingface_hub finds it."""
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"])
    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(home).expanduser() / "hub"


def in_cache(hub_id: str) -> tuple[bool, list[str]]:
    """Whether a hub model is in the cache, and the ids there that are spelt most like it."""
    folder = hub_cache()
    if is_there(folder / f"models--{hub_id.replace('/', '--')}"):
        return True, []
    try:
        cached = [
            e.name.removeprefix("models--").replace("--", "/")
            for e in os.scandir(folder)
            if e.name.startswith("models--")
        ]
    except OSError:
        cached = []
    near = nearest(hub_id, cached)
    return False, [near] if near else []


def registered(folder: Path) -> list[str]:
    """The data sets that a LLaMA-Factory `dataset_info.json` registers; empty where there is none."""
    try:
        found = json.loads((folder / "dataset_info.json").read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return sorted(found) if isinstance(found, dict) else []
