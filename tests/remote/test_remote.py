"""Remote machines: each way of not answering is told apart from the others, in bounded time, against real servers."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.matrix import Matrix, fault

from llmguard.auditing import Audit
from llmguard.checks.remote import endpoint_answers, remote_host_lets_us_in
from llmguard.findings import Severity
from llmguard.project import load_project
from llmguard.remote import Remote, address_of
from llmguard.remote.asking import STEPS

Serve = Callable[[Callable[[socket.socket], None]], int]


def asked(
    text: str, matrix: Matrix | None = None, *, seconds: float = 1.0, remote: Remote | None = None
) -> tuple[str, str]:
    """What an address answers, in a word, and the message of the finding; within the bound."""
    web = text.startswith("http")
    remote = remote or Remote(
        *((), (address_of(text),)) if web else ((address_of(text),), ()), seconds=seconds
    )
    started = time.monotonic()
    found = (endpoint_answers if web else remote_host_lets_us_in)(remote)
    took = time.monotonic() - started
    (answer,) = remote.answers.values()
    if matrix:
        matrix.saw(answer.kind, seconds=took, deadline=remote.seconds * STEPS)
    return answer.kind, found[0].message if found else ""


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose queue of connections is full: the next one is dropped, as a firewall drops it."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            line = stack.enter_context(socket.socket())
            line.setblocking(False)
            line.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


def test_a_machine_that_lets_us_in_is_right(sshd: Any) -> None:
    """Known, with a key that is on it: nothing is said, nothing is learnt, and one host was looked at."""
    remote = sshd.remote()
    before = sshd.known.read_bytes()
    found = remote_host_lets_us_in(remote)
    assert [f.message for f in found] == []
    assert (found.looked_at, found.unit) == (1, "hosts")
    assert sshd.known.read_bytes() == before


@fault("F12")
def test_another_machine_under_the_same_address_is_told(sshd: Any, matrix: Matrix) -> None:
    """The host key that is known is another one; the remedy names the entry to remove."""
    kind, message = asked(sshd.text, matrix, remote=sshd.remote(known=sshd.listing("other")))
    assert kind == "host_key_changed"
    assert "another machine than the one known under this address" in message
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}'" in message


@fault("F13")
def test_a_machine_that_does_not_let_us_in_is_told(sshd: Any, matrix: Matrix) -> None:
    """The server is right and the key is not on it; ssh's own words are kept."""
    kind, message = asked(sshd.text, matrix, remote=sshd.remote(key="stranger"))
    assert kind == "auth_refused"
    assert "Permission denied (publickey)" in message


def test_a_machine_that_nobody_knows_yet_is_a_warning(sshd: Any, tmp_path: Path) -> None:
    """The first connection ever: nothing is wrong, and nothing is learnt behind anybody's back."""
    known = tmp_path / "known"
    (found,) = remote_host_lets_us_in(sshd.remote(known=known))
    assert found.severity is Severity.WARNING
    assert "whose host key is not known here" in found.message
    assert not known.exists()


