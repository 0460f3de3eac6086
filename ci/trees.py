"""A copy of the checkout that may be broken, with an interpreter of its own: whatever a test starts there imports the copy too.

The interpreter is an environment whose one `.pth` file puts the copy before the packages of this environment. Unlike PYTHONPATH it
reaches children that are started with `-I`, and it goes before an editable install. Compiled files are made once and never written
again, so that a mutated module is always compiled from its text.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Run", "Tree"]

ROOT = Path(__file__).resolve().parent.parent
NAMES_A_PYTHON = b"python"
OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain")
QUIET = ("-W", "ignore::pytest.PytestAssertRewriteWarning")
LISTED = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")


@dataclass(frozen=True)
class Run:
    """How a pytest run ended: its exit code (None: it was ended after its time), and what it said."""

    code: int | None
    said: str


class Tree:
    """One copy of the checkout, for one run at a time."""

    def __init__(self, home: Path) -> None:
        self.root, self.env, self.temporary = home / "tree", home / "env", home / "tmp"
        _copy(self.root)
        self.python = _environment(self.env, [self.root / "src", self.root, self.root / "ci"])
        compiled = [str(self.root / room) for room in ("src", "pytest_llmguard")]
        subprocess.run([self.python, "-m", "compileall", "-q", *compiled], check=True, env=self._environ({}))

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        """The environment of a run: this one, without what would lead back to the checkout."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
        real = os.environ.get("LLMGUARD_REAL_DATA") or str(ROOT.parent / "shared")
        path = f"{self.env / 'bin'}{os.pathsep}{kept.get('PATH', '')}"
        ours = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "LLMGUARD_REAL_DATA": real}
        return {**kept, **ours, "PATH": path, **more}

    def pytest(self, tests: Sequence[str], *options: str, seconds: float, **environ: str) -> Run:
        """Run tests of the copy; whoever outlasts its seconds is ended with all that it started."""
        command = [str(self.env / "bin" / "pytest"), *OPTIONS, *QUIET, f"--basetemp={self.temporary}"]
        with subprocess.Popen(
            [*command, *options, *tests], cwd=self.root, env=self._environ(environ), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        ) as running:  # fmt: skip
            try:
                return _ended(running, seconds)
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody of it is left
                    os.killpg(running.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def changed(self, file: Path, text: bytes) -> Iterator[Path]:
        """Another text in the place of a file of the checkout, for as long as the block lasts."""
        target = self.root / file.resolve().relative_to(ROOT)
        before, times = target.read_bytes(), target.stat()
        try:
            target.write_bytes(text)
            os.utime(target, (times.st_atime + 7, times.st_mtime + 7))  # so that no compiled file fits
            yield target
        finally:
            target.write_bytes(before)
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


def _ended(running: subprocess.Popen[str], seconds: float) -> Run:
    try:
        said, _ = running.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return Run(None, f"ended after {seconds:.0f} s")
    return Run(running.returncode, said)


def _copy(target: Path) -> None:
    """What git tracks, and new files that it does not ignore, as they lie there now."""
    names = subprocess.run(LISTED, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():  # not one that was deleted and is still tracked
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _environment(home: Path, first: Sequence[Path]) -> str:
    """Make an environment like the one of this interpreter, where these folders are found first; its Python."""
    packages, scripts = Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("scripts"))
    own = home / packages.relative_to(Path(sys.prefix))
    own.mkdir(parents=True)
    begins = f"import sys; sys.path[:0] = {[str(folder) for folder in first]!r}"
    (own / "copy.pth").write_text(f"{begins}\n{packages}\n", "utf-8")
    real = Path(sys.executable).resolve()
    (home / "pyvenv.cfg").write_text(f"home = {real.parent}\ninclude-system-site-packages = false\n", "utf-8")
    (home / "bin").mkdir()
    for name in ("python", "python3", real.name):
        if not (home / "bin" / name).exists():
            (home / "bin" / name).symlink_to(real)
    for script in scripts.iterdir():
        _install(script, home / "bin" / script.name, home / "bin" / "python")
    return str(home / "bin" / "python")


def _install(script: Path, target: Path, python: Path) -> None:
    """A command of the environment: one of Python's is run by the new interpreter, another is linked to."""
    if target.exists() or not script.is_file():
        return
    first, _, rest = script.read_bytes().partition(b"\n")
    if first.startswith(b"#!") and NAMES_A_PYTHON in first:
        target.write_bytes(b"#!" + os.fsencode(python) + b"\n" + rest)
        target.chmod(0o755)
    else:
        target.symlink_to(script.resolve())
