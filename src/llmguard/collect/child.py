"""The child's main program: the steps it is asked for, each with its own result file, so that a hang loses only what was not done."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from llmguard.collect.batching import collated
from llmguard.collect.columns import BadRow, plain_row, save_columns
from llmguard.collect.isolation import Emitted, isolation_of
from llmguard.collect.user import UserError, load_reference, made, mistake
from llmguard.evidence.files import read_split
from llmguard.project import Project, load_project
from llmguard.rows import Rows

__all__ = ["main", "sampled"]

BATCH = 4
"""Rows a batch for the collator; rows of several lengths, so that padding is seen."""
BATCHES = 8


class Child:
    """One run: the project, where results go, and what earlier steps made."""

    def __init__(self, spec: Mapping[str, Any], out: Path) -> None:
        self.out, self.sample = out, int(spec["sample"])
        file = spec["project"]
        self.project = load_project(file) if file else Project.empty(Path(spec["folder"]))
        if spec.get("model"):
            self.project = self.project.replaced(**spec["model"])
        self.rows: dict[str, Rows] = {}
        self.features: dict[str, list[Any]] = {}
        self.emitted: dict[str, Emitted] = {}

    def split(self, split: str) -> Rows:
        """A split, read once."""
        if split not in self.rows:
            self.rows[split] = read_split(self.project, split)
        return self.rows[split]

    def progress(self, step: str, **more: Any) -> None:
        """A line that says where the child is; the supervisor reads it as a sign of life."""
        with (self.out / "progress.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "at": time.monotonic(), **more}) + "\n")

    def done(self, step: str, **result: Any) -> None:
        """The result of a step, complete or not there."""
        partial = self.out / f"{step}.json.partial"
        partial.write_text(json.dumps(result, default=str), "utf-8")
        partial.replace(self.out / f"{step}.json")

    def run(self, step: str) -> None:
        """One step; the user's mistakes become its result."""
        self.progress(step)
        try:
            self.done(step, ok=True, **(STEPS[step](self) or {}))
        except UserError as told:
            self.done(step, ok=False, error=told.told)
        except Exception as fault:  # nothing of the user's may end the child before the other steps ran
            self.done(step, ok=False, error=mistake(fault, self.project.folder, step))


