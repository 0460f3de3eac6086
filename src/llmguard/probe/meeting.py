"""Whether the processes of one run would find each other: own name, loopback, the port to meet at; tried in a probe.

A name server that does not answer blocks for half a minute and more, so even asking for the own name is done in a child.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmguard.probe.launch import Probe, start
from llmguard.probe.machine import Meeting
from llmguard.probe.result import ProbeResult

__all__ = ["meeting_of", "start_meeting"]

_MEET = """
import os, socket
found = {"step": "", "name": "", "failures": {}, "taken": ""}
def trying(step, work):
    found["step"] = step
    report(found)
    try:
        return work()
    except OSError as why:
        found["failures"][step] = str(why.strerror or why)
def loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), 2) as there:
            server.settimeout(2)
            here, _ = server.accept()
            with here:
                there.sendall(b"x")
                here.settimeout(2)
                here.recv(1)
def port():
    address, number = os.environ.get("MASTER_ADDR") or "127.0.0.1", int(os.environ["MASTER_PORT"])
    try:
        family, kind, _, _, place = socket.getaddrinfo(address, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(place)
            server.listen(1)
    except OSError as why:
        import errno
        if why.errno == errno.EADDRINUSE:
            found["taken"] = f"{address}:{number}"
        elif why.errno != errno.EADDRNOTAVAIL:  # the address of another machine is not ours to try
            raise
found["name"] = trying("asking for the own name", socket.gethostname) or ""
trying("resolving the own name", lambda: socket.getaddrinfo(found["name"], None))
trying("resolving localhost", lambda: socket.getaddrinfo("localhost", None))
trying("connecting over loopback", loopback)
if os.environ.get("MASTER_PORT", "").isdigit() and not os.environ.get("RANK", "0").strip("0"):
    trying("binding MASTER_PORT", port)
report(found)
"""


def start_meeting(environ: Mapping[str, str | None], *, timeout: float) -> Probe:
    """Try it; the port is bound for a moment where MASTER_PORT is set and this is not another rank than 0."""
    return start(
        _MEET,
        timeout=timeout,
        no_progress=timeout,
        kill_grace=0,
        env=environ,
        what="meeting of processes on this machine",
    )


def meeting_of(result: ProbeResult) -> Meeting:
    """What came of it, as far as it came."""
    told: dict[str, Any] = result.payload if isinstance(result.payload, dict) else {}
    return Meeting(result, **told)
