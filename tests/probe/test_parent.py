"""The parent's side: whatever happens to it, its probes end with it, and they cost it nothing."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.matrix import Matrix, fault

from llmguard import UsageError, probe
from llmguard.probe import ProbeResult, Verdict, launch

Alive = Callable[[str], list[int]]
SLEEP = "import time; time.sleep(1e6)"
FAMILY = """
import os, time
if os.fork() == 0:
    os.setsid()
    time.sleep(1e6)
time.sleep(1e6)
"""
DRIVER = """
import sys
from llmguard import probe
running = probe.start(sys.argv[1], timeout=600, no_progress=None)
sys.stdout.write(running.spec.nonce + "\\n")
sys.stdout.flush()
{then}
"""


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    stop = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > stop:
            return False
        time.sleep(0.02)
    return True


def _driver(then: str, scratch: Path) -> tuple[subprocess.Popen[str], str]:
    """A process with a probe that runs two processes for ever; returns it and the probe's nonce."""
    command = [sys.executable, "-c", DRIVER.format(then=then), FAMILY]
    driver = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    nonce = driver.stdout.readline().strip() if driver.stdout else ""
    assert len(nonce) == 32
    return driver, nonce


def _finish(driver: subprocess.Popen[str]) -> str:
    _, errors = driver.communicate(timeout=10)
    return errors


@fault("A27")
def test_a_killed_parent_leaves_no_orphan(tmp_path: Path, alive: Alive, matrix: Matrix) -> None:
    """kill -9 of the parent ends the whole tree within two seconds, its scratch files too."""
    driver, nonce = _driver("running.wait()", tmp_path)
    assert _until(lambda: len(alive(nonce)) == 2, 10), "the fault did not fire: no tree to be orphaned"
    driver.kill()
    started = time.monotonic()
    assert _until(lambda: alive(nonce) == [], 2.0)
    matrix.saw("no orphan", seconds=time.monotonic() - started, deadline=0.0)
    assert _until(lambda: list(tmp_path.iterdir()) == [], 2.0)
    _finish(driver)


@fault("A28")
def test_ctrl_c_ends_the_tree(tmp_path: Path, alive: Alive, matrix: Matrix) -> None:
    """KeyboardInterrupt reaches the caller within a second, and nobody is left."""
    run = f"running.cancel()\nprobe.run({FAMILY!r}, timeout=600, no_progress=None)"
    code = DRIVER.format(then=run).replace("sys.argv[1]", "'pass'")
    command = [sys.executable, "-c", code]
    environ = {**os.environ, "TMPDIR": str(tmp_path), "PROBE_TEST_MARK": str(tmp_path)}
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    others = {driver.pid}
    assert _until(lambda: len(set(alive(str(tmp_path))) - others) >= 3, 10), "the probe did not start"
    started = time.monotonic()
    driver.send_signal(signal.SIGINT)
    errors = _finish(driver)
    matrix.saw("KeyboardInterrupt", seconds=time.monotonic() - started, deadline=0.0)
    assert time.monotonic() - started < 1.5
    assert "KeyboardInterrupt" in errors
    assert alive(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_ends_takes_its_probe_along(tmp_path: Path, alive: Alive) -> None:
    """An interpreter that exits without waiting leaves nothing behind."""
    driver, nonce = _driver("", tmp_path)
    assert _finish(driver) == ""
    assert _until(lambda: alive(nonce) == [], 2.0)
    assert _until(lambda: list(tmp_path.iterdir()) == [], 2.0)


def test_a_parent_that_never_asks_for_the_result_leaves_no_files(tmp_path: Path) -> None:
    """The probe has long ended when its parent exits; its files go all the same."""
    then = "running.cancel()\nold = probe.start('pass', timeout=60)\nwhile not old.done: pass"
    driver, _ = _driver(then, tmp_path)
    assert _finish(driver) == ""
    assert _until(lambda: list(tmp_path.iterdir()) == [], 2.0)


def test_a_finished_probe_that_is_dropped_leaves_no_files(clean: Path) -> None:
    """The same within one process."""
    running = probe.start("pass", timeout=60)
    while not running.done:
        time.sleep(0.01)
    del running
    gc.collect()
    assert _until(lambda: list(clean.iterdir()) == [], 2.0)


def test_a_dropped_probe_ends(clean: Path, alive: Alive) -> None:
    """A probe that nobody holds any more is ended and cleaned up by its supervisor."""
    dropped = probe.start(SLEEP, timeout=600)
    nonce = dropped.spec.nonce
    assert _until(lambda: len(alive(nonce)) == 1, 10)
    supervisor = dropped._handles.process
    del dropped
    gc.collect()
    assert _until(lambda: alive(nonce) == [], 2.0)
    assert supervisor is not None
    assert supervisor.wait(5) == 0


def test_a_fork_of_the_parent_does_not_end_its_probe(clean: Path) -> None:
    """A process forked from the parent inherits the probe's pipes; its exit means nothing."""
    with probe.start(SLEEP, timeout=600) as running:
        assert running._handles.launched.wait(10)
        child = os.fork()
        if child == 0:
            running._handles.abandon()
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.3)
        assert not running.done


