"""Has a setting the type it needs? What goes wrong where it has not is said for the person who wrote the line."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmguard.configs.config import Setting, is_open
from llmguard.configs.libraries import library_of, reads_yaml_floats
from llmguard.configs.library import Field
from llmguard.configs.nearest import nearest
from llmguard.configs.rules import RULES, WORDS, Rule

__all__ = ["Fault", "type_fault"]

_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_ALLOWED_TEXTS = frozenset({"auto"})


@dataclass(frozen=True)
class Fault:
    """What is wrong with one setting: the parts of a finding."""

    what: str
    why: str
    cause: str
    remedy: str
    expected: str
    severe: bool = True


def type_fault(setting: Setting) -> Fault | None:
    """Why a setting has not the type it needs, or None where it has."""
    rule, known, value = setting.rule, setting.field, setting.value
    if is_open(value) or _admits_none(setting):
        return None
    kind = rule.kind if rule else _kind_of(known)
    if kind is None or (isinstance(value, (list, dict)) and kind in ("choice", "text")):
        return None
    if kind == "bool":
        return _switch(setting)
    if kind in ("choice", "text"):
        return _choice(setting, rule) if rule else None
    return _number(setting, kind)


def _kind_of(known: Field | None) -> str | None:
    if known is None:
        return None
    if known.is_bool:
        return "bool"
    if known.is_number:
        return "float" if "float" in known.kinds else "int"
    return None


def _admits_none(setting: Setting) -> bool:
    """Whether the value is None where None means that the setting is not made."""
    if setting.value is not None:
        return False
    if setting.dialect == "axolotl":
        return setting.name != "learning_rate"
    rule = setting.rule
    if setting.field is not None:
        return setting.field.optional
    return not (rule and rule.required)


def _number(setting: Setting, kind: str) -> Fault | None:
    value, rule = setting.value, setting.rule
    needed = {"int": "a whole number", "steps": "a number of steps", "float": "a number"}[kind]
    why = rule.why if rule and rule.why else f"the library computes with `{setting.item.name}`"
    if value is None:
        return _none(setting, needed)
    if isinstance(value, bool):
        return _bool_for_number(setting, needed, why)
    if isinstance(value, str):
        return _text_for_number(setting, needed, kind)
    if isinstance(value, (int, float)):
        return _fraction(setting, kind, why)
    if isinstance(value, (list, dict)) and setting.dialect != "plain" and _only_numbers(setting):
        shown = "a list" if isinstance(value, list) else "a mapping"
        return Fault(f"it is {shown} where {needed} is needed", why, "a sweep, or one level too many",
                     f"write one number: `{setting.written(_example(setting))}`", needed)  # fmt: skip
    return None


def _only_numbers(setting: Setting) -> bool:
    return setting.field is None or setting.field.is_number


def _none(setting: Setting, needed: str) -> Fault:
    why = (
        "None is compared or computed with a number: the run ends in a TypeError, after everything is loaded"
    )
    remedy = f"write {needed}, or remove the line: the default holds then"
    if setting.name == "num_train_epochs":
        remedy = "write the number of epochs; where `max_steps` decides, leave the line out"
    return Fault(
        f"it is None where {needed} is needed",
        why,
        "a value that was left empty, or meant as 'not set'",
        remedy,
        needed,
    )


def _bool_for_number(setting: Setting, needed: str, why: str) -> Fault:
    cause = (
        "YAML 1.1 reads yes, no, on and off as truth values"
        if setting.item.text.lower() in _TRUTH
        else "a switch mistaken for an amount"
    )
    remedy = f"write {needed}: `{setting.written(_example(setting))}`"
    return Fault(f"it is {setting.value} where {needed} is needed", why, cause, remedy, needed)


def _text_for_number(setting: Setting, needed: str, kind: str) -> Fault | None:
    value, number = setting.value, setting.number
    if value.lower() in _ALLOWED_TEXTS or (
        setting.field and "text" in setting.field.kinds and number is None
    ):
        return None
    shown = f'it is the text "{value}", not {needed}'
    why = "a text is compared or computed with a number: the run ends in a TypeError, after everything is loaded"
    if number is None:
        return Fault(
            shown,
            why,
            "a word or a unit where the number stands alone",
            f"write {needed}: {_example(setting)}",
            needed,
        )
    if setting.dialect == "axolotl" or (
        setting.syntax == "yaml" and not setting.item.quoted and reads_yaml_floats(setting.dialect)
    ):
        return None
    if setting.syntax == "yaml" and not setting.item.quoted:
        cause = "YAML 1.1 takes a number with an exponent for text unless it has a dot and a sign"
        return Fault(shown, why, cause, f"write `{setting.written(_dotted(number))}`", needed)
    plain = f"{number:g}" if kind != "int" or not number.is_integer() else str(int(number))
    return Fault(
        shown, why, "the number stands in quotes", f"remove the quotes: `{setting.written(plain)}`", needed
    )


def _dotted(number: float) -> str:
    """A number as every YAML parser reads it: with a dot and a signed exponent."""
    mantissa, _, exponent = f"{number:g}".partition("e")
    if not exponent and 0.0001 <= abs(number) < 1e6:  # nobody writes an exponent there
        return f"{number!r}"
    mantissa, _, exponent = f"{number:e}".partition("e")
    mantissa = mantissa.rstrip("0")
    return f"{mantissa}0e{exponent}" if mantissa.endswith(".") else f"{mantissa}e{exponent}"


def _fraction(setting: Setting, kind: str, why: str) -> Fault | None:
    value = setting.value
    if isinstance(value, float) and math.isnan(value):
        return Fault("it is NaN", why, "a computed value that went wrong", "write a number", "a number")
    if kind == "float" or isinstance(value, int) or (setting.field and "float" in setting.field.kinds):
        return None
    if kind == "steps" and (value.is_integer() or 0 <= value < 1):
        return None
    whole = value.is_integer()
    remedy = f"write `{setting.written(int(value))}`" if whole else "write a whole number"
    if setting.dialect == "axolotl" and whole:
        return None
    return Fault(f"it is {value!r} where a whole number is needed", "a count with a fraction is refused where it is used as one: "
                 "`range()`, a slice or a shape", "a number with a decimal point", remedy, "a whole number")  # fmt: skip


def _switch(setting: Setting) -> Fault | None:
    value, known = setting.value, setting.field
    if not isinstance(value, str) or setting.dialect == "axolotl":
        return None
    texts_allowed = known is not None and "text" in known.kinds
    if texts_allowed or (value.lower() in WORDS and value.lower() not in _TRUTH):
        return None
    meant = _TRUTH.get(value.strip().lower())
    remedy = (
        f"write `{setting.written(str(meant).lower())}` without quotes"
        if meant is not None
        else "write true or false without quotes"
    )
    why = "every text but the empty one counts as true, 'false' too"
    return Fault(
        f'it is the text "{value}" where true or false is needed',
        why,
        "the value stands in quotes",
        remedy,
        "true or false",
    )


def _choice(setting: Setting, rule: Rule) -> Fault | None:
    value, choices = setting.value, _choices(setting, rule)
    allowed = f"one of {', '.join(sorted(choices)[:12])}" if choices else "a name"
    if isinstance(value, bool):
        return _yaml_no(setting, rule, allowed)
    if value is None:
        return Fault(
            "it is None",
            rule.why,
            "a value that was left empty",
            f"write {allowed}, or remove the line",
            allowed,
        )
    if not choices or value in choices or setting.dialect == "plain":
        return None
    if not isinstance(value, str):
        return Fault(
            f"it is {value!r}", rule.why, "a number where a name is needed", f"write {allowed}", allowed
        )
    near = nearest(value, choices)
    name = near if setting.syntax in ("", "yaml") else f'"{near}"'
    remedy = f"write `{setting.written(name)}`" if near else f"write {allowed}"
    return Fault(
        f"it is {value!r}, which is not {allowed}",
        rule.why,
        "a misspelt name, or one of another version",
        remedy,
        allowed,
    )


def _yaml_no(setting: Setting, rule: Rule, allowed: str) -> Fault:
    text = setting.item.text or str(setting.value).lower()
    quoted = '"no"' if "no" in rule.choices or text.lower() in ("true", "false") else f'"{text}"'
    by_yaml = setting.syntax == "yaml" and text.lower() not in ("true", "false")
    cause = f"YAML 1.1 reads {text} as {setting.value}" if by_yaml else "a switch where a name is needed"
    remedy = f"write it in quotes: `{setting.written(quoted)}`" if not setting.value else f"write {allowed}"
    return Fault(
        f"it is {setting.value} where a name is needed ({allowed})", rule.why, cause, remedy, allowed
    )


def _choices(setting: Setting, rule: Rule) -> frozenset[str]:
    library = library_of(setting.dialect)
    if rule.choices or library is None or setting.dialect == "axolotl":
        return frozenset(rule.choices)
    return library.choices.get(setting.name, frozenset())


def _example(setting: Setting) -> str:
    rule = RULES.get(setting.name)
    examples = {
        "learning_rate": "2.0e-5",
        "num_train_epochs": "3",
        "max_length": "2048",
        "lora_r": "16",
        "warmup_steps": "100",
    }
    return examples.get(setting.name, "8" if rule and rule.kind == "int" else "1")
