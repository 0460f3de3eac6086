"""The user's own code: imported by name, called, and its mistakes told with the user's own frame."""

from __future__ import annotations

import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["UserError", "is_library", "load_reference", "made", "mistake", "shown"]


OURS = Path(__file__).resolve().parent.parent
STANDARD = {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib")}


class UserError(Exception):
    """The user's code failed; `told` says where and how (JSON-safe)."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        super().__init__(told["message"])


def mistake(fault: BaseException, folder: Path, what: str) -> dict[str, Any]:
    """An exception as data: its type, its message, and the last frame of the user's own code (none if it never got there)."""
    frames = [f for f in traceback.extract_tb(fault.__traceback__) if not is_library(Path(f.filename))]
    frame = ([f for f in frames if Path(f.filename).is_relative_to(folder)] or frames)[-1:]
    place: dict[str, Any] = {}
    if frame:
        place = {
            "file": shown(frame[0].filename, folder),
            "line": frame[0].lineno,
            "code": frame[0].line or "",
            "function": frame[0].name,
        }
    if isinstance(fault, SyntaxError) and fault.filename and not is_library(Path(fault.filename)):
        place = {
            "file": shown(fault.filename, folder),
            "line": fault.lineno,
            "code": (fault.text or "").strip(),
        }
    message = str(fault).strip().splitlines()
    return {"what": what, "type": type(fault).__name__, "message": message[0] if message else "", **place}


def is_library(file: Path) -> bool:
    """Whether code is nobody's to mend here: the standard library's, an installed package's, this library's, or no file at all."""
    if not file.is_absolute() or {"site-packages", "dist-packages"} & set(file.parts):
        return True
    return any(file.is_relative_to(home) for home in (OURS, *map(Path, STANDARD)))


def shown(file: str, folder: Path) -> str:
    """A file as reports name it: from the project's folder where it lies there."""
    path = Path(file)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


def load_reference(reference: str, folder: Path, key: str) -> Any:
    """The object of `package.module:name`, imported with the project's folder first on sys.path.

    Raises:
        UserError: the module does not import, or has no such name.
    """
    module_name, _, name = reference.partition(":")
    if str(folder) not in sys.path[:1]:
        sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
        return getattr(module, name)
    except AttributeError as fault:
        if module_name in sys.modules and not hasattr(sys.modules[module_name], name):
            near = ", ".join(
                n
                for n in vars(sys.modules[module_name])
                if not n.startswith("_") and callable(getattr(sys.modules[module_name], n))
            )
            told = {
                "what": key,
                "type": "AttributeError",
                "message": f"{module_name} has no {name}; it has {near or 'no functions'}",
            }
            raise UserError(
                {**told, "file": shown(str(sys.modules[module_name].__file__), folder), "line": 1}
            ) from None
        raise UserError(mistake(fault, folder, key)) from None
    except (Exception, SystemExit) as fault:  # whatever the user's module raises while it is imported
        raise UserError(mistake(fault, folder, key)) from None


def made(thing: Any, folder: Path, key: str) -> Callable[..., Any]:
    """A collator from a collator, or from a class or function without arguments that makes one.

    Raises:
        UserError: making it failed, or what was made cannot be called.
    """
    try:
        collator = thing() if _takes_nothing(thing) else thing
    except Exception as fault:
        raise UserError(mistake(fault, folder, key)) from None
    if not callable(collator):
        raise UserError(
            {
                "what": key,
                "type": "TypeError",
                "message": f"is a {type(collator).__name__}, which cannot be called with a list of rows",
            }
        )
    return collator  # type: ignore[no-any-return]  # callable() is all that is known of the user's object


def _takes_nothing(thing: Any) -> bool:
    if not callable(thing):
        return False
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return not needed
