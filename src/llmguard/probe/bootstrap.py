# ruff: noqa: PTH104, PTH100, PTH120, PTH123 - the target must be the first to import what it imports
"""What a Python probe runs first: a heartbeat, a way to say where it hangs, and the proof that it came to its
end.

Run as a script by its path, never imported: `bootstrap.py FOLDER KIND TARGET N PATH*N ARGUMENT*`. It imports
next to nothing before the target, so that the target sees the modules that it would see without it, and it
keeps one file open from the start, so that a target that has used up all descriptors or all memory can still
say so.
"""

from __future__ import annotations

import _thread
import faulthandler
import mmap
import os
import signal
import sys

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
    beat = Heartbeat(folder)
    sys.meta_path.insert(0, beat)
    _speak_up_when_hung(folder, beat)
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

    def __init__(self, folder: str) -> None:
        beats = os.open(f"{folder}/beats", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(beats, 4096)
        self.page = mmap.mmap(beats, 4096)
        os.close(beats)
        self.seen = set[str]()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Count; the next finder does the work. A name tried before does not count: retrying is no progress."""
        if name in self.seen:
            return
        self.seen.add(name)
        data = name.encode("utf-8", "replace")[:_LONGEST]
        counts = len(self.seen).to_bytes(8, "little") + len(data).to_bytes(2, "little")
        self.page[: 10 + len(data)] = counts + data


def _speak_up_when_hung(folder: str, beat: Heartbeat) -> None:
    """Stacks go to a file: of a crash, on a signal (also while C code holds the interpreter's lock), and on demand.

    The thread that waits for the demand also answers where no signal is delivered: in a file system that hangs. A
    timer would do the same, but it reads the frames of running threads without the lock, and that crashes now
    and then.
    """
    stacks = os.open(f"{folder}/stack", _FLAGS, 0o600)
    faulthandler.enable(file=stacks)
    if hasattr(signal, "SIGRTMAX"):
        faulthandler.register(signal.SIGRTMAX - 3, file=stacks)
        signal.signal(signal.SIGRTMAX - 4, lambda _, frame: _answer(folder, frame))
    if os.environ.get("LLMGUARD_PROBE_LISTEN"):
        os.mkfifo(f"{folder}/ask", 0o600)
        asked = os.open(f"{folder}/ask", os.O_RDWR | os.O_CLOEXEC)
        ready = _thread.allocate_lock()
        ready.acquire()
        _thread.start_new_thread(_listen, (folder, stacks, asked, beat, ready, _thread.get_ident()))
        ready.acquire()


def _listen(folder: str, stacks: int, asked: int, beat: Heartbeat, ready: object, main_thread: int) -> None:
    """Wait to be asked; whoever looks for threads that might free the main one must know this one."""
    beat.page[1024:1032] = _thread.get_native_id().to_bytes(8, "little")
    ready.release()  # type: ignore[attr-defined]  # a lock of _thread; its type has no public name before 3.13
    # the main thread runs again when this one has given up the interpreter's lock, that is, inside of `read`
    os.read(asked, 1)
    faulthandler.dump_traceback(file=stacks)
    _answer(folder, sys._current_frames().get(main_thread))


def _answer(folder: str, frame: object) -> None:
    """Name the lock files that the variables of a waiting loop hold."""
    found: list[str] = []
    for _ in range(4):  # the loop and what it calls; further out a variable says nothing about the wait
        if frame is None:
            break
        for value in list(getattr(frame, "f_locals", {}).values()):
            found += [text for text in _texts(value, depth=2) if _is_lock(text)]
        frame = getattr(frame, "f_back", None)
    try:
        with open(f"{folder}/asked.new", "w", encoding="utf-8", errors="replace") as file:
            file.write("\n".join(dict.fromkeys(found)))
        os.rename(f"{folder}/asked.new", f"{folder}/asked")
    except OSError:  # no descriptor left, or no room: then there is no answer
        return


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
