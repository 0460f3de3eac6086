"""Write docs/run-config.md, the keys of a run's config, from the settings that the core reads.

python ci/gen_run_config.py            writes the file
python ci/gen_run_config.py --check    says whether it is up to date (exit code 1 where it is not)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "ci")]

from pages import write_or_check  # noqa: E402  # beside this script, however it is loaded
from pydantic.fields import FieldInfo  # noqa: E402  # after the checkout's own folder is first on the path

from llmguard.configs.rules import RULES  # noqa: E402  # as above
from llmguard_core.settings import USUAL_RATES, RunConfig, rule_of  # noqa: E402  # as above

TARGET = ROOT / "docs" / "run-config.md"
HEAD = """\
# The config of a run

Written by `python ci/gen_run_config.py` from the settings themselves; a test says when it is out of date.

What `python -m llmguard_core sft|dpo|evaluate|compare|queue --config FILE` reads: YAML, JSON or TOML. Every key is optional unless a
command cannot do without it, and then the line to add is told. All problems are told at once, each as file:line:column with its
reason; unknown keys with the nearest known one. Relative paths start from the config's own folder; `MODEL_PATH` in the environment
wins over `model.path`.
"""
KINDS = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    type(None): "",
    dict: "table",
}
SIGNS = (("ge", "from {}"), ("gt", "more than {}"), ("le", "up to {}"), ("lt", "less than {}"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is generated here, or compare it."""
    return write_or_check(__file__, __doc__, {TARGET: lambda: f"{HEAD}\n{''.join(sections())}"}, arguments)


def sections() -> Iterator[str]:
    """Each section as a table."""
    for name, section in RunConfig.model_fields.items():
        kind: Any = section.annotation
        head = str(kind.__doc__).split(":", 1)[1].strip()
        rows = "".join(
            f"| `{key}` | {shown(key, field)} | {allowed(field)} |\n"
            for key, field in kind.model_fields.items()
        )
        yield f"\n## `{name}`\n\n{head[0].upper()}{head[1:]}\n\n| key | default | what it may be |\n|---|---|---|\n{rows}"


def shown(key: str, field: FieldInfo) -> str:
    """The default."""
    if key == "learning_rate":
        return ", ".join(f"{rate:g} ({method})" for method, rate in USUAL_RATES.items())
    value = field.get_default(call_default_factory=True)
    if value in (None, [], {}, ""):
        return "-"
    value = value[0] if isinstance(value, list) else value
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def allowed(field: FieldInfo) -> str:
    """What a key may be: its choices, or its kind and range."""
    if rule_of(field):
        rule = RULES[rule_of(field)]
        return f"{rule.range}: {rule.why}"
    parts = list(dict.fromkeys(part for part in kinds(field.annotation) if part))
    limits = [
        text.format(value)
        for sign, text in SIGNS
        for m in metadata(field)
        if (value := getattr(m, sign, None)) is not None
    ]
    return ", ".join([" or ".join(parts), *limits])


def kinds(annotation: Any) -> Iterator[str]:
    """The kinds that an annotation admits, in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        yield ", ".join(f"`{choice}`" for choice in inner)
    elif origin is list:
        yield f"{' or '.join(kinds(inner[0]))}, one or a list"
    elif origin is dict:
        yield "table"
    elif annotation in KINDS:
        yield KINDS[annotation]
    elif inner:
        for part in (
            inner if origin is not None and hasattr(annotation, "__metadata__") is False else inner[:1]
        ):
            yield from kinds(part)
    elif hasattr(annotation, "model_fields"):
        yield "table"


def metadata(field: FieldInfo) -> Iterator[Any]:
    """The bounds of a field, also where they stand inside of `X | None`."""
    for found in (
        *field.metadata,
        *(m for part in get_args(field.annotation) for m in getattr(part, "__metadata__", ())),
    ):
        yield from getattr(found, "metadata", None) or (found,)


if __name__ == "__main__":
    sys.exit(main())
