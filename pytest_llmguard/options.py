"""Every option in one table: command line, ini twin, what it takes, constant, help. `ladder.option` reads them.

This module is loaded in every pytest session of the machine: it declares, and no more.
"""

from __future__ import annotations

from argparse import BooleanOptionalAction

import pytest

__all__ = ["OPTIONS", "add_gpu_option", "add_options", "given"]

OPTIONS: dict[str, tuple[str, object, str]] = {
    "project": (
        "FILE",
        None,
        "check the project that FILE describes; collected once, also when it is no argument",
    ),
    "model": ("NAME", None, "use this model (a folder or a hub id) instead of `[model] path`"),
    "adapter": ("NAME", None, "use this adapter folder instead of `[model] adapter`"),
    "sample": ("COUNT", 2000, "send at most so many rows through the project's own functions (2000)"),
    "deadline": ("SECONDS", 60.0, "end the project's own code after so many seconds without progress (60)"),
    "strict": ("FLAG", False, "let warnings fail, too"),
    "engine": ("serial|processes", "serial", "how checks go over many rows (serial)"),
    "json": ("FILE", None, "write the report as JSON to FILE"),
    "html": ("FILE", None, "write the report as one HTML page to FILE"),
    "sarif": ("FILE", None, "write the report as SARIF to FILE, for code scanning"),
    "bugs": (
        "DIR",
        None,
        "hold the regressions in DIR against the ledger: stories whole, tests there and run",
    ),
    "gpu": ("FLAG", False, "run the tests that need a GPU; an error where there is none"),
    "gpu_leaks": (
        "FLAG",
        False,
        "fail tests that leave memory behind on a GPU, or where there is none on the heap",
    ),
    "budget": (
        "SIZE",
        None,
        "GPU memory of one xdist worker, so that several share a GPU; else they take turns",
    ),
}
"""Name -> what it takes, constant, help. `--llmguard-NAME` (`--gpu`) on the command line, `llmguard_NAME` in the ini file."""

INI_TYPES = {"FLAG": "bool", "COUNT": "int", "SECONDS": "float"}
UNDECLARED = object()


def add_options(parser: pytest.Parser) -> None:
    """Declare every option and its ini twin; all default to None, so that the next rung can speak."""
    group = parser.getgroup("llmguard", "llmguard: checks for LLM fine-tuning")
    for name, (takes, _, text) in OPTIONS.items():
        kind = INI_TYPES.get(takes, "string")
        if kind != "bool" and pytest.version_tuple < (8, 4):
            kind = "string"  # int and float came with 8.4
        parser.addini(f"llmguard_{name}", text, kind, None)  # type: ignore[arg-type]  # a str where a Literal is asked for
        if takes != "FLAG":
            group.addoption(_flag(name), metavar=takes, default=None, help=text)
        elif name != "gpu":
            group.addoption(_flag(name), action=BooleanOptionalAction, default=None, help=text)


def _flag(name: str) -> str:
    return f"--llmguard-{name.replace('_', '-')}"


def add_gpu_option(config: pytest.Config, parser: pytest.Parser) -> None:
    """Declare `--gpu`, once all conftest files are loaded: a project's own `--gpu` stays, and counts as ours."""
    if config.getoption("--gpu", UNDECLARED) is UNDECLARED:
        group = parser.getgroup("llmguard")
        group.addoption(
            "--gpu", action=BooleanOptionalAction, dest="llmguard_gpu", default=None, help=OPTIONS["gpu"][2]
        )


def given(config: pytest.Config, arguments: object, *names: str) -> bool:
    """Whether any of these options (default: any at all) is in the arguments or in the ini file, whatever its value."""
    for name in names or OPTIONS:
        setting = f"llmguard_{name}"
        try:
            if getattr(arguments, setting, None) is not None or config.getini(setting) is not None:
                return True
        except (ValueError, TypeError, pytest.UsageError):
            return True  # a value that cannot be is one that was given
    return False
