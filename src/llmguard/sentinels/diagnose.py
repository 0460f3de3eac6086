"""Why a base model obeyed: what can be read from the prompts, the tokenizer, the adapter, and the checkpoint's name and config.

Plain facts in, reasons out; nothing here loads a model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmguard.control import CONTROL, ROLE_WORDS

__all__ = ["Code", "Facts", "Reason", "diagnose", "is_instruct_name"]

Code = Literal["role-tokens", "chat-template", "adapter", "instruct-checkpoint", "unknown"]
TURN_ENDS = frozenset(
    "<|im_end|> <|eot_id|> <|eom_id|> <|eot|> <|end|> <|EOT|> <end_of_turn> <turn|> <|END_OF_TURN_TOKEN|> <|return|>".split()
)
"""Terminators that end a turn: a checkpoint that generates until one of them was tuned on conversations."""
ALIKE = 0.8  # share of equal completions from which two ways of generating count as one
OPENS_TEXT = frozenset({"<|begin_of_text|>"})  # a BOS: every text of its model begins with it
BARE_TEXT = "build base prompts as bare text, without role markers, and set `[prompt] format` to what the base model is to continue"
NO_TEMPLATE = (
    "set tokenizer.chat_template = None where the base model is loaded, and encode the bare text: no apply_chat_template,"
    " and `[prompt] format` not chat-template"
)
_INSTRUCT = re.compile(
    r"(?:^|[-_. ])(?:instruct(?:ion|ed)?|chat|it|sft|dpo|orpo|rlhf|assistant)(?=$|[-_. \d])", re.IGNORECASE
)


@dataclass(frozen=True)
class Facts:
    """What is known of one run. Empty means unknown, never absent.

    `prompts`: as the model saw them, special tokens spelt out. `chat_template`: the tokenizer's, "" without one.
    `adapter`: the folder of an
    adapter that was active in the user's arm. `same_as`: share of completions equal to those of a known path
    ("chat-template", "adapter"), where the user's own code generates. `names`: the checkpoint's path, and the name its config
    was saved under. `terminators`: texts that end a generation.
    """

    prompts: Sequence[str] = ()
    tokenizer: str = ""
    chat_template: str = ""
    adapter: str = ""
    same_as: Mapping[str, float] = field(default_factory=dict)
    names: Sequence[str] = ()
    terminators: Sequence[str] = ()


@dataclass(frozen=True)
class Reason:
    """One reason: its code, a sentence for the person who must act, the remedy, and the evidence for it."""

    code: Code
    sentence: str
    remedy: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


def diagnose(facts: Facts) -> tuple[Reason, ...]:
    """The reasons that the facts support, the most certain first; `unknown` alone when there is none."""
    found = [*_role_tokens(facts), *_template(facts), *_adapter(facts), *_checkpoint(facts)]
    return tuple(found) or (_unknown(),)


def is_instruct_name(name: str) -> bool:
    """Whether the last part of a model's name or path says that it was tuned to follow instructions."""
    return bool(_INSTRUCT.search(_last(name)))


def _last(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def _role_tokens(facts: Facts) -> Iterable[Reason]:
    counts: Counter[str] = Counter()
    for prompt in facts.prompts:
        counts.update({t for t in CONTROL if t in prompt and t not in OPENS_TEXT})
        counts.update({m.group(1) + ":" for m in ROLE_WORDS.finditer(prompt)})
    if not counts:
        return
    shown = ", ".join(f"{token} in {n} of {len(facts.prompts)}" for token, n in counts.most_common(4))
    written = any(t in facts.chat_template for t in counts)
    by = f", which the chat template of the tokenizer {facts.tokenizer} writes" if written else ""
    first = next(p for p in facts.prompts if any(t.removesuffix(":") in p for t in counts))
    yield Reason(
        "chat-template" if written else "role-tokens",
        f"the prompts contain role tokens ({shown}){by}",
        NO_TEMPLATE if written else BARE_TEXT,
        {"tokens": dict(counts.most_common(8)), "first prompt": first[:200]},
    )


def _template(facts: Facts) -> Iterable[Reason]:
    """A template that may have been applied where the prompts cannot be seen."""
    alike = _alike(facts, "chat-template")
    if not facts.chat_template or facts.prompts or (facts.same_as and alike < ALIKE):
        return
    how = "and prompts that cannot be seen from here may have gone through it"
    if alike >= ALIKE:
        how = f"and {alike:.0%} of the completions are those of the same model with that template applied"
    yield Reason(
        "chat-template",
        f"the tokenizer {facts.tokenizer or 'of the model'} ships a chat template, {how}",
        NO_TEMPLATE,
        {"chat template": facts.chat_template[:200], "completions alike": round(alike, 3)},
    )


def _alike(facts: Facts, path: str) -> float:
    """How alike the completions are to those of a known path; 0 when another path is closer (two that obey say much the same)."""
    alike = facts.same_as.get(path, 0.0)
    return alike if alike == max(facts.same_as.values(), default=0.0) else 0.0


def _adapter(facts: Facts) -> Iterable[Reason]:
    alike = _alike(facts, "adapter")
    if not facts.adapter and alike < ALIKE:
        return
    told = f"the adapter {facts.adapter} was active" if facts.adapter else "an adapter was active"
    if alike >= ALIKE:
        told = f"{told}: {alike:.0%} of the completions are those of the base model with it"
    yield Reason(
        "adapter",
        told,
        "evaluate the base model with the adapter off: load it without PeftModel, or inside `with model.disable_adapter():`",
        {"adapter": facts.adapter, "completions alike": round(alike, 3)},
    )


def _checkpoint(facts: Facts) -> Iterable[Reason]:
    signs = [f"its name is {_last(name)!r}" for name in facts.names if is_instruct_name(name)][:1]
    ends = [t for t in facts.terminators if t in TURN_ENDS]
    if ends:
        signs.append(f"its generation config ends at {', '.join(ends)}, which ends a turn and not a text")
    if signs:
        yield Reason(
            "instruct-checkpoint",
            f"the checkpoint looks like an instruct model: {' and '.join(signs)}",
            'name the base checkpoint in `[model] path`, or, if the instruct model is meant, set `[model] kind = "chat"`',
            {"names": list(facts.names), "terminators": list(facts.terminators)},
        )


def _unknown() -> Reason:
    return Reason(
        "unknown",
        "unknown: no role token in the prompts that could be seen, no template, no active adapter, nothing in the"
        " checkpoint's name or config",
        "compare the first prompt's ids of your own path with tokenizer(text), and ask what the checkpoint was trained on",
    )
