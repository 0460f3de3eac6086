"""The command line, for what pytest is no place for: `llmguard init | show | explain`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

USAGE = 2
"""Exit code of a mistake of the user's: an unknown option, a bad file, a name that does not exist."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `sys.argv`, or with the arguments given, and return its exit code.

    A mistake of the user's is one message on standard error and exit code 2, never a traceback.
    """
    try:
        from llmguard.cli.app import run

        return run(list(sys.argv[1:] if arguments is None else arguments))
    except ImportError as missing:
        name = (missing.name or "").partition(".")[0]
        if name not in ("typer", "rich"):
            raise
        print(f"llmguard: the command line needs {name}: pip install {name}", file=sys.stderr)
        return USAGE
