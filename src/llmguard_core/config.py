"""Read the config of a run: YAML, JSON or TOML, every problem of it at once, each as file:line:column with what to write instead.

config = load_config("train.yaml", objective="sft")
steps_of(config.train, rows=7_473)          # 935
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmguard.configs.config import Setting, as_number, is_open
from llmguard.configs.document import Document, Item, dotted
from llmguard.configs.kinds import type_fault
from llmguard.configs.nearest import nearest
from llmguard.configs.places import near_names
from llmguard.configs.reading import read_document
from llmguard.configs.rules import RULES
from llmguard_core.config_rules import Objective, problems_between, steps_of
from llmguard_core.errors import SettingsError
from llmguard_core.settings import USUAL_RATES, ModelSettings, RunConfig, TrainSettings, rule_of

__all__ = ["Objective", "RunConfig", "TrainSettings", "load_config", "make_config", "steps_of"]

Loc = tuple["str | int", ...]
Told = tuple[Loc, str]
"""A problem: the path of the key it is about, and a sentence that ends in what to do."""

_log = logging.getLogger(__name__)
_ELSEWHERE = {
    "per_device_train_batch_size": "train.batch_size",
    "micro_batch_size": "train.batch_size",
    "per_device_eval_batch_size": "train.eval_batch_size",
    "gradient_accumulation_steps": "train.accumulation",
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "lr": "train.learning_rate",
    "lr_scheduler_type": "train.scheduler",
    "max_grad_norm": "train.grad_clip",
    "max_seq_length": "train.max_length",
    "sequence_len": "train.max_length",
    "cutoff_len": "train.max_length",
    "optim": "train.optimizer",
    "lora_r": "lora.rank",
    "r": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "target_modules": "lora.targets",
    "model_name_or_path": "model.path",
    "base_model": "model.path",
    "tokenizer_name": "model.tokenizer",
    "torch_dtype": "model.dtype",
}
"""What transformers, TRL, PEFT, axolotl and LLaMA-Factory call it -> what it is called here."""


def load_config(path: Path | str, *, objective: Objective | None = None) -> RunConfig:
    """The settings of a run; `objective` adds what that command needs. Relative paths start from the config's folder.

    Raises:
        SettingsError: missing, unreadable, unknown keys, wrong types, out of range, contradictory: all problems at once.
    """
    file = Path(path)
    if not file.exists():
        near = near_names([file.absolute()])
        hint = f"did you mean {near[0]}?" if near else "name the config of the run"
        raise SettingsError(f"there is no such file (tried {file.absolute()})", where=str(path), remedy=hint)
    document = read_document(file)
    if document.problem is not None:
        place, bad = _place(str(path), document.problem.line, document.problem.column), document.problem
        raise SettingsError(f"it cannot be read: {bad.reason}", where=place, remedy=bad.remedy)
    return _config(document, str(path), file.parent, objective)


def make_config(
    given: Mapping[str, Any], *, folder: Path | str = "", objective: Objective | None = None
) -> RunConfig:
    """The settings of a run from a mapping, judged as a file is.

    Raises:
        SettingsError: as `load_config`, without lines.
    """
    items = tuple(Item((str(name),), value) for name, value in given.items())
    return _config(Document(items), "config", Path(folder), objective)


def _config(document: Document, file: str, folder: Path, objective: Objective | None) -> RunConfig:
    given = _with_usual_rate({i.path[0]: i.value for i in document.items if len(i.path) == 1}, objective)
    context = {"folder": folder, "elsewhere": bool(os.environ.get("MODEL_PATH"))}
    told: list[Told] = list(_of_document(document))
    try:
        config = RunConfig.model_validate(given, context=context)
    except ValidationError as bad:
        told += [found for problem in bad.errors() if (found := _of_pydantic(problem, document))]
        config = _sound_part(given, [problem["loc"] for problem in bad.errors()], context)
    wrong = [f"{dotted(path)}." for path, _ in told]
    for problem in problems_between(config, given, objective, folder):
        key = tuple(problem.key.split("."))
        if any(path.startswith(f"{read}.") for path in wrong for read in (problem.key, *problem.reads)):
            continue  # what it would be judged by is wrong itself
        if problem.severe:
            told.append((key, problem.text))
        else:
            _log.warning("%s: `%s`: %s", _where(key, document, file), problem.key, problem.text)
    if told:
        raise SettingsError(_listed(told, document, file), where=file)
    return config


def _with_usual_rate(given: dict[Any, Any], objective: Objective | None) -> dict[Any, Any]:
    """Preference training has a rate of its own where the file names none."""
    train = given.get("train", {})
    if objective != "dpo" or not isinstance(train, dict) or "learning_rate" in train:
        return given
    return {**given, "train": {**train, "learning_rate": USUAL_RATES["dpo"]}}


def _sound_part(given: Mapping[Any, Any], wrong: list[Loc], context: Mapping[str, Any]) -> RunConfig:
    """The config without what is wrong in it, so that the rules between the other settings are told in the same run."""
    bad = {loc[:2] for loc in wrong}
    sound = {
        name: {k: v for k, v in section.items() if (name, k) not in bad}
        for name, section in given.items()
        if isinstance(section, dict) and (name,) not in bad
    }
    try:
        return RunConfig.model_validate(sound, context=dict(context))
    except ValidationError:
        return RunConfig()


def _of_document(document: Document) -> Iterator[Told]:
    for twice in document.duplicates:
        told = f"it is given twice, in lines {twice.first} and {twice.second}, and the second would win without a word; keep one"
        yield tuple(twice.key.split(".")), told
    for item in document.items:
        if item.is_scalar and is_open(item.value):
            yield item.path, f"{item.text or item.value!r} is filled in by nobody here; write the value"


def _of_pydantic(problem: Any, document: Document) -> Told | None:
    loc: Loc = problem["loc"]
    if problem["type"] == "extra_forbidden":
        return loc, _unknown(loc)
    item = next((i for i in document.items if i.path == loc), Item(loc, problem.get("input")))
    if item.is_scalar and is_open(item.value):
        return None  # told already
    said = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return loc, f"{said}{_way_out(loc)}"
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return loc, f"it is {item.value!r} where a section is needed; write `key: value` lines below it"
    return loc, _of_type(item, _rule(loc), document.syntax) or f"it is {item.value!r}; {_lower(said)}"


def _way_out(loc: Loc) -> str:
    rule = RULES.get(_rule(loc))
    return f"; write a value of {rule.range}, or leave the line out" if rule else ""


def _of_type(item: Item, rule: str, syntax: str) -> str:
    """A wrong type in the words that the checks on other configs have for it; empty where no rule speaks of the setting."""
    fault = type_fault(Setting(rule or item.name, item, "llmguard", syntax=syntax))
    if fault is None and isinstance(item.value, str) and as_number(item.value) is not None:
        return f'it is the text "{item.value}"; write the number without quotes, an exponent with a dot and a sign: 1.0e-4'
    return f"{fault.what} ({fault.cause}): {fault.why}; {fault.remedy}" if fault else ""


def _lower(said: str) -> str:
    return f"it {said[0].lower()}{said[1:]}".replace("it input should", "it should")


def _table(loc: Loc) -> Any:
    """The section that a path leads into."""
    table: Any = RunConfig
    for part in loc:
        field = getattr(table, "model_fields", {}).get(part)
        if field is None:
            return ModelSettings if loc[:2] == ("evaluation", "models") else None
        table = field.annotation
    return table


def _rule(loc: Loc) -> str:
    field = getattr(_table(loc[:-1]), "model_fields", {}).get(loc[-1])
    return rule_of(field) if field is not None else ""


def _unknown(loc: Loc) -> str:
    """The nearest known name, the name that another library's setting has here, or the names there are."""
    name, known = str(loc[-1]), sorted(getattr(_table(loc[:-1]), "model_fields", {}))
    if name in _ELSEWHERE:
        return f"there is no such key; what other libraries call so is `{_ELSEWHERE[name]}` here"
    near = nearest(name, known, 0.7)
    if near:
        return f"there is no such key; did you mean `{dotted((*loc[:-1], near))}`?"
    home = next(
        (s for s, f in RunConfig.model_fields.items() if name in getattr(f.annotation, "model_fields", {})),
        "",
    )
    if home:
        return f"there is no such key here; it belongs into `{home}`"
    return f"there is no such key; known here are {', '.join(known)}"


def _listed(told: list[Told], document: Document, file: str) -> str:
    places = {item.path: item for item in document.items}
    ordered = sorted(dict.fromkeys(told), key=lambda one: _line(one[0], places))
    lines = [f"{_where(path, document, file)}: `{dotted(path)}`: {text}" for path, text in ordered]
    many = "one problem" if len(lines) == 1 else f"{len(lines)} problems"
    return "\n".join([f"{many} in the settings of the run", *(f"  {line}" for line in lines)])


def _where(path: Loc, document: Document, file: str) -> str:
    """`train.yaml:12:3`: the place of a key, or of the section that it is missing in."""
    item = _nearest_item(path, {item.path: item for item in document.items})
    return _place(file, item.line, item.column) if item else file


def _nearest_item(path: Loc, places: Mapping[Loc, Item]) -> Item | None:
    return next((places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in places), None)


def _line(path: Loc, places: Mapping[Loc, Item]) -> tuple[int, int]:
    item = _nearest_item(path, places)
    return (item.line or 0, item.column or 0) if item else (0, 0)


def _place(file: str, line: int | None, column: int | None) -> str:
    return ":".join(str(part) for part in (file, line, column) if part is not None)
