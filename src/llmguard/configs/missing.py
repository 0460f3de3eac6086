"""Paths of a config that are not there: each with the places tried and what lies there under a like name."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

from llmguard.configs.config import Config, Setting, is_open
from llmguard.configs.nearest import nearest
from llmguard.configs.places import Claim, claims_of, find, in_cache, near_names, registered
from llmguard.findings import Finding, Where, error, note

__all__ = ["missing_paths"]

_WHAT = {
    "model": ("model", "the run stops when it loads the model, or looks for the name on the hub"),
    "data": ("data", "the run stops when it loads its data, or looks for the name on the hub"),
    "json": ("config", "the run stops when the file is read"),
    "template": ("chat template", "the run stops when the template is read"),
    "checkpoint": ("checkpoint", "the run stops, or starts from the beginning instead of resuming"),
}


def missing_paths(config: Config) -> Generator[Finding, None, int]:
    """A finding for each path that is not there; returns how many paths were looked at."""
    looked_at = 0
    for claim in claims_of(config):
        looked_at += 1
        place, tried = find(config, claim.text)
        if place is None:
            found = _gone(config, claim, tried) if claim.only_local else _hub(config, claim, tried)
            if found is not None:
                yield found
    for setting in config.settings:
        if setting.name == "output_dir" and isinstance(setting.value, str) and not is_open(setting.value):
            looked_at += 1
            yield from _output(config, setting)
        if setting.item.name in ("dataset", "eval_dataset") and setting.dialect == "llamafactory":
            looked_at += 1
            yield from _unregistered(config, setting)
    return looked_at


def _where(config: Config, claim: Claim) -> Where:
    return Where(config.file, line=claim.item.line, column=claim.item.column, key=claim.item.key)


def _gone(config: Config, claim: Claim, tried: list[Path]) -> Finding:
    what, why = _WHAT[claim.kind]
    near = near_names(tried)
    places = ", ".join(str(place) for place in tried)
    if claim.shipped:
        return note(
            _where(config, claim),
            what=f"the {what} {claim.text!r} is not here (tried {places})",
            remedy="nothing, where the run starts in the library's own repository; else copy the file here",
        )
    return error(
        _where(config, claim),
        what=f"the {what} {claim.text!r} does not exist (tried {places})",
        why=why,
        cause="a path of another machine or folder, or a misspelt one",
        remedy=f"did you mean {near[0]}" if near else "correct the path, or put the files there",
        expected="an existing path",
        actual=claim.text,
        evidence={"tried": [str(place) for place in tried], "near": near},
    )


def _hub(config: Config, claim: Claim, tried: list[Path]) -> Finding | None:
    """What to say of a name that may be a hub id: an error only where it can be neither fetched nor found."""
    if "/" not in claim.text:
        return _gone(config, claim, tried) if _like_a_folder(claim.text, tried) else None
    if claim.kind != "model":
        return None
    cached, near = in_cache(claim.text)
    if cached:
        return None
    hint = f"; the cache has {near[0]}" if near else ""
    what = (
        f"the model {claim.text!r} is taken for a hub id: it is no folder here and not in the hub cache{hint}"
    )
    offline = "fetch it before the run: the hub is switched off here (HF_HUB_OFFLINE)"
    remedy = offline if _is_offline() else "nothing, where the machine that trains can fetch it"
    return note(_where(config, claim), what=what, remedy=remedy)


def _like_a_folder(text: str, tried: list[Path]) -> str | None:
    for place in tried:
        try:
            near = nearest(
                text, [entry.name for entry in os.scandir(place.parent) if entry.is_dir()], cutoff=0.8
            )
        except OSError:
            continue
        if near:
            return near
    return None


def _is_offline() -> bool:
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _output(config: Config, setting: Setting) -> Generator[Finding, None, None]:
    place, _ = find(config, setting.value)
    if place is not None and place.is_file():
        yield error(
            setting.where,
            what=f"`{setting.item.name}` is {setting.value!r}, which is a file",
            why="the run cannot write its checkpoints there and stops at the first one",
            cause="the name of a file where a folder is expected",
            remedy="name a folder, or remove the file",
            expected="a folder",
            actual="a file",
        )


def _unregistered(config: Config, setting: Setting) -> Generator[Finding, None, None]:
    """LLaMA-Factory looks data sets up by name in `dataset_info.json`: a name that is not there stops the run."""
    named = next((s.value for s in config.settings if s.item.name == "dataset_dir"), "data")
    folder, _ = find(config, str(named))
    known = registered(folder) if folder is not None else []
    for name in str(setting.value or "").split(",") if known else []:
        if name.strip() and name.strip() not in known and not is_open(name):
            near = nearest(name.strip(), known)
            yield error(
                setting.where,
                what=f"the data set {name.strip()!r} is not registered in {folder}/dataset_info.json ({len(known)} are)",
                why="LLaMA-Factory refuses a data set that is not registered",
                cause="a misspelt name, or an entry that was never added",
                remedy=f"write {near!r}" if near else f"register it there; known are {', '.join(known[:8])}",
                expected="a registered data set",
                actual=name.strip(),
            )
