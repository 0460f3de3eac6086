"""Where the cache of huggingface_hub lies and how it is laid out, as its documentation says; nothing is asked over the network."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "modules_folder", "repository", "snapshot"]


def _home() -> Path:
    above = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HF_HOME") or Path(above, "huggingface"))


def cache_folder() -> Path:
    """The cache of models, as the environment names it."""
    told = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(told) if told else _home() / "hub"


def modules_folder() -> Path:
    """Where `trust_remote_code` writes the code it runs."""
    return Path(os.environ.get("HF_MODULES_CACHE") or _home() / "modules")


def repository(hub_id: str, cache: Path | None = None) -> Path:
    """The folder of a model in the cache, whether or not it is there."""
    return (cache or cache_folder()) / f"models--{hub_id.replace('/', '--')}"


def snapshot(hub_id: str, cache: Path | None = None) -> Path | None:
    """A snapshot of a model in the cache: of `main`, else the newest; None where there is none."""
    place = repository(hub_id, cache)
    try:
        main = place / "snapshots" / (place / "refs" / "main").read_text("utf-8").strip()
        if main.is_dir():
            return main
    except OSError:
        pass
    snapshots = place / "snapshots"
    found = sorted(snapshots.iterdir(), key=lambda p: p.stat().st_mtime) if snapshots.is_dir() else []
    return found[-1] if found else None
