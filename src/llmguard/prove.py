"""Prove an encode function on drawn rows, and shrink a row that breaks it to the smallest one that still does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmguard import examples
from llmguard.errors import CheckFailed, UsageError
from llmguard.findings import Finding, Severity, Where, error

if TYPE_CHECKING:
    from llmguard.formats import ChatTemplate, TextFormat

__all__ = ["prove_encoder"]

Messages = list[dict[str, str]]
Row = dict[str, Any]
CHECKS = (
    "every_row_has_a_supervised_token",
    "labels_are_not_shifted",
    "every_prompt_token_is_masked",
    "every_response_token_is_trained",
    "every_wanted_turn_is_trained",
    "response_ends_with_its_terminator",
    "terminator_is_trained",
    "boundary_falls_between_tokens",
    "ids_match_their_text",
)
"""The decoded trained span is exactly response and terminator: these together say so, each a part of it."""
PREFIX = "training_starts_with_the_generation_prompt"
TRIES = 400
"""Rows tried at most while shrinking."""
NEIGHBOURS = 4
"""Rows judged together with a shrunk one, for checks that learn from several rows what ends a response."""
WORDS = ("Wherefore", "Quixotic", "Jumblies", "Vexing", "Zephyrs", "Kumquat", "Fjords", "Pyjamas")
"""Opening words of contents that have to be found without a format, one a turn."""


@dataclass(frozen=True)
class Subject:
    """The function to prove and everything needed to judge what it returns."""

    encode: Callable[[Any], Any]
    tokenizer: Any
    template: ChatTemplate | TextFormat | None
    build: Callable[[Any], Any] | None
    columns: tuple[str, ...]
    train_on: str
    edges: bool

    def shown(self, messages: Messages) -> Messages:
        """The messages as they are used: stripped, and marked where no format tells contents from what surrounds them."""
        contents = [m["content"] if self.edges else m["content"].strip() for m in messages]
        if self.template is None:
            contents = [f"{WORDS[i % len(WORDS)]}{i} {text} end{i}" for i, text in enumerate(contents)]
        return [{**m, "content": text} for m, text in zip(messages, contents, strict=True)]

    def row(self, messages: Messages) -> Row:
        """Messages as a row in the user's own shape."""
        shown = self.shown(messages)
        if len(self.columns) == 1:
            return {self.columns[0]: shown}
        return {self.columns[0]: shown[-2]["content"], self.columns[1]: shown[-1]["content"]}

    def encoded(self, messages: Messages) -> dict[str, list[int]] | None:
        """What the function makes of a row; None where it drops it. Raises whatever the function raises."""
        from llmguard.collect.columns import plain_row

        found = self.encode(self.row(messages))
        return None if found is None else plain_row(found)

    def prompt(self, messages: Messages) -> Any:
        """The generation prompt of a row: from `build`, else from the format; None where neither is given."""
        from llmguard.rows import Turn

        if self.build is not None:
            return self.build(self.row(messages))
        turns = [Turn(m["role"], m["content"]) for m in self.shown(messages)]
        return self.template.prompt(turns) if self.template is not None else None


