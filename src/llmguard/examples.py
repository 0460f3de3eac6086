"""Rows expanded from one integer, for property tests: the same integer gives the same row, a smaller one a smaller row.

The low eight bits of a seed are its size, the others choose the content; with the content kept, less size means fewer turns,
fewer words and plainer text. No library is needed; `llmguard.strategies` hands these to hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType
from typing import Any

__all__ = [
    "AWKWARD", "FAULTS", "LOOKALIKES", "SEEDS", "awkward_text", "broken_config", "chat_template", "conversation", "sft_row",
    "training_config",
]  # fmt: skip

SEEDS = 1 << 24
"""Seeds run from 0 up to this; hypothesis draws integers of at most 24 bits evenly."""
SIZE_BITS = 8
SIZES = 1 << SIZE_BITS

AWKWARD: Mapping[str, str] = MappingProxyType(
    {
        "one letter": "a",
        "one digit": "7",
        "full stop": ".",
        "number": "-1,234.50",
        "no spaces": "Donaudampfschifffahrtsgesellschaft" * 4,
        "leading space": " Paris",
        "trailing space": "Paris ",
        "leading newline": "\nParis",
        "trailing newline": "Paris\n",
        "blank lines": "One.\n\n\nTwo.",
        "space runs": "a  b   c    d",
        "tabs": "a\tb\t\tc",
        "windows lines": "One.\r\nTwo.\r\n",
        "no-break space": "10\u00a0000\u202f km",
        "ideographic space": "\u6771\u4eac\u3000\u5927\u962a",
        "accents composed": "caf\u00e9 na\u00efve",
        "accents combining": "cafe\u0301 nai\u0308ve",
        "stacked marks": "Z\u0351\u036b\u0343a\u0328\u0321l\u0360g\u0321o\u0489",
        "cjk": "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
        "rare cjk": "\U00020000\U0002a6df",
        "korean": "\uc548\ub155\ud558\uc138\uc694",
        "arabic": "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
        "hebrew with points": "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
        "mixed directions": "abc \u05d0\u05d1\u05d2 123 \u05d3\u05d4",
        "direction marks": "a\u202eb\u202cc\u2066d\u2069",
        "devanagari": "\u0915\u094d\u200d\u0937\u0924\u094d\u0930",
        "thai": "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
        "emoji": "\U0001f600\U0001f680",
        "emoji family": "\U0001f469\u200d\U0001f469\u200d\U0001f467",
        "emoji skin and flag": "\U0001f44d\U0001f3fd \U0001f1eb\U0001f1f7",
        "zero width": "a\u200bb\ufeffc",
        "mathematics": "\u222b\u2080\u00b9 x\u00b2 dx = \u2153 \u2248 0.333",
        "latex": "$\\frac{1}{2}\\,\\text{m}$",
        "code": "def f(x):\n    return {'a': [x, \"y\"]}  # done\n",
        "json": '{"a": [1, 2.5e-3, null], "b": {"c": "\\u00e9"}}',
        "markdown": "# Title\n\n- **one**\n- `two`\n\n```python\nprint('three')\n```\n\n| a | b |\n|---|---|",
        "html": "<p>Hello &amp; <br/>bye</p>",
        "template syntax": "{{ messages }} {% if x %} {prompt} %s $1 \\n",
        "replacement character": "bad \ufffd byte",
        "private use": "\ue000\uf8ff",
        "nul": "a\x00b",
        "urls": "https://example.org/a?b=c&d=%20#e",
        "repeated": "ha" * 64,
        "prompt in response": "What is 2+2? What is 2+2? 4",
        "role words": "User: hello\nAssistant: hi\nSystem: stop",
        "metaspace": "\u2581the\u2581cat \u0120dog \u010a",
        "byte names": "<0x0A><0xE2>",
    }
)
"""Name -> text that encoders trip over; none of it is invalid, so that a correct encoder takes all of it."""

LOOKALIKES: tuple[str, ...] = (
    "<s>", "</s>", "<|im_end|>", "<|im_start|>user\n", "<|endoftext|>", "<|eot_id|>", "[INST] [/INST]", "<|assistant|>",
    "### Response:", "<end_of_turn>", "<|im_end|", "< |im_end| >", "<\uff5cim_end\uff5c>", "</s >", "<pad>", "<unk>",
)  # fmt: skip
"""Texts that are control tokens of some model, or nearly: what a user may type, and what must not end a response."""

WORDS = (
    "a", "the", "of", "to", "is", "it", "red", "two", "river", "water", "answer", "question", "because", "number", "write",
    "seven", "blue", "name", "list", "three", "sum", "letter", "house", "winter", "1", "2", "10", "365", "x", "y",
)  # fmt: skip
NAMES = ("x", "total", "name", "rows", "count")
PIECES = tuple(AWKWARD.values())


def _word(draw: Random, words: int) -> str:
    return draw.choice(WORDS)


def _sentence(draw: Random, words: int) -> str:
    return f"{' '.join(draw.choices(WORDS, k=words)).capitalize()}."


def _lines(draw: Random, words: int) -> str:
    return "\n".join(" ".join(draw.choices(WORDS, k=1 + words // 3)) for _ in range(1 + draw.randrange(4)))


def _code(draw: Random, words: int) -> str:
    body = "\n    ".join(f"{draw.choice(NAMES)} = {draw.randrange(100)}" for _ in range(1 + words // 4))
    return f"def {draw.choice(NAMES)}(x):\n    {body}\n    return x"


def _markdown(draw: Random, words: int) -> str:
    return f"## {draw.choice(WORDS)}\n\n- **{draw.choice(WORDS)}**\n- `{draw.choice(WORDS)}`\n\n{_sentence(draw, words)}"


def _spaced(draw: Random, words: int) -> str:
    gaps = draw.choices((" ", "  ", "\n", "\n\n", "\t", "\u00a0"), k=words)
    return "".join(word + gap for word, gap in zip(draw.choices(WORDS, k=words), gaps, strict=True))


def _piece(draw: Random, words: int) -> str:
    return draw.choice(PIECES)


def _mixed(draw: Random, words: int) -> str:
    parts = draw.choices(PIECES, k=1 + words // 6) + draw.choices(WORDS, k=1 + words // 2)
    draw.shuffle(parts)
    return " ".join(parts)


STYLES: tuple[Callable[[Random, int], str], ...] = (
    _word, _sentence, _sentence, _lines, _code, _markdown, _spaced, _piece, _piece, _mixed,
)  # fmt: skip
"""From plain to awkward: the smaller the size, the nearer to the front."""
LONGEST = 24
"""Words of the longest sentence."""
MOST_PAIRS = 4


def _text(draw: Random, size: int) -> str:
    """A text that is never empty and never white space alone."""
    style, words = draw.randrange(len(STYLES)), draw.randrange(LONGEST)
    return STYLES[_share(style, size)](draw, 1 + _share(words, size))


def _share(whole: int, size: int) -> int:
    """The part of `whole` that a size gets: nothing at 0, all of it at the largest, rounded."""
    return (whole * size + SIZES // 2 - 1) // (SIZES - 1)


def _split(seed: int) -> tuple[Random, int]:
    return Random(seed >> SIZE_BITS), seed & (SIZES - 1)


def conversation(
    seed: int, *, pairs: int = MOST_PAIRS, system: bool = True, lookalikes: bool = False
) -> list[dict[str, str]]:
    """Messages with `role` and `content`: at most `pairs` of user and assistant, perhaps a system message before them.

    With `lookalikes`, some user turns hold texts that look like control tokens.
    """
    draw, size = _split(seed)
    count = 1 + _share(draw.randrange(pairs), size)
    messages = (
        [{"role": "system", "content": _text(draw, size)}]
        if system and draw.randrange(SIZES) < size // 3
        else []
    )
    for _ in range(count):
        asked = _text(draw, size)
        if lookalikes and draw.randrange(SIZES) < size:
            asked = f"{asked} {draw.choice(LOOKALIKES)}"
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": _text(draw, size)}]
    return messages


def sft_row(
    seed: int, *, prompt: str = "prompt", response: str = "response", lookalikes: bool = False
) -> dict[str, str]:
    """A row with a prompt and a response in the columns named."""
    asked, answered = conversation(seed, pairs=1, system=False, lookalikes=lookalikes)
    return {prompt: asked["content"], response: answered["content"]}


def awkward_text(seed: int, *, lookalikes: bool = True) -> str:
    """One text of the fixed pools, or several of them together; size 0 is the empty text."""
    draw, size = _split(seed)
    if not size:
        return ""
    pool = (*PIECES, *LOOKALIKES) if lookalikes else PIECES
    parts = draw.choices(pool, k=1 + _share(draw.randrange(4), size))
    return draw.choice(("", " ", "\n")).join(parts)


MARKS = (
    ("<|im_start|>", "\n", "<|im_end|>\n"), ("<|", "|>\n", "</s>\n"), ("### ", ":\n", "\n\n"), ("[", "] ", "\n"), ("", ": ", "\n"),
)  # fmt: skip
"""Text before the role, between role and content, and after the content."""


def chat_template(seed: int) -> str:
    """A Jinja chat template of the usual build: role markers around contents and a generation prompt.

    Larger ones add BOS, strip contents, or have a default system message.
    """
    draw, size = _split(seed)
    before, after, end = MARKS[_share(draw.randrange(len(MARKS)), size)]
    bos, trim, default = (draw.randrange(SIZES) < size // 2 for _ in range(3))
    content = "message['content'] | trim" if trim else "message['content']"
    lead = "{{ bos_token }}" if bos else ""
    told = f"{before}system{after}You are helpful.{end}"
    system = f"{{% if messages[0]['role'] != 'system' %}}{told}{{% endif %}}" if default else ""
    turn = f"{before}{{{{ message['role'] }}}}{after}{{{{ {content} }}}}{end}"
    ask = f"{{% if add_generation_prompt %}}{before}assistant{after}{{% endif %}}"
    return f"{lead}{system}{{% for message in messages %}}{turn}{{% endfor %}}{ask}"


def training_config(seed: int) -> dict[str, Any]:
    """A sound training configuration under the names of transformers and PEFT, every value within its usual range."""
    draw, size = _split(seed)
    config: dict[str, Any] = {
        "learning_rate": draw.choice((1e-5, 2e-5, 5e-5, 1e-4, 2e-4)),
        "per_device_train_batch_size": draw.choice((1, 2, 4, 8)),
        "gradient_accumulation_steps": draw.choice((1, 2, 4, 8, 16)),
        "num_train_epochs": draw.choice((1, 2, 3)),
        "max_length": draw.choice((128, 512, 1024, 2048, 4096)),
    }
    optional: dict[str, Any] = {
        "warmup_ratio": draw.choice((0.0, 0.03, 0.1)),
        "weight_decay": draw.choice((0.0, 0.01, 0.1)),
        "lr_scheduler_type": draw.choice(("linear", "cosine", "constant")),
        "bf16": draw.choice((True, False)),
        "seed": draw.randrange(1000),
        "lora_r": draw.choice((4, 8, 16, 64)),
        "lora_alpha": draw.choice((8, 16, 32, 128)),
        "lora_dropout": draw.choice((0.0, 0.05, 0.1)),
    }
    kept = draw.sample(sorted(optional), _share(len(optional), size))
    return {**config, **{key: optional[key] for key in kept}}


FAULTS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "text": str,
        "none": lambda value: None,
        "negative": lambda value: -value,
        "huge": lambda value: value * 10**9,
        "zero": lambda value: 0,
        "list": lambda value: [value],
        "not a number": lambda value: float("nan"),
    }
)
"""What goes wrong with a number of a config -> how."""
NUMBERS = ("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "max_length")


def broken_config(seed: int) -> tuple[dict[str, Any], str, str]:
    """A training configuration with one wrong value: the configuration, the key, and the name of the fault (of `FAULTS`)."""
    config, draw = training_config(seed), Random(seed)
    key, fault = draw.choice(NUMBERS), draw.choice(sorted(FAULTS))
    return {**config, key: FAULTS[fault](config[key])}, key, fault