def sampled(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` row numbers: evenly spread, first and last among them, the same every time."""
    if count <= limit:
        return list(range(count))
    return sorted({round(i * (count - 1) / (limit - 1)) for i in range(limit)})


def _tokenizer(child: Child) -> dict[str, Any]:
    from llmguard.collect.tokenizer import dump_tokenizer

    return dump_tokenizer(child.project, child.out / "tokenizer")


def _prompts(child: Child) -> dict[str, Any]:
    key = str(child.project.schema.prompt.build)
    build = load_reference(key, child.project.folder, f"[prompt] build = {key!r}")
    for split in child.project.splits:
        rows = child.split(split)
        with (child.out / f"prompts.{split}.jsonl").open("w", encoding="utf-8") as file:
            for row in sampled(len(rows), child.sample):
                file.write(json.dumps({"row": row, **_built(build, rows, row, child, key)}) + "\n")
        child.progress("prompts", split=split, rows=len(rows))
    return {}


def _built(build: Callable[[Any], Any], rows: Rows, row: int, child: Child, key: str) -> dict[str, Any]:
    prompt = _called(build, dict(rows.records[row]), child, f"[prompt] build = {key!r}", rows, row)
    if isinstance(prompt, str):
        return {"text": prompt}
    try:
        return {"ids": plain_row(prompt if hasattr(prompt, "keys") else {"input_ids": prompt})["input_ids"]}
    except BadRow as bad:
        told = {
            "what": f"[prompt] build = {key!r}",
            "type": "TypeError",
            "message": f"returned {bad}, or text",
            "row": row,
        }
        raise UserError(told) from None


def _called(function: Callable[..., Any], argument: Any, child: Child, key: str, rows: Rows, row: int) -> Any:
    try:
        return function(argument)
    except (Exception, SystemExit) as fault:
        told = mistake(fault, child.project.folder, key)
        where = rows.where(row)
        raise UserError({**told, "row": row, "data_file": where.file, "data_line": where.line}) from None


def _encode(child: Child) -> dict[str, Any]:
    reference = str(child.project.schema.pipeline.encode)
    key = f"[pipeline] encode = {reference!r}"
    encode = load_reference(reference, child.project.folder, key)
    for split in [s for s in child.project.splits if s != "test"]:
        rows = child.split(split)
        chosen = sampled(len(rows), child.sample)
        features, plain, source, dropped = [], [], [], []
        for position, row in enumerate(chosen):
            feature = _called(encode, dict(rows.records[row]), child, key, rows, row)
            if feature is None:
                dropped.append(row)
                continue
            features.append(feature)
            plain.append(_plain(feature, key, rows, row))
            source.append(row)
            if position % 200 == 0:
                child.progress("encode", split=split, row=row)
        child.features[split] = features
        save_columns(child.out / f"encoded.{split}.npz", plain, source=source, dropped=dropped)
    return {}


def _plain(feature: Any, key: str, rows: Rows, row: int) -> dict[str, list[int]]:
    try:
        return plain_row(feature)
    except BadRow as bad:
        where = rows.where(row)
        told = {"what": key, "type": "TypeError", "message": f"returned {bad}", "row": row}
        raise UserError({**told, "data_file": where.file, "data_line": where.line}) from None


def _collate(child: Child) -> dict[str, Any]:
    reference = str(child.project.schema.pipeline.collate)
    key = f"[pipeline] collate = {reference!r}"
    collate = made(load_reference(reference, child.project.folder, key), child.project.folder, key)
    features = child.features.get("train") or _encoded_folder(child)
    if not features:
        raise UserError(
            {"what": key, "type": "LookupError", "message": "there are no encoded rows to collate"}
        )
    chosen = list(features[: BATCH * BATCHES])
    batches, failed = collated(collate, chosen, BATCH, child.project.folder, key)
    child.emitted["collate"] = Emitted([b for b in batches if hasattr(b, "keys")])
    found = [_unbatched(batch, key) for batch in batches]
    rows = [row for batch in found for row in batch]
    index = [number for number, batch in enumerate(found) for _ in batch]
    save_columns(child.out / "batches.collate.npz", rows, batch=index, went_in=list(range(len(chosen))))
    sizes = {"rows_in": len(chosen), "rows_out": len(rows), "collator": type(collate).__name__}
    return {"keys_in": sorted(map(str, features[0].keys())), **sizes, **failed}


def _encoded_folder(child: Child) -> list[Any]:
    from llmguard.rows.read import read_files

    folder = child.project.schema.data.encoded
    return list(read_files([child.project.path(folder)]).records[: BATCH * BATCHES]) if folder else []


def _unbatched(batch: Any, key: str) -> list[dict[str, list[int]]]:
    from llmguard.collect.trainer import rows_of_batch

    try:
        return rows_of_batch(batch)
    except BadRow as bad:
        raise UserError({"what": key, "type": "TypeError", "message": f"returned {bad}"}) from None


def _trainer(child: Child) -> dict[str, Any]:
    from llmguard.collect.trainer import collect_trainer

    facts, child.emitted["trainer"] = collect_trainer(child.project, child.out, child.progress)
    return facts


def _isolation(child: Child, source: str) -> dict[str, Any]:
    """Whether documents of the batches of a source see each other."""
    emitted = child.emitted.get(source)
    if emitted is None:
        return {"unmeasured": "there are no batches"}
    found = isolation_of(emitted)
    if source == "trainer" or not found["documents"]:
        return found
    from llmguard.collect.declared import declared_attention, declared_config

    emitted = replace(emitted, **declared_config(child.project))
    return isolation_of(emitted, declared_attention(child.project))


STEPS: dict[str, Callable[[Child], dict[str, Any] | None]] = {
    "tokenizer": _tokenizer,
    "prompts": _prompts,
    "encode": _encode,
    "collate": _collate,
    "trainer": _trainer,
    "isolation-collate": partial(_isolation, source="collate"),
    "isolation-trainer": partial(_isolation, source="trainer"),
}


def main(arguments: list[str]) -> int:
    """`SPEC.json OUTDIR`: run the steps of the specification in order."""
    spec, out = json.loads(Path(arguments[0]).read_text("utf-8")), Path(arguments[1])
    os.chdir(spec["folder"])
    child = Child(spec, out)
    for step in spec["steps"]:
        child.run(step)
    child.progress("end")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
