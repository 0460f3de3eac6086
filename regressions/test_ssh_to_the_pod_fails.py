"""ssh to the pod fails, and each time for another reason.

Symptom: ssh or scp hangs, or says "Connection refused", after the upload was prepared; yesterday's command no longer works.
Severity: medium
Cause: the port of an earlier start, a proxy with no machine behind it, or another service's port; the script only saw whether it connects.
First seen: written down by a fine-tuning project as medium (a rented pod whose direct port changes at each restart)
Cost: an evening of guesses, one for each restart.
Check: remote_host_lets_us_in
Lesson: wait for the server's greeting, with a limit, and say which of the ways of failing it is.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from llmguard import remote_host_lets_us_in, require
from llmguard.errors import CheckFailed
from llmguard.remote import Remote, address_of

SOON, SECONDS = 0.8, 5.0  # for what never answers, and for what does
GREETINGS = {"silent": b"", "wrong_banner": b"220 mail.example ESMTP\r\n", "ssh": b"SSH-2.0-OpenSSH_9.6\r\n"}
Serve = Callable[[str], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server on loopback that greets every connection in one of these ways and keeps it; returns its port."""
    with contextlib.ExitStack() as stack:

        def start(kind: str) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def run() -> None:
                with contextlib.suppress(OSError), contextlib.ExitStack() as lines:
                    while True:
                        line = lines.enter_context(listener.accept()[0])
                        with contextlib.suppress(OSError):
                            line.sendall(GREETINGS[kind])

            threading.Thread(target=run, daemon=True).start()
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            return int(listener.getsockname()[1])

        yield start


def stale_port() -> int:
    """A port where something listened until now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def broken(port: int) -> bool:
    """What the script did before its upload: it connects, so it is up."""
    try:
        with socket.create_connection(("127.0.0.1", port), SECONDS):
            return True
    except OSError:
        return False


def fixed(port: int, seconds: float = SECONDS) -> Remote:
    """The address with its bound, for the check: the core has no remote machines."""
    return Remote((address_of(f"ssh://127.0.0.1:{port}"),), seconds=seconds, options=["-F", "none"])


def _greeting(port: int, seconds: float = SECONDS) -> bytes:
    with socket.create_connection(("127.0.0.1", port), seconds) as line:
        return line.recv(255)


def test_witness(serve: Serve) -> None:
    """The script calls a silent proxy and a mail server up, as it does an ssh server; of a stale port it only says no."""
    ports = {kind: serve(kind) for kind in GREETINGS}
    assert all(broken(port) for port in ports.values())
    assert not broken(stale_port())
    with pytest.raises(TimeoutError):
        _greeting(ports["silent"], SOON)
    assert not _greeting(ports["wrong_banner"]).startswith(b"SSH-")
    assert _greeting(ports["ssh"]).startswith(b"SSH-")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("refused", "the port is of an earlier start"),
        ("silent", "takes the connection and says nothing for 0.8 s"),
        ("wrong_banner", "another service answers there: '220 mail.example ESMTP'"),
    ],
)
def test_check_rejects(serve: Serve, kind: str, said: str) -> None:
    """Within seconds, and each of them by its name."""
    port = stale_port() if kind == "refused" else serve(kind)
    remote = fixed(port, SOON if kind == "silent" else SECONDS)
    with pytest.raises(CheckFailed, match=said):
        require(remote_host_lets_us_in(remote))
    assert [answer.kind for answer in remote.answers.values()] == [kind]


def test_check_accepts(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ssh server greets. Without a client here (the greeting is all there is to see) that is all that can be asked."""
    monkeypatch.setenv("PATH", "")
    found = remote_host_lets_us_in(fixed(serve("ssh")))
    require(found, strict=True)
    assert [f.severity.value for f in found] == ["note"]
    assert found.looked_at == 1
