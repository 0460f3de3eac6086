"""Mutations of a check's code: one small change each, made where the check decides and not where it words its message."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

__all__ = ["Module", "Mutation", "mutations_of"]

Function = ast.FunctionDef
COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
JOINED: dict[type[ast.operator], type[ast.operator]] = {ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
PACKAGE = "llmguard"
FINDINGS = ("error", "warning", "note")


@dataclass(frozen=True)
class Mutation:
    """Bytes of a module replaced by others; `operator` says what kind of change it is."""

    function: str
    line: int
    operator: str
    start: int
    stop: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """What it changes, without the line, which moves: how the list of equivalent mutants names it."""
        return f"{self.function}: {self.operator}: {self.before} -> {self.after}"


class Module:
    """A module with checks, and what of it belongs to each."""

    _read: ClassVar[dict[Path, Module]] = {}

    @classmethod
    def read(cls, file: Path) -> Module:
        """The module of a file, read once."""
        if file not in cls._read:
            cls._read[file] = cls(file)
        return cls._read[file]

    def __init__(self, file: Path) -> None:
        self.file, self.text = file, file.read_bytes()
        self.tree = ast.parse(self.text)
        self.functions = {
            n.name: n for n in self.tree.body if isinstance(n, ast.FunctionDef) and n.name != "_"
        }
        self.starts = [0]
        for line in self.text.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    @cached_property
    def digest(self) -> str:
        """Of the whole text."""
        return hashlib.sha1(self.text).hexdigest()[:16]

    def identity(self, check: str, mutation: Mutation) -> tuple[object, ...]:
        """What a mutant is: the text of the check with all that it uses of its module, and the change; other lines may come and go."""
        if check not in self.functions:  # one that is made of what a check borrows
            return self.digest, (mutation.start, mutation.stop, mutation.after)
        own = self.belonging(check)
        used = {n.id for f in own for n in ast.walk(f) if isinstance(n, ast.Name)}
        numbers = sorted((name, ast.unparse(v)) for name, v in self.constants.items() if name in used)
        text = "".join(ast.unparse(f) for f in own) + repr(numbers)
        around = next(
            (n for n in self.tree.body if n.lineno <= mutation.line <= (n.end_lineno or n.lineno)), None
        )
        at = mutation.start - self.starts[around.lineno - 1] if around else 0
        return (
            hashlib.sha1(text.encode()).hexdigest(),
            mutation.function,
            mutation.operator,
            mutation.after,
            at,
        )

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        """Numbers that the module names in capitals."""
        found: dict[str, ast.expr] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    names = target.elts if isinstance(target, ast.Tuple) else [target]
                    values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                    if len(names) == len(values):
                        found |= {
                            n.id: v for n, v in zip(names, values, strict=True) if isinstance(n, ast.Name)
                        }
        return {name: value for name, value in found.items() if _is_number(value)}

    def explained(self, check: str) -> Iterator[Function]:
        """The function under `@check.explain`."""
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef) and any(
                isinstance(d, ast.Attribute) and isinstance(d.value, ast.Name) and d.value.id == check
                for d in node.decorator_list
            ):
                yield node

    def belonging(self, check: str) -> list[Function]:
        """The check, what explains its tally, and the functions of its module that they use, nearest first."""
        if check not in self.functions:
            return []
        found = [self.functions[check], *self.explained(check)]
        for function in found:
            for node in ast.walk(function):
                other = self.functions.get(node.id) if isinstance(node, ast.Name) else None
                if other is not None and other not in found:
                    found.append(other)
        return found

    def borrowed(self, check: str) -> Iterator[tuple[Module, str]]:
        """Functions that the check, or what it uses of its module, takes from other modules of the package."""
        used = {n.id for f in self.belonging(check) for n in ast.walk(f) if isinstance(n, ast.Name)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{PACKAGE}."):
                file = self._package.joinpath(*str(node.module).split(".")[1:]).with_suffix(".py")
                for alias in node.names if file.is_file() else ():
                    if alias.name in used and alias.name in (other := Module.read(file)).functions:
                        yield other, alias.name

    @property
    def _package(self) -> Path:
        return next(folder for folder in self.file.parents if folder.name == PACKAGE)

    def mutations(self, check: str) -> list[Mutation]:
        """All mutations of a check: of its own body first, then of what it uses."""
        functions = self.belonging(check)
        found = [m for function in functions for m in self._of(function, check)]
        used = {n.id for f in functions for n in ast.walk(f) if isinstance(n, ast.Name)}
        for name, value in self.constants.items():
            if name in used:
                found.append(self._replace(name, value, "threshold", repr(_other(ast.literal_eval(value)))))
        return list({(m.start, m.stop, m.after): m for m in found}.values())

    def _of(self, function: Function, check: str) -> Iterator[Mutation]:
        name = function.name if function.name != "_" else f"{check}.explain"
        if function.name == check and any(
            isinstance(n, (ast.Yield, ast.YieldFrom)) for n in ast.walk(function)
        ):
            first = next(s for s in function.body if not _is_text(s))
            yield self._insert(name, first, "early return", "return 0")
        for statement in function.body:
            for node in _deciding(statement):
                for operator, after in _changes(node):
                    yield self._replace(name, node, operator, after)

    def _replace(self, function: str, node: ast.stmt | ast.expr, operator: str, after: str) -> Mutation:
        start = self.starts[node.lineno - 1] + node.col_offset
        stop = self.starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        before = " ".join(ast.unparse(node).split())
        return Mutation(function, node.lineno, operator, start, stop, _short(before), after)

    def _insert(self, function: str, node: ast.stmt, operator: str, text: str) -> Mutation:
        at = self.starts[node.lineno - 1] + node.col_offset
        after = f"{text}\n{' ' * node.col_offset}"
        return Mutation(function, node.lineno, operator, at, at, "", after)

    def blinded(self, check: str) -> bytes:
        """The module's text, where the check finds nothing and says that it looked at one thing."""
        explained = next(self.explained(check), None)
        function = explained or self.functions[check]
        first = next(s for s in function.body if not _is_text(s))
        told = self._insert(check, first, "blind", "return iter(())" if explained else "return 1")
        return self.mutated(told)

    def mutated(self, mutation: Mutation) -> bytes:
        """The module's text with one mutation in it."""
        return self.text[: mutation.start] + mutation.after.encode() + self.text[mutation.stop :]