def prove_encoder(
    encode: Callable[[Any], Any],
    tokenizer: Any,
    *,
    messages: str = "messages",
    prompt: str | None = None,
    response: str | None = None,
    format: str | ChatTemplate | TextFormat | None = None,  # the key of the project file
    build: Callable[[Any], Any] | None = None,
    train_on: str = "responses",
    pairs: int = 3,
    system: bool = False,
    lookalikes: bool = False,
    edges: bool = False,
    max_examples: int = 200,
    seed: int = 0,
) -> int:
    """Prove that `encode(row)` trains exactly response and terminator, and that the generation prompt is a prefix of its ids.

    Rows are `{messages: […]}` with up to `pairs` of user and assistant (and system messages with `system`), or `{prompt:
    text, response: text}` where both columns are named. They come from a fixed awkward pool and from `max_examples` seeds
    from `seed` on. The prompt is built by `build(row) -> text or ids`, else by `format`; without either the second promise
    is not judged. Rows for which `encode` returns None are left out. Returns how many rows were judged.

    Raises:
        CheckFailed: a row breaks a promise, or `encode` raises; the findings are those of the smallest such row.
        UsageError: a bad argument, or `encode` drops every row.
    """
    columns = _columns(messages, prompt, response)
    for name, value in (("pairs", pairs), ("max_examples", max_examples)):
        if value < 1:
            raise UsageError(name, value, "at least 1")
    subject = Subject(encode, tokenizer, _template(format, tokenizer), build, columns, train_on, edges)
    several = pairs if len(columns) == 1 else 1
    drawn = list(_drawn(max_examples, seed, several, system and len(columns) == 1, lookalikes))
    judged = _judge(subject, drawn)
    if judged.failed is None:
        if not judged.kept:
            raise UsageError(
                "encode", encode, "a function that returns ids for at least one of the drawn rows"
            )
        return len(judged.kept)
    others = [drawn[n] for n in judged.kept if n != judged.failed][:NEIGHBOURS]
    smallest, judged = _shrink(subject, drawn[judged.failed], others, judged)
    raise CheckFailed([_placed(f, subject.row(smallest), len(drawn)) for f in judged.findings])


def _columns(messages: str, prompt: str | None, response: str | None) -> tuple[str, ...]:
    if (prompt is None) != (response is None):
        raise UsageError(
            "prompt, response", (prompt, response), "both columns, or neither for rows of messages"
        )
    return (messages,) if prompt is None or response is None else (prompt, response)


def _template(given: Any, tokenizer: Any) -> ChatTemplate | TextFormat | None:
    from llmguard.formats import ChatTemplate, text_format

    if given == "chat-template":
        return ChatTemplate(tokenizer)
    return text_format(given, tokenizer.eos_token or "") if isinstance(given, str) else given


