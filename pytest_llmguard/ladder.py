"""What an option is: the marker `llmguard(name=value)`, the command line, the ini file, the constant; the first that speaks wins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_llmguard.options import OPTIONS

__all__ = ["flag_of", "marked", "option", "validate"]

MARKABLE = ("project", "model", "adapter", "sample", "deadline", "strict")
"""Options that the marker can set for one test."""
EXPECTED = {
    "FILE": "the path of a file",
    "DIR": "the path of a folder",
    "NAME": "a name that is not empty",
    "COUNT": "a whole number, 1 or more",
    "SECONDS": "a number of seconds above 0",
    "SIZE": "a size above 0 such as '4 GiB'",
    "FLAG": "true or false",
}
WORDS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def flag_of(name: str) -> str:
    """An option as it is written on the command line."""
    return "--gpu" if name == "gpu" else f"--llmguard-{name.replace('_', '-')}"


def option(config: pytest.Config, name: str, node: pytest.Item | None = None) -> Any:
    """The value of an option: the node's marker, the command line, the ini file, the constant.

    Paths are absolute: from the test's folder, the folder pytest was started in, the ini file's folder.

    Raises:
        pytest.UsageError: a value that is not allowed, with its source and what is.
    """
    takes, constant, _ = OPTIONS[name]
    for value, source, base in _rungs(config, name, node):
        if value is not None:
            parsed = _typed(takes, value)
            if parsed is None:
                raise pytest.UsageError(f"{source}: {value!r} is not allowed: expected {_expected(takes)}")
            return Path(base, Path(parsed).expanduser()).absolute() if takes in ("FILE", "DIR") else parsed
    return constant


def _rungs(config: pytest.Config, name: str, node: pytest.Item | None) -> Iterator[tuple[Any, str, Path]]:
    if node is not None and name in MARKABLE:
        for mark in node.iter_markers("llmguard"):
            yield mark.kwargs.get(name), f"@pytest.mark.llmguard({name}=…)", node.path.parent
    yield _argument(config, name), flag_of(name), config.invocation_params.dir
    folder = config.inipath.parent if config.inipath else config.invocation_params.dir
    yield _setting(config, name), f"llmguard_{name} in {_ini_name(config)}", folder


def _argument(config: pytest.Config, name: str) -> Any:
    value = config.getoption(flag_of(name), None)
    if name == "gpu" and value is not None and not isinstance(value, bool):
        return True  # a project's own `--gpu` may name a device
    return value


def _setting(config: pytest.Config, name: str) -> Any:
    try:
        return config.getini(f"llmguard_{name}")
    except (ValueError, TypeError, pytest.UsageError) as bad:
        expected = _expected(OPTIONS[name][0])
        raise pytest.UsageError(
            f"llmguard_{name} in {_ini_name(config)}: {bad}: expected {expected}"
        ) from None


def _ini_name(config: pytest.Config) -> str:
    return config.inipath.name if config.inipath else "the ini file"


def _expected(takes: str) -> str:
    return EXPECTED.get(takes) or f"one of {takes.replace('|', ', ')}"


def _typed(takes: str, value: Any) -> Any:
    """The value, or None where it is not allowed."""
    if takes == "FLAG":
        return WORDS.get(str(value).strip().lower())
    if takes in ("COUNT", "SECONDS"):
        return _number(value, whole=takes == "COUNT")
    if takes == "SIZE":
        return _size(str(value))
    text = str(value).strip() if isinstance(value, (str, Path)) else ""
    return text if text and ("|" not in takes or text in takes.split("|")) else None


def _number(value: Any, *, whole: bool) -> int | float | None:
    if isinstance(value, bool):
        return None
    try:
        number = int(str(value)) if whole else float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None


def _size(text: str) -> int | None:
    from llmguard.project.schema import parse_size

    try:
        return parse_size(text) or None
    except ValueError:
        return None


def marked(item: pytest.Item) -> str:
    """What is wrong with the `llmguard(…)` markers of a test; empty where nothing is."""
    for mark in item.iter_markers("llmguard"):
        unknown = [*map(repr, mark.args), *(name for name in mark.kwargs if name not in MARKABLE)]
        if unknown:
            return f"@pytest.mark.llmguard does not know {', '.join(unknown)}: it takes {', '.join(MARKABLE)}, by keyword"
    try:
        for name in MARKABLE:
            option(item.config, name, item)
    except pytest.UsageError as bad:
        return str(bad)
    return ""


def validate(config: pytest.Config) -> None:
    """Look at every option that was given, before anything runs.

    Raises:
        pytest.UsageError: the first value that is not allowed.
    """
    values = {name: option(config, name) for name in OPTIONS}
    for name in ("json", "html", "sarif"):
        if values[name] is not None and values[name].is_dir():
            raise pytest.UsageError(
                f"{flag_of(name)}: {str(values[name])!r} is a folder: expected a file to write"
            )
    project = values["project"]
    if project is not None and not project.exists():
        raise pytest.UsageError(
            f"{flag_of('project')}: no such file: {str(project)!r}; `llmguard init` writes one"
        )
