"""Habits that cost memory or machines: models that are resident at once, devices that are written down."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from llmguard.sources.calls import last_name

__all__ = ["Resident", "fixed_devices", "residents"]

_MODEL = re.compile(
    r"Auto(Model|PeftModel)\w*|\w+For(CausalLM|ConditionalGeneration|SequenceClassification)|FastLanguageModel|FastModel|LLM"
)
_COMPANION = re.compile(
    r"ref|teacher|reward|rm|draft|assistant|policy|critic|value|judge|embed|guide|student|rank|classif|encoder"
)
"""Names of models that a second one legitimately stands beside."""
_DEVICE = re.compile(r"(cpu|mps|cuda(:\d+)?|xpu|npu)$")
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


@dataclass(frozen=True)
class Resident:
    """Models of one scope that are in memory at once: their names and lines, or the loop that collects them."""

    names: tuple[str, ...]
    lines: tuple[int, ...]
    collected: bool = False


def residents(tree: ast.Module) -> Iterator[Resident]:
    """Scopes that load a second model while the first is still held."""
    for scope in [
        tree,
        *(n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))),
    ]:
        found = _held(scope)
        if found is not None:
            yield found
        yield from _collections(scope)


def _held(scope: ast.AST) -> Resident | None:
    """The most models that a scope holds at once: loaded in a straight line, none released, none a companion of another."""
    held: dict[str, int] = {}
    most: dict[str, int] = {}
    for statement in _straight(getattr(scope, "body", [])):
        for name in _released(statement):
            held.pop(name, None)
        target = _loads(statement)
        if target is not None:
            held[target] = statement.lineno
            most = dict(held) if len(held) > len(most) else most
    if len(most) < 2 or any(_COMPANION.search(name.lower()) for name in most):
        return None
    return Resident(tuple(most), tuple(most.values()))


def _straight(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run one after the other: branches of an `if` are alternatives and are left out."""
    for statement in body:
        yield statement
        if isinstance(statement, (ast.With, ast.Try)):
            yield from _straight(statement.body)


def _loads(statement: ast.stmt) -> str | None:
    """The name that a statement binds a freshly loaded model to."""
    if (
        not isinstance(statement, ast.Assign)
        or not isinstance(statement.value, ast.Call)
        or not _is_load(statement.value)
    ):
        return None
    target = statement.targets[0]
    target = target.elts[0] if isinstance(target, ast.Tuple) and target.elts else target
    return target.id if isinstance(target, ast.Name) else None


def _is_load(node: ast.Call) -> bool:
    """Whether a call loads weights: `AutoModelForCausalLM.from_pretrained(...)`, with `.to(...)` or `.eval()` after it."""
    function = node.func
    if not isinstance(function, ast.Attribute):
        return isinstance(function, ast.Name) and function.id == "LLM"
    if function.attr in ("to", "eval", "cuda", "half", "bfloat16", "train") and isinstance(
        function.value, ast.Call
    ):
        return _is_load(function.value)
    owner = function.value
    return function.attr == "from_pretrained" and bool(_MODEL.fullmatch(last_name(owner)))


def _released(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.Delete):
        yield from (target.id for target in statement.targets if isinstance(target, ast.Name))
    if (
        isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value is None
    ):
        yield from (target.id for target in statement.targets if isinstance(target, ast.Name))


def _collections(scope: ast.AST) -> Iterator[Resident]:
    """`{name: load(name) for name in names}` and its like: all of them are held at once."""
    for node in _own(scope):
        value = (
            node.value
            if isinstance(node, ast.DictComp)
            else node.elt
            if isinstance(node, ast.ListComp)
            else None
        )
        if isinstance(value, ast.Call) and _is_load(value):
            yield Resident(("one for each round",), (getattr(node, "lineno", 0),), collected=True)


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, _SCOPES):
            yield child
            yield from _own(child)


def fixed_devices(tree: ast.Module) -> Iterator[tuple[str, str, int]]:
    """Variables named `device` that only ever hold one device written down: name, device, line."""
    found: dict[str, list[tuple[str | None, int]]] = {}
    for node in ast.walk(tree):
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        for target in targets:
            name = last_name(target)
            if (
                name.lower() in ("device", "torch_device")
                and isinstance(node, (ast.Assign, ast.AnnAssign))
                and node.value is not None
            ):
                found.setdefault(name, []).append((_device(node.value), node.lineno))
    for name, values in found.items():
        devices = {device for device, _ in values}
        if len(devices) == 1 and None not in devices:
            yield name, str(values[0][0]), values[0][1]


def _device(value: ast.expr) -> str | None:
    if (
        isinstance(value, ast.Call)
        and ast.unparse(value.func) in ("torch.device", "device")
        and len(value.args) == 1
    ):
        value = value.args[0]
    if isinstance(value, ast.Constant) and isinstance(value.value, str) and _DEVICE.match(value.value):
        return value.value
    return None
