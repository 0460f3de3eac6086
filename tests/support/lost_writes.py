"""A disk that loses what was not flushed: records what a program does to its files, and makes what a power loss may leave.

What is promised by a disk, and no more: a file has the content that it had when it was flushed; a name is in its folder once that
folder was flushed; a rename is one act, there once the folder that it leads to was flushed. All else may be there or not, in any
combination, and the content of a file that was not flushed may be empty, cut off, zeros, or whole.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Recorder"]

NAMES = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1}
"""Audit events that change names, and how many paths each has."""


@dataclass
class Node:
    """A file or folder: what is on the disk (`kept`), and what the program sees (`seen`)."""

    is_dir: bool
    kept: dict[str, Node] = field(default_factory=dict)
    seen: dict[str, Node] = field(default_factory=dict)
    content: bytes | None = None
    latest: bytes = b""


@dataclass
class Event:
    kind: str
    paths: tuple[str, ...]
    content: bytes | None = None
    files: dict[str, bytes] = field(default_factory=dict)


class Recorder:
    """Everything that happens under a folder, as a list of events; `crash(k, …)` makes the disk after the first k of them."""

    _active: Recorder | None = None
    _hooked = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events: list[Event] = []

    @contextmanager
    def recording(self, patch: Any) -> Iterator[None]:
        """Watch Python's own file operations (audit events) and `os.fsync`."""
        if not Recorder._hooked:  # an audit hook stays for good: one for all, asleep between recordings
            sys.addaudithook(_audit)
            Recorder._hooked = True
        real = os.fsync

        def fsync(handle: int) -> None:
            real(handle)
            path = Path(f"/proc/self/fd/{handle}").readlink()
            self.note("fsync", (str(path),), None if path.is_dir() else path.read_bytes())

        patch.setattr(os, "fsync", fsync)
        Recorder._active = self
        try:
            yield
        finally:
            Recorder._active = None

    def note(self, kind: str, paths: tuple[str, ...], content: bytes | None = None) -> None:
        inside = [os.path.relpath(p, self.root) for p in paths]
        if any(p.startswith("..") for p in inside):
            return
        Recorder._active = None  # what follows is ours
        files = {os.path.relpath(p, self.root): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}
        Recorder._active = self
        self.events.append(Event(kind, tuple(inside), content, files))

    def crash(self, count: int, draw: random.Random, target: Path) -> None:
        """Make in `target` what a power loss after the first `count` events may leave."""
        root, pending = Node(True), list[Any]()
        for event in self.events[:count]:
            _apply(root, pending, event)
        last = self.events[count].files if count < len(self.events) else {}
        for path, content in last.items():
            found = _look(root, path)
            if found:
                found.latest = content
        for act in pending:
            if draw.random() < 0.5:
                _keep(act)
        shutil.rmtree(target, ignore_errors=True)
        _write(root, target, draw)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    active = Recorder._active
    if active is None:
        return
    if event in NAMES:
        paths = [os.fspath(a) for a in args if isinstance(a, (str, bytes, os.PathLike))][: NAMES[event]]
        above = args[-1]  # shutil.rmtree names files by their folder's handle
        if isinstance(above, int) and above >= 0 and event in ("os.remove", "os.rmdir"):
            paths = [str(Path(f"/proc/self/fd/{above}").readlink() / os.fsdecode(paths[0]))]
        active.note(event, tuple(os.fsdecode(p) for p in paths))
    elif event == "open" and isinstance(args[0], (str, os.PathLike)) and args[2] & os.O_CREAT:
        active.note("create", (os.fspath(args[0]),))


def _look(root: Node, path: str) -> Node | None:
    node: Node | None = root
    for part in Path(path).parts:
        node = node.seen.get(part) if node else None
    return node


def _apply(root: Node, pending: list[Any], event: Event) -> None:
    places = [(_look(root, str(Path(p).parent)), Path(p).name) for p in event.paths]
    (above, name) = places[0]
    if event.kind == "fsync":
        node = _look(root, event.paths[0])
        assert node is not None, event
        if node.is_dir:
            for act in [a for a in pending if a[0] is node]:
                _keep(act)
                pending.remove(act)
        else:
            node.content = node.latest = event.content or b""
        return
    assert above is not None, event
    if event.kind in ("os.mkdir", "create"):
        if name not in above.seen:
            node = above.seen[name] = Node(event.kind == "os.mkdir")
            pending.append((above, name, node, None, ""))
    elif event.kind == "os.rename":
        (to, new) = places[1]
        assert to is not None
        node = to.seen[new] = above.seen.pop(name)
        pending.append((to, new, node, above, name))
    elif name in above.seen:
        pending.append((above, name, None, None, above.seen.pop(name)))


def _keep(act: Any) -> None:
    """Bring one act to the disk: a name made or moved, or taken away."""
    above, name, node, source, old = act
    if node is None:
        if above.kept.get(name) is old:
            del above.kept[name]
        return
    if source is not None and source.kept.get(old) is node:
        del source.kept[old]
    above.kept[name] = node


def _write(node: Node, target: Path, draw: random.Random) -> None:
    if node.is_dir:
        target.mkdir(parents=True)
        for name, inner in node.kept.items():
            _write(inner, target / name, draw)
        return
    whole = node.latest
    if node.content is None or node.content != whole:
        whole = draw.choice([b"", whole[: draw.randint(0, len(whole))], bytes(len(whole)), whole])
    target.write_bytes(whole)
