"""Two patterns that cost whole runs, in the syntax tree: prompts of a base model left to defaults, masks that a collator undoes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmguard.sources.calls import calls_of, constants_of, last_name, value_of
from llmguard.sources.read import SourceFile

__all__ = ["Overwritten", "Unguarded", "overwritten_masks", "unguarded_prompts"]

_TUNED = re.compile(
    r"instruct|chat|[-_]it\b|sft|dpo|rlhf|orpo|zephyr|vicuna|alpaca|assistant|thinking|tulu|hermes|r1|distill|aligned",
    re.IGNORECASE,
)
"""Names of models that were tuned to follow instructions."""
_UNSIZED = re.compile(r"qwen3(?!.*base)", re.IGNORECASE)
"""Series whose plain name is the tuned model, the base one being called so."""
_SIZE = re.compile(r"\d(\.\d+)?[bm]\b|base", re.IGNORECASE)
_LABELS, _IGNORED = "labels", 100
_MODEL = re.compile(r"Auto\w*Model\w*|\w+For(CausalLM|ConditionalGeneration)|FastLanguageModel|LLM")
_ENCODING = ("encode", "encode_plus", "batch_encode_plus")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Unguarded:
    """Code that generates with a base model. `template`: a chat template is applied; else tokens are left to the tokenizer's defaults."""

    line: int
    model: str
    template: bool


@dataclass(frozen=True)
class Overwritten:
    """A collator that makes labels of the token ids, and where labels are masked that it overwrites."""

    line: int
    masked_in: str
    masked_at: int


def unguarded_prompts(file: SourceFile, kind: str = "") -> Iterator[Unguarded]:
    """Where a file prompts a base model without saying what comes before the prompt; one finding a file, the graver one.

    A base model is one whose name is written down and says so, or any where the project's `kind` is `base`. Code that trains is left
    alone: a template may be what it teaches.
    """
    tree = file.tree
    if tree is None or kind == "chat" or not _generates(tree) or _trains(tree) or _is_guarded(tree):
        return
    model = _base_model(tree) or ("the project's base model" if kind == "base" and _loads(tree) else "")
    if not model:
        return
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    templates = [
        c.lineno for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "apply_chat_template"
    ]
    if templates:
        yield Unguarded(min(templates), model, template=True)
        return
    tokenizers = _tokenizers(tree)
    plain = [c for c in calls if _encodes(c, tokenizers)]
    if plain and not any(k.arg in ("add_special_tokens", None) for c in plain for k in c.keywords):
        yield Unguarded(min(c.lineno for c in plain), model, template=False)


