"""`python -m llmguard_core sft|dpo|evaluate|compare|queue --config run.yaml`: one file says what is done, one command does it.

Exit codes: 0 done, 1 stopped on the way (a guard, memory, a disk), 2 never started (settings, model or data are refused), 130 interrupted.
Progress and messages go to stderr, results to stdout: as text, or with --json as one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from llmguard.errors import LLMGuardError
from llmguard_core import commands
from llmguard_core.errors import CheckpointError, OutOfMemory, TrainingStopped

__all__ = ["main"]

STOPPED = (TrainingStopped, OutOfMemory, CheckpointError)
app = typer.Typer(
    name="llmguard_core",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__,
)
Config = Annotated[Path, typer.Option("--config", "-c", help="The settings of the run: YAML, JSON or TOML.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def sft(config: Config, as_json: AsJson = False) -> None:
    """Supervised fine-tuning, all weights or LoRA; goes on where an earlier run was ended."""
    _say(lambda: commands.trained(config, "sft"), as_json)


@app.command()
def dpo(config: Config, as_json: AsJson = False) -> None:
    """Preference training (DPO) on pairs of responses."""
    _say(lambda: commands.trained(config, "dpo"), as_json)


@app.command()
def evaluate(config: Config, as_json: AsJson = False) -> None:
    """Let the models of a config answer its items, one after another, and compare them where there are several."""
    _say(lambda: commands.evaluated(config), as_json)


@app.command()
def compare(config: Config, as_json: AsJson = False) -> None:
    """Compare results that were saved, paired by item: differences with intervals, or the refusal to call one."""
    _say(lambda: commands.compared(config), as_json)


@app.command()
def queue(
    config: Config,
    as_json: AsJson = False,
    once: Annotated[bool, typer.Option("--once", help="End when nothing waits any more.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show every file's state; change nothing.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Let what failed be tried again.")] = False,
) -> None:
    """Train every file that is put into a folder, one after another."""
    _say(lambda: commands.queued(config, once, status, retry), as_json)


def _say(work: Callable[[], commands.Told], as_json: bool) -> None:
    """Do the work with everything that libraries print on stderr, then print the result: one process of several does."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            text, found = work()
        except KeyboardInterrupt:
            raise SystemExit(_told("interrupted; start the same command again to go on", 130)) from None
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(found, default=str) if as_json else text)  # noqa: T201  # a command line prints


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; a mistake is told in words, never as a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("llmguard_core").setLevel(logging.INFO)  # what was dropped, chosen, resumed from
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # what libraries say to each other's authors
            app(arguments, prog_name="python -m llmguard_core")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except STOPPED as stopped:
        return _told(str(stopped), 1)
    except LLMGuardError as refused:
        return _told(str(refused), 2)
    except OSError as bad:
        return _told(f"{bad.filename or 'file'}: {bad.strerror or bad}", 1)
    return 0


def _told(message: str, code: int) -> int:
    from llmguard.reporting.text import visible

    sys.stderr.write(f"llmguard_core: {visible(message)}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
