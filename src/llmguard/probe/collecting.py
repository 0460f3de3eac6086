"""From the files that a supervisor and its child left to a result."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from llmguard.probe.result import Failure, Left, Observed, ProbeResult, Survivor, Thread, Window
from llmguard.probe.scratch import mount_of
from llmguard.probe.spec import Spec
from llmguard.probe.verdict import Case, hung_file, judge

__all__ = ["result_of"]

_LONGEST_STACK, _LONGEST_REPORT = 64 * 1024, 64 * 2**20


def result_of(spec: Spec, folder: str, seconds: float) -> ProbeResult:
    """The result of a probe whose files lie in `folder`; `seconds` stands in where no supervisor measured them."""
    found = _observed_file(folder)
    payload, failure, finished = _report(folder, spec.nonce)
    survivors = tuple(Survivor(**survivor) for survivor in found.get("survivors", ()))
    seen = _observed(found, folder)
    output = _output(folder, spec.max_output, seen.output_dropped)
    case = Case(seen, spec.python, finished, failure, output, survivors, spec.patience)
    code = os.waitstatus_to_exitcode(seen.status) if seen.status is not None else None
    return ProbeResult(
        verdict=judge(case),
        what=spec.title,
        seconds=float(found.get("seconds", seconds)),
        limit=spec.timeout,
        returncode=code,
        signal=-code if code is not None and code < 0 and seen.ended == "exit" else None,
        output=output,
        payload=payload,
        failure=failure,
        finished=finished,
        stack=_tail(f"{folder}/stack", _LONGEST_STACK),
        observed=seen,
        leftovers=tuple(Left(**left) for left in found.get("leftovers", ())),
        survivors=survivors,
        mount=_mount(seen, survivors),
        memory=spec.limits.most_memory if spec.limits else None,
    )


def _mount(seen: Observed, survivors: tuple[Survivor, ...]) -> str:
    """The mount of the file that is waited for, looked up now: later it may be gone. Nothing is touched."""
    _, file = hung_file(seen, survivors)
    point, kind, source = mount_of(file) if file.startswith("/") else ("", "", "")
    return f"{point} ({kind} from {source})" if point else ""


def _observed_file(folder: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(folder, "observed.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _observed(found: dict[str, Any], folder: str) -> Observed:
    plain = "ended executed exec_errno status imports last_import last_step peak_rss peak_processes"
    values = {name: found[name] for name in [*plain.split(), "oom_kills", "output_dropped"] if name in found}
    asked = _tail(f"{folder}/asked", _LONGEST_STACK)
    threads = tuple(Thread(**thread) for thread in found.get("threads", ()))
    return Observed(
        **values,
        window=Window(**found.get("window", {})),
        threads=threads,
        locks=tuple(line for line in asked.splitlines() if line),
        notes=tuple(found.get("notes", ())),
    )


def _report(folder: str, nonce: str) -> tuple[Any, Failure | None, bool]:
    """The child's own words: payload, exception, whether it came to its end. Lines without the nonce are not
    ours."""
    payload, failure, finished = None, None, False
    for line in _tail(f"{folder}/report", _LONGEST_REPORT).splitlines():
        word, _, rest = line.partition(" ")
        marked, _, text = rest.partition(" ")
        if marked != nonce:
            continue
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if word == "payload":
            payload = value
        elif word == "error":
            failure = Failure(**{**value, "kinds": tuple(value["kinds"])})
        finished = finished or word == "ended"
    return payload, failure, finished


def _output(folder: str, limit: int, taken_out: int) -> str:
    """The newest `limit` bytes of what was printed, and how many bytes there were before."""
    kept, newest = _bytes(f"{folder}/output.kept", limit), _bytes(f"{folder}/output", limit)
    shown = (kept + newest)[-limit:]
    size = taken_out + _size(f"{folder}/output")
    text = shown.decode("utf-8", "replace")
    return f"[{size - len(shown):,} bytes before this are not kept]\n{text}" if size > len(shown) else text


def _tail(path: str, limit: int) -> str:
    return _bytes(path, limit).decode("utf-8", "replace")


def _bytes(path: str, limit: int) -> bytes:
    """The last `limit` bytes of a file."""
    try:
        with Path(path).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            return file.read(limit)
    except OSError:
        return b""


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
