"""Special tokens: who ends a response, in the tokenizer, the model's configs, the template and the training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmguard.alignment import align
from llmguard.contract import Yields, check
from llmguard.encoded import as_encoded
from llmguard.findings import Where, error, note, warning
from llmguard.formats import ChatTemplate, Kind
from llmguard.rows import as_rows
from llmguard.vocabulary import squeeze, vocabulary_of

__all__ = [
    "no_role_header_is_doubled",
    "special_tokens_keep_their_ids",
    "stop_tokens_agree",
    "text_has_no_unknown_tokens",
]

PUBLISHED: tuple[Mapping[str, int], ...] = (
    {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645},
    {
        "<|begin_of_text|>": 128000,
        "<|end_of_text|>": 128001,
        "<|start_header_id|>": 128006,
        "<|end_header_id|>": 128007,
        "<|eot_id|>": 128009,
    },
    {"<|endoftext|>": 32000, "<|assistant|>": 32001, "<|end|>": 32007, "<|user|>": 32010},
)
"""Ids as the releases have them: Qwen 2 to 3, Llama 3 to 3.3, Phi-3. A family is recognised by all of its texts and its range of ids."""


@check
def special_tokens_keep_their_ids(tokenizer: Any) -> Yields:
    """Special tokens of known families have the ids that the model was trained with (unsloth's map_eos_token swaps two of Qwen's)."""
    have = {t.content: i for i, t in tokenizer.added_tokens_decoder.items()}
    for family in PUBLISHED:
        if not set(family) <= set(have) or not {have[t] for t in family} <= set(
            range(min(family.values()) - 8, max(family.values()) + 9)
        ):
            continue
        moved = {t: (have[t], i) for t, i in family.items() if have[t] != i}
        if moved:
            told = ", ".join(f"{t!r} is {now}, released as {was}" for t, (now, was) in moved.items())
            yield error(
                Where(what="tokenizer", key="added_tokens"),
                what=f"{len(moved)} special tokens have other ids than the released model's: {told}",
                why=(
                    "the model's embeddings know these ids by what they were trained as: it ends where it "
                    "should go on"
                ),
                cause="a tool swapped two tokens to make one of them EOS, and the tokenizer was saved so",
                remedy="load the tokenizer of the original release, and set eos_token by name instead",
                expected=str({t: i for t, (_, i) in moved.items()}),
                actual=str({t: i for t, (i, _) in moved.items()}),
            )
    return len(have)


@check
def stop_tokens_agree(
    tokenizer: Any, stops: Mapping[str, Any], template: Any = None, encoded: Any = None, rows: Any = None
) -> Yields:
    """The token that ends responses in training is one that generation stops at.

    That is `eos_token_id` of generation_config.json, else of config.json.

    `stops`: {"config": ids, "generation_config": ids}, as far as the model's folder has them.
    """
    ends = _trained_ends(tokenizer, template, encoded, rows)
    where, ids = next(
        ((n, stops[n]) for n in ("generation_config", "config") if stops.get(n)),
        ("tokenizer", [tokenizer.eos_token_id]),
    )
    missing = {i: text for i, text in ends.items() if i not in ids}
    if missing and len(missing) == len(ends) and where != "tokenizer":
        i, text = next(iter(missing.items()))
        yield error(
            Where(file=f"{where}.json", key="eos_token_id"),
            what=f"responses end with {text!r} (id {i}), and generation stops at {ids}",
            why="the model ends its answer and generate() does not notice: text runs on until max_new_tokens",
            cause=(
                "the tokenizer or the template has another end of turn than the model's configs, which a "
                "fine-tune inherits from its base"
            ),
            remedy=f"set generation_config.eos_token_id to include {i} and save it with the model",
            expected=f"{i} among {ids}",
            actual=str(ids),
        )
    elif missing and len(missing) == len(ends):
        i, text = next(iter(missing.items()))
        yield note(
            Where(what="tokenizer", key="eos_token"),
            what=(
                f"responses end with {text!r} (id {i}), and the tokenizer's EOS is "
                f"{tokenizer.eos_token!r} (id {tokenizer.eos_token_id})"
            ),
            remedy=f"make sure that generation stops at {i}: generation_config.eos_token_id",
        )
    if (
        stops.get("generation_config")
        and tokenizer.eos_token_id is not None
        and tokenizer.eos_token_id not in stops["generation_config"]
        and not missing
    ):
        yield warning(
            Where(file="generation_config.json", key="eos_token_id"),
            what=(
                f"the tokenizer's EOS {tokenizer.eos_token!r} (id {tokenizer.eos_token_id}) is not among "
                f"the ids that generation stops at: {stops['generation_config']}"
            ),
            why=(
                "tools that take EOS from the tokenizer (servers, some trainers) and tools that take it "
                "from the model disagree about the end"
            ),
            cause="one of the files was changed after the other",
            remedy="let both name the same tokens",
        )
    return 1


def _trained_ends(tokenizer: Any, template: Any, encoded: Any, rows: Any) -> dict[int, str]:
    """Ids that end responses: as seen in the training rows, else the template's, else the tokenizer's EOS."""
    if encoded is not None and rows is not None:
        found, source = as_encoded(encoded), as_rows(rows)
        alignment = align(found, source, tokenizer, template)
        last = (
            alignment.of(Kind.TERMINATOR)
            & ~alignment.vocabulary.blank[np.clip(found.input_ids.values, 0, len(alignment.vocabulary) - 1)]
        )
        seen = Counter(found.input_ids.values[last].tolist())
        if seen and all(alignment.vocabulary.special[i] for i in seen):
            return {
                i: str(tokenizer.convert_ids_to_tokens(i))
                for i, n in seen.items()
                if n * 10 > sum(seen.values())
            }
        return {tokenizer.eos_token_id: str(tokenizer.eos_token)} if not seen else {}
    if isinstance(template, ChatTemplate) and template.declared and template.terminator:
        ids = tokenizer(template.terminator.strip(), add_special_tokens=False)["input_ids"]
        return {ids[-1]: template.terminator.strip()} if ids else {}
    return {tokenizer.eos_token_id: str(tokenizer.eos_token)} if tokenizer.eos_token_id is not None else {}


@check
def text_has_no_unknown_tokens(rows: Any, tokenizer: Any) -> Yields:
    """The tokenizer knows the text of the data: unknown tokens are rarer than one in a thousand.

    More are a warning, more than one in a hundred an error.
    """
    source = as_rows(rows)
    unknown = tokenizer.unk_token_id
    texts = [t.content for turns in source.turns[:500] for t in turns or ()]
    if unknown is None or not texts:
        return len(texts)
    ids = np.concatenate(
        [np.asarray(i, dtype=np.int64) for i in tokenizer(texts, add_special_tokens=False)["input_ids"]]
        or [np.zeros(0, np.int64)]
    )
    literal = sum(squeeze(t).count(squeeze(tokenizer.unk_token)) for t in texts)
    if vocabulary_of(tokenizer).normalizer is None and unknown in (
        tokenizer.eos_token_id,
        tokenizer.bos_token_id,
    ):
        return len(texts)
    count = int((ids == unknown).sum()) - literal
    rate = count / max(len(ids), 1)
    if rate > 0.001:
        yield (error if rate > 0.01 else warning)(
            Where(what="rows"),
            what=f"{count:,} of {len(ids):,} tokens ({rate:.2%}) are unknown to this tokenizer",
            why="what is unknown is the same token everywhere: it can neither be learnt nor written",
            cause=(
                "a vocabulary of another language or without byte fallback, or line breaks that it does "
                "not know"
            ),
            remedy="use the tokenizer of a model that knows this text",
        )
    return len(texts)


@check
def no_role_header_is_doubled(encoded: Any, tokenizer: Any, template: Any = None) -> Yields:
    """The header of a turn does not stand twice in a row: the template was not applied to text that it had rendered already."""
    found = as_encoded(encoded)
    header = _header(tokenizer, template)
    if len(header) < 6:
        return len(found)
    vocabulary = vocabulary_of(tokenizer)
    bad = [
        row
        for row, ids in enumerate(found.input_ids)
        if header + header in vocabulary.bytes_of(ids).translate(None, b"\n\r\t")
    ]
    if bad:
        row = int(found.source[bad[0]])
        yield error(
            Where(file=found.name, row=row if row >= 0 else bad[0]),
            what=(
                f"{len(bad):,} of {len(found):,} rows have the header "
                f"{header.decode('utf-8', 'replace')!r} twice in a row"
            ),
            why="the model is trained to start its turn twice",
            cause="add_generation_prompt on the prompt, and the template again on the response",
            remedy="render the whole conversation once",
            evidence={"rows": bad[:5]},
        )
    return len(found)


def _header(tokenizer: Any, template: Any) -> bytes:
    from llmguard.formats.chat import TemplateError
    from llmguard.rows import Turn

    held = (
        template
        if isinstance(template, ChatTemplate)
        else (ChatTemplate(tokenizer) if tokenizer.chat_template else None)
    )
    if held is None:
        return b""
    try:
        asked = (Turn("user", "x"),)
        added = held.render(asked, generation_prompt=True).removeprefix(held.render(asked))
    except TemplateError:
        return b""
    return squeeze("".join(added.split()))
