"""Run the sentinels: a supervised child loads the model once and generates for all arms; the answers are judged here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmguard.errors import EvidenceError, UsageError
from llmguard.sentinels.completions import Completions, alike, from_response
from llmguard.sentinels.diagnose import Facts
from llmguard.sentinels.prompts import SENTINELS, Sentinel
from llmguard.sentinels.verdict import ALPHA, LIMIT

__all__ = ["Route", "ask", "collect"]

HARD_DEADLINE = 1800.0
"""Seconds after which a child is ended even though it still makes progress."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Route:
    """How a project generates.

    `model`, `tokenizer`, `adapter`: local folders (or names in the local cache). `generate`: the user's own function,
    `module:function`, list of prompts -> list of texts. Without it the local model generates: from `prompts` (texts or
    ids, one a sentinel), from `build` (`module:function`, called with `row` and in its `column` the instruction, as a
    list of one message with `as_messages`), through the tokenizer's own `chat_template`, or from the bare instructions.
    `adapter_active`: the adapter is on in the user's arm; otherwise it serves to recognise a `generate` that left it on.
    `folder`: first on sys.path for the user's code. `shown`: the model as a person writes it.
    """

    model: str | None = None
    tokenizer: str | None = None
    adapter: str | None = None
    adapter_active: bool = False
    generate: str | None = None
    prompts: Sequence[str | Sequence[int]] | None = None
    build: str | None = None
    row: Mapping[str, Any] = field(default_factory=dict)
    column: str = "prompt"
    as_messages: bool = False
    chat_template: bool = False
    add_special_tokens: bool = True
    folder: Path | None = None
    device: str = "cpu"
    trust_remote_code: bool = False
    shown: str = ""

    def __post_init__(self) -> None:
        if self.model is None and self.generate is None:
            raise UsageError("model", None, "a model folder, or `generate`, the function that generates")

    @property
    def what(self) -> str:
        """The path under test, for a person."""
        if self.generate:
            return f"[pipeline] generate = {self.generate!r}"
        active = f" with the adapter {self.adapter}" if self.adapter and self.adapter_active else ""
        through = " through its chat template" if self.chat_template else ""
        how = f" with prompts of {self.build}" if self.build else through
        return f"model {self.shown or self.model}{active}{how}"


def collect(
    route: Route,
    *,
    sentinels: Sequence[Sentinel] = SENTINELS,
    max_new_tokens: int = 64,
    limit: float = LIMIT,
    alpha: float = ALPHA,
    no_progress: float = 60.0,
) -> Completions:
    """The judged completions of a project's own route and of a clean control on its model.

    The user's function and our own generation run in two children, one after the other: two models never share the memory.

    Raises:
        EvidenceError: the model does not load, or the user's code does not do what it must; says which and why.
    """
    chosen = tuple(sentinels)
    texts = [s.prompt for s in chosen]
    answers: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for model, arms in _requests(route, texts):
        request = {
            "model": model,
            "arms": arms,
            "max_new_tokens": max_new_tokens,
            "folder": str(route.folder or Path.cwd()),
        }
        answer = ask(request, hide_gpus=route.device == "cpu", no_progress=no_progress)
        answers |= answer["arms"]
        facts |= answer["facts"]
    user = from_response(route.what, answers["user"], chosen)
    control = (
        from_response("bare instructions, adapters off", answers["control"], chosen)
        if "control" in answers
        else None
    )
    return Completions(route.what, chosen, user, control, _facts(route, facts, answers), limit, alpha)


def _requests(route: Route, texts: list[str]) -> list[tuple[dict[str, Any] | None, list[dict[str, Any]]]]:
    """What each child is asked: (model or None, arms)."""
    control = {"name": "control", "prompts": texts, "clean": True}
    names = ("tokenizer", "adapter", "device", "trust_remote_code")
    model = {"path": route.model, **{n: getattr(route, n) for n in names}} if route.model else None
    if route.generate is None:
        return [(model, [_own_arm(route, texts), control])]
    called = {"name": "user", "callable": route.generate, "prompts": texts}
    if model is None:
        return [(None, [called])]
    suspects = [{"name": "chat-template", "prompts": texts, "chat_template": True, "optional": True}]
    if route.adapter:
        suspects.append({"name": "adapter", "prompts": texts, "adapter": True, "optional": True})
    return [(None, [called]), ({**model, "adapter_optional": True}, [control, *suspects])]


def _own_arm(route: Route, texts: list[str]) -> dict[str, Any]:
    names = ("build", "column", "as_messages", "chat_template", "add_special_tokens")
    own = {**{n: getattr(route, n) for n in names}, "row": dict(route.row)}
    prompts = (
        texts if route.prompts is None else [p if isinstance(p, str) else list(p) for p in route.prompts]
    )
    if len(prompts) != len(texts):
        raise UsageError("prompts", f"{len(prompts)} prompts", f"one for each of {len(texts)} sentinels")
    return {
        "name": "user",
        "prompts": prompts,
        "adapter": True if route.adapter is None else route.adapter_active,
        **own,
    }


def _facts(route: Route, known: Mapping[str, Any], answers: Mapping[str, Any]) -> Facts:
    texts = answers["user"]["texts"]
    suspects = [n for n in ("chat-template", "adapter") if n in answers]
    active = route.generate is None and (route.adapter_active or bool(known.get("model_is_adapter")))
    return Facts(
        prompts=tuple(answers["user"]["prompt_texts"] or ()),
        tokenizer=str(route.tokenizer or route.model or ""),
        chat_template=str(known.get("chat_template") or ""),
        adapter=str(known.get("adapter") or "") if active else "",
        same_as={n: alike(texts, answers[n]["texts"]) for n in suspects},
        names=tuple(known.get("names") or ()),
        terminators=tuple(known.get("terminators") or ()),
    )


def ask(request: Mapping[str, Any], *, hide_gpus: bool = True, no_progress: float = 60.0) -> dict[str, Any]:
    """One request to one generating child (see `llmguard.sentinels.generate`), and its response.

    Raises:
        EvidenceError: the child did not come to its end, or the user's code or model could not be used.
    """
    from llmguard import probe

    with tempfile.TemporaryDirectory(prefix="llmguard-sentinels-") as scratch:
        asked, answered = Path(scratch, "request.json"), Path(scratch, "response.json")
        asked.write_text(json.dumps(request), "utf-8")
        ended = probe.run(
            "llmguard.sentinels.generate",
            [str(asked), str(answered)],
            timeout=HARD_DEADLINE,
            no_progress=no_progress,
            cwd=request.get("folder"),
            env=OFFLINE,
            hide_gpus=hide_gpus,
            what="generation for the sentinel prompts",
        )
        if not answered.exists():
            raise EvidenceError("completions", ended.explain())
        answer = dict(json.loads(answered.read_text("utf-8")))
    if "error" in answer:
        raise EvidenceError("completions", _told(answer["error"]))
    return answer


def _told(error: Mapping[str, Any]) -> str:
    place = f" ({error['file']}:{error['line']})" if error.get("file") else ""
    return f"{error['what']}: {error['type']}: {error['message']}{place}"
