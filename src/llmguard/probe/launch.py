"""The parent's side of a probe: start its supervisor, wait with a bound, collect, leave nothing behind.

The parent touches nothing that may hang: not the program, not the folder it runs in, not the paths it is
about. Even starting the supervisor happens in a thread of its own, because `Popen` blocks for as long as the
interpreter's file does not answer.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from llmguard.probe import scratch
from llmguard.probe.collecting import result_of
from llmguard.probe.result import Observed, ProbeResult, Verdict
from llmguard.probe.spec import HERE, Settings, Spec
from llmguard.probe.sweep import sweep

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Probe", "python", "run", "start"]

AFTER_SECONDS = 1.5
"""What the supervisor may take after the deadline, beside the grace between SIGTERM and SIGKILL: a look at what hangs,
the bounded reap, the report."""
CANCEL_SECONDS = 1.0
LATE_REAP_SECONDS = 10.0

BOOT = """
import sys
for name, path in (("llmguard", sys.argv[5]), ("llmguard.probe", sys.argv[6])):
    sys.modules[name] = type(sys)(name)
    sys.modules[name].__path__ = [path]
from llmguard.probe.supervisor import main
main()
"""
"""Makes the two packages known without running their `__init__.py`: a supervisor starts in a few milliseconds."""

HOLDS_THE_GIL = sys.version_info < (3, 11)
"""Python 3.10 holds the GIL in `vfork` until the child's `exec` has answered, which on a dead mount is never: every thread of the
parent would stand still. A user to change to makes it `fork` instead."""


class _Handles:
    """What a running probe holds on the parent's side; shared with the thread that launches it."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.owner = spec, os.getpid()
        self.their_lifeline, self.lifeline = os.pipe()
        self.done, self.their_done = os.pipe()
        self.folder = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.refused: OSError | None = None
        self.launched = threading.Event()
        self.closed = False

    def launch(self) -> None:
        """Make the scratch folder and start the supervisor; may block, so it runs in a thread."""
        try:
            self.folder = scratch.make()
            Path(self.folder, "spec.json").write_text(self.spec.to_json(self.folder), "utf-8")
            with Path(self.folder, "supervisor.log").open("wb") as log:
                self.process = self._popen(log.fileno())
        except OSError as why:
            self.refused = why
        finally:
            os.close(self.their_lifeline)
            os.close(self.their_done)
            self.launched.set()
        if self.closed:
            self._collect_late()

    def _popen(self, log: int) -> subprocess.Popen[bytes]:
        numbers = [str(self.their_lifeline), str(self.their_done), str(os.getpid())]
        folders = [str(HERE.parent), str(HERE)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", BOOT, self.folder, *numbers, *folders],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            pass_fds=(self.their_lifeline, self.their_done),
            start_new_session=True,
            user=os.getuid() if HOLDS_THE_GIL else None,
        )

    def _collect_late(self) -> None:
        """Reap a supervisor that was not waited for; one that hangs in the kernel is abandoned, as its children are."""
        if not self.reap(LATE_REAP_SECONDS) and self.process is not None:
            self.process.returncode = -signal.SIGKILL  # else Python warns of it when it is forgotten
        if self.folder:
            scratch.remove(self.folder)

    def collect_late(self) -> None:
        """Do that in a thread of its own."""
        try:
            threading.Thread(target=self._collect_late, name="llmguard-reap", daemon=True).start()
        except RuntimeError:  # the interpreter is on its way out: the system will reap
            return

    def call_off(self, forget: bool = False) -> None:
        """Tell the supervisor to end everything; with `forget`, that nobody will read its report."""
        if self.lifeline < 0 or os.getpid() != self.owner:
            return  # a fork of this process holds the same pipe and must not speak for it
        lifeline, self.lifeline = self.lifeline, -1
        try:
            if forget:
                os.write(lifeline, b"x")
        except OSError:
            pass
        finally:
            os.close(lifeline)

    def reap(self, seconds: float) -> bool:
        """Collect the supervisor itself; False when it has not ended within `seconds`."""
        if self.process is None:
            return True
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def abandon(self) -> None:
        """Nobody will ask for the result: whoever is the last one alive, supervisor or this process, removes the files."""
        if os.getpid() != self.owner:
            return
        self.launched.wait(1.0)  # an interpreter that exits would cut the launch in half
        self.call_off(forget=True)
        if self.ended():
            scratch.remove(self.folder)
        self._close_done()
        self.collect_late()

    def ended(self, seconds: float = 0.0) -> bool:
        """Whether the supervisor has ended, or was never started; waits for it for at most so long."""
        if self.process is None or self.done < 0:
            return True
        ready, _, _ = select.select([self.done], [], [], max(0.0, seconds))
        return bool(ready)

    def _close_done(self) -> None:
        if self.done >= 0:
            os.close(self.done)
            self.done = -1

    def close(self) -> None:
        """Let go of everything; the files too."""
        self.call_off()
        self.closed = True
        self._close_done()
        if self.launched.is_set() and self.folder:
            scratch.remove(self.folder)


