"""The project file as text: what was found as keys, what was only suspected as comments."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from llmguard.cli.survey import Data, Survey
from llmguard.project.schema import FORMATS

__all__ = ["compose"]

HEAD = """\
# What there is to check in this project. Every key is optional: a check that lacks its evidence is skipped and says which
# line to add. `llmguard show` prints rows with the colours of their labels, `pytest -m preflight` runs the checks,
# `llmguard explain` lists them.
"""
WIDTH = 56
"""Column of the comment behind a key."""
MOST = 8
"""Models, tokenizers or adapters that are named: the first one, and the others as comments."""
SHARDS = 4
"""So many files of one pattern are written as the pattern."""


def compose(found: Survey) -> str:
    """A project file for what was found, section by section."""
    sections = [
        _model(found),
        _prompt(found),
        _data(found),
        _pipeline(found),
        _config(found),
        _evaluation(found),
        _environment(found),
    ]
    texts = [f"[{name}]\n" + "\n".join(lines) for name, lines in sections if lines]
    return "\n".join([HEAD, *(f"{text}\n" for text in texts), *([PARTIAL] if not found.complete else [])])


PARTIAL = "# This folder holds more files than were looked at: what lies deeper may be missing above.\n"


def _key(name: str, value: object, comment: str = "", *, off: bool = False) -> str:
    line = f"{'# ' if off else ''}{name} = {_toml(value)}"
    return f"{line:<{WIDTH}}  # {_plain(comment)}" if comment else line


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_bare(str(k))} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _plain(comment: str) -> str:
    """A comment on one line: names of files and keys may hold anything."""
    return "".join(c if c.isprintable() else " " for c in comment)


def _model(found: Survey) -> tuple[str, list[str]]:
    whole = [m for m in found.models if not m.tokenizer_only]
    tokenizers = [m for m in found.models if m.tokenizer_only]
    lines = list(_named_model(found)) if not whole else []
    for number, model in enumerate(whole[:MOST]):
        lines.append(_key("path", model.path, model.architecture, off=number > 0))
        if number == 0:
            lines.append(_key("kind", model.kind, model.reason))
    for number, model in enumerate(tokenizers[:MOST]):
        lines.append(_key("tokenizer", model.path, "", off=number > 0 or bool(whole)))
    if tokenizers and not any(line.startswith("kind") for line in lines):
        lines.append(_key("kind", tokenizers[0].kind, tokenizers[0].reason))
    for number, adapter in enumerate(found.adapters[:MOST]):
        base = f"names {adapter.base} as its base" if adapter.base else ""
        lines.append(_key("adapter", adapter.path, base, off=number > 0))
    return "model", lines or [_key("path", "owner/name", "a hub id or a folder; MODEL_PATH in the environment wins", off=True),
                              _key("kind", "base", 'or "chat"', off=True)]  # fmt: skip


def _named_model(found: Survey) -> Iterator[str]:
    """A model that lies elsewhere, as a config or an adapter names it."""
    said: dict[str, str] = {}
    for model, place in [(c.model, c.path) for c in found.configs] + [
        (a.base, a.path) for a in found.adapters
    ]:
        if model:
            said.setdefault(model, place)
    for number, (model, place) in enumerate(said.items()):
        yield _key("path", model, f"named by {place}", off=number > 0)
    if said:
        yield _key("kind", "base", 'or "chat": which one decides what a prompt may look like', off=True)


def _prompt(found: Survey) -> tuple[str, list[str]]:
    lines = [
        _key("format", "chatml", "how a row becomes training text:", off=True),
        f"#   {', '.join(FORMATS)},",
        '#   or a table { prompt = "Q: {prompt}\\nA: ", response = "{response}", end = "</s>" }',
    ]
    return "prompt", [
        *lines,
        *_suggested(found, "build", "row -> the prompt as it is sent at generation time"),
    ]


def _suggested(found: Survey, key: str, what: str) -> list[str]:
    """Functions that may be meant, commented out; a made-up one where there is none."""
    functions = [f for f in found.functions if f.key == key]
    if not functions:
        return [_key(key, f"package.module:{key}", what, off=True)]
    return [_key(key, f.reference, f"{what}; {f.file}:{f.line}", off=True) for f in functions[:3]]


def _data(found: Survey) -> tuple[str, list[str]]:
    usable = [d for d in found.data if d.kind in ("pairs", "messages", "preference")]
    shape = _commonest(usable)
    chosen = [d for d in usable if d.shape == shape]
    lines = []
    for split, files in _splits(chosen).items():
        lines.append(_key(split, _paths(found.folder, [d.path for d in files])))
    lines += [_key(meaning, column) for meaning, column in (shape[1] if shape else ())]
    lines += _remarks(chosen)
    encoded = [d for d in found.data if d.kind == "encoded"]
    lines += [
        _key("encoded", d.path, "already tokenised", off=n > 0) for n, d in enumerate(_train_first(encoded))
    ]
    lines += [
        f"# {_plain(d.path)}: {_why_not(d)}"
        for d in found.data
        if d not in chosen and d.kind not in ("encoded", "results")
    ]
    return "data", lines or [_key("train", ["data/train.jsonl"], "json, jsonl, parquet, a saved `datasets` folder", off=True),
                             _key("prompt", "instruction", 'columns; or messages = "messages"', off=True),
                             _key("response", "output", off=True)]  # fmt: skip


def _commonest(data: Sequence[Data]) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    """The shape of the training file, else the one that most files have."""
    shapes = [d.shape for d in data if d.split == "train"] or [d.shape for d in data]
    return max(shapes, key=shapes.count) if shapes else None


def _splits(data: Sequence[Data]) -> dict[str, list[Data]]:
    """Files by split; those that name none are train, if nothing else is."""
    found = {s: [d for d in data if d.split == s] for s in ("train", "validation", "test")}
    if not found["train"]:
        found["train"] = [d for d in data if not d.split]
    return {split: files for split, files in found.items() if files}


def _paths(folder: Path, paths: Sequence[str]) -> str | list[str]:
    """One path, several, or the pattern that stands for exactly them."""
    if len(paths) == 1:
        return paths[0]
    pattern = re.sub(r"\d+", "*", glob.escape(paths[0])) if len(paths) >= SHARDS else ""
    same = bool(pattern) and {p.relative_to(folder) for p in folder.glob(pattern)} == {Path(p) for p in paths}
    return pattern if same else list(paths)


def _remarks(chosen: Sequence[Data]) -> Iterator[str]:
    if any(d.kind == "pairs" and "input" in d.names and "input" not in d.columns.values() for d in chosen):
        yield "# Rows have an `input` column too: where prompts are made of both, name their builder as `[prompt] build`."
    loose = [d for d in chosen if not d.split]
    if loose and any(d.split == "train" for d in chosen):
        yield from (f"# {_plain(d.path)}: of the same shape; its name says no split" for d in loose)
    elif loose:
        yield f"# No file name says train: {_plain(loose[0].path)} is taken for it."


def _why_not(data: Data) -> str:
    columns = ", ".join(data.names[:8])
    if data.kind == "backup":
        return "left out, its name says that it is not the one in use"
    return (
        f"left out, its rows have other columns ({columns})"
        if data.kind == "other"
        else f"of another shape ({columns})"
    )


def _train_first(data: Sequence[Data]) -> list[Data]:
    return sorted(data, key=lambda d: (d.split != "train", d.path))


def _pipeline(found: Survey) -> tuple[str, list[str]]:
    what = {
        "encode": "row -> {input_ids, labels, …}",
        "collate": "the collator",
        "trainer": "returns a Trainer; audited, never trained for real",
        "generate": "list of prompts -> list of completions",
    }
    return "pipeline", [line for key, text in what.items() for line in _suggested(found, key, text)]


def _config(found: Survey) -> tuple[str, list[str]]:
    return "config", [_key("files", [c.path for c in found.configs])] if found.configs else []


def _evaluation(found: Survey) -> tuple[str, list[str]]:
    results = {PurePosixPath(d.path).stem: d.path for d in found.data if d.kind == "results"}
    return "evaluation", [_key("results", results)] if results else []


def _environment(found: Survey) -> tuple[str, list[str]]:
    lines: list[str] = []
    for number, folder in enumerate(found.outputs):
        lines.append(_key("output_dir", folder, off=number > 0))
    lines += [_key("checkpoint_size", "2 GB", "what one checkpoint takes", off=True)] if found.outputs else []
    lines += [_key("requirements", found.requirements)] if found.requirements else []
    lines += [_key("sources", found.sources)] if found.sources else []
    return "environment", lines


def keys_of(text: str) -> Iterable[str]:
    """The keys that a composed file sets, for the summary that follows its writing."""
    table = ""
    for line in text.splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        elif line and not line.startswith("#"):
            yield f"{table}.{line.partition(' = ')[0]}"
