"""Checkpoints of earlier runs: whole enough to go on from, and in a format that is still loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmguard.contract import Yields, check
from llmguard.evidence.checkpoints import Checkpoint, Checkpoints
from llmguard.findings import Finding, Where, error, note, warning

__all__ = ["checkpoints_are_whole"]

TOLD = 5


@check
def checkpoints_are_whole(checkpoints: Checkpoints) -> Yields:
    """Every checkpoint in the output folder has its weights and its trainer_state.json, whole and in a format that is loaded today.

    Weights are judged by header and size. A broken one is an error where a config resumes and it is the newest, else a warning;
    weights of an old format are a note where transformers still loads them. Checkpoints of `Accelerator.save_state` need no state.
    """
    found = checkpoints.found
    for one in found:
        if one.empty or one.problems:
            yield _broken(one, found, resumed=checkpoints.resumed and one is found[-1])
        yield from _old(one)
    return len(found)


def _broken(one: Checkpoint, found: Sequence[Checkpoint], *, resumed: bool) -> Finding:
    whole = [other.name for other in found if not (other.empty or other.problems)]
    more = f"; and {len(one.problems) - TOLD} more" if len(one.problems) > TOLD else ""
    what = "the folder is empty" if one.empty else f"{'; '.join(one.problems[:TOLD])}{more}"
    last = (
        f"go on from {whole[-1]}, the newest that is whole"
        if whole
        else "start from the beginning: none is whole"
    )
    return (error if resumed else warning)(
        Where(file=one.name),
        what=f"{what}: this checkpoint cannot be resumed from",
        why="libraries take the checkpoint with the highest number: the run ends in a traceback, or goes on with other weights",
        cause="a save that was cut off by a signal, a full disk or a quota, or a copy that was not complete",
        remedy=f"remove this folder and {last}",
        evidence={"problems": list(one.problems)[:20], "whole": whole[-TOLD:]},
    )


def _old(one: Checkpoint) -> Iterator[Finding]:
    for file, old in one.old:
        where, what = Where(file=f"{one.name}/{file}"), f"an old format: {old.what}"
        if old.loads:
            yield note(where, what=what, remedy=f"convert it where you trust it: {old.convert}")
            continue
        yield warning(
            where,
            what=what,
            why="the transformers of today do not load it: a run that goes on from it starts with an error",
            cause="a checkpoint of another library or of an older release",
            remedy=f"convert it: {old.convert}",
        )
