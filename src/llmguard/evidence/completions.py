"""`completions`: what the sentinel prompts give on the project's own route, and on a clean control."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.evidence import Evidence
from llmguard.formats import TextFormat
from llmguard.rows import Turn
from llmguard.sentinels.completions import Completions, Unanswered
from llmguard.sentinels.prompts import SENTINELS
from llmguard.sentinels.route import Route, collect

__all__ = ["provide", "route_of"]

MAX_NEW_TOKENS = 64


def provide(evidence: Evidence, target: str) -> Completions | Unanswered:
    """The judged completions of a base model; `Unanswered` where the route that the project names does not work."""
    project = evidence.project
    if project.schema.model.kind != "base":
        raise MissingEvidence(
            "completions", 'the sentinel prompts are for base models: `[model] kind = "base"` where it is one'
        )
    route = route_of(evidence)
    limit = project.schema.generation.max_new_tokens or MAX_NEW_TOKENS
    try:
        return collect(route, max_new_tokens=limit, no_progress=evidence.options.deadline)
    except EvidenceError as broken:
        return Unanswered(route.what, broken.reason)


def route_of(evidence: Evidence) -> Route:
    """How the project generates: its own function, else its model with the prompts of `[prompt] build` or `format`.

    Raises:
        MissingEvidence: it names neither a model nor a function.
    """
    project, schema = evidence.project, evidence.project.schema
    path, generate = project.model_path, schema.pipeline.generate
    if path is None and generate is None:
        raise MissingEvidence(
            "completions",
            'add `[model] path = "…"` (or `[pipeline] generate = "module:function"`) to llmguard.toml',
        )
    adapter = project.adapter_path
    return Route(
        model=path,
        tokenizer=project.tokenizer_path if schema.model.tokenizer else None,
        adapter=str(adapter)
        if generate and adapter and Path(adapter, "adapter_config.json").is_file()
        else None,
        generate=generate,
        folder=project.folder,
        device="auto" if schema.environment.gpu or evidence.options.gpu else "cpu",
        trust_remote_code=schema.model.trust_remote_code,
        shown=project.relative(path) if path else "",
        add_special_tokens=schema.prompt.add_special_tokens,
        **({} if generate else _prompts(evidence)),
    )


def _prompts(evidence: Evidence) -> dict[str, Any]:
    """Which prompts the local model gets: the builder's, those of a declared format, or the bare instructions."""
    schema = evidence.project.schema
    if schema.prompt.build:
        column = schema.data.messages or schema.data.prompt or "prompt"
        as_messages = bool(schema.data.messages)
        return {
            "build": schema.prompt.build,
            "column": column,
            "as_messages": as_messages,
            "row": _first_row(evidence),
        }
    if schema.prompt.format == "chat-template":
        return {"chat_template": True}
    template = evidence.get("template") if schema.prompt.format else None
    if isinstance(template, TextFormat):
        return {"prompts": [template.prompt((Turn("user", s.prompt),)) for s in SENTINELS]}
    return {}


def _first_row(evidence: Evidence) -> dict[str, Any]:
    """A row of the project's own data, so that a builder finds the columns that it reads; empty where there is none."""
    for split in evidence.project.splits:
        try:
            records = evidence.get("rows", split, over="rows").records
            return dict(json.loads(json.dumps(dict(records[0])))) if len(records) else {}
        except (MissingEvidence, EvidenceError, TypeError, ValueError):
            continue
    return {}
