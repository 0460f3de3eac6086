"""Machines and servers of the project: they are there, they are what they were, and they let us in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from llmguard.contract import Yields, check
from llmguard.findings import Finding, Where, error, note, warning

if TYPE_CHECKING:
    from llmguard.remote import Address, Answer, Remote

__all__ = ["endpoint_answers", "remote_host_lets_us_in"]

TEXTS: dict[str, tuple[str, str, str]] = {
    "wrong_address": (
        "it is no address: {wrong}",
        "a slip of the pen",
        "write `ssh://user@host:port`, `tcp://host:port` or `http://host:port/v1`",
    ),
    "no_such_host": (
        "its name is not known: {message}",
        "the machine is gone, or its name is spelt otherwise; or there is no name server here",
        "ask the provider for the machine's present address",
    ),
    "refused": (
        "nothing listens on that port: the connection is refused",
        "the service is not up yet, or the port is of an earlier start: providers map another one at each start",
        "ask the provider for the machine's present port; look whether the service runs there",
    ),
    "unreachable": (
        "there is no route to it: {message}",
        "a private address, a VPN that is down, or a wrong subnet",
        "connect the VPN, or use the public address",
    ),
    "black_hole": (
        "no answer to the connection within {limit} s: it is dropped, not refused",
        "a firewall, a machine that is stopped or overloaded, or an address that is nobody's now",
        "look at the provider's console whether it runs, and at its firewall for this port",
    ),
    "silent": (
        "it takes the connection and says nothing for {limit} s",
        "a proxy whose machine behind is not there, a service that is stuck, or a port of another service {message}",
        "restart the service there; connect to it directly instead of through the proxy",
    ),
    "silent_login": (
        "it greets and then never answers the login: {message}",
        "a machine that swaps or whose disk hangs, or a shell start-up file that waits",
        "look at the machine's console",
    ),
    "closed": (
        "it closes the connection before it says anything: {message}",
        "too many connections or failed logins (MaxStartups, fail2ban), or a service that dies at once",
        "wait a minute and look at the service's log there",
    ),
    "wrong_banner": (
        "another service answers there: {banner!r}",
        "the port of another service, or of another machine that has this address now",
        "ask the provider which port is mapped to which",
    ),
    "host_key_changed": (
        "it is another machine than the one known under this address: its host key has changed ({message})",
        "address and port were given to another machine, or the machine was made anew; or somebody stands in between",
        "compare the fingerprint with the provider's; when it is right, `ssh-keygen -R '{name}'` and connect once by hand",
    ),
    "auth_refused": (
        "it does not let us in: {message}",
        "the key is not on that machine, another user name, or no agent that holds the key",
        "put the public key there, or name user and key in ~/.ssh/config",
    ),
    "login_failed": (
        "the login fails with status {status}: {message}",
        "unknown; the message above is the ssh client's",
        "log in by hand with `ssh -v`",
    ),
    "status": (
        "it answers with status {status}: {message!r}",
        "another path (`/v1` is missing or doubled), or a model that is still being loaded",
        "open the address by hand; wait until the server says that it is ready",
    ),
    "not_json": (
        "what answers is no OpenAI-compatible server: {message!r}",
        "a landing page, a proxy's error page, or another path",
        "name the path that ends in /v1",
    ),
    "tls": (
        "the secure connection fails: {message}",
        "https asked of an http port, or a certificate of another name",
        "write http:// or install the certificate",
    ),
    "failed": ("the connection fails: {message}", "unknown", "try it by hand"),
    "no_verdict": (
        "{explained}",
        "the client or the name server here hangs",
        "try it by hand with a time limit",
    ),
}
WHY_HOST = (
    "the upload, the start or the fetch of the results fails there, after everything else was made ready"
)
WHY_ENDPOINT = "every completion of the evaluation is an error or an empty text, and an evaluation of empty texts has a score too"


@check
def remote_host_lets_us_in(remote: Remote) -> Yields:
    """Each `[environment] remote` is reached, is the machine it was, and lets us log in, within seconds and asking nobody.

    Refused, dropped, silent, another service, changed host key and refused login are told apart. Nothing is learnt, kept or
    changed: `ssh -o BatchMode=yes -o StrictHostKeyChecking=yes HOST true`.
    """
    yield from _judged(remote, remote.hosts, WHY_HOST, "[environment] remote")
    return len(remote.hosts)


@check
def endpoint_answers(endpoint: Remote) -> Yields:
    """The OpenAI-compatible server of `[pipeline] endpoint` lists its models within seconds."""
    yield from _judged(endpoint, endpoint.endpoints, WHY_ENDPOINT, "[pipeline] endpoint")
    return len(endpoint.endpoints)


remote_host_lets_us_in.unit = "hosts"
endpoint_answers.unit = "endpoints"


def _judged(remote: Remote, addresses: Iterable[Address], why: str, key: str) -> Iterator[Finding]:
    for address in addresses:
        answer = remote.answers[address]
        where = Where(what=address.text, key=key)
        if answer.kind in ("ok", "answers"):
            yield from _empty(answer, where)
        elif answer.kind in ("host_key_unknown", "no_client") or _asks_for_a_key(answer):
            yield _less(answer, where)
        else:
            yield _refused(answer, where, why, remote.seconds)


def _refused(answer: Answer, where: Where, why: str, limit: float) -> Finding:
    what, cause, remedy = TEXTS[answer.kind]
    address, told = answer.address, dict(answer.told)
    name = f"[{address.host}]:{address.port}" if address.port not in (None, 22) else address.host
    known = {
        "message": "",
        "status": "",
        "banner": "",
        **told,
        "limit": f"{limit:g}",
        "name": name,
        "wrong": address.wrong,
    }
    known["explained"] = answer.result.explain().splitlines()[0] if answer.result else ""
    if answer.kind == "silent" and told.get("message"):
        known["message"] = f"(asked as a web server it says {told['message']!r})"
    evidence: dict[str, Any] = {"kind": answer.kind, **{k: v for k, v in told.items() if k != "models"}}
    texts = [text.format(**known).replace("()", "").strip(" :") for text in (what, cause, remedy)]
    return error(where, what=texts[0], why=why, cause=texts[1], remedy=texts[2], evidence=evidence)


def _asks_for_a_key(answer: Answer) -> bool:
    return answer.kind == "auth_refused" and answer.address.scheme in ("http", "https")


def _less(answer: Answer, where: Where) -> Finding:
    """It answers, and more could not be found out."""
    told = {
        "host_key_unknown": (
            "an ssh server answers whose host key is not known here: whether it lets us in was not tried",
            "connect once by hand and compare the fingerprint with the provider's",
        ),
        "no_client": (
            "an ssh server answers; there is no ssh client here to log in with",
            "install openssh-client",
        ),
        "auth_refused": (
            "it answers and asks for a key, which is not sent from here",
            "see that `generate` has the key in its environment",
        ),
    }
    what, remedy = told[answer.kind]
    make = warning if answer.kind == "host_key_unknown" else note
    return make(
        where,
        what=what,
        why="what comes after the greeting is unknown",
        cause="a first connection",
        remedy=remedy,
    )


def _empty(answer: Answer, where: Where) -> Iterator[Finding]:
    if answer.told.get("models") == []:
        yield warning(
            where,
            what="it answers and serves no model",
            why=WHY_ENDPOINT,
            cause="a server that was started without a model, or is still loading it",
            remedy="look at the server's log; name the model when it is started",
        )
