"""What a probe may use, so that what it runs cannot eat the machine."""

from __future__ import annotations

import dataclasses

__all__ = ["Limits"]

MiB, GiB = 2**20, 2**30


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of a probe; None leaves the bound that the parent has.

    `file_size` (bytes of one file), `open_files`, `data` (bytes of private memory of one process) and
    `user_processes` (of the user on the whole machine, threads included; root is exempt) are enforced by the
    kernel. `memory` (resident bytes) and `processes` are of the whole tree, looked at ten times a second.
    Core dumps are always off. The address space is never bounded: CUDA reserves far more of it than it uses.
    """

    file_size: int | None = None
    open_files: int | None = None
    data: int | None = None
    user_processes: int | None = None
    memory: int | None = None
    processes: int | None = None

    @classmethod
    def for_import(cls) -> Limits:
        """For importing a library: bounds far above what torch needs (0.54 GB resident, 6 descriptors, 2
        threads)."""
        return cls(file_size=64 * MiB, open_files=1024, memory=8 * GiB, processes=64)

    @property
    def most_memory(self) -> int | None:
        """The lower of both bounds of memory, bytes; None where there is none."""
        return min((b for b in (self.data, self.memory) if b is not None), default=None)

    def to_json(self) -> dict[str, int | None]:
        """The bounds by name."""
        return {"core": 0, **dataclasses.asdict(self)}