def mutations_of(module: Module, check: str, limit: int) -> Iterator[tuple[Module, Mutation]]:
    """So many mutations of a check (0: all). A short check is filled up with some of the functions of other modules that it calls."""
    own = spread(module.mutations(check), limit)
    yield from ((module, mutation) for mutation in own)
    if limit and len(own) < limit:
        others = [(m, mutation) for m, name in module.borrowed(check) for mutation in m.mutations(name)]
        yield from others[:: max(1, len(others) // (limit - len(own)))][: limit - len(own)]


def spread(found: list[Mutation], limit: int) -> list[Mutation]:
    """So many mutations, of as many kinds as there are, the check's own body before its helpers."""
    if not limit or len(found) <= limit:
        return found
    kinds: dict[str, list[Mutation]] = {}
    for mutation in found:
        kinds.setdefault(mutation.operator, []).append(mutation)
    taken: list[Mutation] = []
    while len(taken) < limit:
        taken += [left.pop(0) for left in kinds.values() if left][: limit - len(taken)]
    return sorted(taken, key=lambda m: (m.start, m.stop))


def _deciding(node: ast.AST) -> Iterator[ast.stmt | ast.expr]:
    """Nodes that decide something: nothing inside of texts, annotations, or the parts of a finding."""
    if isinstance(node, (ast.JoinedStr, ast.arguments)):
        return
    if isinstance(node, (ast.stmt, ast.expr)):
        yield node
    if isinstance(node, ast.Call) and (
        _is_finding(node) or not isinstance(node.func, (ast.Name, ast.Attribute))
    ):
        yield from _deciding(node.func)
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _deciding(child)


def _is_finding(call: ast.Call) -> bool:
    """Whether a call makes a finding: by its name, or by the parts that it is given."""
    return (isinstance(call.func, ast.Name) and call.func.id in FINDINGS) or any(
        k.arg in ("what", "remedy") for k in call.keywords
    )


def _changes(node: ast.stmt | ast.expr) -> Iterator[tuple[str, str]]:
    """What a node may be changed to: the kind of change, and the new text."""
    if isinstance(node, ast.Compare):
        yield from _compared(node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not dropped", f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        yield "~ dropped", f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.BoolOp):
        other: ast.boolop = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and/or", f"({ast.unparse(ast.BoolOp(other, node.values))})"
    elif isinstance(node, ast.BinOp) and type(node.op) in JOINED:
        yield "&/|", f"({ast.unparse(ast.BinOp(node.left, JOINED[type(node.op)](), node.right))})"
    elif isinstance(node, ast.Expr) and isinstance(node.value, (ast.Yield, ast.YieldFrom)):
        yield "yield removed", "yield from ()"
    elif isinstance(node, ast.Assign) and isinstance(node.value, ast.YieldFrom):
        yield "yield removed", f"{ast.unparse(node.targets[0])} = (yield from ()) or 0"
    elif isinstance(node, ast.Return) and node.value is not None and _counts(node.value):
        yield "counts nothing", "return 0"
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in ("error", "warning"):
        yield "severity", "warning" if node.id == "error" else "error"


def _compared(node: ast.Compare) -> Iterator[tuple[str, str]]:
    if len(node.ops) == 1 and type(node.ops[0]) in COMPARED:
        turned = ast.Compare(node.left, [COMPARED[type(node.ops[0])]()], node.comparators)
        yield "comparison", f"({ast.unparse(turned)})"
        right = node.comparators[0]
        if _is_number(right) and isinstance(node.ops[0], (ast.Lt, ast.LtE, ast.Gt, ast.GtE)):
            moved = ast.Compare(node.left, node.ops, [ast.Constant(_other(ast.literal_eval(right)))])
            yield "threshold", f"({ast.unparse(moved)})"


def _counts(value: ast.expr) -> bool:
    """Whether a return tells how many things were looked at."""
    return (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("len", "sum")
    )


def _is_number(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, (int, float))
        and not isinstance(node.value, bool)
    )


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _other(value: float) -> float:
    """A number far enough from a threshold to matter."""
    return value * 4 + 1 if isinstance(value, int) else value * 4


def _short(text: str) -> str:
    return text if len(text) <= 70 else f"{text[:67]}..."
