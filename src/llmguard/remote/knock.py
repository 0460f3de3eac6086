"""What one address answers. Runs in a probe: looking a name up, or an ssh client, may take for ever.

    python -m llmguard.remote.knock '{"scheme": "ssh", "host": …, "port": …, "user": …, "seconds": 5, "options": []}'

The result is a mapping with `kind` (see `asking.KINDS`) and what it was told by: `banner`, `status`, `message`, `seconds`.
"""

from __future__ import annotations

import errno
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from llmguard.probe.child import report, step

__all__ = ["knock"]

BANNER = 255
"""Bytes of an ssh banner, RFC 4253 section 4.2."""
BODY = 1 << 20
LOGIN = (
    ("IDENTIFICATION HAS CHANGED", "host_key_changed"),
    ("Host key verification failed", "host_key_unknown"),
    ("host key is known for", "host_key_unknown"),
    ("Permission denied", "auth_refused"),
    ("Too many authentication failures", "auth_refused"),
    ("Could not resolve", "no_such_host"),
    ("Connection refused", "refused"),
    ("Connection timed out", "black_hole"),
    ("timed out during banner", "silent"),
    ("No route to host", "unreachable"),
    ("Network is unreachable", "unreachable"),
    ("Connection closed", "closed"),
    ("Connection reset", "closed"),
)
"""What OpenSSH says (ssh(1), in the C locale) -> what it means; the first that fits."""


