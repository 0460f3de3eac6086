"""Templates: none where none belongs, the right one where one does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llmguard.alignment import Status, align
from llmguard.checks.tokens_of_rows import evidence_of, first_where, masks_tally, names_of, row_hits
from llmguard.contract import Yields, check, row_check
from llmguard.control import CONTROL, ROLE_WORDS
from llmguard.encoded import as_encoded
from llmguard.evidence.prompts import Prompts, as_prompts
from llmguard.findings import Finding, Where, error, warning
from llmguard.formats import ChatTemplate, TextFormat
from llmguard.formats.chat import TemplateError
from llmguard.rows import Rows, Turn, as_rows
from llmguard.tally import Tally
from llmguard.vocabulary import squeeze, vocabulary_of

__all__ = [
    "base_prompts_carry_no_role_words",
    "base_prompts_carry_no_template",
    "base_tokenizer_ships_no_template",
    "chat_model_has_a_template",
    "template_keeps_every_message",
    "training_text_follows_its_format",
]

HEAD = 100
"""Characters at the start of a prompt that are shown; a leaked template begins there."""


@check
def base_tokenizer_ships_no_template(tokenizer: Any, kind: str) -> Yields:
    """The tokenizer of a base model has no chat template, which tools would apply by themselves (Qwen2.5 base ships one)."""
    if kind == "base" and tokenizer.chat_template:
        yield warning(
            Where(what="tokenizer", key="chat_template"),
            what="the tokenizer of this base model ships a chat template",
            why="evaluation harnesses and servers apply a template that they find: the base model then gets chat prompts and seems to follow instructions",
            cause="the release carries the template of its instruct sibling",
            remedy="set tokenizer.chat_template = None after loading, and tokenise prompts as plain text",
            expected="no chat template",
            actual=str(tokenizer.chat_template)[:80],
        )
    return 1


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


@check
def base_prompts_carry_no_template(
    prompts: Prompts | Any,
    tokenizer: Any,
    kind: str,
    rows: Any = None,
    template: Any = None,
    encoded: Any = None,
) -> Yields:
    """Prompts for a base model carry no chat template: no role token in the text or the ids that the data do not hold themselves.

    Looked for everywhere, not only in the first characters. A format that the project declares, or that its training rows are
    written in, is no leak.
    """
    found = as_prompts(prompts, tokenizer)
    if kind != "base" or _format_is_chat(template):
        return len(found)
    markers = _leaked(found, tokenizer, as_rows(rows) if rows is not None else None)
    markers = {m: r for m, r in markers.items() if not _trained_with(m, encoded, tokenizer)}
    if markers:
        bad = sorted({row for rows_of in markers.values() for row in rows_of})
        first = bad[0]
        text = _text(found, first, tokenizer)
        yield error(
            Where(what=f"prompts of {found.made_by}", row=int(found.source[first])),
            what=f"{len(bad):,} of {len(found):,} prompts for this base model carry a chat template: {', '.join(markers)} in {text[:HEAD]!r}",
            why="a base model obeys once its template is applied: follow rates above 70 % before any training, and no baseline that means anything",
            cause="apply_chat_template on a base model, or a tool that applies the template which the tokenizer ships",
            remedy="set tokenizer.chat_template = None and tokenise the prompt as it is, add_special_tokens as at training time; look at the first characters of the decoded ids",
            expected="plain text",
            actual=text[:HEAD],
            evidence={
                "markers": list(markers),
                "rows": [int(found.source[b]) for b in bad[:5]],
                "ids": found.input_ids[first][:24].tolist(),
            },
        )
    return len(found)


def _format_is_chat(template: Any) -> bool:
    if isinstance(template, ChatTemplate):
        return template.declared
    return (
        isinstance(template, TextFormat)
        and template.declared
        and any(m in "".join(template.before.values()) for m in CONTROL)
    )


def _text(prompts: Prompts, row: int, tokenizer: Any) -> str:
    return prompts.texts[row] or str(tokenizer.decode(prompts.input_ids[row].tolist()))


def _leaked(prompts: Prompts, tokenizer: Any, rows: Rows | None) -> dict[str, list[int]]:
    """Control text -> prompts that hold it more often than their source row does."""
    whole = [vocabulary_of(tokenizer).bytes_of(ids) for ids in prompts.input_ids]
    found: dict[str, list[int]] = {}
    for marker in CONTROL:
        needle = squeeze(marker)
        bad = [
            r
            for r, text in enumerate(whole)
            if needle in text and text.count(needle) > _said(rows, int(prompts.source[r]), needle)
        ]
        if bad:
            found[marker] = bad
    return found


def _said(rows: Rows | None, source: int, needle: bytes) -> int:
    if rows is None or not 0 <= source < len(rows):
        return 0
    return sum(squeeze(str(v)).count(needle) for v in rows.records[source].values())


def _trained_with(marker: str, encoded: Any, tokenizer: Any) -> bool:
    if encoded is None:
        return False
    found = as_encoded(encoded)
    text = vocabulary_of(tokenizer).spans(found.input_ids.values)[0].tobytes()
    return text.count(squeeze(marker)) * 2 > len(found)


@check
def base_prompts_carry_no_role_words(
    prompts: Prompts | Any,
    tokenizer: Any,
    kind: str,
    rows: Any = None,
    template: Any = None,
    encoded: Any = None,
) -> Yields:
    """Prompts for a base model carry no role scaffolding in plain words (`Assistant:`, `### Response:`) unless it was trained so."""
    found = as_prompts(prompts, tokenizer)
    if kind != "base" or (template is not None and template.declared):
        return len(found)
    source = as_rows(rows) if rows is not None else None
    words: dict[str, list[int]] = {}
    for row in range(len(found)):
        said = (
            " ".join(str(v) for v in source.records[int(found.source[row])].values())
            if source is not None
            else ""
        )
        for match in ROLE_WORDS.finditer(_text(found, row, tokenizer)):
            if match.group(0).strip() not in said:
                words.setdefault(match.group(0).strip(), []).append(row)
    words = {
        w: r
        for w, r in words.items()
        if len(set(r)) * 2 > len(found) and not _trained_with(w, encoded, tokenizer)
    }
    if words:
        word, bad = next(iter(words.items()))
        yield error(
            Where(what=f"prompts of {found.made_by}", row=int(found.source[bad[0]])),
            what=f"{len(set(bad)):,} of {len(found):,} prompts for this base model carry role words: {', '.join(map(repr, words))}",
            why="a base model completes text: with role words it plays a dialogue, and the comparison with the trained model is not fair",
            cause="a chat-style prompt builder used for completion",
            remedy="write prompts as text to be completed; if the model is to be trained on this scaffolding, declare it as `[prompt] format`",
            evidence={"words": list(words), "text": _text(found, bad[0], tokenizer)[:400], "word": word},
        )
    return len(found)


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
    kind = f"other:{held.name}"
    return masks_tally(found, int(judged.sum()), **{kind: row_hits(found, source, other, alignment)})


def _held_to(encoded: Any, rows: Rows, tokenizer: Any, template: Any) -> Any:
    if template is not None and template.declared:
        return template
    if not tokenizer.chat_template:
        return None
    own = encoded.__dict__.setdefault("_own_template", ChatTemplate(tokenizer, declared=False))
    marker = _header(own)
    return own if marker and _trained_with(marker, encoded, tokenizer) else None


def _header(template: ChatTemplate) -> str:
    """What the template writes before a response, when it is long enough to be recognised."""
    turns: Sequence[Turn] = (Turn("user", "x"),)
    try:
        with_prompt, without = template.render(turns, generation_prompt=True), template.render(turns)
    except TemplateError:
        return ""
    header = with_prompt.removeprefix(without).strip()
    return header if len(header) >= 6 and with_prompt.startswith(without) else ""


@training_text_follows_its_format.explain
def _other_formats(tally: Tally) -> Iterator[Finding]:
    for kind, found in tally.hits.items():
        if found.rows:
            name = kind.partition(":")[2]
            yield error(
                first_where(found),
                what=f"{tally.rate(kind)} are not written in the format {name!r} ({names_of(found)})",
                why="the model learns another format than the one that it is prompted in; turns that never end run into each other",
                cause="a hand-written format that lacks something of the template's: a terminator behind the user's turn, a line break, a system message",
                remedy="render rows with the template itself (apply_chat_template), or declare the format that you mean in `[prompt] format`",
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
