"""The generation side: prompts as they reach the model, and what the tokenizer does to text on the way."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmguard.contract import Yields, check
from llmguard.evidence.prompts import Prompts, as_prompts
from llmguard.findings import Where, error, note, warning
from llmguard.formats import ChatTemplate, TextFormat
from llmguard.formats.chat import TemplateError
from llmguard.rows import Turn, as_rows
from llmguard.vocabulary import squeeze, vocabulary_of

__all__ = [
    "chat_prompts_use_the_template", "few_shot_examples_vary", "prompts_start_with_bos", "thinking_is_kept_in_every_turn",
    "tokenizer_keeps_white_space",
]  # fmt: skip


def _where(prompts: Prompts, row: int) -> Where:
    return Where(what=f"prompts of {prompts.made_by}", row=int(prompts.source[row]))


def _text(prompts: Prompts, row: int, tokenizer: Any) -> str:
    return prompts.texts[row] or str(tokenizer.decode(prompts.input_ids[row].tolist()))


def header_of(template: ChatTemplate) -> str:
    """What a chat template writes before a response, stripped; '' where it writes nothing or nothing of its own."""
    asked: Sequence[Turn] = (Turn("user", "x"),)
    try:
        opened, closed = template.render(asked, generation_prompt=True), template.render(asked)
    except TemplateError:
        return ""
    return opened.removeprefix(closed).strip() if opened.startswith(closed) else ""


@check
def chat_prompts_use_the_template(prompts: Any, tokenizer: Any, kind: str, template: Any = None) -> Yields:
    """Prompts for a chat model are in its template: they hold the header that the template writes before a response.

    Judged on prompts of the user's own builder; a text format that the project declares wins over the template.
    """
    found = as_prompts(prompts, tokenizer)
    if kind != "chat" or not tokenizer.chat_template or isinstance(template, TextFormat):
        return 0
    header, vocabulary = squeeze(header_of(ChatTemplate(tokenizer))), vocabulary_of(tokenizer)
    bare = [r for r, ids in enumerate(found.input_ids) if header and header not in vocabulary.bytes_of(ids)]
    if bare:
        yield error(
            _where(found, bare[0]),
            what=(
                f"{len(bare):,} of {len(found):,} prompts for this chat model are not in its template: "
                f"{_text(found, bare[0], tokenizer)[:100]!r}"
            ),
            why=(
                "a chat model without its template answers far below what it can do (gsm8k 0.00 instead "
                "of 0.69 for the same model)"
            ),
            cause="an evaluation flag that is off by default, or plain text sent to a completions endpoint",
            remedy=(
                "build prompts with tokenizer.apply_chat_template(..., add_generation_prompt=True), or "
                "declare the format in use"
            ),
            evidence={"rows": [int(found.source[b]) for b in bare[:5]], "count": len(bare)},
        )
    return len(found)


@check
def prompts_start_with_bos(
    prompts: Any, tokenizer: Any, template: Any = None, add_special_tokens: bool = True
) -> Yields:
    """Prompts of plain text start with the BOS that this tokenizer puts before every text (lm-evaluation-harness#1465).

    Prompts that hold control tokens are a template's, which decides about BOS itself. Tokenizers that add no BOS are asked for none.
    """
    found = as_prompts(prompts, tokenizer, add_special_tokens=add_special_tokens)
    first = tokenizer("x")["input_ids"][:1]
    wanted = bool(first) and first[0] in tokenizer.all_special_ids and add_special_tokens
    if isinstance(template, ChatTemplate):
        wanted = wanted and template.writes_bos
    if not wanted:
        return len(found)
    special = vocabulary_of(tokenizer).special
    bare = [
        r
        for r, ids in enumerate(found.input_ids)
        if len(ids) and not special[np.clip(ids, 0, len(special) - 1)].any()
    ]
    if bare:
        yield error(
            _where(found, bare[0]),
            what=(
                f"{len(bare):,} of {len(found):,} prompts lack the BOS that this tokenizer puts before "
                f"every text (ids {found.input_ids[bare[0]][:4].tolist()} …)"
            ),
            why=(
                "models trained with BOS collapse without it: the perplexity of gemma-7b on lambada goes "
                "from 3.5 to billions"
            ),
            cause="prompts tokenised with add_special_tokens=False",
            remedy=(
                "tokenise prompts with special tokens; if the model was trained without BOS, say "
                "`[prompt] add_special_tokens = false`"
            ),
            evidence={"rows": [int(found.source[b]) for b in bare[:5]], "count": len(bare)},
        )
    return len(found)


@check
def few_shot_examples_vary(prompts: Any, tokenizer: Any) -> Yields:
    """Prompts do not all start with the same long block of examples: a few-shot part is drawn anew for each.

    A warning, from eight prompts on, where they share more than 200 characters that hold at least two examples. One short
    instruction or system message that all share is everybody's practice.
    """
    found = as_prompts(prompts, tokenizer)
    texts = [_text(found, r, tokenizer) for r in range(len(found))]
    shared = os.path.commonprefix(texts) if len(texts) >= 8 else ""  # noqa: RUF071  # texts, not paths
    blocks = [b for b in re.split(r"\n\s*\n", shared.strip()) if b.strip()]
    leads = [b.split(":")[0].split("\n")[0][:20] for b in blocks if ":" in b]
    examples = max((leads.count(lead) for lead in leads), default=0)
    if len(shared) > 200 and examples >= 2:
        yield warning(
            _where(found, 0),
            what=(
                f"all {len(found):,} prompts start with the same {examples} examples ({len(shared):,} "
                "characters)"
            ),
            why=(
                "one fixed block measures how well the model copies these examples; another block may "
                "give another score"
            ),
            cause="few-shot examples written into the builder",
            remedy=(
                "draw three to four examples for each prompt from a pool, by a seed, and never the "
                "evaluated item itself"
            ),
            evidence={"shared": shared[:300]},
        )
    return len(found)


@check
def thinking_is_kept_in_every_turn(rows: Any, template: Any) -> Yields:
    """The template renders the thinking of every assistant turn; a note where it strips it from earlier ones, as some do by design."""
    source = as_rows(rows)
    if not isinstance(template, ChatTemplate):
        return 0
    thinking = [
        (i, t)
        for i, t in enumerate(source.turns[:300])
        if t and any("</think>" in turn.content for turn in t[:-1] if turn.role == "assistant")
    ]
    stripped = [i for i, turns in thinking if _loses_thinking(template, turns)]
    if stripped:
        yield note(
            source.where(stripped[0]),
            what=(
                f"the template strips the thinking of earlier turns from {len(stripped):,} of "
                f"{len(thinking):,} rows that have some"
            ),
            why="reasoning is trained in the last turn only",
            remedy=(
                "split conversations so that each turn with thinking is the last of a row, if it is to "
                "be learnt"
            ),
            evidence={"rows": stripped[:5]},
        )
    return len(thinking)


def _loses_thinking(template: ChatTemplate, turns: Sequence[Turn]) -> bool:
    try:
        text = template.render(turns)
    except TemplateError:
        return False
    thoughts = [
        t.content.split("</think>")[0].replace("<think>", "").strip()[:40]
        for t in turns[:-1]
        if "</think>" in t.content
    ]
    return any(thought and thought not in text for thought in thoughts)


@check
def tokenizer_keeps_white_space(rows: Any, tokenizer: Any) -> Yields:
    """Line breaks, tabs and runs of spaces inside of texts come back from their ids (indentation of code, Markdown).

    White space at the edges of a text is not judged. More than one such text in twenty is an error, fewer a warning.
    """
    source = as_rows(rows)
    chosen = [
        (r, t.content)
        for r in range(min(len(source), 500))
        for t in source.turns[r] or ()
        if re.search(r"\s\s|[\n\t]", t.content.strip())
    ]
    ids = tokenizer([text for _, text in chosen], add_special_tokens=False)["input_ids"] if chosen else []
    lost = [
        (r, text)
        for (r, text), row in zip(chosen, ids, strict=True)
        if _gaps(tokenizer.decode(row, clean_up_tokenization_spaces=False)) != _gaps(text)
    ]
    if lost:
        row, text = lost[0]
        yield (error if len(lost) * 20 > len(chosen) else warning)(
            source.where(row),
            what=(
                f"{len(lost):,} of {len(chosen):,} texts with line breaks or runs of spaces lose some of "
                f"them ({text.strip()[:60]!r} …)"
            ),
            why="code loses its indentation, lists their lines: the model cannot learn what is not there",
            cause="a normaliser that merges white space, or a vocabulary without line breaks",
            remedy="use a tokenizer that keeps white space for such data",
            evidence={"rows": [r for r, _ in lost[:5]], "count": len(lost)},
        )
    return len(chosen)


def _gaps(text: str) -> list[str]:
    return re.findall(r"\s+", text.strip())
