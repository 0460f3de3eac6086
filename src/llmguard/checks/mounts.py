"""File systems that the project's paths lie on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmguard.contract import Yields, check
from llmguard.findings import Where, error

if TYPE_CHECKING:
    from llmguard.evidence.mounts import Mounts

__all__ = ["named_paths_answer"]


@check
def named_paths_answer(mounts: Mounts) -> Yields:
    """Every path that the project file names lies on a file system that answers.

    A network volume that is gone keeps whoever touches it waiting for ever, unkillable: so the paths are looked up in the table of
    mounts, and those beyond this machine are asked in a probe. Where one is silent no other check touches the project's paths.
    """
    for silent in mounts.silent:
        named = silent.named[0]
        more = f" and {len(silent.named) - 1} more" if len(silent.named) > 1 else ""
        yield error(
            Where(named.path, key=named.key),
            what=f"{silent.point} ({silent.kind} from {silent.source}) does not answer: {silent.result.explain().splitlines()[0]}",
            why="whatever touches a path there waits for ever and cannot be killed, a training run with its GPUs among them",
            cause="a network volume whose server is gone or was replaced, a VPN that is down, or a FUSE process that died",
            remedy=f"unmount it (`umount -f -l {silent.point}`) and mount it again; until then nothing of {named.path}{more} was checked",
            evidence={
                "point": silent.point,
                "kind": silent.kind,
                "paths": [one.path for one in silent.named[:5]],
            },
        )
    return len(mounts.named)


named_paths_answer.unit = "paths"