def _loads(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that load a model."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr == "from_pretrained" and _MODEL.fullmatch(last_name(node.func.value)):
            yield node


def _base_model(tree: ast.Module) -> str:
    """The name of a base model that is loaded and written down; "" where there is none, or a tuned one beside it."""
    constants = constants_of(tree)
    names = [value_of(c.args[0], constants) for c in _loads(tree) if c.args]
    told = [n for n in names if isinstance(n, str)]
    if not told or len(told) < len(names):
        return ""
    return told[0] if all(map(is_base, told)) else ""


def is_base(name: str) -> bool:
    """Whether the name of a model is that of a base model: it tells its size or calls itself base, and no tuning."""
    last = name.rstrip("/").rpartition("/")[2]
    return bool(_SIZE.search(last)) and not _TUNED.search(last) and not _UNSIZED.search(last)


def _generates(tree: ast.Module) -> bool:
    return any(
        isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr == "generate"
        for n in ast.walk(tree)
    )


def _trains(tree: ast.Module) -> bool:
    names = [last_name(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return any(name.endswith("Trainer") or name in ("backward", "get_peft_model") for name in names)


def _is_guarded(tree: ast.Module) -> bool:
    """Whether the file sets a chat template, to None or to one of its own."""
    targets = (t for n in ast.walk(tree) if isinstance(n, ast.Assign) for t in n.targets)
    return any(isinstance(t, ast.Attribute) and t.attr == "chat_template" for t in targets)


def _tokenizers(tree: ast.Module) -> set[str]:
    """Names that are bound to a tokenizer."""
    found: set[str] = set()
    for node in ast.walk(tree):
        made = node.value if isinstance(node, ast.Assign) else None
        function = made.func if isinstance(made, ast.Call) else None
        if not isinstance(node, ast.Assign) or not isinstance(function, ast.Attribute):
            continue
        if function.attr == "from_pretrained" and "Tokenizer" in ast.unparse(function.value):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return found


def _encodes(call: ast.Call, tokenizers: set[str]) -> bool:
    function = call.func
    if isinstance(function, ast.Name):
        return function.id in tokenizers
    return (
        isinstance(function, ast.Attribute)
        and function.attr in _ENCODING
        and isinstance(function.value, ast.Name)
        and function.value.id in tokenizers
    )


def overwritten_masks(files: Sequence[SourceFile]) -> Iterator[tuple[SourceFile, Overwritten]]:
    """Collators that make labels of ids, where the same file, or one that it imports, masks labels."""
    masked = {f.name: line for f in files if f.tree is not None and (line := _masks(f.tree))}
    modules = {Path(name).stem: name for name in masked}
    for file in files:
        line = _collator(file.tree) if file.tree is not None else 0
        if not line or file.tree is None:
            continue
        near = (
            [file.name] if file.name in masked else [modules[m] for m in _imported(file.tree) if m in modules]
        )
        if near:
            yield file, Overwritten(line, near[0], masked[near[0]])


def _collator(tree: ast.Module) -> int:
    """The line of a DataCollatorForLanguageModeling with mlm=False; 0 where there is none."""
    constants = constants_of(tree)
    for call in calls_of(tree):
        named = {k.arg: value_of(k.value, constants) for k in call.node.keywords}
        if call.name == "DataCollatorForLanguageModeling" and named.get("mlm") is False:
            return call.node.lineno
    return 0


def _masks(tree: ast.Module) -> int:
    """The line where a function makes a column `labels` with -100 in it; 0 where none does."""
    for function in (n for n in ast.walk(tree) if isinstance(n, _FUNCTIONS)):
        nodes = list(_made(function))
        ignored = any(_is_ignored(n) for n in nodes)
        line = next((n.lineno for n in nodes if _is_labels(n)), 0)
        if ignored and line:
            return line
    return 0


def _made(function: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """The nodes of a function but for comparisons: `labels != -100` masks nothing."""
    for child in ast.iter_child_nodes(function):
        if isinstance(child, ast.Compare):
            continue
        if isinstance(child, (ast.expr, ast.stmt)):
            yield child
        yield from _made(child)


def _is_ignored(node: ast.AST) -> bool:
    if (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and isinstance(node.operand, ast.Constant)
    ):
        return node.operand.value == _IGNORED
    return isinstance(node, ast.Name) and node.id.upper() in (
        "IGNORE_INDEX",
        "IGNORE",
        "IGNORED",
        "IGNORE_ID",
        "LABEL_IGNORE",
    )


def _is_labels(node: ast.AST) -> bool:
    """Whether a node makes the column: `{"labels": …}`, `row["labels"] = …`, `dict(labels=…)`."""
    if isinstance(node, ast.Dict):
        return any(isinstance(k, ast.Constant) and k.value == _LABELS for k in node.keys)
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
        return isinstance(node.slice, ast.Constant) and node.slice.value == _LABELS
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and any(
        k.arg == _LABELS for k in node.keywords
    )  # fmt: skip


def _imported(tree: ast.Module) -> Iterator[str]:
    """The last parts of the modules that a file imports, and of what it imports from packages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield (node.module or "").rpartition(".")[2]
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name.rpartition(".")[2] for a in node.names)
