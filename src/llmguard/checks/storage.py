"""Storage: the folders of a run take what it will write; found out by writing, because free space is only a claim."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from llmguard.contract import Yields, check
from llmguard.errors import MissingEvidence
from llmguard.findings import Finding, Where, error, note, warning

if TYPE_CHECKING:
    from llmguard.probe.environment import Environment, Writing

__all__ = ["output_dir_takes_a_checkpoint"]

SLOW_CHECKPOINT_SECONDS = 300.0

_CAUSES: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full, or out of file entries (`df -h`, `df -i`)", "free space, or write elsewhere"),
    errno.EDQUOT: (
        "a quota of this volume is used up, whatever `df` says about the server behind it",
        "remove old checkpoints and caches on this volume, or raise its quota",
    ),
    errno.EROFS: ("the volume is mounted read-only", "mount it writable, or write elsewhere"),
    errno.EACCES: ("another user owns the folder", "change the folder, or run as its owner"),
    errno.EPERM: ("another user owns the folder, or it is marked as unchangeable", "change the folder, or run as its owner"),
    errno.EIO: ("the disk, or the network to it, is failing", "look at `dmesg`; do not train on this volume"),
    errno.ESTALE: ("the network volume was replaced on its server", "unmount it and mount it again"),
    errno.EFBIG: ("a limit on the size of a file (`ulimit -f`), or a file system that has one", "raise the limit, or save in shards"),
    errno.EMFILE: ("too many open files in one process (`ulimit -n`)", "raise the limit"),
    errno.ENOTDIR: ("a file stands where a folder is meant", "rename the file, or change the setting"),
    errno.ELOOP: ("links that lead in a circle", "repair the links"),
    errno.ENOENT: ("a link that leads nowhere", "repair the link"),
    errno.EXDEV: ("a rename across file systems: an overlay or a bind mount", "write to a plain volume"),
}  # fmt: skip
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


@check
def output_dir_takes_a_checkpoint(environment: Environment) -> Yields:
    """Each folder of the run takes a payload: written, synced, renamed, read back and removed again.

    Of `output_dir` the size of a checkpoint is tried (`[environment] checkpoint_size`), at most half of what is said to be
    free; of cache folders 64 MiB. A folder that does not exist yet is tried in its nearest parent. Nothing is left behind.

    Raises:
        MissingEvidence: the project names no folder.
    """
    if not environment.folders:
        raise MissingEvidence("output_dir", 'add `[environment] output_dir = "out"` to llmguard.toml')
    for writing in environment.writings:
        yield from _judged(environment, writing)
    return len(environment.writings)


output_dir_takes_a_checkpoint.unit = "folders"


def _judged(environment: Environment, writing: Writing) -> Iterator[Finding]:
    told = writing.told
    if not told:
        yield _no_answer(writing)
    elif "failed" in told:
        yield _refused(environment, writing)
    elif told["corrupt"]:
        yield _corrupt(writing)
    else:
        yield from _too_small(environment, writing)
        yield from _too_slow(environment, writing)
    if writing.left:
        yield _left_behind(writing)


def _where(writing: Writing) -> Where:
    return Where(writing.folder.path, key=writing.folder.key, what=writing.folder.told_by or None)


def _mount(told: Any) -> str:
    point, kind, source = told.get("mount") or ("", "", "")
    return f"on {point} ({kind} from {source})" if point else "on an unknown mount"


def _size(count: float) -> str:
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def _evidence(writing: Writing) -> dict[str, Any]:
    return {**writing.told, "probe": writing.result.to_json()}


def _refused(environment: Environment, writing: Writing) -> Finding:
    told, number = writing.told, int(writing.told["errno"])
    name = errno.errorcode.get(number, str(number))
    claimed = (
        f"{_size(told['claimed'])} are said to be free, {_size(told['accepted'])} were accepted"
        if "claimed" in told
        else "nothing was accepted"
    )
    cause, remedy = _CAUSES.get(number, ("unknown", "look at the mount and at `dmesg`"))
    made = _severity(environment, writing, number)
    return made(
        _where(writing),
        what=f"{told['failed']} failed with {name} ({told['message']}) {_mount(told)}: {claimed}",
        why="the run would end at its first checkpoint, hours in"
        if writing.folder.key == "output_dir"
        else "downloads and compiled kernels are lost or fail",
        cause=cause,
        remedy=remedy,
        expected=f"{_size(told.get('asked', environment.payload))} written",
        actual=f"{name} after {_size(told['accepted'])}",
        evidence=_evidence(writing),
    )


def _severity(environment: Environment, writing: Writing, number: int) -> Callable[..., Finding]:
    """A cache that may only be read is fine when nothing is to be downloaded, and may be fine otherwise."""
    if writing.folder.key == "cache_dirs" and number in _NOT_WRITABLE:
        return note if environment.offline else warning
    return error


def _no_answer(writing: Writing) -> Finding:
    step = writing.result.observed.last_step
    return error(
        _where(writing),
        what=f"{writing.result.explain()}"
        if step
        else f"{writing.result.explain()}; it never came to its first step",
        why="a run that writes there hangs at its first checkpoint, with the GPU idle and no message",
        cause="a network volume that does not answer, or answers for some calls only",
        remedy="try `timeout 5 stat` and `timeout 5 touch` there; remount it, or write elsewhere",
        expected="an answer",
        actual=writing.result.verdict.value,
        evidence=_evidence(writing),
    )


def _corrupt(writing: Writing) -> Finding:
    told = writing.told
    return error(
        _where(writing),
        what=f"{_size(told['written'])} were written {_mount(told)} and other bytes came back",
        why="checkpoints load without an error and hold wrong weights: neither torch nor safetensors has a checksum",
        cause="a failing disk, memory or network volume",
        remedy="do not train on this volume",
        expected="the same bytes",
        actual="other bytes",
        evidence=_evidence(writing),
    )


def _too_small(environment: Environment, writing: Writing) -> Iterator[Finding]:
    need, told = environment.checkpoint_size, writing.told
    if need is None or writing.folder.key != "output_dir" or told["claimed"] >= 2 * need:
        return
    short = told["claimed"] < need
    made = error if short else warning
    yield made(
        _where(writing),
        what=f"{_size(told['claimed'])} are free {_mount(told)}, a checkpoint takes {_size(need)}",
        why="the first checkpoint does not fit"
        if short
        else "the second checkpoint does not fit beside the first, which is removed only after it",
        cause="a small volume, or old checkpoints on it",
        remedy="free space, write elsewhere, or save fewer checkpoints (`save_total_limit`)",
        expected=f"at least {_size(2 * need)}: a checkpoint beside the one before",
        actual=_size(told["claimed"]),
        evidence=_evidence(writing),
    )


def _too_slow(environment: Environment, writing: Writing) -> Iterator[Finding]:
    told, need = writing.told, environment.checkpoint_size
    if need is None or writing.folder.key != "output_dir" or not told["written"] or told["seconds"] <= 0:
        return
    rate = told["written"] / told["seconds"]
    if need / rate > SLOW_CHECKPOINT_SECONDS:
        yield warning(
            _where(writing),
            what=f"{_size(rate)}/s are written {_mount(told)}: a checkpoint of {_size(need)} takes {need / rate / 60:,.0f} minutes",
            why="the GPU waits for every checkpoint",
            cause="a network volume, or a disk that others use",
            remedy="write to a local disk and copy from there, or save more rarely (`save_steps`)",
            expected=f"at most {SLOW_CHECKPOINT_SECONDS / 60:.0f} minutes a checkpoint",
            actual=f"{need / rate / 60:,.0f} minutes",
            evidence=_evidence(writing),
        )


def _left_behind(writing: Writing) -> Finding:
    return warning(
        _where(writing),
        what=f"the probe's own folder {writing.left} could not be removed",
        why="it takes space on that volume",
        cause="the volume stopped answering, or takes no changes any more",
        remedy=f"remove {writing.left} when the volume answers again",
    )