def _drawn(count: int, seed: int, pairs: int, system: bool, lookalikes: bool) -> Iterator[Messages]:
    """Every awkward text once as a prompt and once as a response, then rows from seeds."""
    pool = list(examples.AWKWARD.values())
    for asked, answered in zip(pool, (*pool[7:], *pool[:7]), strict=True):
        yield [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    for number in range(count):
        mixed = (
            (seed + number) * 0x9E3779 % examples.SEEDS
        )  # an odd factor: every seed comes once, sizes in no order
        yield examples.conversation(mixed, pairs=pairs, system=system, lookalikes=lookalikes)


@dataclass(frozen=True)
class Judged:
    """What was found: the row that failed first (None: none did), the findings, and the rows that were kept."""

    failed: int | None
    findings: Sequence[Finding]
    kept: Sequence[int] = ()
    check: str = ""


def _judge(subject: Subject, drawn: Sequence[Messages], only: str = "") -> Judged:
    """Encode all rows and judge them together: by every check, or by one."""
    encoded: list[tuple[int, dict[str, list[int]]]] = []
    for number, messages in enumerate(drawn):
        try:
            found = subject.encoded(messages)
        except Exception as fault:  # whatever the user's function raises is what is told
            return Judged(number, [_raised(fault)], check="encode")
        if found is not None:
            encoded.append((number, found))
    kept = [number for number, _ in encoded]
    if not kept or only == "encode":
        return Judged(None, [], kept)
    findings = _findings(subject, [drawn[n] for n in kept], [row for _, row in encoded], only)
    rows = [f.where.row for f in findings if f.where.row is not None]
    return Judged(kept[rows[0]] if rows else None, findings, kept, findings[0].check if findings else "")


def _findings(
    subject: Subject, drawn: Sequence[Messages], encoded: Sequence[Mapping[str, Any]], only: str
) -> list[Finding]:
    """Errors of the checks, each with the first row that it is about."""
    from llmguard.catalogue import CHECKS as ENTRIES
    from llmguard.encoded import as_encoded
    from llmguard.rows import as_rows

    rows = as_rows([{"messages": subject.shown(m)} for m in drawn])
    columns = as_encoded(encoded)
    known: dict[str, Any] = {
        "encoded": columns,
        "rows": rows,
        "tokenizer": subject.tokenizer,
        "train_on": subject.train_on,
    }
    known |= {"template": subject.template} if subject.template is not None else {}
    prompts = [subject.prompt(m) for m in drawn]
    names = [*CHECKS, *([PREFIX] if prompts[0] is not None else [])]
    found: list[Finding] = []
    for entry in ENTRIES:
        if entry.name in names and only in ("", entry.name):
            check = entry.load()
            known["prompts"] = _prompts(subject, prompts) if entry.name == PREFIX else prompts
            found += check(**{name: known[name] for name in check.parameters if name in known})
    return [f for f in found if f.severity is Severity.ERROR]


def _prompts(subject: Subject, prompts: Sequence[Any]) -> Any:
    from llmguard.evidence.prompts import as_prompts

    special = subject.template.add_special_tokens if subject.template is not None else True
    return as_prompts(prompts, subject.tokenizer, add_special_tokens=special)


def _raised(fault: Exception) -> Finding:
    from llmguard.collect.user import mistake

    told = mistake(fault, Path.cwd(), "encode")
    what = f"encode raises {told['type']}: {told['message']}"
    found = error(
        Where(file=told.get("file"), line=told.get("line")),
        what=what,
        why="such a row ends the run, or is dropped without a word where the exception is caught",
        cause=f"`{told['code']}` does not take it"
        if told.get("code")
        else "a case that the function does not know",
        remedy="handle it, or return None for rows that are to be left out and count them",
    )
    return replace(found, check="prove_encoder")


def _placed(finding: Finding, row: Row, drawn: int) -> Finding:
    """The finding with the row in its message: that row is all there is to reproduce it."""
    shown = json.dumps(row, ensure_ascii=False)
    place = (
        finding.where
        if finding.where.file
        else Where(what=f"the smallest of {drawn} drawn rows that shows it")
    )
    rest = finding.message.removeprefix(f"{finding.where}: ")
    evidence = {**finding.evidence, "row": row}
    return replace(finding, where=place, message=f"{place}: {shown}: {rest}", evidence=evidence)


def _shrink(
    subject: Subject, messages: Messages, others: Sequence[Messages], judged: Judged
) -> tuple[Messages, Judged]:
    """The smallest row on which the same check fails, and everything that is found on it."""
    left = [TRIES]

    def fails(candidate: Messages) -> bool:
        left[0] -= 1
        found = _judge(subject, [candidate, *others], judged.check)
        return found.failed == 0

    if not fails(messages):  # it takes the whole company to show: its first row is all that can be told
        return messages, judged
    smaller: Messages | None = messages
    while smaller is not None and left[0] > 0:
        messages = smaller
        smaller = next((c for c in _smaller(messages) if left[0] > 0 and fails(c)), None)
    found = _judge(subject, [messages, *others])
    return messages, replace(found, findings=[f for f in found.findings if f.where.row in (0, None)])


def _smaller(messages: Messages) -> Iterator[Messages]:
    """Smaller rows, the boldest first: fewer turns, then shorter texts, then plainer characters."""
    if messages[0]["role"] == "system":
        yield messages[1:]
    start = len(messages) % 2
    for at in range(start, len(messages), 2):
        if len(messages) > start + 2:
            yield [*messages[:at], *messages[at + 2 :]]
    for at, message in enumerate(messages):
        for text in _shorter(message["content"]):
            yield [*messages[:at], {**message, "content": text}, *messages[at + 1 :]]


def _shorter(text: str) -> Iterator[str]:
    """Texts that are shorter, or as long and plainer; never white space alone."""
    for plain in ("a", text.strip()):
        if len(plain) < len(text) or (len(text) == 1 and plain < text):
            yield plain
    length = len(text) // 2
    while length:
        for at in range(0, len(text), length):
            rest = text[:at] + text[at + length :]
            if rest.strip():
                yield rest
        length //= 2
    for at, character in enumerate(text):
        if character > "a":
            yield f"{text[:at]}a{text[at + 1 :]}"