class Probe:
    """A probe that is running; end it with `wait` or `cancel`. As a context manager it is cancelled when left.

    One that is dropped without either is ended by its supervisor, as it is when this process dies.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._handles = _Handles(spec)
        self._started = time.monotonic()
        self._bound = self._started + spec.timeout + spec.kill_grace + AFTER_SECONDS
        self._lock = threading.RLock()
        self._result: ProbeResult | None = None
        self._forget = weakref.finalize(self, self._handles.abandon)
        threading.Thread(target=self._handles.launch, name="llmguard-probe", daemon=True).start()

    def __enter__(self) -> Probe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, why: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    @property
    def done(self) -> bool:
        """Whether the result is there, or overdue: either way `wait` does not wait."""
        return self._result is not None or self._await(0.0) or time.monotonic() >= self._bound

    def wait(self, timeout: float | None = None) -> ProbeResult:
        """The result; at the latest its deadline and 2 s after its start.

        Raises:
            TimeoutError: `timeout` seconds are over and the probe still runs (and goes on).
        """
        with self._lock:
            if self._result is None:
                left = max(0.0, self._bound - time.monotonic())
                ended = self._await(left if timeout is None else min(left, max(0.0, timeout)))
                if not ended and time.monotonic() < self._bound:
                    raise TimeoutError(f"{self.spec.title} still runs after {timeout} s")
                self._result = self._collect(ended)
            return self._result

    def cancel(self) -> ProbeResult:
        """End it now, and everything it started; returns within about a second."""
        self._handles.call_off()
        with self._lock:
            if self._result is None:
                self._result = self._collect(self._await(self.spec.kill_grace + CANCEL_SECONDS))
            return self._result

    def _await(self, seconds: float) -> bool:
        stop = time.monotonic() + seconds
        if not self._handles.launched.wait(seconds):
            return False
        return self._handles.ended(stop - time.monotonic())

    def _collect(self, ended: bool) -> ProbeResult:
        handles = self._handles
        try:
            if not handles.launched.is_set() or handles.process is None:
                return self._unreachable()
            if not ended:
                handles.process.kill()
            if not handles.reap(1.0):
                handles.collect_late()
            result = result_of(self.spec, handles.folder, time.monotonic() - self._started)
            return result if result.observed.ended else self._without_report(result, ended)
        finally:
            self._forget.detach()
            handles.close()

    def _without_report(self, result: ProbeResult, by_itself: bool) -> ProbeResult:
        """The supervisor is gone: end what carries the probe's mark, and tell what the supervisor said last."""
        ended = sweep(self.spec.nonce)
        try:
            log = Path(self._handles.folder, "supervisor.log").read_text("utf-8", "replace")
        except OSError:
            log = ""
        said = log.strip().splitlines()[-1:] or ["nothing"]
        why = f"the supervisor ended without a report ({said[0]})"
        why = why if by_itself else "the supervisor did not answer in time"
        note = f"{why}; {len(ended)} processes were ended by their mark"
        seen = replace(result.observed, notes=(*result.observed.notes, note))
        return replace(result, verdict=Verdict.UNKNOWN, observed=seen)

    def _unreachable(self) -> ProbeResult:
        refused = self._handles.refused
        number = None if refused is None else refused.errno
        seen = Observed(ended="launch", executed=False, exec_errno=number)
        seconds = time.monotonic() - self._started
        verdict = Verdict.INTERPRETER_UNREACHABLE
        return ProbeResult(verdict, self.spec.title, seconds, self.spec.timeout, observed=seen)


def start(
    target: str | Sequence[str], args: Sequence[str] = (), *, timeout: float, **settings: Unpack[Settings]
) -> Probe:
    """Start a probe and come back at once; `timeout` is its hard deadline in seconds. For the rest see `Settings`.

    `target` is an argument vector (any program), the name of a module (run as `python -m` would) or Python
    code (`report(value)` in it sets the payload). Python targets must come to their end to be OK; exit status
    0 is not enough.

    Raises:
        UsageError: an empty target, or a time that is no positive number.
    """
    return Probe(Spec(target, tuple(args), timeout, **settings))


def run(
    target: str | Sequence[str], args: Sequence[str] = (), *, timeout: float, **settings: Unpack[Settings]
) -> ProbeResult:
    """Run a probe to its end and return what it says: within `timeout` + 2 s, whatever it does. See `start`.

    Raises:
        UsageError: an empty target, or a time that is no positive number.
    """
    probe = start(target, args, timeout=timeout, **settings)
    try:
        return probe.wait()
    except BaseException:  # Ctrl-C, or a test's own timeout: end the tree, then let it through
        probe.cancel()
        raise


def python(
    module_or_code: str, args: Sequence[str] = (), *, timeout: float, **settings: Unpack[Settings]
) -> ProbeResult:
    """`run` for Python: the name of a module, or code that may call `report(value)`."""
    return run(module_or_code, args, timeout=timeout, **settings)