@fault("F8")
def test_a_port_where_nothing_listens_is_refused(matrix: Matrix) -> None:
    """The port of an earlier start: refused at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    kind, message = asked(f"ssh://127.0.0.1:{port}", matrix)
    assert kind == "refused"
    assert "the port is of an earlier start" in message


@fault("F9")
def test_a_server_that_accepts_and_says_nothing_is_silent(serve: Serve, matrix: Matrix) -> None:
    """As a proxy does whose machine is gone."""
    kind, message = asked(f"ssh://127.0.0.1:{serve(lambda line: None)}", matrix)
    assert kind == "silent"
    assert "says nothing for 1 s" in message


def test_a_web_server_in_the_place_of_ssh_is_recognised(web: Any) -> None:
    """It waits for a question, as a silent server does: so one is asked."""
    port = address_of(web(200, b"{}")).port
    kind, message = asked(f"ssh://127.0.0.1:{port}")
    assert kind == "silent"
    assert "asked as a web server it says" in message
    assert "HTTP/1.0 501" in message


@fault("F10")
def test_another_service_is_told_by_its_banner(serve: Serve, matrix: Matrix) -> None:
    """What it said is shown."""
    port = serve(lambda line: line.sendall(b"220 mail.example ESMTP\r\n"))
    kind, message = asked(f"ssh://127.0.0.1:{port}", matrix)
    assert kind == "wrong_banner"
    assert "another service answers there: '220 mail.example ESMTP'" in message


@fault("F11")
def test_a_black_hole_is_not_called_refused(matrix: Matrix) -> None:
    """Dropped connections: first shown to be dropped, then told."""
    with full_backlog() as port:
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", port), 0.5)
        kind, message = asked(f"ssh://127.0.0.1:{port}", matrix)
    assert kind == "black_hole"
    assert "it is dropped, not refused" in message


def test_a_server_that_hangs_up_is_told(serve: Serve) -> None:
    """Too many connections, or a ban: closed before a word."""
    kind, message = asked(f"ssh://127.0.0.1:{serve(lambda line: line.close())}")
    assert kind == "closed"
    assert "before it says anything" in message


def test_a_server_that_greets_and_never_goes_on_is_bounded(serve: Serve) -> None:
    """The banner is right and the key exchange never comes: no other program's patience is asked for."""
    if not shutil.which("ssh"):
        pytest.skip("needs an ssh client")
    kind, _ = asked(
        f"ssh://127.0.0.1:{serve(lambda line: line.sendall(b'SSH-2.0-OpenSSH_9.9' + bytes([13, 10])))}"
    )
    assert kind in ("silent", "silent_login", "black_hole")


@fault("F14")
def test_of_two_ways_the_one_that_works_is_told_from_the_other(sshd: Any, matrix: Matrix) -> None:
    """The proxy's address answers, the direct one is refused: one finding, about the second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        direct = address_of(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
    through = sshd.remote()
    remote = Remote((*through.hosts, direct), seconds=2.0, options=through.options)
    (found,) = remote_host_lets_us_in(remote)
    matrix.saw("refused", seconds=0.0, deadline=2.0)
    assert found.where.what == direct.text


def test_a_name_that_nobody_knows_is_told() -> None:
    """`.invalid` is reserved for this (RFC 2606)."""
    kind, message = asked("ssh://gone.invalid:22")
    assert kind == "no_such_host"
    assert "its name is not known" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://host", "no ftp:// address"),
        ("ssh://host:port", "Port could not be cast"),
        ("ssh://host:99999", "out of range"),
        ("ssh://-oProxyCommand=evil", "plain names"),
        ("ssh://-l@host", "plain names"),
        ("tcp://host", "needs its port"),
        ("ssh://", "names no host"),
    ],
)
def test_what_is_no_address_is_asked_by_nobody(text: str, said: str) -> None:
    """Options in the place of a host must not reach the ssh client."""
    kind, message = asked(text)
    assert kind == "wrong_address"
    assert said in message


def test_a_password_in_an_address_is_not_shown() -> None:
    """Reports are passed on."""
    assert address_of("ssh://me:secret@host:22").text == "ssh://me@host:22"
    assert address_of("me@host") == address_of("me@host")
    assert (address_of("me@host").scheme, address_of("me@host").user) == ("ssh", "me")


def test_an_endpoint_that_lists_its_models_is_right(web: Any) -> None:
    """As vLLM and others answer."""
    assert asked(web(200, json.dumps({"object": "list", "data": [{"id": "m"}]}).encode())) == ("ok", "")


def test_an_endpoint_without_a_model_is_a_warning(web: Any) -> None:
    """It is there, and every completion would fail."""
    found = endpoint_answers(Remote((), (address_of(web(200, b'{"data": []}')),)))
    assert ([f.severity for f in found], found.looked_at) == ([Severity.WARNING], 1)
    assert "serves no model" in found[0].message


@fault("E10")
@pytest.mark.parametrize("status", [401, 403])
def test_an_endpoint_that_asks_for_a_key_is_a_note(web: Any, matrix: Matrix, status: int) -> None:
    """No key is sent from here: it is there, that is all that can be said."""
    remote = Remote((), (address_of(web(status, b"no key")),))
    (found,) = endpoint_answers(remote)
    matrix.saw(f"auth_refused ({status}), a note")
    assert found.severity is Severity.NOTE


@fault("E10")
@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (404, b"nothing here", "status", "status 404: 'nothing here'"),
        (429, b"slow down", "status", "status 429"),
        (503, b"loading", "status", "still being loaded"),
        (200, b"<html>hello", "not_json", "no OpenAI-compatible server: '<html>hello'"),
        (200, b'{"data": 3}', "not_json", "no OpenAI-compatible server"),
    ],
)
def test_an_endpoint_that_answers_otherwise_is_told(
    web: Any, matrix: Matrix, status: int, body: bytes, kind: str, said: str
) -> None:
    """Status and the first words of its answer."""
    got, message = asked(web(status, body), matrix)
    assert got == kind
    assert said in message


@fault("E10")
def test_an_endpoint_that_drips_is_cut_off(serve: Serve, matrix: Matrix) -> None:
    """A byte now and then keeps every time limit of a read alive: the probe's deadline ends it."""

    def drip(line: socket.socket) -> None:
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(100):
            line.sendall(b"x")
            time.sleep(0.05)

    kind, message = asked(f"http://127.0.0.1:{serve(drip)}/v1", matrix, seconds=0.3)
    assert kind == "no_verdict"
    assert "asking http://127.0.0.1:" in message


