"""Conversations: lists of messages with turns, an answer of the assistant, and roles that are known."""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmguard.checks.data_tally import place, tallied
from llmguard.contract import Yields, check, row_check
from llmguard.findings import Finding, error, note, warning
from llmguard.rows import ROLES, Columns, Rows, as_rows, messages_of
from llmguard.tally import Tally

__all__ = ["every_conversation_has_turns", "every_role_is_known"]

OPEN_ENDED = "open_ended"
"""Splits for evaluation: their rows may end with a question."""
CUSTOM = 0.5
"""A role name that is not known and stands in more than this share of the rows is meant so."""


@row_check
def every_conversation_has_turns(rows: Any) -> Tally:
    """Every conversation is a list with turns, has a turn of the assistant, and ends with one."""
    source = as_rows(rows)

    def look(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for column, value in messages_of(record, source.columns):
            kind, shown = _shape(value, whole=column == source.columns.messages)
            if kind:
                softer = (
                    f"{OPEN_ENDED} {kind}"
                    if source.split == "test" and kind in ("ends", "unanswered")
                    else kind
                )
                yield softer, {"column": column, "has": shown}

    first = itertools.islice(source.records, 1000)
    has_messages = any(True for record in first for _ in messages_of(record, source.columns))
    return tallied(source, look) if has_messages else Tally()


def _shape(value: Any, *, whole: bool) -> tuple[str, str]:
    """What is wrong with the messages of a row; `whole` conversations need an assistant, halves (a prompt, a completion) do not."""
    if not isinstance(value, (list, tuple)):
        return ("text" if isinstance(value, str) else "type"), type(value).__name__
    if not value:
        return "empty", "[]"
    if not all(isinstance(m, Mapping) for m in value):
        odd = next(m for m in value if not isinstance(m, Mapping))
        return "message", type(odd).__name__
    roles = [ROLES.get(str(m.get("role", m.get("from"))).strip().lower(), "other") for m in value]
    if whole and "assistant" not in roles and "other" not in roles:
        return "unanswered", ", ".join(roles[:6])
    if whole and roles[-1] in ("user", "tool", "system"):
        return "ends", roles[-1]
    return "", ""


SHAPES: dict[str, tuple[str, str, str, str]] = {
    "empty": (
        "have an empty list of messages",
        "there is nothing to train on: some trainers crash on such a row, others train on the bare template",
        "messages were filtered one by one and the rows that lost all of them were kept",
        "drop these rows",
    ),
    "text": (
        "hold their messages as text, not as a list",
        "a template iterates over its letters, or the row is dropped",
        "the list was dumped to JSON before the row was (as CSV and some databases force one to)",
        "parse the column (json.loads) before the file is written",
    ),
    "type": (
        "hold something else than a list of messages",
        "such a row has no turns",
        "a missing value, or an object that wraps the list",
        "write a list of messages into every row, or drop the row",
    ),
    "message": (
        "have a message that is no object with a role and a content",
        "a template cannot tell who speaks",
        "messages stored as plain strings or as pairs",
        'write every message as {"role": …, "content": …}',
    ),
    "unanswered": (
        "have no turn of the assistant",
        "nothing in them is trained: every label is masked",
        "conversations cut off before the first answer, or roles exchanged",
        "drop these rows, or look at how roles were assigned",
    ),
    "ends": (
        "end with a turn that is not the assistant's",
        "the last turn is never answered: it is masked, or, where everything is trained, the model learns to speak for the user",
        "conversations cut to a number of turns or tokens, or logs of users that left",
        "cut these conversations after the assistant's last turn",
    ),
}  # fmt: skip


@every_conversation_has_turns.explain
def _(tally: Tally) -> Iterator[Finding]:
    for kind, hits in tally.hits.items():
        soft = kind.startswith(OPEN_ENDED)
        what, why, cause, remedy = SHAPES[kind.removeprefix(f"{OPEN_ENDED} ")]
        first = hits.examples[0]
        told = f"{tally.rate(kind)} {what} (the first: {first['has']})"
        if soft:
            yield note(place(first), what=told, evidence={"rows": list(hits.examples)})
        else:
            make = warning if kind == "ends" else error
            yield make(
                place(first),
                what=told,
                why=why,
                cause=cause,
                remedy=remedy,
                evidence={"rows": list(hits.examples)},
            )


@check
def every_role_is_known(rows: Any) -> Yields:
    """Every message says who speaks, by a role name in use (`user`, `assistant`, `system`, `tool`, and ShareGPT's `human`, `gpt`)."""
    source = as_rows(rows)
    seen: Counter[str] = Counter()
    unknown: dict[str, list[int]] = {}
    for row, record in enumerate(source.records):
        for role in _roles(record, source.columns):
            seen[role] += 1
            if role.strip().lower() not in ROLES and (not unknown.get(role) or unknown[role][-1] != row):
                unknown.setdefault(role, []).append(row)
    for role, where in sorted(unknown.items(), key=lambda item: -len(item[1])):
        yield _unknown_role(source, role, where, seen)
    return sum(seen.values())


def _roles(record: Mapping[str, Any], columns: Columns) -> Iterator[str]:
    for _, value in messages_of(record, columns):
        for message in value if isinstance(value, (list, tuple)) else ():
            if isinstance(message, Mapping):
                role = message.get("role", message.get("from", ""))
                yield role if isinstance(role, str) else repr(role)


def _unknown_role(rows: Rows, role: str, where: Sequence[int], seen: Counter[str]) -> Finding:
    told = ", ".join(f"{name!r} ({n:,})" for name, n in seen.most_common(12))
    near = difflib.get_close_matches(role.strip().lower(), list(ROLES), n=1, cutoff=0.75)
    hint = f"; nearest is {near[0]!r}" if near else ""
    no_role = (
        "the key 'role' (or 'from') is missing or empty"
        if not role.strip()
        else f"the role {role!r} is not known{hint}"
    )
    make = warning if role.strip() and not near and len(where) > CUSTOM * len(rows) else error
    return make(
        rows.where(where[0]),
        what=f"in {len(where):,} of {len(rows):,} rows {no_role}; roles in this split: {told}",
        why="most chat templates drop a turn whose role they do not know, without a word; others raise",
        cause="another data set's names, a typing error, or an export that writes the speaker's name",
        remedy="rename it to user, assistant, system or tool; if your template has this role, accept this finding",
        expected="user, assistant, system, tool (or human, gpt, …)",
        actual=role,
        evidence={"roles": dict(seen.most_common(30)), "rows": [rows.example(i) for i in where[:5]]},
    )