def test_a_dead_supervisor_is_told(clean: Path, alive: Alive) -> None:
    """Without its supervisor a probe is ended by its mark, and the result says what happened."""
    running = probe.start(FAMILY, timeout=600)
    assert _until(lambda: len(alive(running.spec.nonce)) == 2, 10)
    assert running._handles.process is not None
    running._handles.process.kill()
    result = running.wait()
    assert result.verdict is Verdict.UNKNOWN
    assert "the supervisor ended without a report" in result.explain()
    assert _until(lambda: alive(running.spec.nonce) == [], 2.0)


def test_a_stopped_supervisor_is_not_waited_for(clean: Path, alive: Alive) -> None:
    """A supervisor that does not answer is replaced by the parent's own bound."""
    running = probe.start(SLEEP, timeout=0.6, kill_grace=0)
    assert _until(lambda: len(alive(running.spec.nonce)) == 1, 10)
    assert running._handles.process is not None
    os.kill(running._handles.process.pid, signal.SIGSTOP)
    started = time.monotonic()
    result = running.wait()
    assert time.monotonic() - started < 0.6 + 2.0 + 1.0
    assert result.verdict is Verdict.UNKNOWN
    assert "did not answer in time" in result.explain()
    assert _until(lambda: alive(running.spec.nonce) == [], 2.0)


def test_cancel_ends_the_tree_within_a_second(clean: Path, alive: Alive) -> None:
    """Also a child that ignores SIGTERM; a second call gives the same result."""
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FAMILY}"
    running = probe.start(stubborn, timeout=600, kill_grace=0.2)
    assert _until(lambda: len(alive(running.spec.nonce)) == 2, 10)
    started = time.monotonic()
    result = running.cancel()
    assert time.monotonic() - started < 1.2
    assert result.verdict is Verdict.CANCELLED
    assert running.cancel() is result
    assert running.wait() is result
    assert alive(running.spec.nonce) == []


def test_wait_with_a_timeout_lets_the_probe_go_on(clean: Path) -> None:
    """TimeoutError is about the wait, not about the probe."""
    with probe.start("import time; time.sleep(0.5); report(1)", timeout=20) as running:
        with pytest.raises(TimeoutError, match="still runs"):
            running.wait(0.05)
        assert running.wait().payload == 1


def test_several_probes_run_at_once(clean: Path) -> None:
    """Starting does not wait: six sleeps of half a second take far less than three seconds."""
    started = time.monotonic()
    running = [probe.start("import time; time.sleep(0.5); report(1)", timeout=20) for _ in range(6)]
    assert time.monotonic() - started < 0.2
    assert [one.wait().payload for one in running] == [1] * 6
    assert time.monotonic() - started < 2.5


