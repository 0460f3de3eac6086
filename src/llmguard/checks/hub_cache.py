"""The cache of the model hub: what a run will find in it, and whether anybody stands in its way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, note, warning
from llmguard.probe.mounts import HANGS

if TYPE_CHECKING:
    from llmguard.evidence.hub_cache import HubCache

__all__ = ["cached_model_is_whole", "model_cache_is_not_locked", "model_cache_takes_what_is_missing"]

SHOWN = 4
OLD_HOURS = 1.0
"""Hours after which nobody is still downloading one file."""
WHY_GONE = "loading fails in the middle, or a stale or half a file is loaded in its place"


@check
def cached_model_is_whole(hub_cache: HubCache) -> Yields:
    """What the cache holds of the project's model is all of it: no dead links, half files, missing shards, files of others."""
    if not hub_cache.hub_id:
        return 0
    told = hub_cache.told
    if not told:
        yield _no_answer(hub_cache)
        return 1
    problems = told["problems"]
    if problems and told["snapshot"]:
        yield _broken(hub_cache, told, problems)
    half = [one for one in told["incomplete"] if one[2] >= OLD_HOURS]
    if half:
        yield (warning if problems or not told["snapshot"] else note)(
            _where(hub_cache, told["cache"]),
            what=f"{len(half)} downloads were broken off ({half[0][1]:,} bytes of {half[0][0]}, {half[0][2]:.0f} hours ago)",
            why="the space is used, and the files they were to become are not there",
            cause="a download that was killed, ran out of quota, or lost its connection",
            remedy="download again (it goes on where it was), or remove *.incomplete",
        )
    return 1


def _broken(hub_cache: HubCache, told: dict[str, Any], problems: list[tuple[str, str]]) -> Finding:
    named = "; ".join(f"{name} {what}".strip() for name, what in problems[:SHOWN])
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    only_config = [name for name, _ in problems] == [""]
    make = note if only_config and not hub_cache.offline else error
    return make(
        _where(hub_cache, told["snapshot"]),
        what=f"{len(problems)} of {told['files']} files of the cached model are not usable: {named}{more}",
        why=WHY_GONE,
        cause="a cache that was copied without its blobs, cleaned by hand, written by another user, or a download that broke off",
        remedy=f"download it again, as the user who will run: `hf download {hub_cache.hub_id}` (`--force-download` for damaged files)",
        evidence={"problems": problems[:20]},
    )


@check
def model_cache_is_not_locked(hub_cache: HubCache) -> Yields:
    """No lock file keeps the next run waiting: held by a living process, or left on a file system that has no locks."""
    if not hub_cache.hub_id or not hub_cache.told:
        return 0
    locks = hub_cache.told["locks"]
    for lock in locks:
        yield from _judged(hub_cache, lock)
    return max(1, len(locks))


def _judged(hub_cache: HubCache, lock: dict[str, Any]) -> Iterator[Finding]:
    where = _where(hub_cache, lock["file"])
    waiting = (
        "a run that downloads or loads this file waits for the lock, without a time limit and without a word"
    )
    if lock["held"]:
        holder = lock["holder"]
        who = (
            f"process {holder['pid']} ({holder['command']})"
            if holder
            else "a process that is not of this machine"
        )
        yield warning(
            where,
            what=f"{who} has held this lock for {lock['hours']:.1f} hours",
            why=waiting,
            cause="a download that goes on, or one that hangs"
            if holder
            else "another machine with the same cache downloads, or died",
            remedy="wait for it, or end it"
            if holder
            else "look at the other machines that share this cache; its end cannot be proved from here",
        )
    elif lock["held"] is None:
        said = f"; it says {lock['said']!r}" if lock["said"] else ""
        why = os.strerror(lock["errno"] or 0)
        yield error(
            where,
            what=f"this lock file is {lock['hours']:.1f} hours old, on a file system without locks ({why}){said}",
            why=f"where flock does not work, the file itself is the lock: {waiting}",
            cause="a process that was killed while it downloaded, on a volume without flock",
            remedy=f"see that no other machine downloads, then remove {lock['file']}; or keep the cache on a local disk (HF_HOME)",
        )


@check
def model_cache_takes_what_is_missing(hub_cache: HubCache) -> Yields:
    """Where something must still be written to the cache it can be; a complete cache may be read-only."""
    if not hub_cache.hub_id or not hub_cache.told:
        return 0
    told = hub_cache.told
    whole = told["snapshot"] and not told["problems"]
    if not whole and told["writable"]:
        missing = (
            "the model is not in it"
            if not told["snapshot"]
            else f"{len(told['problems'])} of its files are missing or broken"
        )
        yield _read_only(hub_cache, told["cache"], told["writable"], missing, "a download")
    if hub_cache.remote_code and told["modules"]:
        yield _read_only(
            hub_cache,
            "modules",
            told["modules"],
            "`trust_remote_code` copies the model's code there",
            "loading",
        )
    return 1


def _read_only(
    hub_cache: HubCache, folder: str, refusal: tuple[int, str, str], missing: str, action: str
) -> Finding:
    number, text, mount = refusal
    return error(
        _where(hub_cache, folder),
        what=f"nothing can be written to the model cache ({text}, errno {number}, on {mount}), and {missing}",
        why=f"{action} fails after everything else was made ready, or an older file is taken in silence",
        cause="a volume that is mounted read-only, a folder of another user, or a read-only home folder",
        remedy="point HF_HOME at a folder that can be written, or fill the cache before it is made read-only",
        evidence={"errno": number, "mount": mount},
    )


def _no_answer(hub_cache: HubCache) -> Finding:
    hangs = hub_cache.result.verdict in HANGS
    return error(
        Where(what="the model cache", key="model.path"),
        what=hub_cache.result.explain().splitlines()[0],
        why="loading the model would wait there too",
        cause="a cache on a network volume that does not answer"
        if hangs
        else "unknown; the line above is all that was seen",
        remedy="point HF_HOME at a local disk, or mount the volume again"
        if hangs
        else "look at the cache by hand",
    )


def _where(hub_cache: HubCache, path: str) -> Where:
    return Where(path, what=hub_cache.hub_id)


for _one in (cached_model_is_whole, model_cache_is_not_locked, model_cache_takes_what_is_missing):
    _one.unit = "models"
