"""Templates: the right one where one belongs, rendering everything, and followed by the training text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from llmguard.alignment import Status, align
from llmguard.checks.base_prompts import trained_with
from llmguard.checks.tokens_of_rows import evidence_of, first_where, masks_tally, names_of, row_hits
from llmguard.contract import Yields, check, row_check
from llmguard.encoded import Encoded, as_encoded
from llmguard.findings import Finding, Where, error
from llmguard.formats import ChatTemplate, TextFormat
from llmguard.formats.chat import TemplateError
from llmguard.rows import Rows, Turn, as_rows
from llmguard.tally import Tally

__all__ = [
    "chat_model_has_a_template",
    "template_keeps_every_message",
    "training_text_follows_its_format",
]


@check
def chat_model_has_a_template(tokenizer: Any, kind: str, template: Any = None) -> Yields:
    """The tokenizer of a chat model has a chat template, or the project declares a format."""
    if (
        kind == "chat"
        and not tokenizer.chat_template
        and not (isinstance(template, TextFormat) and template.declared)
    ):
        yield error(
            Where(what="tokenizer", key="chat_template"),
            what="the model is a chat model and its tokenizer has no chat template",
            why="tools fall back on a format of their own, or on plain text: prompts in a form that the model has never seen",
            cause="tokenizer_config.json or chat_template.jinja was not copied with the model",
            remedy="copy the template with the tokenizer, or declare `[prompt] format`",
        )
    return 1


@row_check
def training_text_follows_its_format(encoded: Any, rows: Any, tokenizer: Any, template: Any) -> Tally:
    """Training rows are written in the format that the project declares, turn for turn, terminators of the user's turns included.

    Without a declared format, rows that carry the role markers of the tokenizer's own template are held to that template.
    """
    found, source = as_encoded(encoded), as_rows(rows)
    held = _held_to(found, source, tokenizer, template)
    if held is None:
        return Tally()
    alignment = align(found, source, tokenizer, held)
    other = (alignment.status == Status.LOCATED) & (alignment.responses > 0)
    judged = alignment.matched & (alignment.responses > 0)
    opened = judged & (alignment.status < Status.CUT_RIGHT) & _ends_opened(found, source, tokenizer, held)
    kinds = {f"other:{held.name}": other & ~opened, f"opened:{held.name}": opened}
    return masks_tally(
        found,
        int(judged.sum()),
        **{k: row_hits(found, source, rows_of, alignment) for k, rows_of in kinds.items()},
    )


def _ends_opened(encoded: Encoded, rows: Rows, tokenizer: Any, held: Any) -> Any:
    """Rows that end with what opens another response, though their source ends with one: bool [rows]."""
    ids = encoded.unpadded().input_ids
    header = tokenizer(_header(held, stripped=False), add_special_tokens=False)["input_ids"]
    found = (ids.lengths > len(header)) & bool(header)
    ends = ids.offsets[1:]
    for place, token in enumerate(reversed(header), 1):
        found[found] = ids.values[ends[found] - place] == token
    for row in np.flatnonzero(found).tolist():
        turns = rows.turns[int(encoded.source[row])]
        found[row] = turns is not None and turns[-1].role == "assistant"
    return found


def _held_to(encoded: Any, rows: Rows, tokenizer: Any, template: Any) -> Any:
    if template is not None and template.declared:
        return template
    if not tokenizer.chat_template:
        return None
    own = encoded.__dict__.setdefault("_own_template", ChatTemplate(tokenizer, declared=False))
    marker = _header(own)
    return own if marker and trained_with(marker, encoded, tokenizer) else None


def _header(template: ChatTemplate | TextFormat, *, stripped: bool = True) -> str:
    """What the format writes before a response, when it is long enough to be recognised."""
    if isinstance(template, TextFormat):
        header = template.before["assistant"]
        return header if len(header.strip()) >= 6 else ""
    turns: Sequence[Turn] = (Turn("user", "x"),)
    try:
        with_prompt, without = template.render(turns, generation_prompt=True), template.render(turns)
    except TemplateError:
        return ""
    header = with_prompt.removeprefix(without)
    if len(header.strip()) < 6 or not with_prompt.startswith(without):
        return ""
    return header.strip() if stripped else header


@training_text_follows_its_format.explain
def _other_formats(tally: Tally) -> Iterator[Finding]:
    for kind, found in tally.hits.items():
        name = kind.partition(":")[2]
        if found.rows and kind.startswith("opened"):
            yield error(
                first_where(found),
                what=f"{tally.rate(kind)} end with an opened response, behind the one that they hold ({names_of(found)})",
                why="the model learns that another response follows its own, and generation may run on into a second one",
                cause="apply_chat_template(add_generation_prompt=True) on whole conversations",
                remedy="render training rows with add_generation_prompt=False; it belongs to prompts for generation",
                evidence=evidence_of(found),
            )
        elif found.rows:
            yield error(
                first_where(found),
                what=f"{tally.rate(kind)} are not written in the format {name!r} ({names_of(found)})",
                why="the model learns another format than the one that it is prompted in; turns that never end run into each other",
                cause=(
                    "a hand-written format that lacks something of the template's: a terminator behind the user's turn, "
                    "a line break, a system message"
                ),
                remedy=(
                    "render rows with the template itself (apply_chat_template), "
                    "or declare the format that you mean in `[prompt] format`"
                ),
                evidence=evidence_of(found),
            )


@check
def template_keeps_every_message(rows: Any, template: Any) -> Yields:
    """The chat template renders every turn of the data: none dropped, none refused (Mistral v0.3 drops a system message silently).

    Thinking that a template strips by design is no loss of a message.
    """
    source = as_rows(rows)
    if not isinstance(template, ChatTemplate):
        return 0
    dropped: dict[str, list[int]] = {}
    refused: dict[str, list[int]] = {}
    chosen = range(min(len(source), 300))
    for row in chosen:
        for role in _lost_roles(template, source.turns[row] or (), refused, row):
            dropped.setdefault(role, []).append(row)
    for role, lost in dropped.items():
        yield error(
            source.where(lost[0]),
            what=f"the chat template leaves out the {role} message of {len(lost):,} of {len(chosen):,} rows without a word",
            why="what the data say in it is neither trained nor prompted with",
            cause="a template that supports this role only in some places (or not at all)",
            remedy="put the message's text into the first user turn, or train with a template that renders it",
            evidence={"rows": lost[:5], "role": role},
        )
    for message, rows_of in refused.items():
        yield error(
            source.where(rows_of[0]),
            what=f"the chat template refuses {len(rows_of):,} of {len(chosen):,} rows: {message}",
            why="these rows cannot be trained or prompted with this template",
            cause="roles that do not alternate, or a role that the template does not know",
            remedy="mend the rows, or choose the template that belongs to your data",
            evidence={"rows": rows_of[:5], "message": message},
        )
    return len(chosen)


def _lost_roles(
    template: ChatTemplate, turns: Sequence[Turn], refused: dict[str, list[int]], row: int
) -> list[str]:
    if not turns:
        return []
    try:
        text = template.render(turns)
    except TemplateError as bad:
        refused.setdefault(str(bad), []).append(row)
        return []
    body = [t for t in turns if t.content.strip() and t.role != "assistant"]
    return list(dict.fromkeys(t.role for t in body if _gist(t.content) not in text))


def _gist(content: str) -> str:
    """The start of a content, which a template that keeps it keeps; short of any markup that it may strip."""
    return content.strip()[:40]
