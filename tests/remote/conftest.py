"""Machines to be asked, on loopback: a real sshd with keys of its own, and servers that misbehave."""

from __future__ import annotations

import contextlib
import getpass
import http.server
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmguard.remote import Remote, address_of

Serve = Callable[[Callable[[socket.socket], None]], int]


@dataclass
class Sshd:
    """A running sshd, and the client's side of it: a key that it lets in and the host keys known so far."""

    folder: Path
    port: int

    @property
    def text(self) -> str:
        """Its address."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    def remote(self, *, known: Path | None = None, key: str = "client", seconds: float = 5.0) -> Remote:
        """Ask it as a client with these known hosts and this key, and with nothing of the machine's own configuration."""
        options = [
            "-F",
            "none",
            "-o",
            f"UserKnownHostsFile={known or self.known}",
            "-o",
            "GlobalKnownHostsFile=none",
        ]
        options += ["-o", f"IdentityFile={self.folder / key}", "-o", "IdentitiesOnly=yes"]
        return Remote((address_of(self.text),), seconds=seconds, options=options)

    @property
    def known(self) -> Path:
        """The host's own key under its address."""
        return self.listing("host")

    def listing(self, key: str) -> Path:
        """A file of known hosts that has this key for the address."""
        file = self.folder / f"known_{key}"
        kind, body, *_ = (self.folder / f"{key}.pub").read_text("utf-8").split()
        file.write_text(f"[127.0.0.1]:{self.port} {kind} {body}\n", "utf-8")
        return file


def _free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd on loopback; skipped with the reason where there is none."""
    binary = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
    if not binary or not shutil.which("ssh-keygen"):
        pytest.skip("needs sshd and ssh-keygen (openssh-server, openssh-client)")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "other", "client", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "client.pub", folder / "authorized")
    made = Sshd(folder, _free_port())
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd runs as root, its empty folder must be there
    settings = (
        f"Port {made.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        "StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n"
    )
    (folder / "config").write_text(settings, "utf-8")
    server = subprocess.Popen([binary, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.PIPE)
    try:
        _await(made.port, server)
        yield made
    finally:
        server.kill()
        server.communicate()


def _await(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if server.poll() is not None:
            pytest.skip(f"sshd does not start here: {server.communicate()[1].decode()[-200:]}")
        time.sleep(0.02)  # until it listens; nothing tells
    raise TimeoutError("sshd does not listen")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that does something with each connection; returns its port."""
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[socket.socket], None]) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            over = threading.Event()

            def run() -> None:
                lines = []
                with contextlib.suppress(OSError):
                    while not over.is_set():
                        line, _ = listener.accept()
                        lines.append(line)
                        with contextlib.suppress(OSError):
                            answer(line)
                for line in lines:
                    line.close()

            thread = threading.Thread(target=run, daemon=True)
            thread.start()

            def end() -> None:
                over.set()
                with contextlib.suppress(OSError), socket.create_connection(listener.getsockname(), 1):
                    thread.join(5)

            stack.callback(end)
            return int(listener.getsockname()[1])

        yield start


@pytest.fixture
def web() -> Iterator[Callable[[int, bytes], str]]:
    """Start a web server that answers every question alike; returns the address of its /v1."""
    servers = []

    def start(status: int, body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                good = status != http.HTTPStatus.OK or self.path == "/v1/models"
                self.send_response(status if good else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
