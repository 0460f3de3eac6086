"""Hosts for checks of limits: what is known already, what a kernel of files says, and namespaces where mounts are ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llmguard import Finding, Findings, Severity
from llmguard.probe.environment import Environment
from llmguard.probe.host import Host
from support.machines import host_of

__all__ = ["in_namespace", "machine", "only", "unprivileged", "unshared"]

SETTINGS = ("gpu", "environ", "now", "torch_needed_by", "quick_timeout")


def only(findings: Findings, severity: Severity = Severity.WARNING) -> Finding:
    """The one finding, of this severity."""
    assert [finding.severity for finding in findings] == [severity], findings
    return findings[0]


def machine(root: Path | None = None, files: dict[str, str] | None = None, **facts: object) -> Environment:
    """A project that needs torch, on a machine whose kernel says what stands in these files; `facts` are known already."""
    settings = {name: facts.pop(name) for name in SETTINGS if name in facts}
    host = host_of(root, files or {}) if root else Host()
    environment = Environment("/project", host=host, **{"torch_needed_by": "[pipeline] trainer", **settings})  # type: ignore[arg-type]  # by name
    environment.__dict__.update(facts)
    return environment


NOBODY = 65534


def unprivileged(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command as a user whom the modes of files bind, which root is not; skipped where there is no way to become one.

    Where root's interpreter lies in a folder that is closed to others, it is run in a namespace without root's privileges.
    """
    ways: list[tuple[list[str], int | None]] = [([], None)]
    if os.geteuid() == 0:
        ways = [([], NOBODY), (["unshare", "-U"], None)]
    for before, user in ways:
        try:
            if _run([*before, sys.executable, "-c", "import llmguard"], user).returncode == 0:
                return _run([*before, *command], user)
        except OSError:  # there is no such program, or this user may not start it
            continue
    pytest.skip("root may write everywhere, and no other user can run this interpreter here")


def _run(command: Sequence[str], user: int | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, user=user, group=user
    )


def unshared(*commands: str) -> Callable[[str], str]:
    """A shell line that runs in a mount namespace of its own, after these commands; skipped where there is none."""
    prelude = " && ".join(commands)
    tried = _unshare(prelude)
    if tried.returncode:
        pytest.skip(f"no mount namespaces here: {tried.stderr.strip() or tried.returncode}")
    return lambda line: f"{prelude} && {line}"


def in_namespace(line: str) -> str:
    """What a shell line prints in a mount namespace of its own."""
    done = _unshare(line)
    assert done.returncode == 0, done
    return done.stdout


def _unshare(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["unshare", "-Urm", "sh", "-c", line], capture_output=True, text=True, check=False, timeout=60
    )
