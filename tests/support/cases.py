"""A real tokenizer with everything that is encoded with it, each encoding made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from llmguard.encoded import Encoded, as_encoded
from llmguard.evidence.prompts import as_prompts
from llmguard.formats import TEXT_FORMATS, ChatTemplate, TextFormat, text_format
from llmguard.rows import Rows, as_rows
from support import encoders, real
from support.encoders import Sample
from support.faults import has_token

__all__ = ["DATA", "Case", "chosen", "rows_of"]

Template = TextFormat | ChatTemplate
Encoder = Callable[[Any, Any, Any], Sample | None]
DATA = {"gsm8k": 25, "conversations": 15}
"""Rows of each kind: questions with answers, conversations of one to three answers."""
_rows: dict[tuple[str, int], Rows] = {}


def rows_of(data: str, count: int) -> Rows:
    """The first rows of a kind."""
    key = (data, count)
    if key not in _rows:
        _rows[key] = as_rows(real.gsm8k(count) if data == "gsm8k" else real.conversations(count))
    return _rows[key]


def chosen(rows: Rows, kept: Sequence[int]) -> Rows:
    """Some of the rows, numbered anew."""
    return as_rows([rows.records[i] for i in kept], rows.columns)


class Case:
    """One tokenizer. `samples` are kept, since every test of the tokenizer wants them."""

    def __init__(self, name: str) -> None:
        self.name, self.tok = name, real.tokenizer(name)
        self._known: dict[Any, list[Sample | None]] = {}

    @cached_property
    def formats(self) -> list[Template]:
        """The formats whose control tokens the tokenizer has, and its own template."""
        found: list[Template] = [text_format(n, self.tok.eos_token) for n in TEXT_FORMATS]
        found = [t for t in found if all(has_token(self.tok, c) for c in t.control)]
        return [*found, ChatTemplate(self.tok)] if self.tok.chat_template else found

    @staticmethod
    def ways(template: Template) -> list[Encoder]:
        """The correct ways to encode in a format.

        Where the prompt ends without a separator or with a space, a token of the joint text holds the end of the prompt and the
        start of the response: there only tokenising them apart is right.
        """
        if isinstance(template, ChatTemplate):
            return [encoders.rendered, encoders.joint]
        glued = template.before["assistant"][-1:] in ("", " ")
        return [encoders.split] if glued else [encoders.split, encoders.joint]

    def samples(self, template: Template, data: str, way: Encoder | None = None) -> list[Sample | None]:
        """Encoded rows; None for those that the way of encoding is not right for."""
        encode = way or self.ways(template)[-1]
        key = (template.name, data, encode)
        if key not in self._known:
            self._known[key] = [encode(self.tok, template, t) for t in rows_of(data, DATA[data]).turns]
        return self._known[key]

    def evidence(
        self, template: Template, rows: Rows, encoded: Encoded, prompts: Any = None
    ) -> dict[str, Any]:
        """What checks on rows take."""
        given = {"encoded": encoded, "rows": rows, "tokenizer": self.tok, "template": template}
        if prompts is not None:
            special = template.add_special_tokens
            given["prompts"] = as_prompts(prompts, self.tok, add_special_tokens=special)
        kind = "chat" if self.tok.chat_template else "base"
        return {**given, "train_on": "responses", "add_special_tokens": True, "kind": kind, "stops": {}}

    def correct(self, template: Template, data: str, way: Encoder) -> dict[str, Any] | None:
        """Evidence of correct encodings, with the prompts of generation; None where no row can be encoded so.

        A history tokenised turn by turn has other ids than one that is tokenised at once: with `split`, generation does as training.
        """
        samples = self.samples(template, data, way)
        kept = [i for i, s in enumerate(samples) if s]
        good = [s for s in samples if s]
        rows = chosen(rows_of(data, DATA[data]), kept)
        if way is encoders.split:
            prompts: list[Any] = [s.ids[: s.spans[-1].start] for s in good]
        else:
            prompts = [template.prompt(t) for t in rows.turns if t]
        encoded = as_encoded([s.columns() for s in good]) if good else None
        return self.evidence(template, rows, encoded, prompts) if encoded is not None else None
