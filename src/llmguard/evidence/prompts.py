"""`prompts`: what reaches the model at generation time, as text and as ids, row by row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmguard.collect.child import sampled
from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence
from llmguard.evidence.targets import splits as targets
from llmguard.formats.chat import TemplateError
from llmguard.project import Project
from llmguard.ragged import Ints, Ragged
from llmguard.rows import Rows

__all__ = ["Prompts", "as_prompts", "provide", "targets"]


@dataclass(frozen=True)
class Prompts:
    """Generation prompts.

    `texts`: one a row, None where the user's builder gives ids. `input_ids`: Ragged, special tokens included as they are sent.
    `source`: int64 [rows], the source row of each. `made_by`: the builder's name, or the format's. `built`: by the user's code.
    """

    texts: Sequence[str | None]
    input_ids: Ragged
    source: Ints
    made_by: str = "prompts"
    built: bool = False
    split: str = ""

    def __len__(self) -> int:
        return len(self.source)


def provide(evidence: Evidence, target: str) -> Prompts:
    """Prompts from `[prompt] build` where there is one, else from the format."""
    project = evidence.project
    if target not in project.splits:
        raise MissingEvidence(
            "prompts",
            'add `[data] train = ["data/train.jsonl"]` (and `[prompt] build = "module:function"`) to llmguard.toml',
        )
    rows: Rows = evidence.get("rows", target, over="rows")
    tokenizer = evidence.get("tokenizer")
    if project.schema.prompt.build:
        evidence.collected.step("prompts")
        lines = (
            (evidence.collected.folder("prompts") / f"prompts.{target}.jsonl").read_text("utf-8").splitlines()
        )
        return _from_builder([json.loads(line) for line in lines], tokenizer, project, target)
    return _from_format(evidence, rows, tokenizer, target)


def _from_builder(built: list[dict[str, Any]], tokenizer: Any, project: Project, split: str) -> Prompts:
    texts = [b.get("text") for b in built]
    special = project.schema.prompt.add_special_tokens
    encoded = iter(_encode(tokenizer, [t for t in texts if t is not None], special))
    ids = [b["ids"] if "ids" in b else next(encoded) for b in built]
    source = np.asarray([b["row"] for b in built], dtype=np.int64)
    return Prompts(texts, Ragged.of(ids), source, str(project.schema.prompt.build), True, split)


def _from_format(evidence: Evidence, rows: Rows, tokenizer: Any, split: str) -> Prompts:
    template = evidence.get("template")
    if template is None:
        raise MissingEvidence(
            "prompts",
            'the tokenizer has no chat template: add `[prompt] format = "…"` or `build = "module:function"`',
        )
    texts, source = [], []
    for row in sampled(len(rows), evidence.options.sample):
        turns = rows.turns[row]
        try:
            texts.append(template.prompt(turns) if turns else None)
        except TemplateError:
            texts.append(None)
        if texts[-1] is None:
            texts.pop()
        else:
            source.append(row)
    ids = _encode(tokenizer, texts, template.add_special_tokens)
    return Prompts(
        texts, Ragged.of(ids), np.asarray(source, dtype=np.int64), f"format {template.name}", False, split
    )


def _encode(tokenizer: Any, texts: Sequence[str | None], special: bool) -> list[list[int]]:
    return list(tokenizer(list(texts), add_special_tokens=special)["input_ids"]) if texts else []


def as_prompts(value: Any, tokenizer: Any, *, add_special_tokens: bool = True) -> Prompts:
    """A list of prompt texts (or of id lists), or Prompts as they are."""
    if isinstance(value, Prompts):
        return value
    texts = [v if isinstance(v, str) else None for v in value]
    encoded = iter(_encode(tokenizer, [t for t in texts if t is not None], add_special_tokens))
    ids = [next(encoded) if isinstance(v, str) else list(v) for v in value]
    return Prompts(texts, Ragged.of(ids), np.arange(len(ids), dtype=np.int64))
