"""The shortest chain of references from an object to what keeps it alive, through the garbage collector's own lists.

Breadth first, one look over the heap a level (15 to 30 ms with torch loaded), bounded in time and in objects. What looks is left
out: the frames, nodes and lists of this package.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import Any, NamedTuple

__all__ = ["Chain", "Search", "is_namespace", "running_variables", "thawed"]

LEVEL = 200
"""Objects looked for in one pass over the heap: its cost grows with their number."""
OWN = ("llmguard.memory", "llmguard_core.memory", "pytest_llmguard")
TERMINAL = frozenset({"FixtureDef", "CallSpec2", "Mark", "ParameterSet", "PseudoFixtureDef"})
"""pytest's objects that say enough: what holds them is pytest itself."""
_ITERATORS = frozenset({"list_iterator", "tuple_iterator", "list_reverseiterator"})
_OPTIMIZED = (
    1  # CO_OPTIMIZED: a function; the variables of a module are its namespace, which the collector sees
)


class Chain(NamedTuple):
    """Objects from the one that is kept to its root. `ended`: root, frame (`frame` runs and names it `variable`), none, budget."""

    objects: tuple[Any, ...]
    ended: str
    frame: FrameType | None = None
    variable: str = ""


class _Node:
    """One step of a search; slots, so that no dict of it is taken for a holder."""

    __slots__ = ("child", "held")

    def __init__(self, held: Any, child: _Node | None) -> None:
        self.held, self.child = held, child

    def path(self, ended: str, frame: FrameType | None = None, variable: str = "") -> Chain:
        objects: list[Any] = []
        node: _Node | None = self
        while node is not None:
            objects.append(node.held)
            node = node.child
        objects.reverse()
        return Chain(tuple(objects), ended, frame, variable)


class Search:
    """Looks for chains of several objects with one budget of seconds and of objects a chain.

    `own`: containers of the caller, which are no holders. `more(object)` gives holders that the collector does not see (a tensor's
    graph); it is asked where nobody else was found. `lift(object)` gives holders above it that are known already, one above the
    other. Seconds are of the processor: on a busy machine looking takes longer and finds the same.
    """

    def __init__(
        self,
        seconds: float,
        objects: int,
        *own: Any,
        more: Callable[[Any], Iterable[Any]] = lambda _: (),
        lift: Callable[[Any], Iterable[Any]] = lambda _: (),
    ) -> None:
        self.until, self.objects, self.more, self.lift = time.thread_time() + seconds, objects, more, lift
        self.running, self._frames = running_variables(), {id(frame) for frame in _stacks()}
        self._own: list[
            Any
        ] = []  # kept as long as we look: an id that is free again could become somebody else's
        self._ids: set[int] = {id(self._own), id(self.__dict__)}
        self._known: dict[int, tuple[Chain, int]] = {}
        self._keep(self._known, *own)

    def chain(self, target: Any) -> Chain:
        """The shortest chain to a root that lasts; else to a variable of a function that runs; else as far as it goes."""
        level, seen = [_Node(target, None)], {id(target)}
        fallback, last = None, level[0]
        while level:
            self._keep(level)
            if (rooted := self._rooted(level)) is not None:
                return self._remember(rooted)
            fallback = fallback or self._in_a_frame(level)
            if time.thread_time() > self.until or len(seen) > self.objects:
                return fallback or last.path("budget")
            last, level = level[0], self._above(level, seen)
        return fallback or last.path("none")

    def _rooted(self, level: list[_Node]) -> Chain | None:
        """The chain to a root, or to an object whose own chain is known already; of a test, last: what it was given has an owner, too."""
        roots = [node for node in level if node.child is not None and is_root(node.held)]
        if roots:
            first = min(roots, key=lambda node: type(node.held).__name__ == "Function")
            return _without_class_dict(first.path("root"))
        for node in level:
            if id(node.held) in self._known:
                chain, at = self._known[id(node.held)]
                below = node.path("root").objects
                return chain._replace(objects=(*below, *chain.objects[at + 1 :]))
        return None

    def _in_a_frame(self, level: list[_Node]) -> Chain | None:
        for node in level:
            if (by := self.running.get(id(node.held))) is not None:
                return node.path("frame", *by)
        return None

    def _remember(self, chain: Chain) -> Chain:
        self._keep(chain, chain.objects)
        for at, each in enumerate(chain.objects[:-1]):
            found = (chain, at)
            self._keep(found)
            self._known.setdefault(id(each), found)
        return chain

    def _above(self, level: list[_Node], seen: set[int]) -> list[_Node]:
        """The holders of all objects of a level that were not seen before."""
        found: list[_Node] = []
        self._keep(found)
        for start in range(0, min(len(level), 5 * LEVEL), LEVEL):
            part = {id(node.held): node for node in level[start : start + LEVEL]}
            held = [node.held for node in part.values()]
            referrers = gc.get_referrers(*held)
            self._keep(part, held, referrers)
            for each in referrers:
                if id(each) not in seen and not self._is_own(each):
                    seen.add(id(each))
                    child = next((part[id(r)] for r in gc.get_referents(each) if id(r) in part), None)
                    if child is not None:
                        found.append(_Node(each, child))
                        found += self._lifted(found[-1], seen)
        if not found:  # only then: walking graphs costs more than a pass
            for node in level:
                found += [_Node(each, node) for each in self.more(node.held) if id(each) not in seen]
            seen.update(id(node.held) for node in found)
        return found

    def _lifted(self, node: _Node, seen: set[int]) -> list[_Node]:
        """The uppermost of the known holders; those between are left to be found, for they may have holders of their own."""
        above = list(self.lift(node.held))
        self._keep(above)
        if not above or id(above[-1]) in seen:
            return []
        seen.add(id(above[-1]))
        for each in above:
            node = _Node(each, node)
        return [node]

    def _is_own(self, referrer: Any) -> bool:
        kind = type(referrer)
        if kind is FrameType:  # one that runs (seen here before Python 3.11) has been asked for its variables
            return id(referrer) in self._frames or _is_own(referrer)
        return kind is _Node or kind is Search or id(referrer) in self._ids or kind.__name__ in _ITERATORS

    def _keep(self, *own: Any) -> None:
        self._own += own
        self._ids.update(id(each) for each in own)


