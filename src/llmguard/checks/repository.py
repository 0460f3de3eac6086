"""The git repository of the project: it can take a commit, and the code that will run is in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, note, warning

if TYPE_CHECKING:
    from llmguard.evidence.repository import Repository

__all__ = ["repository_takes_a_commit"]

WHY = "code and configuration of the run cannot be recorded: a pull, a commit or a checkout fails on the machine that is paid for"


@check
def repository_takes_a_commit(repository: Repository) -> Yields:
    """Where the project lies in a git repository, git works there: no stale lock, no damage, ours, room to write, no waiting.

    Changes that are in no commit, commits that were not pushed and a detached HEAD are notes.
    """
    told = repository.told
    if told.get("state") in ("none", "no_git"):
        return 0
    where = Where(told.get("folder", repository.folder))
    if not told:
        what = repository.result.explain().splitlines()[0]
        yield _error(
            where, what, "unknown; the line above is all that was seen", "run `git status` there by hand"
        )
    elif told["state"] == "hung":
        yield _hung(where, told, repository.seconds)
    elif told["state"] == "dubious":
        yield _dubious(told)
    else:
        yield from _judged(where, told)
    return 1


repository_takes_a_commit.unit = "repositories"


def _error(where: Where, what: str, cause: str, remedy: str, **evidence: Any) -> Finding:
    return error(where, what=what, why=WHY, cause=cause, remedy=remedy, evidence=evidence)


def _hung(where: Where, told: dict[str, Any], seconds: float) -> Finding:
    what = f"`git {told['message']}` gave no answer within {seconds:g} s"
    cause = "a file system monitor (core.fsmonitor) or a hook that waits, a password that is asked for, or a volume that does not answer"
    return _error(
        where,
        what,
        cause,
        "run it by hand with GIT_TRACE=1; switch the monitor off: `git config core.fsmonitor false`",
    )


def _dubious(told: dict[str, Any]) -> Finding:
    return _error(
        Where(told["message"]),
        f"git refuses this repository: it belongs to user {told['owner']}, and this is user {told['user']} (dubious ownership)",
        "a volume or a container with other user numbers than the machine where it was cloned",
        f"run as its owner; or, if you trust it, `git config --global --add safe.directory {told['message']}`",
    )


def _judged(where: Where, told: dict[str, Any]) -> Iterator[Finding]:
    lock = told["lock"]
    if lock and not lock["open"]:
        yield _error(
            Where(lock["file"]),
            f"a lock file {lock['hours']:.1f} hours old stands in the way of every git command that writes, and no process has it open",
            "a git that was killed, or whose machine went down",
            f"see that no git runs on this repository (on other machines too), then remove {lock['file']}",
        )
    if told["refusal"]:
        number, text, mount = told["refusal"]
        yield warning(
            where,
            what=f"nothing can be written to the repository: {text} (errno {number}), on {mount}",
            why=WHY,
            cause="a volume that is full, out of quota or mounted read-only, or a clone of another user",
            remedy="free space or mount it writable; where it is a read-only copy on purpose, accept this finding",
            evidence={"errno": number, "mount": mount},
        )
    if told["state"] == "broken":
        yield _error(
            where,
            f"git cannot read the repository: {told['message']}",
            "a disk that was full or a machine that went down while git wrote",
            "`git fsck`; clone it anew beside and copy your changes over; an index alone is made anew by `rm .git/index; git reset`",
        )
    else:
        yield from _not_recorded(where, told)


def _not_recorded(where: Where, told: dict[str, Any]) -> Iterator[Finding]:
    facts = {
        f"{told['changed']} files are changed and in no commit": told["changed"],
        f"{told['ahead']} commits were not pushed": told["ahead"],
        "HEAD is on no branch": told["branch"] == "(detached)",
    }
    said = [text for text, holds in facts.items() if holds]
    if said:
        yield note(
            where,
            what="; ".join(said),
            why="what ran cannot be told from the repository afterwards",
            remedy="commit and push before the run, and note the commit with its results",
        )
