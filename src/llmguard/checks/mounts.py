"""File systems that the project's paths lie on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error
from llmguard.probe.mounts import PIPE, Silent

if TYPE_CHECKING:
    from llmguard.evidence.mounts import Mounts

__all__ = ["named_paths_answer"]


@check
def named_paths_answer(mounts: Mounts) -> Yields:
    """Every path that the project file names lies on a file system that answers.

    A network volume that is gone keeps whoever touches it waiting for ever, unkillable: so the paths are looked up in the table of
    mounts, and those beyond this machine are asked in a probe, and so are pipes, which wait for somebody who writes. Where one is
    silent no other check touches the project's paths.
    """
    for silent in mounts.silent:
        yield _silent(silent)
    return len(mounts.named)


def _silent(silent: Silent) -> Finding:
    named, pipe = silent.named[0], silent.kind == PIPE
    more = f" and {len(silent.named) - 1} more" if len(silent.named) > 1 else ""
    volume = "a network volume whose server is gone or was replaced, a VPN that is down, or a FUSE process that died"
    mend = "name a file" if pipe else f"unmount it (`umount -f -l {silent.point}`) and mount it again"
    return error(
        Where(named.path, key=named.key),
        what=f"{silent.name} does not answer: {silent.result.explain().splitlines()[0]}",
        why="whatever opens it waits for ever, a training run with its GPUs among them"
        if pipe
        else "whatever touches a path there waits for ever and cannot be killed, a training run with its GPUs among them",
        cause="nobody writes into this pipe" if pipe else volume,
        remedy=f"{mend}; until then nothing of {named.path}{more} was checked",
        evidence={
            "point": silent.point,
            "kind": silent.kind,
            "paths": [one.path for one in silent.named[:5]],
        },
    )


named_paths_answer.unit = "paths"