def _without_class_dict(chain: Chain) -> Chain:
    """A class holds its variables by a dict that nobody can see: its variable is what a person knows."""
    *below, root = chain.objects
    by_dict = len(below) > 1 and issubclass(type(root), type) and type(below[-1]) is dict
    if by_dict and any(value is below[-2] for value in vars(root).values()):
        return chain._replace(objects=(*below[:-1], root))
    return chain


def is_namespace(found: Any) -> bool:
    """Whether it is the dict of a module, a notebook or an interactive session."""
    return type(found) is dict and "__name__" in found and ("__builtins__" in found or "__spec__" in found)


def is_root(found: Any) -> bool:
    """Whether nobody has to ask further: a module, a class, what pytest keeps for the session."""
    kind = type(found)
    if kind.__name__ in TERMINAL or kind.__name__ == "Function":
        return kind.__module__.startswith("_pytest.")
    return is_namespace(found) or issubclass(kind, (ModuleType, type))


def running_variables() -> dict[int, tuple[FrameType, str]]:
    """Variables of functions that run, of all threads, by the id of their value: from 3.11 on the collector does not see them.

    Looking must keep nothing alive: before 3.13 a frame remembers the dict that `f_locals` made, so it is emptied again, unless
    somebody else holds it.
    """
    found: dict[int, tuple[FrameType, str]] = {}
    for frame in _stacks():
        if _is_own(frame) or not frame.f_code.co_flags & _OPTIMIZED:
            continue
        names = frame.f_locals
        for name in list(names):
            found.setdefault(id(names[name]), (frame, name))
        if sys.version_info < (3, 13) and sys.getrefcount(names) <= 3:  # the frame's, ours, the argument
            names.clear()
    return found


@contextmanager
def thawed(needed: bool = True) -> Iterator[None]:
    """Objects that `gc.freeze` hid from the collector are seen inside, and frozen again afterwards.

    With them all else that is alive then: the collector knows no other way. So what is garbage is collected before.
    """
    frozen = needed and gc.get_freeze_count() > 0
    if frozen:
        gc.unfreeze()
    try:
        yield
    finally:
        if frozen:
            gc.collect()
            gc.freeze()


def _stacks() -> Iterator[FrameType]:
    """Every frame that runs now, of all threads."""
    for frame in sys._current_frames().values():
        each: FrameType | None = frame
        while each is not None:
            yield each
            each = each.f_back


def _is_own(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.startswith(OWN)
