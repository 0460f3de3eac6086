"""Evaluate models one after another: each is loaded, answers every item, and is proved gone before the next is loaded.

One line of JSON an item, written as it comes; beside it, in NAME.json, the model, its adapter and every setting. An evaluation that was
ended goes on where it stopped, if model, items and settings are still the same; greedy or sampled, it ends with the results that it
would have had. `llmguard_core.compare` reads what is written here, and so does `[evaluation] results` of a project file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from weakref import WeakSet

import torch

import llmguard
from llmguard.locks import Held, locked
from llmguard.memory.holders import explain
from llmguard.memory.models import resident_models
from llmguard.rows import Columns, guess_columns, turns_of
from llmguard.statistics.sets import read_results
from llmguard_core.checkpoints.folder import write_file
from llmguard_core.encoding import Encoder
from llmguard_core.errors import CoreError, DataRefused, OutOfMemory
from llmguard_core.fewshot import STOP, FewShot
from llmguard_core.formats import format_for
from llmguard_core.generation import generate
from llmguard_core.loading import load_named, refuse_missing
from llmguard_core.memory import Device, proved_released, release, weak
from llmguard_core.metrics import judge, summary

__all__ = ["Evaluated", "Item", "evaluate", "items_of"]

CHUNK = 64  # items between two writes: at most so many answers are lost
NAMED = 3  # holders that are told
SMALL = 0.1  # of the larger model: less is no second model (a draft model's embedding, a classifier)
WORTH = 0.05  # of the device's memory
WAIT = 5.0  # seconds for another evaluation that writes the same file
Load = Callable[[], Any]
Prompts = Callable[[Any, Sequence[Mapping[str, Any]]], Sequence[Any]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """One thing to answer: its id, the row that its prompt is built from, what is asked in the end, the reference it is judged by."""

    id: str
    row: Mapping[str, Any]
    asked: str
    reference: str
    group: str | None = None


@dataclass(frozen=True)
class Evaluated:
    """What one model did: the file of its results, their summary, and how many of them an earlier run had left."""

    name: str
    file: Path
    summary: Mapping[str, Any]
    resumed: int


def evaluate(
    models: Mapping[str, Any],
    items: Sequence[Mapping[str, Any]],
    *,
    out: Path | str,
    metrics: Sequence[str] = ("exact_match",),
    fmt: Any = None,
    few_shot: FewShot | None = None,
    prompts: Prompts | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    stop: Sequence[str] = (),
    batch_size: int | None = None,
    seed: int = 0,
    id: str = "id",
    group: str | None = None,
    resume: bool = True,
    progress: Callable[[str, int, int], object] | None = None,
) -> list[Evaluated]:
    """Evaluate models by name on items; results are in `out`/NAME.jsonl.

    A model is what says where it lies (a `ModelSettings`), or a function without arguments that loads it. Items are rows with a prompt
    and a response, or messages. `metrics`: the first gives the score, others are columns of their own. `few_shot` puts examples before
    what is asked (never an evaluated item) in place of the format, `prompts` builds the prompts of some rows as the caller likes.
    `progress(name, done, of)` is called after each chunk.

    Raises:
        DataRefused: no items, items without a prompt or reference, ids that repeat; a file that holds results of another evaluation.
        UsageError: no metric, or one that there is not.
        OutOfMemory: a model is still resident after its turn, or a second one beside it: says what holds it.
        CoreError: another process writes the file.
    """
    told = items_of(items, id=id, group=group)
    if few_shot:
        few_shot = replace(few_shot, never=(*few_shot.never, *(item.asked for item in told)))
        stop = [*stop, STOP]
    drawn = {"max_new_tokens": max_new_tokens, "temperature": temperature, "stop": list(stop), "seed": seed}
    settings = {
        **drawn, "metrics": list(metrics), "format": _shown(fmt), "few_shot": _hashed(repr(few_shot)) if few_shot else None,
        "prompts": _shown(prompts), "items": len(told), "digest": _hashed(repr(told)),
    }  # fmt: skip
    for metric in metrics or [""]:
        judge("", "", metric)  # an unknown one is told before a model is loaded
    answer = _Asking(fmt, few_shot, prompts, metrics, group, {**drawn, "batch_size": batch_size})
    named = [model for model in models.values() if not callable(model)]
    environment = len({str(model.path) for model in named}) < 2
    for model in named:  # the last one, too, before the first has worked for hours
        refuse_missing(model, environment=environment)
    _warn_of_residents()
    found = []
    for name, model in models.items():
        identity = {"name": name, "model": _source(model, environment), "settings": settings}
        report = (lambda done, name=name: progress(name, done, len(told))) if progress else None
        work = _Work(Path(out) / f"{name}.jsonl", identity, told, answer, report)
        found.append(work.done(_loader(model, environment), resume))
    _warn_of_twins(found)
    return found


def items_of(rows: Sequence[Mapping[str, Any]], *, id: str = "id", group: str | None = None) -> list[Item]:
    """Items from rows; a row without an id is called by its number.

    Raises:
        DataRefused: no rows, rows without prompt or reference, ids that repeat.
    """
    columns, found = guess_columns(rows, Columns()), []
    for number, row in enumerate(rows):
        turns = turns_of(row, columns)
        if not turns or turns[-1].role != "assistant" or len(turns) < 2:
            raise DataRefused(
                f"it has no prompt with a reference; its keys are {', '.join(map(str, row))}",
                where=f"item {number}",
                remedy="Give rows with a prompt and a response, or messages that end with the reference answer.",
            )
        shared = str(row[group]) if group and row.get(group) is not None else None
        found.append(Item(str(row.get(id, number)), row, turns[-2].content, turns[-1].content, shared))
    repeated = len(found) - len({item.id for item in found})
    if not found or repeated:
        raise DataRefused(
            f"{repeated:,} ids repeat" if found else "there are no items",
            where="items",
            remedy="Give every item an id of its own: results are paired by it."
            if found
            else "Name a file with items.",
        )
    return found


@dataclass(frozen=True)
class _Asking:
    """How items become prompts, outputs and records: by the format, unless there are few-shot examples or the caller's own prompts."""

    fmt: Any
    few_shot: FewShot | None
    prompts: Prompts | None
    metrics: Sequence[str]
    group: str | None
    how: Mapping[str, Any]

    def __call__(self, loaded: Any, some: Sequence[Item]) -> list[dict[str, Any]]:
        rows, fmt = [item.row for item in some], None
        if self.prompts:
            built = self.prompts(loaded, rows)
        elif self.few_shot:
            built = [self.few_shot.prompt(item.asked) for item in some]
        else:
            fmt = format_for(loaded.tokenizer, self.fmt, loaded.kind)
            built = Encoder(loaded.tokenizer, fmt).prompts(rows)
        outputs = generate(loaded, built, fmt=fmt, **self.how)
        return [_record(i, output, self.metrics, self.group) for i, output in zip(some, outputs, strict=True)]


