"""One sentence for a person: what was run, how it ended, where, after how long, and what became of it."""

from __future__ import annotations

import os

from llmguard.probe import stacks, waits
from llmguard.probe.result import ProbeResult, Verdict
from llmguard.probe.verdict import deciding, hung_file

__all__ = ["explain"]

_WAITS = {
    waits.SLEEP: "asleep", waits.CHILD: "waiting for a child process", waits.PIPE: "waiting for a pipe",
    waits.POLL: "waiting for an event, a connection or a time", waits.NETWORK: "waiting for the network",
    waits.FUTEX: "waiting for a lock or an event of another thread",
}  # fmt: skip


def explain(result: ProbeResult) -> str:
    """The sentence."""
    text = _TEXTS.get(result.verdict, _unknown)(result)
    notes = "".join(f"; {note}" for note in result.observed.notes)
    return f"{result.what}: {text}{_left(result)}{_survived(result)}{notes}"


def _ok(result: ProbeResult) -> str:
    return f"came to its end in {result.seconds:.1f} s"


def _hung(result: ProbeResult) -> str:
    threads = deciding(result.observed.threads)
    kind = waits.family(threads[0].wchan) if threads else waits.UNKNOWN
    doing = _WAITS.get(kind, "waiting for something unknown")
    if threads and threads[0].pid != result.observed.threads[0].pid:
        doing = f"waiting for its child process {threads[0].name} ({threads[0].pid}), which is {doing}"
    return _silence(result, doing)


def _hung_fs(result: ProbeResult) -> str:
    call, file = hung_file(result.observed, result.survivors)
    text = f"waiting in {call or 'a call'} for {file}" if file else "waiting for a file system or a device"
    return _silence(result, text + _mount(result))


def _mount(result: ProbeResult) -> str:
    return f" on {result.mount}" if result.mount else ""


def _deadlock(result: ProbeResult) -> str:
    return _silence(result, "deadlocked: every thread waits for a lock that none of them will release")


def _lock_poll(result: ProbeResult) -> str:
    _, file = hung_file(result.observed, result.survivors)
    paths = result.observed.locks or ((file,) if file else ())
    return _silence(
        result, f"waiting for the lock file {', '.join(paths)}" if paths else "waiting for a lock on a file"
    )


def _spin(result: ProbeResult) -> str:
    used = f"{result.observed.window.cpu_seconds:.1f} s of processor time"
    return _silence(result, f"computing ({used}) without getting anywhere")


def _stopped(result: ProbeResult) -> str:
    return _silence(result, "stopped by a signal (state T)")


def _slow(result: ProbeResult) -> str:
    seen = result.observed
    last = f", last {seen.last_import}" if seen.last_import else ""
    step = f"; last step: {seen.last_step}" if seen.last_step else ""
    return f"still moving after {result.limit:g} s, not hung: {seen.imports} modules imported{last}{step}"


def _timeout(result: ProbeResult) -> str:
    step = f"; last step: {result.observed.last_step}" if result.observed.last_step else ""
    return f"still computing after {result.limit:g} s{_place(result)}{step}"


def _crashed(result: ProbeResult) -> str:
    if result.signal is not None:
        where = f"{_place(result)}{_last_import(result)}"
        return f"killed by {result.signal_name} after {result.seconds:.1f} s{where}"
    return f"ended by {result.failure}" if result.failure else f"ended with exit status {result.returncode}"


def _exited(result: ProbeResult) -> str:
    if result.returncode == 0:
        early = f"after {result.seconds:.1f} s without coming to its end"
        return f"exited with status 0 {early}{_last_import(result)}"
    last = result.output.strip().splitlines()[-1:]
    said = f", and said: {last[0][:300]}" if last else ""
    return f"exited with status {result.returncode} after {result.seconds:.1f} s{said}"


def _import_error(result: ProbeResult) -> str:
    return f"the import failed: {result.failure or 'no exception was kept'}"


