"""Who keeps an object alive: the shortest chain to its root, in words a person can act on, and what kind of keeping it is.

    for holder in explain(live_tensors("cuda")):
        print(holder)      # 1.00 MiB: module variable `CACHE` of train.py: list of 3 -> dict key 'loss' -> Tensor [262144] 1.00 MiB

Meant for the moment after a leak was measured: looking costs tenths of a second.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import FrameType, ModuleType
from typing import Any

from llmguard.memory.kinds import kind_of
from llmguard.memory.links import file_of, is_parameter, key_of, named, place, size_text, words
from llmguard.memory.models import Trees
from llmguard.memory.search import Chain, Search, is_namespace, thawed
from llmguard.memory.tensors import Graphs, live_tensors, size_of

__all__ = ["Holder", "explain", "live_tensors"]

SECONDS = 3.0
"""Of the processor, for all objects together."""
OBJECTS = 20_000
"""Objects on the way from one object to its root."""
NOBODY = "which nothing in Python refers to: native code (C++) does, or a function that runs works on it"
EACH = 4
"""So many objects are looked at for each holder that is asked for, the largest first."""


@dataclass(frozen=True)
class Holder:
    """What keeps objects alive: its kind, the chain in words, bytes of what hangs on it, file and line where there is one."""

    kind: str
    path: str
    size: int
    where: str = ""
    count: int = 1

    def __str__(self) -> str:
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        return f"{size_text(self.size)}, {self.kind}: {self.path}{more}"


def explain(objects: Sequence[Any], *, limit: int = 5) -> list[Holder]:
    """The holders of objects, those of most bytes first; objects with the same holder are told once.

    Looks at the largest objects, collects garbage before, and finds holders that `gc.freeze` hid. Of an object that several keep,
    one is told: one that lasts before a variable of a function that runs, the nearest before one further away.
    """
    gc.collect()
    chosen = sorted(objects, key=size_of, reverse=True)[: EACH * limit]
    found = _found(chosen, objects)
    grouped: dict[tuple[str, str], Holder] = {}
    for key, holder in found:
        before = grouped.get(key)
        grouped[key] = (
            replace(before, size=before.size + holder.size, count=before.count + 1) if before else holder
        )
    return sorted(grouped.values(), key=lambda holder: -holder.size)[:limit]


def _found(chosen: Sequence[Any], *own: Any) -> list[tuple[tuple[str, str], Holder]]:
    """The holder of each object, with what makes two of them one: looked for among what is new, then among what was frozen."""
    told: dict[int, tuple[tuple[str, str], Holder]] = {}
    hidden = gc.get_freeze_count() > 0
    for everything in (False, True) if hidden else (True,):
        with thawed(everything):
            graphs, trees = Graphs(), Trees()
            known = (chosen, graphs.holders, trees.parents, *own)
            search = Search(SECONDS, OBJECTS, *known, more=graphs.of, lift=trees.above)
            for each in chosen:
                if id(each) in told:
                    continue
                chain = search.chain(each)
                if everything or chain.ended == "root":
                    told[id(each)] = _holder(chain)
                del chain  # in the next round it would be a holder
    return list(told.values())


def _holder(chain: Chain) -> tuple[tuple[str, str], Holder]:
    root, where = _root(chain)
    kind, size = kind_of(chain), size_of(chain.objects[0])
    steps = words(chain.objects)
    path = f"{root}: {steps}" if root else steps
    return (kind, root or path), Holder(kind, path, size, where)


def _root(chain: Chain) -> tuple[str, str]:
    """The root in words, and its file and line."""
    root, held = chain.objects[-1], chain.objects[-2] if len(chain.objects) > 1 else None
    if chain.ended == "frame" and chain.frame is not None:
        where = place(chain.frame)
        return f"variable `{chain.variable}` of {chain.frame.f_code.co_name}, which runs ({where})", where
    if chain.ended == "budget":
        return "held by more objects than could be looked at", ""
    if chain.ended == "none":
        return (NOBODY if len(chain.objects) == 1 else f"{named(root)}, {NOBODY}"), ""
    if type(root) is FrameType:
        return "", place(root)
    return _lasting(root, held)


def _lasting(root: Any, held: Any) -> tuple[str, str]:
    if is_namespace(root):
        return f"module variable `{key_of(root, held)}` of {file_of(root)}", file_of(root)
    if issubclass(type(root), ModuleType):
        return f"module {root.__name__}", file_of(vars(root))
    if issubclass(type(root), type):
        name = key_of(dict(vars(root)), held)
        where = file_of(vars(sys.modules[root.__module__])) if root.__module__ in sys.modules else ""
        return f"class variable `{name}` of {root.__module__}.{root.__qualname__}", where
    return _of_pytest(root)


def _of_pytest(root: Any) -> tuple[str, str]:
    """A fixture's value or a parameter, by pytest's own objects; they are recognised by their names."""
    name = type(root).__name__
    if is_parameter(root):
        return f"argument `{root.argname}` of @pytest.mark.parametrize, kept for the session", ""
    if name in ("FixtureDef", "PseudoFixtureDef"):
        code = getattr(getattr(root, "func", None), "__code__", None)
        where = f"{code.co_filename}:{code.co_firstlineno}" if code else ""
        return f"fixture `{root.argname}` (scope {root.scope})", where
    if name == "CallSpec2":
        return f"argument of @pytest.mark.parametrize [{root.id}], kept for the session", ""
    if name == "Function":
        return f"fixture value of {root.nodeid}", str(root.nodeid)
    return "argument of @pytest.mark.parametrize, kept for the session", ""