@dataclass(frozen=True)
class _Work:
    """The evaluation of one model: its file, what it is of, the items, how some of them are answered, who is told."""

    file: Path
    identity: Mapping[str, Any]
    items: Sequence[Item]
    answer: Callable[[Any, Sequence[Item]], Iterable[dict[str, Any]]]
    progress: Callable[[int], object] | None

    def done(self, load: Load, resume: bool) -> Evaluated:
        """Do what is left of it."""
        name = self.file.stem
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.file.with_name(f".{name}.lock"), WAIT):
                before = _kept(self.file, self.identity, resume)
                if len(before) < len(self.items):
                    _alone(load, lambda loaded: self._rest(loaded, before))
                told = summary(_records(self.file))
                self._write(complete=True, summary=told)
        except Held as held:
            raise CoreError(
                f"its results are being written: {held}",
                where=str(self.file),
                remedy="Wait for it, or name another folder.",
            ) from None
        _log.info("%s: %s", name, told)
        return Evaluated(name, self.file, told, len(before))

    def _write(self, **more: Any) -> None:
        beside = self.file.with_suffix(".json")
        write_file(beside, _json({**_object(beside), **self.identity, **more}))

    def _rest(self, loaded: Any, before: set[str]) -> None:
        self._write(complete=False, route=list(getattr(loaded, "route", ())))
        rest, done = [item for item in self.items if item.id not in before], len(before)
        for start in range(0, len(rest), CHUNK):
            lines = [
                json.dumps(r, ensure_ascii=False) for r in self.answer(loaded, rest[start : start + CHUNK])
            ]
            with self.file.open("ab") as opened:
                opened.write("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
                opened.flush()
                os.fsync(opened.fileno())
            done += len(lines)
            if self.progress:
                self.progress(done)


def _record(item: Item, output: str, metrics: Sequence[str], group: str | None) -> dict[str, Any]:
    first, *others = [judge(output, item.reference, metric) for metric in metrics]
    shared = {group: item.group} if group and item.group is not None else {}
    return {
        "id": item.id, "score": first.score, "status": first.status, "output": output, "extracted": first.extracted,
        "reference": item.reference, **shared, **{m: o.score for m, o in zip(metrics[1:], others, strict=True)},
    }  # fmt: skip


# ---- one model at a time


def _alone(load: Load, use: Callable[[Any], None]) -> None:
    """Load a model, use it, and prove that nothing of it is left; what is loaded must be one model."""
    before = WeakSet(model for resident in resident_models() for model in resident.models)
    loaded = load()
    device, watched = Device(loaded.model.device), weak(loaded.model)
    try:
        _refuse_a_second(before, loaded.model)
        use(loaded)
    finally:
        del loaded
        release(device=device)
    proved_released(watched)


def _refuse_a_second(before: WeakSet[Any], model: Any) -> None:
    """A function that loads a model may have loaded another one beside it."""
    parts = set(map(id, model.modules()))
    new = [each for each in resident_models() if not any(one in before for one in each.models)]
    second = [
        each
        for each in new
        if not any(id(one) in parts for one in each.models) and each.size >= SMALL * new[0].size
    ]
    if not second:
        return
    named, held = ", ".join(map(str, second)), [each.models[0] for each in second]
    del new, second  # they would be the holders
    raise OutOfMemory(
        f"{len(held) + 1} models became resident, one may: beside {type(model).__name__} there is {named}, "
        f"held by {'; '.join(map(str, explain(held, limit=NAMED)))}",
        where="memory",
        remedy="Load each model in a function of its own, and give evaluate all of them: they take turns.",
    )


def _warn_of_residents() -> None:
    """A model of the caller takes its memory from each that is evaluated; a small one is not worth a word."""
    others = [
        each for each in resident_models() if each.size >= WORTH * Device(torch.device(each.device)).total()
    ]
    held = [each.models[0] for each in others]
    del others  # they would be the holders
    for holder in explain(held, limit=NAMED) if held else ():
        _log.warning("a model is resident beside those that are evaluated: %s; release it before", holder)


def _loader(model: Any, environment: bool) -> Load:
    """The function that loads a model; MODEL_PATH wins (`environment`) where there is one path that it can stand for."""
    if callable(model):
        return cast("Load", model)

    return partial(load_named, model, environment=environment)


# ---- what was done before


def _kept(file: Path, identity: Mapping[str, Any], resume: bool) -> set[str]:
    """The ids that an earlier run of this very evaluation has answered; a last line that was cut is taken away."""
    if not resume or not file.exists():
        write_file(file, b"")
        file.with_suffix(".json").unlink(missing_ok=True)
        return set()
    before = _object(file.with_suffix(".json"))
    changed = _changed({k: before.get(k) for k in identity}, json.loads(_json(identity)))
    if changed:
        raise DataRefused(
            f"it holds results of another evaluation: {'; '.join(changed)}",
            where=str(file),
            remedy="Name another folder for this one, or start it anew (resume=False): results of two evaluations must not be mixed.",
        )
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if whole != text:
        write_file(file, whole)
    return {str(r["id"]) for r in _records(file)}


def _changed(before: Any, now: Any, at: str = "") -> list[str]:
    """What differs between two JSON values, by key."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [c for k in keys for c in _changed(before.get(k), now.get(k), f"{at}.{k}" if at else k)]
    return [] if before == now else [f"{at} was {before!r}, is {now!r}"]


def _object(file: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none."""
    try:
        found = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _records(file: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in file.read_bytes().split(b"\n") if line]
    except ValueError as bad:
        remedy = "Start this evaluation anew (resume=False): the file was changed after it was written."
        raise DataRefused(f"a line is no JSON: {bad}", where=str(file), remedy=remedy) from None


def _source(model: Any, environment: bool) -> dict[str, Any]:
    """What tells one model from another: where it lies, and its files' sizes and times, so that one trained anew is another."""
    if callable(model):
        return {"function": _shown(model)}
    told = {n: _shown(getattr(model, n, None)) for n in ("path", "adapter", "kind", "tokenizer", "dtype")}
    told["path"] = (environment and os.environ.get("MODEL_PATH")) or told["path"]
    return {**told, "files": _fingerprint([told["path"], told["adapter"]])}


def _fingerprint(places: Sequence[str | None]) -> str:
    folders = [Path(place) for place in places if place and Path(place).is_dir()]
    files = [(f, f.stat()) for folder in folders for f in sorted(folder.rglob("*")) if f.is_file()]
    return _hashed(repr([(f.name, status.st_size, status.st_mtime_ns) for f, status in files]))


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _shown(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else str(value)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, default=str) + "\n").encode()


def _warn_of_twins(found: Sequence[Evaluated]) -> None:
    """Two models that say the same are probably one; so are outputs that are all empty. The checks tell, in their own words."""
    results = read_results({one.name: one.file for one in found})
    for check in (llmguard.models_give_different_results, llmguard.accuracy_is_not_from_empty_outputs):
        for finding in check(results):
            _log.warning("%s", finding.message)
