"""Base models: no template on the tokenizer, none in the prompts, no role words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmguard.checks.bos import prepended
from llmguard.contract import Yields, check
from llmguard.control import CONTROL, ROLE_WORDS
from llmguard.encoded import as_encoded
from llmguard.evidence.prompts import Prompts, as_prompts
from llmguard.findings import Where, error, warning
from llmguard.formats import ChatTemplate, TextFormat
from llmguard.formats.chat import TemplateError
from llmguard.ragged import Ints
from llmguard.rows import Rows, Turn, as_rows
from llmguard.vocabulary import squeeze, vocabulary_of

__all__ = [
    "base_prompts_carry_no_role_words",
    "base_prompts_carry_no_template",
    "base_tokenizer_ships_no_template",
    "trained_with",
]


@check
def base_tokenizer_ships_no_template(tokenizer: Any, kind: str) -> Yields:
    """The tokenizer of a base model has no chat template, which tools would apply by themselves (Qwen2.5 base ships one)."""
    if kind == "base" and tokenizer.chat_template:
        yield warning(
            Where(what="tokenizer", key="chat_template"),
            what="the tokenizer of this base model ships a chat template",
            why=(
                "evaluation harnesses and servers apply a template that they find: "
                "the base model then gets chat prompts and seems to follow instructions"
            ),
            cause="the release carries the template of its instruct sibling",
            remedy="set tokenizer.chat_template = None after loading, and tokenise prompts as plain text",
            expected="no chat template",
            actual=str(tokenizer.chat_template)[:80],
        )
    return 1


HEAD = 100
"""Characters at the start of a prompt that are shown; a leaked template begins there."""
LOOKED_AT = 100
"""Prompts that are compared with the template's own rendering: one leaked template leaks everywhere."""


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
    source = as_rows(rows) if rows is not None else None
    markers = {
        m: r for m, r in _leaked(found, tokenizer, source).items() if not trained_with(m, encoded, tokenizer)
    }
    own = _own_renderings(found, tokenizer, source, encoded)
    if own:
        markers["the tokenizer's own chat template"] = own
    if markers:
        bad = sorted({row for rows_of in markers.values() for row in rows_of})
        first = bad[0]
        text = _text(found, first, tokenizer)
        yield error(
            Where(what=f"prompts of {found.made_by}", row=int(found.source[first])),
            what=(
                f"{len(bad):,} of {len(found):,} prompts for this base model carry a chat template: "
                f"{', '.join(markers)} in {text[:HEAD]!r}"
            ),
            why=(
                "a base model obeys once its template is applied: follow rates above 70 % before any training, "
                "and no baseline that means anything"
            ),
            cause="apply_chat_template on a base model, or a tool that applies the template which the tokenizer ships",
            remedy=(
                "set tokenizer.chat_template = None and tokenise the prompt as it is, "
                "add_special_tokens as at training time; look at the first characters of the decoded ids"
            ),
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
    """Control text -> prompts that hold it more often than their source row does, the tokenizer's own BOS at the start aside."""
    whole = _texts(prompts, tokenizer)
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


def _without(start: list[int], ids: Ints) -> Ints:
    """Ids without what the tokenizer puts before every text, however often it stands there."""
    while start and ids[: len(start)].tolist() == start:
        ids = ids[len(start) :]
    return ids


def _texts(prompts: Prompts, tokenizer: Any, limit: int | None = None) -> list[bytes]:
    """The bytes of prompts, the tokenizer's own BOS at the start aside."""
    vocabulary, start = vocabulary_of(tokenizer), prepended(tokenizer)
    ids = [prompts.input_ids[r] for r in range(len(prompts) if limit is None else min(limit, len(prompts)))]
    return [vocabulary.bytes_of(_without(start, i)) for i in ids]


def _own_renderings(prompts: Prompts, tokenizer: Any, rows: Rows | None, encoded: Any) -> list[int]:
    """Prompts that are what the tokenizer's own template makes of their row, whatever marks it writes: of the first 100."""
    if rows is None or not tokenizer.chat_template:
        return []
    template, vocabulary = ChatTemplate(tokenizer, declared=False), vocabulary_of(tokenizer)
    found = []
    for row, text in enumerate(_texts(prompts, tokenizer, LOOKED_AT)):
        source = int(prompts.source[row])
        asked = (
            [t for t in rows.turns[source] or () if t.role != "assistant"] if 0 <= source < len(rows) else []
        )
        if len(asked) == 1 and vocabulary.text_as_bytes(asked[0].content) != text:
            made = [t.removeprefix(tokenizer.bos_token or "") for t in _renderings(template, asked)]
            found += [row] if text in map(vocabulary.text_as_bytes, made) else []
    opening = _opening(template) if found else ""
    return [] if len(opening) >= 4 and trained_with(opening, encoded, tokenizer) else found


def _opening(template: ChatTemplate) -> str:
    """What the template writes before a first message."""
    text = next(iter(_renderings(template, [Turn("user", "Which?")])), "")
    return text.partition("Which?")[0].removeprefix(template.tokenizer.bos_token or "").strip()


def _renderings(template: ChatTemplate, turns: Sequence[Turn]) -> list[str]:
    try:
        return [template.render(turns, generation_prompt=asked) for asked in (True, False)]
    except TemplateError:
        return []


def _said(rows: Rows | None, source: int, needle: bytes) -> int:
    if rows is None or not 0 <= source < len(rows):
        return 0
    return sum(squeeze(str(v)).count(needle) for v in rows.records[source].values())


def trained_with(marker: str, encoded: Any, tokenizer: Any) -> bool:
    """Whether most training rows hold a marker."""
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
        if len(set(r)) * 2 > len(found) and not trained_with(w, encoded, tokenizer)
    }
    if words:
        word, bad = next(iter(words.items()))
        yield error(
            Where(what=f"prompts of {found.made_by}", row=int(found.source[bad[0]])),
            what=f"{len(set(bad)):,} of {len(found):,} prompts for this base model carry role words: {', '.join(map(repr, words))}",
            why="a base model completes text: with role words it plays a dialogue, and the comparison with the trained model is not fair",
            cause="a chat-style prompt builder used for completion",
            remedy=(
                "write prompts as text to be completed; if the model is to be trained on this scaffolding, "
                "declare it as `[prompt] format`"
            ),
            evidence={"words": list(words), "text": _text(found, bad[0], tokenizer)[:400], "word": word},
        )
    return len(found)