def test_an_ssh_server_in_the_place_of_an_endpoint_is_told(sshd: Any) -> None:
    """Its banner is no HTTP."""
    kind, message = asked(f"http://127.0.0.1:{sshd.port}/v1", seconds=3)
    assert kind == "wrong_banner"
    assert "another service answers there" in message


def test_all_are_asked_at_the_same_time(serve: Serve) -> None:
    """Three silent machines take as long as one."""
    silent = [address_of(f"ssh://127.0.0.1:{serve(lambda line: None)}") for _ in range(3)]
    one, three = Remote((silent[0],), seconds=0.8), Remote(tuple(silent), seconds=0.8)
    times = []
    for remote in (one, three):
        started = time.monotonic()
        assert len(remote_host_lets_us_in(remote)) == len(remote.hosts)
        times.append(time.monotonic() - started)
    assert times[1] < 2 * times[0]


def test_nothing_named_is_nothing_asked(tmp_path: Path) -> None:
    """Both checks are skipped with the line to add; a project that names addresses has them asked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (tmp_path / "llmguard.toml").write_text(f'[environment]\nremote = ["tcp://127.0.0.1:{port}"]\n', "utf-8")
    session = Audit(load_project(tmp_path))
    entries = {entry.name: entry for entry in session.registry}
    asked_for = session.run(entries["remote_host_lets_us_in"])
    not_named = session.run(entries["endpoint_answers"])
    assert asked_for.outcome.value == "failed"
    assert (not_named.outcome.value, "[pipeline] endpoint" in not_named.reason) == ("skipped", True)
    assert remote_host_lets_us_in(Remote()).looked_at == 0


def test_without_an_ssh_client_the_greeting_is_all_there_is(
    sshd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note, not an error: the machine is there."""
    monkeypatch.setenv("PATH", "/nowhere")
    (found,) = remote_host_lets_us_in(sshd.remote())
    assert found.severity is Severity.NOTE
    assert "no ssh client" in found.message


def test_the_ssh_configuration_is_honoured(sshd: Any, tmp_path: Path) -> None:
    """An alias of the user's own, with host, port, user and key behind it, as `ssh ALIAS` would take it."""
    config = tmp_path / "config"
    user = sshd.text.partition("//")[2].partition("@")[0]
    config.write_text(
        f"Host pod\n HostName 127.0.0.1\n Port {sshd.port}\n User {user}\n IdentityFile {sshd.folder}/client\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {sshd.known}\n GlobalKnownHostsFile none\n",
        "utf-8",
    )
    remote = Remote((address_of("ssh://pod"),), options=["-F", str(config)])
    assert [f.message for f in remote_host_lets_us_in(remote)] == []
    witness = subprocess.run(
        ["ssh", "-F", str(config), "-o", "BatchMode=yes", "pod", "true"],
        check=False,
        stderr=subprocess.DEVNULL,
    )
    assert witness.returncode == 0
