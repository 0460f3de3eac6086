"""How one object holds another, in words: the variable, the attribute, the key, the line."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from types import (
    AsyncGeneratorType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
    TracebackType,
)
from typing import Any

from llmguard.memory.search import is_namespace
from llmguard.memory.tensors import is_tensor, size_of

__all__ = [
    "attribute",
    "file_of",
    "is_parameter",
    "key_of",
    "named",
    "place",
    "size_text",
    "suspended",
    "words",
]

GENERATORS = (GeneratorType, CoroutineType, AsyncGeneratorType)
CONTAINERS = (list, tuple, set, frozenset)
SUBMODULES = ("_modules", "_parameters", "_buffers")


def words(objects: Sequence[Any]) -> str:
    """A chain (the kept object first) in words, from what holds it all down to it."""
    parts: list[str] = []
    told_already: Any = None  # the attributes of an instance, where they are a dict of their own
    dotted = False  # within the dotted name of a module of torch: `model.layers.0.weight`
    for at in range(len(objects) - 2, -1, -1):
        holder, held, below = objects[at + 1], objects[at], objects[at - 1] if at else None
        name = _attribute_told(holder, held, below)
        if holder is told_already and not dotted:
            continue
        if name and _fields(holder) is held:
            told_already = held
        if name in SUBMODULES:
            parts += [] if dotted else [type(holder).__name__]
            dotted = True
        elif dotted and issubclass(type(holder), dict):
            if (key := key_of(holder, held)) not in SUBMODULES:
                parts[-1] += f".{key}"
        elif told := _step(holder, held, below):
            parts.append(told)
            dotted = False
    return " -> ".join([*parts, named(objects[0])])


def _attribute_told(holder: Any, held: Any, below: Any) -> str:
    """The attribute of an instance; of what its `__dict__` holds, where that is a step of its own."""
    fields = _fields(holder)
    if fields is None or issubclass(type(holder), (ModuleType, type)) or type(holder) is FunctionType:
        return ""
    return str(key_of(fields, below) or "") if fields is held else attribute(holder, held)


def _step(holder: Any, held: Any, below: Any) -> str:
    """How `holder` holds `held`; what belongs to the words of another step is ""."""
    kind = type(holder)
    if is_namespace(holder) or issubclass(kind, (ModuleType, type)) or kind in (CellType, TracebackType):
        return ""  # a root is named apart, a cell with its function, a traceback with its error
    if issubclass(kind, dict):
        key = key_of(holder, held)
        return f"{kind.__name__} of {len(holder)}" if key is None else f"{kind.__name__} key {key!r}"
    if issubclass(kind, CONTAINERS):
        return "" if kind is tuple and type(held) is CellType else f"{kind.__name__} of {len(holder)}"
    if kind is FrameType:
        return f"variable `{_variable(holder.f_locals, held)}` of {holder.f_code.co_name} ({place(holder)})"
    if frame := suspended(holder):
        return f"variable `{_variable(frame.f_locals, held)}` of {frame.f_code.co_name}, suspended at {place(frame)}"
    return _of_callable(holder, held, below) or _of_object(holder, held, below)


def _of_callable(holder: Any, held: Any, below: Any) -> str:
    kind = type(holder)
    if kind is FunctionType:
        return _of_function(holder, held, below)
    if kind is MethodType:
        return f"bound method {holder.__func__.__qualname__}"
    if issubclass(kind, functools.partial):
        return f"argument of partial({getattr(holder.func, '__qualname__', named(holder.func))})"
    if kind.__name__ == "_lru_cache_wrapper":
        return f"functools.lru_cache of {getattr(holder, '__qualname__', '?')}"
    return ""


def _of_function(function: FunctionType, held: Any, below: Any) -> str:
    code, cells = function.__code__, function.__closure__ or ()
    where = f"{function.__qualname__} ({_short(code.co_filename)}:{code.co_firstlineno})"
    cell = held if type(held) is CellType else below
    names = [name for name, each in zip(code.co_freevars, cells, strict=False) if each is cell]
    return (
        f"closure variable `{names[0]}` of {where}" if names else f"default or attribute of function {where}"
    )


def _of_object(holder: Any, held: Any, below: Any) -> str:
    """An instance, and which attribute of it; a tensor, an error."""
    kind = type(holder)
    if is_tensor(holder) and is_tensor(held):
        way = "gradient" if holder.is_leaf and holder.grad is held else "autograd graph"
        return f"{way} of {kind.__name__} {list(holder.shape)}"
    if issubclass(kind, BaseException) and type(held) is TracebackType:
        return f"traceback of {named(holder)}, which was kept"
    name = _attribute_told(holder, held, below)
    return f"{kind.__name__}.{name}" if name else kind.__name__


def attribute(holder: Any, held: Any) -> str:
    """The attribute or slot of an object that holds another; "" where it has none."""
    found = key_of(_fields(holder) or {}, held)
    if found is not None:
        return str(found)
    for kind in type(holder).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            member = kind.__dict__.get(name)
            try:
                if member is not None and member.__get__(holder, type(holder)) is held:
                    return str(name)
            except AttributeError:  # a slot that is empty
                continue
    return ""


def is_parameter(found: Any) -> bool:
    """Whether it is the fixture that pytest makes of an argument of parametrize."""
    function = getattr(found, "func", None) if type(found).__name__ == "FixtureDef" else None
    return getattr(function, "__name__", "") == "get_direct_param_fixture_func"


def key_of(holder: dict[Any, Any], held: Any) -> Any:
    """The key of a value, short and safe to print; None where there is none."""
    for key, value in list(holder.items()):
        if value is held:
            return key if isinstance(key, (str, int)) else f"<{type(key).__name__}>"
    return None


def suspended(found: Any) -> FrameType | None:
    """The frame of a generator or coroutine that waits."""
    if not issubclass(type(found), GENERATORS):
        return None
    for name in ("gi_frame", "cr_frame", "ag_frame"):
        frame = getattr(found, name, None)
        if type(frame) is FrameType:
            return frame
    return None


def named(found: Any) -> str:
    """An object in a few words; a tensor with shape and size."""
    kind = type(found)
    if is_tensor(found):
        return f"{kind.__name__} {list(found.shape)} {size_text(size_of(found))}"
    if issubclass(kind, BaseException):
        text = str(found.args[0])[:60] if found.args and isinstance(found.args[0], str) else ""
        return f"{kind.__name__}({text!r})"
    if kind is FunctionType:
        return f"function {found.__qualname__}"
    if issubclass(kind, CONTAINERS) or kind is dict:
        return f"{kind.__name__} of {len(found)}"
    return kind.__name__


def place(frame: FrameType) -> str:
    """File and line of a frame."""
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"


def file_of(namespace: dict[str, Any]) -> str:
    """The file of a module, else its name."""
    file = namespace.get("__file__")
    return _short(file) if isinstance(file, str) else str(namespace.get("__name__", "?"))


def size_text(size: int) -> str:
    """Bytes, KiB, MiB or GiB."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.2f} {unit}"
    return f"{size} B"


def _fields(holder: Any) -> dict[str, Any] | None:
    """The attributes of an instance, without asking the instance."""
    try:
        found = object.__getattribute__(holder, "__dict__")
    except (AttributeError, TypeError):
        return None
    return found if type(found) is dict else None


def _variable(names: Any, held: Any) -> str:
    for name in list(names):
        if names[name] is held:
            return str(name)
    return "?"


def _short(file: str) -> str:
    """Relative to where we are, where it lies below."""
    try:
        relative = os.path.relpath(file)
    except ValueError:  # another drive
        return file
    return file if relative.startswith("..") else Path(relative).as_posix()
