"""Whether a checkpoint is whole: by its manifest where it has one, by what transformers' files say of themselves everywhere."""

from __future__ import annotations

import json
import logging
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmguard.evidence.saved import NAME, state_problems, weight_problems
from llmguard_core.checkpoints.folder import MANIFEST, hashed, tidy
from llmguard_core.errors import CheckpointError

__all__ = ["checkpoints", "newest", "step_of", "verify"]

RESUMING = {
    "the optimizer's state": ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    "the scheduler's state": ("scheduler.pt", "global_step*"),
    "the random number generators' states": ("rng_state*.pth",),
}
"""What resuming needs, and the files that hold it (the last: DeepSpeed's folder)."""
log = logging.getLogger(__name__)


def verify(folder: Path | str, *, resume: bool = True) -> list[str]:
    """Every problem of a checkpoint, as `file: what is wrong`; an empty list means that it is whole.

    Where there is a manifest each byte is compared by SHA-256. Without one, as transformers saves: names, sizes and headers of
    the weights, checksums of the .pt files (they are zip archives), what the index names; a changed value inside a safetensors
    file cannot be seen then. `resume=False`: only what loading the weights needs.
    """
    folder = Path(folder)
    try:
        if not folder.is_dir():
            return [f"{folder.name}: is not there, or is no folder"]
        listed = (folder / MANIFEST).exists()
        problems = [*_against_manifest(folder)] if listed else [*_archives(folder)]
        problems += weight_problems(folder)
        if resume:
            problems += [*state_problems(folder), *_missing(folder)]
    except OSError as bad:
        return [f"{bad.filename or folder}: cannot be read: {bad.strerror} (errno {bad.errno})"]
    return problems


def newest(output_dir: Path | str) -> Path | None:
    """The newest checkpoint that is whole (read in full); those passed over are logged with the reason. None: there is none."""
    output_dir = Path(output_dir)
    if output_dir.is_dir():
        tidy(output_dir)
    found = checkpoints(output_dir)
    for folder in reversed(found):
        problems = verify(folder)
        if not problems:
            return folder
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        log.warning("%s is passed over: %s%s", folder, problems[0], more)
    if found:
        log.info("%s: none of %d checkpoints can be resumed from", output_dir, len(found))
    return None


def checkpoints(output_dir: Path | str) -> list[Path]:
    """All folders named checkpoint-<step>, by step, whole or not."""
    return sorted((p for p in Path(output_dir).glob("checkpoint-*") if NAME.match(p.name)), key=step_of)


def step_of(folder: Path | str) -> int:
    """The step that a checkpoint's name tells.

    Raises:
        CheckpointError: the name is not checkpoint-<step>.
    """
    match = NAME.match(Path(folder).name)
    if match is None:
        raise CheckpointError("is not named checkpoint-<step>", where=str(folder))
    return int(match[1])


def _against_manifest(folder: Path) -> Iterator[str]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        table = dict(manifest["files"])
        if manifest["version"] != 1:
            yield f"{MANIFEST}: is of version {manifest['version']}, this library reads version 1"
    except (ValueError, KeyError, TypeError) as bad:
        yield f"{MANIFEST}: cannot be read: {type(bad).__name__}: {bad}"
        return
    for name, told in table.items():
        yield from _against(folder / name, name, told)


def _against(file: Path, name: str, told: dict[str, Any]) -> Iterator[str]:
    try:
        size = file.stat().st_size
        if size != told["size"]:
            yield f"{name}: has {size:,} bytes, {told['size']:,} were saved"
        elif hashed(file)["sha256"] != told["sha256"]:
            yield f"{name}: its {size:,} bytes are not those that were saved (SHA-256 differs)"
    except FileNotFoundError:
        yield f"{name}: is named by the manifest and not there"
    except OSError as bad:
        yield f"{name}: cannot be read: {bad.strerror} (errno {bad.errno})"
    except (KeyError, TypeError, ValueError):
        yield f"{MANIFEST}: its entry for {name!r} cannot be read"


def _archives(folder: Path) -> Iterator[str]:
    """The .pt, .pth and .bin files of torch by the checksums inside them; nothing is unpickled."""
    for file in sorted(p for p in folder.iterdir() if p.suffix in (".pt", ".pth", ".bin") and p.is_file()):
        try:
            with zipfile.ZipFile(file) as archive:
                bad = archive.testzip()
        except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, zlib.error) as broken:
            yield f"{file.name}: is no whole archive of torch: {broken}"
            continue
        if bad:
            yield f"{file.name}: the checksum of {bad} inside it is wrong"


def _missing(folder: Path) -> Iterator[str]:
    for what, patterns in RESUMING.items():
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            yield f"{patterns[0]}: is not there: without {what} a run cannot go on as it was"
