"""Is a setting in its range? The documented ranges, `[config.range]` of the project before them, the method's habits after them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from llmguard.configs.config import Setting, is_open
from llmguard.configs.kinds import Fault
from llmguard.configs.rules import Rule
from llmguard.configs.runs import Run

__all__ = ["range_fault"]

_OWN_SCALE = (
    "prodigy",
    "dadapt",
    "d_adapt",
    "sgd",
    "lomo",
    "muon",
    "adafactor",
    "schedule_free",
    "apollo",
    "galore",
    "dion",
)
"""Optimizers whose learning rate is on a scale of its own (Prodigy's is 1, Muon's 0.02)."""
_LOW_RATES = frozenset({"preference", "rl", "reward", "distillation"})
_HABITS = {"full": 1e-3, "lora": 5e-3}
_PREFERENCE_HABIT = 5e-4
_HALF = 0.5


def range_fault(setting: Setting, run: Run, ranges: Mapping[str, tuple[float, float]]) -> Fault | None:
    """Why a setting is out of range, or None where it is in it (or is no number: that is another check's)."""
    number, rule = setting.number, setting.rule
    if number is None or math.isnan(number) or is_open(setting.value):
        return None
    own = _own_range(setting, ranges)
    if own is not None:
        return None if own.holds(number) else _outside(setting, own, number, " that `[config.range]` allows")
    if setting.name == "beta":
        return _beta(setting, run, number)
    rule = _adapted(setting, rule, run) if rule else None
    if rule is None or rule.kind in ("bool", "choice", "text"):
        return None
    if not rule.holds(number):
        return _outside(setting, rule, number, "")
    if setting.name == "max_steps" and number == 0:
        return Fault("it is 0", "transformers 5 then takes no step at all, older versions count the epochs instead",
                     "0 meant as 'not set'", "write -1, or remove the line", "-1, or 1 or more")  # fmt: skip
    return _unusual(setting, run, number)


def _own_range(setting: Setting, ranges: Mapping[str, tuple[float, float]]) -> Rule | None:
    for name in (setting.item.key, setting.item.name, setting.name):
        if name in ranges:
            low, high = ranges[name]
            return Rule("float", low, high, why=setting.rule.why if setting.rule else "")
    return None


def _adapted(setting: Setting, rule: Rule, run: Run) -> Rule | None:
    """The rule as it holds for this run: other optimizers, objectives and epochs that do not count have other bounds."""
    if setting.name == "learning_rate":
        optimizer = run.text("optim") or " ".join(
            key for key in run.keys if key.startswith("use_") and run.keys[key] is True
        )
        own_scale = any(name in optimizer for name in _OWN_SCALE)
        high = 10.0 if own_scale else 1.0 if run.method == "prompt" else rule.high
        return replace(rule, low=1e-8 if run.objective in _LOW_RATES else rule.low, high=high)
    if setting.name == "num_train_epochs" and ((run.number("max_steps") or 0) > 0 or _trains_nothing(run)):
        return None
    if setting.name == "batch_size" and run.get("per_device_train_batch_size"):
        return replace(rule, high=math.inf)  # the whole batch, made of micro-batches
    return rule


def _trains_nothing(run: Run) -> bool:
    """Whether the file says that the run only evaluates or predicts."""
    return run.keys.get("do_train") is False or (
        run.keys.get("do_train") is None and run.keys.get("do_predict") is True
    )


def _outside(setting: Setting, rule: Rule, number: float, whose: str) -> Fault:
    spelt = str(int(number)) if abs(number) < 1e6 and number.is_integer() else f"{number:g}"
    key, why = setting.item.name, rule.why or "the project says so"
    if number == 0:
        cause = "0 meant as 'not set', or a value that was never filled in"
    elif number < rule.low:
        cause = "a unit slip, a lost digit, or a sign"
    else:
        cause = "a unit slip, a lost decimal point or sign of the exponent, or another setting's value"
    allow = (
        f"; where it is meant, allow it in the project file: `[config.range]` {setting.name} = [low, high]"
        if number > 0 and not whose
        else ""
    )
    return Fault(
        f"it is {spelt}, outside {rule.range}{whose}",
        why,
        cause,
        f"write a value of {rule.range} for `{key}`{allow}",
        rule.range,
    )


def _beta(setting: Setting, run: Run, number: float) -> Fault | None:
    if run.objective != "preference" or number > 0:
        return None
    why = "the preference loss is multiplied by beta: with 0 it stays at ln 2 = 0.6931 and nothing is learnt"
    return Fault(f"it is {number:g} in a preference run", why, "a value copied from GRPO, where 0 is the default",
                 f"write a small positive number, 0.1 for example: `{setting.written(0.1)}`", "more than 0")  # fmt: skip


def _unusual(setting: Setting, run: Run, number: float) -> Fault | None:
    if setting.name == "learning_rate":
        return _rate_for_method(run, number)
    if setting.name in ("warmup_ratio", "lora_dropout", "weight_decay") and number > _HALF:
        return Fault(f"it is {number:g}, more than half", setting.rule.why if setting.rule else "",
                     "a percentage written as a share, or another setting's value",
                     "write the usual value: below 0.1", "up to 0.5", severe=False)  # fmt: skip
    return None


def _rate_for_method(run: Run, number: float) -> Fault | None:
    optimizer = run.text("optim") or " ".join(
        key for key in run.keys if key.startswith("use_") and run.keys[key] is True
    )
    if any(name in optimizer for name in _OWN_SCALE) or run.objective == "pretrain":
        return None
    preference = run.objective == "preference"
    limit = _PREFERENCE_HABIT if preference else _HABITS.get(run.method)
    if limit is None or number <= limit:
        return None
    method = (
        "preference training" if preference else "LoRA" if run.method == "lora" else "training of all weights"
    )
    return Fault(f"it is {number:g}, high for {method} (usual: up to {limit:g})",
                 "a rate far above the usual one makes the loss diverge, or the model forget what it knew",
                 "a rate taken over from another method", "lower it tenfold, or watch the first hundred steps",
                 f"up to {limit:g} for {method}", severe=False)  # fmt: skip
