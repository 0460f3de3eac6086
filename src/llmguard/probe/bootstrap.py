"""What a Python probe runs first: a heartbeat, a way to say where it hangs, and the proof that it came to its end.

Run as a script by its path, never imported: `bootstrap.py FOLDER KIND TARGET N PATH*N ARGUMENT*`. It imports next to nothing
before the target, so that the target sees the modules that it would see without it.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import sys

FOLDER = sys.argv[1]
NONCE = os.environ.get("LLMGUARD_PROBE", "")
_SLOTS = {"import": 8, "open": 1024, "lock": 2048}
_LONGEST = 900


def main() -> None:
    """Set up, run the target, prove the end."""
    kind, target, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
    paths, arguments = sys.argv[5 : 5 + count], sys.argv[5 + count :]
    # a script's own folder comes first on the path: here it would shadow modules of the target
    if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):  # noqa: PTH100, PTH120 - start-up time
        del sys.path[0]
    sys.path[:0] = paths
    _speak_up_when_hung()
    _beat()
    sys.argv[:] = [target if kind == "module" else "-c", *arguments]
    _write("began", NONCE)
    try:
        _run(kind, target)
    except SystemExit as end:
        _leave(end)
    except BaseException as why:
        _confess(why)
        raise
    _write("ended", NONCE)


def _run(kind: str, target: str) -> None:
    if kind == "module":
        import runpy

        runpy.run_module(target, run_name="__main__", alter_sys=True)
        return
    names = sys.modules["__main__"].__dict__
    names["report"] = report
    exec(compile(target, "<probe>", "exec"), names)  # noqa: S102 - running code is what a probe is for


def report(payload: object) -> None:
    """Hand a JSON-safe value to the parent; the last one counts."""
    import json

    _write("payload", json.dumps(payload))


def _leave(end: SystemExit) -> None:
    if end.code in (None, 0):
        _write("ended", NONCE)
    raise end


def _confess(why: BaseException) -> None:
    """Write down the exception: type, message, innermost place outside the import system, and what it carries."""
    import json

    place, line, trace = "", 0, why.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not name.startswith("<frozen") and name != __file__:
            place, line = name, trace.tb_lineno
        trace = trace.tb_next
    if isinstance(why, SyntaxError) and why.filename:
        place, line = why.filename, why.lineno or 0
    kinds = [kind.__name__ for kind in type(why).__mro__]
    found = {"kinds": kinds, "message": str(why)[:4000], "file": place, "line": line}
    found |= {key: getattr(why, key, None) for key in ("errno", "name", "path", "filename")}
    _write("error", json.dumps(found, default=str))


def _write(name: str, text: str) -> None:
    new = f"{FOLDER}/{name}.new"
    with open(new, "w", encoding="utf-8") as file:  # noqa: PTH123 - no pathlib: start-up time
        file.write(text)
    os.rename(new, f"{FOLDER}/{name}")  # noqa: PTH104 - no pathlib: start-up time


def _speak_up_when_hung() -> None:
    """Stacks go to a file: of a crash, on a signal, and once by a timer, which alone works in a hung file system."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    stacks = os.open(f"{FOLDER}/stack", flags, 0o600)
    faulthandler.enable(file=stacks)
    if hasattr(signal, "SIGRTMAX"):
        faulthandler.register(signal.SIGRTMAX - 3, file=stacks)
        signal.signal(signal.SIGRTMAX - 4, _answer)
    _arm(stacks)


def _arm(stacks: int) -> None:
    wait = float(os.environ.get("LLMGUARD_PROBE_DUMP", "0"))
    if wait > 0:
        faulthandler.dump_traceback_later(wait, file=stacks)
        _beat.rearm = lambda: faulthandler.dump_traceback_later(wait, file=stacks)  # type: ignore[attr-defined]