def _resource(result: ProbeResult) -> str:
    seen = result.observed
    if seen.ended == "memory":
        return f"ended at {seen.peak_rss / 2**20:,.0f} MiB of memory, above its limit{_limit(result)}"
    if seen.ended == "processes":
        return f"ended at {seen.peak_processes} processes, above its limit"
    if result.signal_name == "SIGKILL":
        return f"killed by the kernel for want of memory ({seen.peak_rss / 2**20:,.0f} MiB when last seen)"
    cause = str(result.failure) if result.failure else f"killed by {result.signal_name}"
    if result.failure and "MemoryError" in result.failure.kinds:
        cause += f"; at most {seen.peak_rss / 2**20:,.0f} MiB were resident when looked at{_limit(result)}"
    return f"ran out of a resource: {cause}"


def _limit(result: ProbeResult) -> str:
    return f" (it may have {result.memory / 2**20:,.0f} MiB)" if result.memory else ""


def _unreachable(result: ProbeResult) -> str:
    seen = result.observed
    if seen.exec_errno:
        return f"could not be started: {os.strerror(seen.exec_errno)}"
    _, file = hung_file(result.observed, result.survivors)
    program = f"the program {file}{_mount(result)}" if file else "the file of the program"
    return f"could not be started within {result.seconds:.1f} s: {program} does not answer"


def _unkillable(result: ProbeResult) -> str:
    return f"ended after {result.seconds:.1f} s, but not all of it could be ended"


def _cancelled(result: ProbeResult) -> str:
    return f"called off after {result.seconds:.1f} s"


def _unknown(result: ProbeResult) -> str:
    return f"no verdict after {result.seconds:.1f} s"


_TEXTS = {
    Verdict.OK: _ok, Verdict.HUNG: _hung, Verdict.HUNG_FS: _hung_fs, Verdict.DEADLOCK: _deadlock,
    Verdict.LOCK_POLL: _lock_poll, Verdict.SPIN: _spin, Verdict.STOPPED: _stopped,
    Verdict.PROGRESSING_SLOW: _slow, Verdict.CRASHED: _crashed, Verdict.EXITED_EARLY: _exited,
    Verdict.IMPORT_ERROR: _import_error, Verdict.RESOURCE: _resource, Verdict.TIMEOUT: _timeout,
    Verdict.INTERPRETER_UNREACHABLE: _unreachable, Verdict.UNKILLABLE: _unkillable,
    Verdict.CANCELLED: _cancelled,
}  # fmt: skip


def _silence(result: ProbeResult, doing: str) -> str:
    threads = deciding(result.observed.threads)
    wchan = threads[0].wchan if threads else ""
    channel = f" ({wchan})" if wchan not in ("", "0") else ""
    end = " at its exit, after its work was done" if result.finished else ""
    silent = f"no progress for {result.observed.window.seconds:.1f} s"
    printed = result.observed.output_dropped
    flood = f"; it printed {printed / 2**20:,.0f} MiB" if printed else ""
    where = f"{_place(result)}{_last_import(result)}{_last_step(result)}{flood}"
    return f"{silent}{end}: {doing}{channel}{where}"


def _place(result: ProbeResult) -> str:
    place = stacks.place(result.stack)
    return f" at {place}" if place else ""


def _last_import(result: ProbeResult) -> str:
    seen = result.observed
    return f"; last import: {seen.last_import} (of {seen.imports})" if seen.last_import else ""


def _last_step(result: ProbeResult) -> str:
    return f"; last step: {result.observed.last_step}" if result.observed.last_step else ""


def _left(result: ProbeResult) -> str:
    if not result.leftovers:
        return ""
    named = ", ".join(f"{left.name} ({left.pid})" for left in result.leftovers[:5])
    plural = "process" if len(result.leftovers) == 1 else "processes"
    return f"; left {len(result.leftovers)} {plural} alive: {named}, now ended"


def _survived(result: ProbeResult) -> str:
    if not result.survivors:
        return ""
    named = ", ".join(
        f"{one.pid} {one.name} (state {one.state or '?'}, {one.wchan or 'place unknown'}"
        f"{', ' + one.refused if one.refused else ''})"
        for one in result.survivors[:5]
    )
    return f"; could not be killed and was abandoned: {named}"
