"""`loading`: whether the tokenizer loads, and what AutoTokenizer said if not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmguard.errors import MissingEvidence
from llmguard.evidence import Evidence

__all__ = ["provide"]


def provide(evidence: Evidence, target: str) -> dict[str, Any]:
    """The outcome of loading it in a child: `{"ok": True, …}` or `{"ok": False, "error": {…}}`."""
    project = evidence.project
    path = project.tokenizer_path
    if not path:
        raise MissingEvidence("tokenizer", 'add `[model] path = "…"` (or `tokenizer = "…"`) to llmguard.toml')
    outcome = dict(evidence.collected.outcome("tokenizer") or {})
    if not outcome["ok"]:
        told = {
            **outcome["error"],
            "path": project.relative(path),
            "named": bool(project.schema.model.tokenizer),
            "hint": _hint(Path(path)),
        }
        outcome["error"] = told
    return outcome


def _hint(path: Path) -> str:
    """What is wrong with the files, where that can be seen."""
    file = path / "tokenizer.json"
    try:
        if not path.exists():
            return f"{path.name} does not exist (and is not in the local cache)"
        if not file.exists():
            return f"there is no tokenizer.json in it; it holds {', '.join(sorted(p.name for p in path.iterdir())[:8]) or 'nothing'}"
        head = file.read_bytes()[:200]
    except OSError as bad:
        return f"{file.name} cannot be read: {bad.strerror}"
    if head.startswith(b"version https://git-lfs"):
        return "tokenizer.json is a Git LFS pointer, not the file: run `git lfs pull`"
    if len(head) < 200 and not head.lstrip().startswith(b"{"):
        return f"tokenizer.json holds only {head.decode('utf-8', 'replace').strip()!r}: a link that was stored as text"
    return ""
