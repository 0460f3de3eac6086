"""Addresses as a project file writes them: `ssh://user@host:port`, `tcp://host:port`, `http://host:port/v1`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["Address", "address_of"]

PORTS = {"ssh": None, "tcp": None, "http": 80, "https": 443}
"""Scheme -> its port where none is written; None: the ssh configuration decides, or there must be one."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*")
"""A host or user: it becomes an argument of ssh, so it must not look like an option."""


@dataclass(frozen=True)
class Address:
    """One address, or why it is none (`wrong`). `text` is as it was written, without a password."""

    text: str
    scheme: str = ""
    host: str = ""
    port: int | None = None
    user: str = ""
    path: str = ""
    wrong: str = ""


def address_of(text: str) -> Address:
    """An address taken apart; nothing is looked up. What cannot be used says why in `wrong`."""
    try:
        parts = urlsplit(text if "://" in text else f"ssh://{text}")
        port = parts.port
    except ValueError as why:
        return Address(text, wrong=str(why))
    shown = text.replace(f":{parts.password}@", "@") if parts.password else text
    if parts.scheme not in PORTS:
        return Address(
            shown, wrong=f"no {parts.scheme}:// address can be asked; write one of {', '.join(PORTS)}"
        )
    host, user = parts.hostname or "", parts.username or ""
    if not _NAME.fullmatch(host) or (user and not _NAME.fullmatch(user)):
        return Address(shown, wrong="it names no host" if not host else "host and user must be plain names")
    if parts.scheme == "tcp" and port is None:
        return Address(shown, wrong="a tcp:// address needs its port")
    return Address(shown, parts.scheme, host, port or PORTS[parts.scheme], user, parts.path)