def test_probes_may_be_waited_for_from_threads(clean: Path) -> None:
    """Two threads that wait for one probe get the same result."""
    running = probe.start("import time; time.sleep(0.2); report(1)", timeout=20)
    found: list[ProbeResult] = []
    threads = [threading.Thread(target=lambda: found.append(running.wait())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2
    assert found[0] is found[1]


def test_a_launch_that_blocks_does_not_block_the_parent(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Popen` itself hangs when the interpreter lies on a dead mount; the verdict comes all the same."""
    gate = threading.Event()
    original = launch._Handles._popen

    def blocked(self: launch._Handles, log: int) -> subprocess.Popen[bytes]:
        gate.wait(20)
        return original(self, log)

    monkeypatch.setattr(launch._Handles, "_popen", blocked)
    started = time.monotonic()
    running = probe.start("pass", timeout=0.3, kill_grace=0)
    result = running.wait()
    assert time.monotonic() - started < 0.3 + 2.0
    assert result.verdict is Verdict.INTERPRETER_UNREACHABLE
    assert "does not answer" in result.explain()
    gate.set()  # the mount comes back: the late supervisor finds itself called off and cleans up
    assert _until(lambda: running._handles.process is not None, 10)
    assert _until(lambda: list(clean.iterdir()) == [], 10)


def test_a_missing_interpreter_is_unreachable(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both for the supervisor, which the parent starts, and for the target, which the supervisor starts."""
    result = probe.run(["/nowhere/python", "-c", "pass"], timeout=5)
    assert result.verdict is Verdict.INTERPRETER_UNREACHABLE
    assert "No such file or directory" in result.explain()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    result = probe.run("pass", timeout=5)
    assert result.verdict is Verdict.INTERPRETER_UNREACHABLE
    assert "No such file or directory" in result.explain()


def test_programs_are_judged_by_their_status(clean: Path) -> None:
    """Any program can be run; what it prints and how it ends is all there is."""
    good = probe.run(["sh", "-c", "echo hello; echo there >&2"], timeout=5)
    bad = probe.run(["sh", "-c", "echo broken; exit 4"], timeout=5)
    assert (good.verdict, good.returncode, good.output) == (Verdict.OK, 0, "hello\nthere\n")
    assert (bad.verdict, bad.returncode) == (Verdict.EXITED_EARLY, 4)
    assert bad.explain().endswith("and said: broken")


def test_arguments_environment_folder_and_path_reach_the_child(clean: Path, tmp_path: Path) -> None:
    """Including a module beside the code, text that is no ASCII, and a variable taken away."""
    (tmp_path / "beside.py").write_text("import sys\nfrom llmguard.probe import report\nreport(sys.argv)\n")
    told = probe.run("beside", ["a b", "ü\udc80"], timeout=20, sys_path=[tmp_path])
    assert told.payload is not None, told
    assert told.payload[1:] == ["a b", "ü\udc80"]
    code = "import os, sys; report([os.getcwd(), os.environ.get('A'), os.environ.get('HOME'), sys.path[0]])"
    told = probe.run(code, timeout=20, cwd=tmp_path, env={"A": "1", "HOME": None}, sys_path=["/first"])
    assert told.payload == [str(tmp_path), "1", None, "/first"]


def test_a_module_in_the_working_folder_does_not_shadow(clean: Path, tmp_path: Path) -> None:
    """`python -c` and `python -m` put the working folder on the path; a probe does not."""
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('shadowed')")
    (tmp_path / "limits.py").write_text("raise RuntimeError('shadowed')")
    result = probe.run("import colorsys; report(colorsys.__file__)", timeout=20, cwd=tmp_path)
    assert result.ok, result
    beside_the_bootstrap = probe.run("import limits", timeout=20, cwd=tmp_path)
    assert beside_the_bootstrap.verdict is Verdict.IMPORT_ERROR


def test_steps_are_progress_and_name_the_place(clean: Path, tmp_path: Path) -> None:
    """A worker that goes on writing steps is not hung; one that stops is, and its last step is named."""
    steps = tmp_path / "progress.jsonl"
    code = f"""
import json, time
for number in range(10):
    with open({str(steps)!r}, "a") as file:
        file.write(json.dumps({{"step": f"row {{number}}"}}) + "\\n")
    time.sleep(0.15)
time.sleep(1e6)
"""
    result = probe.run(code, timeout=20, no_progress=0.8, progress_file=steps)
    assert result.verdict is Verdict.HUNG
    assert result.seconds > 1.5
    assert "last step: row 9" in result.explain()


def test_the_childs_own_words_need_no_file_name(clean: Path) -> None:
    """`step` and `report` work inside of a probe and do nothing outside."""
    code = "from llmguard import probe; probe.step('loading'); probe.report({'inside': probe.inside()})"
    result = probe.run(code, timeout=20)
    assert result.payload == {"inside": True}
    assert result.observed.last_step == "loading"
    assert not probe.inside()
    probe.step("nowhere")
    probe.report("nobody")


def test_computing_is_progress_only_where_it_is_said_to_be(clean: Path) -> None:
    """A worker may compute for longer than the window; at its deadline it is cut off, not called hung."""
    busy = "while True: pass"
    working = probe.start(busy, timeout=2.0, no_progress=0.6)
    importing = probe.start(busy, timeout=20, no_progress=0.6, computing_is_progress=False)
    cut, hung = working.wait(), importing.wait()
    assert (cut.verdict, hung.verdict) == (Verdict.TIMEOUT, Verdict.SPIN)
    assert cut.seconds >= 2.0
    assert "still computing after 2 s" in cut.explain()


def test_a_pause_of_the_whole_machine_is_no_hang(clean: Path, alive: Alive) -> None:
    """A container that is paused for longer than the window goes on where it was."""
    code = "import time, importlib\nfor name in 'colorsys cmd code sched this'.split():\n"
    running = probe.start(
        code + "    importlib.import_module(name)\n    time.sleep(0.4)\nreport(1)",
        timeout=60, no_progress=1.5, computing_is_progress=False,
    )  # fmt: skip
    assert _until(lambda: len(alive(running.spec.nonce)) == 1, 10)
    assert running._handles.process is not None
    both = (running._handles.process.pid, *alive(running.spec.nonce))
    for pid in both:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2.5)
    for pid in both:
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.3)  # the supervisor looks before the child has moved again
    result = running.wait()
    assert result.verdict is Verdict.OK, result.explain()


def test_a_hidden_gpu_is_hidden(clean: Path) -> None:
    """So that killing an import cannot harm a driver."""
    result = probe.run("import os; report(os.environ['CUDA_VISIBLE_DEVICES'])", timeout=20, hide_gpus=True)
    assert result.payload == ""


def test_sigterm_comes_before_sigkill(clean: Path, tmp_path: Path) -> None:
    """With a grace, what has a handler may clean up; without one it is killed at once."""
    mark = tmp_path / "cleaned"
    code = f"""
import signal, sys, time
def leave(*_):
    open({str(mark)!r}, "w").close()
    sys.exit(1)
signal.signal(signal.SIGTERM, leave)
time.sleep(1e6)
"""
    assert probe.run(code, timeout=0.8, kill_grace=0).verdict is Verdict.HUNG
    assert not mark.exists()
    assert probe.run(code, timeout=0.8, kill_grace=2).verdict is Verdict.HUNG
    assert mark.exists()


def test_a_probe_within_a_probe_ends_with_it(clean: Path, alive: Alive) -> None:
    """The inner supervisor and its tree are part of the outer tree."""
    inner = f"from llmguard import probe; probe.run({FAMILY!r}, timeout=600, no_progress=None)"
    running = probe.start(inner, timeout=600, env={"PROBE_TEST_MARK": str(clean)})
    assert _until(lambda: len(alive(str(clean))) >= 4, 15)
    assert running.cancel().survivors == ()
    assert _until(lambda: alive(str(clean)) == [], 2.0)


def test_the_supervisor_loads_nothing_heavy(clean: Path) -> None:
    """What it imports decides what every probe costs."""
    boot = launch.BOOT.replace("main()\n", "print(*sorted(sys.modules))\n")
    here = str(Path(launch.__file__).parent)
    command = [sys.executable, "-I", "-S", "-c", boot, "", "", "", "", str(Path(here).parent), here]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "llmguard.probe.supervisor" in loaded
    heavy = {
        "subprocess",
        "tempfile",
        "pathlib",
        "dataclasses",
        "inspect",
        "typing",
        "threading",
        "random",
        "llmguard.errors",
    }
    assert loaded & heavy == set()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"target": ""}, "target"),
        ({"target": []}, "target"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"no_progress": -1.0}, "no_progress"),
        ({"kill_grace": -0.5}, "kill_grace"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], named: str) -> None:
    """Before anything is started."""
    settings: dict[str, object] = {"target": "pass", "timeout": 5.0, **arguments}
    with pytest.raises(UsageError, match=f"^{named}="):
        probe.start(**settings)  # type: ignore[arg-type]  # wrong on purpose


def test_the_summary_is_json(clean: Path) -> None:
    """The evidence of a finding can be written to the report."""
    result = probe.run(FAMILY, timeout=0.6)
    assert json.loads(json.dumps(result.to_json()))["verdict"] == "hung"
