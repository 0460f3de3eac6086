"""Text from data made fit to be shown: nothing in it can steer a terminal, reorder a line or hide."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["clean", "visible"]

_HIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, ESC among them; tab and newline are judged apart
    "\u00ad\u034f\u061c\u180e\u200b-\u200f\u2028-\u202e"  # zero width, bidirectional, separators
    "\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\ufffe\uffff"  # lone surrogates and non-characters: no UTF-8 exists for the first
    "\U000e0000-\U000e007f"  # tags: letters that nobody sees
    "]"
)
_JOINER = re.compile("(?<=[\u00a9-\U0010ffff])\u200d(?=[\u00a9-\U0010ffff])")
"""A zero width joiner between two characters beyond ASCII: family emoji and Indic conjuncts have them."""
_KEPT = "\U0010fffd"


def visible(text: str) -> str:
    """The text with control, bidirectional, invisible characters and lone surrogates written as `⟨U+202E⟩`.

    Newlines and tabs stay; ESC, NUL and carriage returns do not.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = _JOINER.sub(_KEPT, text.replace(_KEPT, "\ufffd"))
    return _HIDDEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", kept).replace(_KEPT, "\u200d")


def clean(value: Any) -> Any:
    """A JSON value with all its strings, keys included, made visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible(str(key)): clean(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(inner) for inner in value]
    return value
