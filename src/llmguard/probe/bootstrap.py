# ruff: noqa: PTH100, PTH120, PTH123 - the target must be the first to import what it imports
"""What a Python probe runs first: a heartbeat, a way to say where it hangs, and the proof that it came to its
end.

Run as a script by its path, never imported: `bootstrap.py FOLDER KIND TARGET N PATH*N ARGUMENT*`. It imports
next to nothing before the target, so that the target sees the modules that it would see without it, and it
keeps one file open from the start, so that a target that has used up all descriptors or all memory can still
say so.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import sys
import time

_LONGEST = 900


_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


def main() -> None:
    """Set up, run the target, prove the end."""
    folder, kind, target, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    paths, arguments = sys.argv[5 : 5 + count], sys.argv[5 + count :]
    # a script's own folder comes first on the path: here it would shadow modules of the target
    if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    sys.path[:0] = paths
    sys.path += [
        path for path in [os.environ.get("LLMGUARD_PROBE_LIBRARY", "")] if path and path not in sys.path
    ]
    sys.meta_path.insert(0, Heartbeat(folder, _speak_up_when_hung(folder)))
    sys.argv[:] = [target if kind == "module" else "-c", *arguments]
    told = Report(os.open(f"{folder}/report", _FLAGS, 0o600), os.environ.get("LLMGUARD_PROBE", ""))
    try:
        _run(kind, target, told)
    except SystemExit as end:
        if end.code in (None, 0):
            told.say("ended")
        raise
    except BaseException as why:
        told.say("error", _confession(why))
        raise
    told.say("ended")


class Report:
    """What the parent learns: lines of a word, the nonce that proves that they are ours, and JSON."""

    def __init__(self, file: int, nonce: str) -> None:
        self.file, self.nonce = file, nonce

    def say(self, word: str, text: str = "null") -> None:
        """Write a line in one call."""
        os.write(self.file, f"{word} {self.nonce} {text}\n".encode())

    def payload(self, value: object) -> None:
        """Hand a JSON-safe value to the parent; the last one counts."""
        import json

        self.say("payload", json.dumps(value))


def _run(kind: str, target: str, told: Report) -> None:
    if kind == "module":
        import runpy

        runpy.run_module(target, run_name="__main__", alter_sys=True)
        return
    # a fresh __main__: children that multiprocessing spawns must not run this file again
    module = sys.modules["__main__"] = type(sys)("__main__")
    module.__dict__["report"] = told.payload
    exec(compile(target, "<probe>", "exec"), module.__dict__)  # noqa: S102 - running code is what a probe is for


def _confession(why: BaseException) -> str:
    """The exception as JSON: its types, its message, the innermost place outside the import system, what it
    carries."""
    place, line, trace = "", 0, why.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith("<frozen") and name != __file__:
            place, line = name, trace.tb_lineno
        trace = trace.tb_next
    if isinstance(why, SyntaxError) and why.filename:
        place, line = why.filename, why.lineno or 0
    try:
        carried = {key: getattr(why, key, None) for key in ("name", "path", "filename")}
        texts = {"message": str(why)[:4000], "file": place} | {
            k: str(v) for k, v in carried.items() if v is not None
        }
    except Exception:  # an exception that cannot be shown is still an exception
        texts = {"message": "", "file": place}
    kinds = ", ".join(_quoted(kind.__name__) for kind in type(why).__mro__)
    fields = "".join(f", {_quoted(key)}: {_quoted(text)}" for key, text in texts.items())
    number = getattr(why, "errno", None)
    return f'{{"kinds": [{kinds}], "line": {line}, "errno": {number if type(number) is int else 0}{fields}}}'


def _quoted(text: str) -> str:
    """A JSON string, made without importing json or a codec: that would open files, and there may be no
    descriptor left."""
    return '"' + "".join(_escaped(ord(character)) for character in text) + '"'


def _escaped(code: int) -> str:
    if 32 <= code < 127 and code not in (34, 92):
        return chr(code)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


class Heartbeat:
    """A finder that finds nothing: it counts the modules that are imported for the first time and notes the
    last one.

    First on `sys.meta_path`, it sees every import that is not a lookup, `importlib.import_module` included
    (whose audit event is never raised). The count and the name lie in a small mapped file that the supervisor
    reads: 8 bytes count, 2 bytes length, text.
    """

    def __init__(self, folder: str, stacks: int) -> None:
        beats = os.open(f"{folder}/beats", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(beats, 4096)
        self.page = mmap.mmap(beats, 4096)
        os.close(beats)
        self.stacks, self.seen = stacks, set[str]()
        self.wait, self.armed = float(os.environ.get("LLMGUARD_PROBE_TIMER", "0")), 0.0

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Count; the next finder does the work. Names already tried do not count: a loop that retries is no
        progress."""
        if name in self.seen:
            return
        self.seen.add(name)
        data = name.encode("utf-8", "replace")[:_LONGEST]
        self.page[: 10 + len(data)] = (
            len(self.seen).to_bytes(8, "little") + len(data).to_bytes(2, "little") + data
        )
        self._rearm()

    def _rearm(self) -> None:
        """One dump after `wait` seconds without an import: the timer works where no signal is delivered."""
        now = time.monotonic()
        if self.wait and now - self.armed > self.wait / 4:
            self.armed = now
            faulthandler.dump_traceback_later(self.wait, file=self.stacks)


def _speak_up_when_hung(folder: str) -> int:
    """Stacks go to a file: of a crash, and on a signal, also while C code holds the interpreter's lock."""
    stacks = os.open(f"{folder}/stack", _FLAGS, 0o600)
    faulthandler.enable(file=stacks)
    if hasattr(signal, "SIGRTMAX"):
        faulthandler.register(signal.SIGRTMAX - 3, file=stacks)
        signal.signal(signal.SIGRTMAX - 4, lambda _, frame: _answer(folder, frame))
    return stacks


def _answer(folder: str, frame: object) -> None:
    """Name the lock files that the variables of a waiting loop hold."""
    found: list[str] = []
    for _ in range(
        4
    ):  # the loop itself and what it calls; further out a variable says nothing about the wait
        if frame is None:
            break
        for value in list(getattr(frame, "f_locals", {}).values()):
            found += [text for text in _texts(value, depth=2) if _is_lock(text)]
        frame = getattr(frame, "f_back", None)
    with open(f"{folder}/asked", "w", encoding="utf-8", errors="replace") as file:
        file.write("\n".join(dict.fromkeys(found)))


def _texts(value: object, depth: int) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, os.PathLike) and type(value).__module__.startswith("pathlib"):
        return [str(value)]
    try:
        inside = object.__getattribute__(value, "__dict__") if depth else {}
    except Exception:
        return []
    if not isinstance(inside, dict) or isinstance(value, (type, type(sys))):
        return []
    return [text for inner in list(inside.values())[:50] for text in _texts(inner, depth - 1)]


def _is_lock(text: str) -> bool:
    name = text.rpartition("/")[2].lower()
    return (
        len(text) < 4096
        and "/" in text
        and (name == "lock" or name.endswith((".lock", "-lock", "_lock", ".lck")))
    )


if __name__ == "__main__":
    main()