def knock(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Ask one address, within `seconds` for each step."""
    started = time.monotonic()
    found = {"ssh": _ssh, "tcp": _tcp, "http": _http, "https": _http}[str(asked["scheme"])](asked)
    return {**found, "seconds": time.monotonic() - started}


def _ssh(asked: Mapping[str, Any]) -> dict[str, Any]:
    client = shutil.which("ssh")
    settled = _settled(client, asked) if client else {}
    through = settled.get("proxyjump") or settled.get("proxycommand")
    host, port = settled.get("hostname", asked["host"]), int(settled.get("port") or asked["port"] or 22)
    said = {} if through else _tcp({**asked, "host": host, "port": port, "speaks_first": True})
    if said.get("kind", "answers") != "answers":
        return said
    if not through and not str(said["banner"]).startswith("SSH-"):
        return {**said, "kind": "wrong_banner"}
    return {**said, **_login(client, asked)} if client else {**said, "kind": "no_client"}


def _command(client: str, asked: Mapping[str, Any]) -> list[str]:
    port = ["-p", str(asked["port"])] if asked["port"] else []
    user = ["-l", str(asked["user"])] if asked["user"] else []
    return [client, *map(str, asked.get("options", ())), *port, *user, "--", str(asked["host"])]


def _settled(client: str, asked: Mapping[str, Any]) -> dict[str, str]:
    """What the user's ssh configuration makes of the address: `HostName`, `Port`, `ProxyJump`."""
    step("reading the ssh configuration")
    command = _command(client, asked)
    ended = subprocess.run(
        [command[0], "-G", *command[1:]],
        capture_output=True,
        text=True,
        timeout=asked["seconds"],
        check=False,
    )
    return dict(line.split(" ", 1) for line in ended.stdout.splitlines() if " " in line)


def _login(client: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Log in without a question to anybody and run `true`; no key is learnt, no connection is kept."""
    step("logging in")
    seconds = float(asked["seconds"])
    flags = {
        "BatchMode": "yes", "StrictHostKeyChecking": "yes", "UpdateHostKeys": "no", "ControlPath": "none", "ControlMaster": "no",
        "ConnectTimeout": max(1, round(seconds)), "LogLevel": "INFO", "ForwardAgent": "no", "ClearAllForwardings": "yes",
    }  # fmt: skip
    options = [part for name, value in flags.items() for part in ("-o", f"{name}={value}")]
    command = _command(client, asked)
    try:
        ended = subprocess.run(
            [command[0], *options, *command[1:], "true"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds * 3, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"kind": "silent_login", "message": f"no answer within {seconds * 3:.0f} s"}
    said = [line.strip(" @") for line in ended.stderr.splitlines() if line.strip(" @")]
    if ended.returncode == 0:
        return {"kind": "ok", "message": ""}
    kind = next((kind for words, kind in LOGIN if words in ended.stderr), "login_failed")
    return {"kind": kind, "status": ended.returncode, "message": _short(said)}


def _short(said: list[str]) -> str:
    telling = [
        s
        for s in said
        if re.search(r"denied|failed|CHANGED|known for|fingerprint|SHA256|refused|closed|timed", s)
    ]
    return " / ".join((telling or said)[-4:])[:400]


def _tcp(asked: Mapping[str, Any]) -> dict[str, Any]:
    step(f"connecting to {asked['host']}:{asked['port']}")
    try:
        with socket.create_connection((asked["host"], int(asked["port"])), float(asked["seconds"])) as line:
            step("waiting for the banner")
            return {"kind": "answers", "banner": _banner(line) if asked.get("speaks_first") else ""}
    except socket.gaierror as why:
        return {"kind": "no_such_host", "message": why.strerror or str(why)}
    except _Silent as why:
        return {"kind": "silent", "message": str(why)}
    except OSError as why:
        return {"kind": _kind(why), "errno": why.errno, "message": why.strerror or str(why)}


class _Silent(Exception):
    """Accepted, and nothing said."""


def _banner(line: socket.socket) -> str:
    try:
        said = line.recv(BANNER)
        while said and b"\n" not in said and len(said) < BANNER:
            more = line.recv(BANNER - len(said))
            if not more:
                break
            said += more
    except TimeoutError as late:
        line.settimeout(1.0)
        raise _Silent(_asked_as_http(line)) from late
    if not said:
        raise ConnectionResetError(errno.ECONNRESET, "the connection was closed before anything was said")
    return said.split(b"\n")[0].decode("latin-1").strip()


def _asked_as_http(line: socket.socket) -> str:
    """A server that speaks second, as web servers do, answers a question of theirs."""
    try:
        line.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
        said = line.recv(64).decode("latin-1")
    except OSError:
        return ""
    return said.splitlines()[0] if said.startswith("HTTP/") else ""


def _kind(why: OSError) -> str:
    if isinstance(why, TimeoutError):
        return "black_hole"
    if isinstance(why, ssl.SSLError):
        return "tls"
    kinds = {
        errno.ECONNREFUSED: "refused",
        errno.ECONNRESET: "closed",
        errno.EPIPE: "closed",
        errno.ETIMEDOUT: "black_hole",
    }
    unreachable = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL)
    return "unreachable" if why.errno in unreachable else kinds.get(why.errno or 0, "failed")


def _http(asked: Mapping[str, Any]) -> dict[str, Any]:
    """`GET PATH/models`, the one call of an OpenAI-compatible server that costs nothing."""
    connected = _tcp(asked)
    if connected["kind"] != "answers":
        return connected
    step("asking for the models")
    maker = http.client.HTTPSConnection if asked["scheme"] == "https" else http.client.HTTPConnection
    line = maker(str(asked["host"]), int(asked["port"]), timeout=float(asked["seconds"]))
    try:
        line.request(
            "GET", f"{str(asked['path']).rstrip('/')}/models", headers={"Accept": "application/json"}
        )
        answer = line.getresponse()
        return _answered(answer.status, answer.read(BODY))
    except TimeoutError:
        return {"kind": "silent", "message": ""}
    except http.client.HTTPException as why:
        return {"kind": "wrong_banner", "banner": str(why)[:120] or type(why).__name__}
    except OSError as why:
        return {"kind": _kind(why), "errno": why.errno, "message": why.strerror or str(why)}
    finally:
        line.close()


def _answered(status: int, body: bytes) -> dict[str, Any]:
    shown = body[:200].decode("utf-8", "replace")
    if status in (401, 403):
        return {"kind": "auth_refused", "status": status, "message": shown}
    if status != http.client.OK:
        return {"kind": "status", "status": status, "message": shown}
    try:
        told = json.loads(body)
        models = [str(model["id"]) for model in told["data"]]
    except (ValueError, KeyError, TypeError):
        return {"kind": "not_json", "status": status, "message": shown}
    return {"kind": "ok", "status": status, "models": models}


if __name__ == "__main__":
    report(knock(json.loads(sys.argv[1])))
