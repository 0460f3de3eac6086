"""Small projects audited in this process: a project file and rows on disk, the user's functions called here instead of in a child."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmguard.auditing import Audit
from llmguard.encoded import Batches, as_batches, as_encoded
from llmguard.evidence.batches import in_order
from llmguard.evidence.prompts import as_prompts
from llmguard.findings import Finding, Severity
from llmguard.project import load_project

__all__ = ["Told", "audited"]

FAMILIES = ("template", "tokens", "masking", "collation", "packing", "prompts", "data", "preference")
CHILDREN = {"loading", "pipeline", "trainer", "prepared", "model", "isolation"}
"""Evidence that only a child can bring; checks that need it are left out."""
Row = dict[str, Any]
Told = dict[str, Finding]


def audited(
    folder: Path,
    tokenizer: Any,
    rows: Sequence[Row],
    encode: Callable[[Row], Row] | None = None,
    *,
    build: Callable[[Row], Any] | None = None,
    collate: Callable[[list[Row]], Any] | None = None,
    prepared: Sequence[Row] | None = None,
    model: Mapping[str, Any] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    size: int = 4,
) -> list[Finding]:
    """What the checks of rows find in a project, as `llmguard.auditing.audit` would; raises for a check that broke.

    `settings`: sections of the project file beside those that follow from the functions. `prepared`: encoded rows in a file.
    `model`: what config.json holds.
    """
    sections: dict[str, dict[str, Any]] = {"model": {"tokenizer": "tok"}, "data": {"train": "train.jsonl"}}
    sections |= {"pipeline": {}, "prompt": {}}
    if model is not None:
        (folder / "model").mkdir()
        (folder / "model/config.json").write_text(json.dumps(model))
        sections["model"]["path"] = "model"
    for name, function in (("encode", encode), ("collate", collate)):
        sections["pipeline"] |= {name: f"user:{name}"} if function else {}
    sections["prompt"] |= {"build": "user:build"} if build else {}
    if prepared is not None:
        _write(folder / "prepared.jsonl", prepared)
        sections["data"]["encoded"] = "prepared.jsonl"
    for name, values in (settings or {}).items():
        sections[name] = {**sections.get(name, {}), **values}
    _write(folder / "train.jsonl", rows)
    (folder / "llmguard.toml").write_text(_toml(sections))
    audit = Audit(load_project(folder))
    known = audit.evidence._known
    known["tokenizer", ""] = tokenizer
    if encode:
        made = [encode(row) for row in rows]
        known["encoded", "train"] = as_encoded(made, "train")
        if collate:
            known["batches", "collate"] = _batches(made, collate, size)
    if build:
        special = bool(sections["prompt"].get("add_special_tokens", True))
        prompts = as_prompts([build(row) for row in rows], tokenizer, add_special_tokens=special)
        known["prompts", "train"] = replace(prompts, built=True, made_by="user:build", split="train")
    return _run(audit)


def _batches(rows: Sequence[Row], collate: Callable[[list[Row]], Any], size: int) -> Batches:
    batches = [collate([dict(r) for r in rows[i : i + size]]) for i in range(0, len(rows), size)]
    found = as_batches(batches)
    before = in_order(as_encoded(list(rows), "train"), found.padded)
    facts = {"rows_in": len(rows), "batch_keys": {"train": sorted({k for b in batches for k in b})}}
    return Batches(replace(found.padded, name="collate"), found.batch, before, facts)


def _run(audit: Audit) -> list[Finding]:
    found: list[Finding] = []
    for entry, target in audit.plan():
        if entry.family not in FAMILIES or CHILDREN & {*entry.needs}:
            continue
        result = audit.run(entry, target)
        if result.outcome.value == "error":
            raise AssertionError(f"{entry.name} [{target}]: {result.reason}")
        found += [replace(f, check=entry.name) for f in result.findings]
    audit.evidence.close()
    return found


def alarms(found: Sequence[Finding]) -> Told:
    """Findings that are more than notes, by check; the gravest of each."""
    told: Told = {}
    for finding in found:
        if finding.severity is not Severity.NOTE:
            told.setdefault(finding.check, finding)
    return told


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def _toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    return "\n".join(
        f"[{name}]\n" + "\n".join(f"{key} = {_value(value)}" for key, value in values.items())
        for name, values in sections.items()
    )


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)
