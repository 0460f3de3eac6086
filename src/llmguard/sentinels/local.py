"""A model of the local disk, loaded once, generating greedily; runs in the child, so torch is imported inside functions."""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmguard.collect.columns import BadRow, plain_row
from llmguard.collect.user import UserError, load_reference, mistake
from llmguard.control import ENDS
from llmguard.estimates import architecture_of
from llmguard.probe import inside, step
from llmguard.sentinels.devices import NoRoom, Plan, config_of, in_batches, plan_for, rows_at_once

__all__ = ["Loaded", "generate_batch", "load", "run_arm"]

SMALLEST_FOR_THREADS = 5_000_000  # parameters; below, threads wait for each other longer than they compute
LARGEST_IN_FLOAT32 = 2_000_000_000  # parameters; larger models stay as they are stored, or they may not fit
LOAD_ERRORS = (OSError, ValueError, RuntimeError, ImportError, KeyError, AttributeError, TypeError)


@dataclass
class Loaded:
    """A model with its tokenizer, the token ids that end a completion, the id that pads, and what is known of them.

    `seen`: completions by prompts and adapter, so that two arms that are the same are generated once. `plan`, `config`: where it lies,
    and its config.json.
    """

    model: Any
    tokenizer: Any
    ends: list[int]
    pad: int
    facts: dict[str, Any] = field(default_factory=dict)
    seen: dict[Any, list[list[int]]] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    config: Mapping[str, Any] = field(default_factory=dict)


def load(asked: Mapping[str, Any]) -> Loaded:
    """The model of a request, with its adapter where there is one.

    Raises:
        UserError: it does not load.
    """
    path, adapter = str(asked["path"]), asked.get("adapter")
    own = _json(Path(path, "adapter_config.json"))
    if own:  # an adapter's folder given as the model: what transformers makes of it, spelt out
        path, adapter = str(own.get("base_model_name_or_path")), adapter or path
    step(f"load {path}")
    loaded: Loaded = _told_if_failed(_load_model, asked, path)
    if adapter is not None:
        try:
            _told_if_failed(_put_adapter, asked, loaded, str(adapter))
        except UserError:
            if not asked.get("adapter_optional"):
                raise
            loaded, adapter = (
                _told_if_failed(_load_model, asked, path),
                None,
            )  # it was half put on the first one
    loaded.model.eval()
    loaded.facts |= {"adapter": str(adapter) if adapter is not None else "", "model_is_adapter": bool(own)}
    return loaded


def _told_if_failed(function: Callable[..., Any], asked: Mapping[str, Any], *arguments: Any) -> Any:
    try:
        return function(asked, *arguments)
    except LOAD_ERRORS as fault:
        first = next(iter(str(fault).strip().splitlines()), "")
        told = {"what": f"model {asked['path']}", "type": type(fault).__name__, "message": first}
        raise UserError(told) from None


def _put_adapter(asked: Mapping[str, Any], loaded: Loaded, adapter: str) -> None:
    from peft import PeftModel

    loaded.model = PeftModel.from_pretrained(loaded.model, adapter)


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}


def _load_model(asked: Mapping[str, Any], path: str) -> Loaded:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    trusted = {"local_files_only": True, "trust_remote_code": bool(asked.get("trust_remote_code"))}
    tokenizer: Any = AutoTokenizer.from_pretrained(str(asked.get("tokenizer") or path), **trusted)
    config = config_of(path, trusted)
    plan = plan_for(torch, asked.get("device") or "cpu", config, architecture_of(config))
    model: Any = AutoModelForCausalLM.from_pretrained(
        path, **trusted, **plan.arguments(torch, transformers.__version__)
    )
    if plan.kind == "cpu" and model.num_parameters() <= LARGEST_IN_FLOAT32:
        model = model.float()  # in fp32 a batch gives what its rows give one by one
    if plan.kind == "cpu" and model.num_parameters() < SMALLEST_FOR_THREADS and inside():
        torch.set_num_threads(1)
    stops = _own_ends(model, tokenizer)
    ends = sorted({*stops, *_known_ends(tokenizer)})
    pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, *ends, 0) if i is not None)
    facts = _facts(path, model, tokenizer, stops)
    model.generation_config = GenerationConfig(
        eos_token_id=ends or None, pad_token_id=pad, bos_token_id=tokenizer.bos_token_id
    )
    facts["device"] = plan.first if len(plan.devices) < 2 else f"{plan.kind}:{plan.devices}"
    return Loaded(model, tokenizer, ends, pad, facts, plan=plan, config=config)


def _own_ends(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end a generation by the model's own word: its generation config, then its tokenizer."""
    told = getattr(model.generation_config, "eos_token_id", None)
    ids = told if isinstance(told, list) else [told]
    return [int(i) for i in dict.fromkeys([*ids, tokenizer.eos_token_id]) if i is not None]


def _known_ends(tokenizer: Any) -> list[int]:
    """Ids of every known terminator that this vocabulary has: an answer ends there, for all arms alike."""
    added = tokenizer.get_added_vocab()
    return [int(added[t]) for t in ENDS if t in added]


def _facts(path: str, model: Any, tokenizer: Any, stops: Sequence[int]) -> dict[str, Any]:
    template = tokenizer.chat_template or ""
    saved_as = str(_json(Path(path, "config.json")).get("_name_or_path") or "")
    return {
        "names": list(dict.fromkeys(filter(None, (path, saved_as)))),
        "model_type": str(getattr(model.config, "model_type", "")),
        "parameters": int(model.num_parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "chat_template": template if isinstance(template, str) else json.dumps(template),
        "terminators": [str(tokenizer.convert_ids_to_tokens(i)) for i in stops],
    }


def run_arm(loaded: Loaded, arm: Mapping[str, Any], folder: Path, max_new_tokens: int) -> dict[str, Any]:
    """The completions of one arm, as the response holds them.

    Raises:
        UserError: its prompts cannot be built, or are no prompts of this model.
    """
    step(f"generate {arm['name']}")
    if arm.get("optional") and arm.get("adapter") and not loaded.facts["adapter"]:
        raise UserError({"what": arm["name"], "type": "LookupError", "message": "there is no adapter"})
    prompts = [_encoded(loaded, prompt, arm) for prompt in _built(arm, folder)]
    _require_ids(loaded, prompts, arm["name"])
    started = time.perf_counter()
    key = (tuple(map(tuple, prompts)), active := bool(arm.get("adapter")))
    if key not in loaded.seen:
        with _adapters(loaded.model, active):
            loaded.seen[key] = _completed(loaded, prompts, max_new_tokens)
    ids = loaded.seen[key]
    seconds = time.perf_counter() - started
    cut = [_cut(row, loaded.ends) for row in ids]
    decode = loaded.tokenizer.decode
    return {
        "texts": [decode(row, skip_special_tokens=True) for row, _ in cut],
        "ids": [row for row, _ in cut],
        "ended": [ended for _, ended in cut],
        "prompt_ids": prompts,
        "prompt_texts": [decode(p) for p in prompts],
        "seconds": seconds,
    }


def _completed(loaded: Loaded, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
    """Greedy completions: in one batch on a processor, in as large ones as its memory takes on a GPU."""
    import torch

    def generate(chosen: Sequence[Sequence[int]]) -> list[list[int]]:
        return generate_batch(loaded.model, chosen, loaded.pad, max_new_tokens)

    def release() -> None:
        gc.collect()
        if loaded.plan.kind != "cpu":
            getattr(torch, loaded.plan.kind).empty_cache()

    size = rows_at_once(torch, loaded.plan, loaded.config, prompts, max_new_tokens)
    try:
        found, loaded.facts["batch"] = in_batches(generate, prompts, size, release=release)
    except NoRoom as full:
        told = {"what": f"model {loaded.facts['names'][0]}", "type": "NoRoom", "message": str(full)}
        raise UserError(told) from None
    return found


def _built(arm: Mapping[str, Any], folder: Path) -> list[Any]:
    """The prompts of an arm, through the user's own builder where one is named."""
    if not arm.get("build"):
        return list(arm["prompts"])
    key = f"[prompt] build = {arm['build']!r}"
    build = load_reference(arm["build"], folder, key)
    try:
        return [build(_row(arm, p)) for p in arm["prompts"]]
    except (Exception, SystemExit) as fault:  # whatever the user's builder raises
        raise UserError(mistake(fault, folder, key)) from None


def _row(arm: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """A row as the user's builder gets them, with the instruction in the place of its prompt."""
    value = [{"role": "user", "content": prompt}] if arm.get("as_messages") else prompt
    return {**(arm.get("row") or {}), arm.get("column") or "prompt": value}


def _encoded(loaded: Loaded, prompt: Any, arm: Mapping[str, Any]) -> list[int]:
    """Token ids of one prompt: a text as `tokenizer(text)` gives them, or through the chat template where asked for."""
    tokenizer = loaded.tokenizer
    if not isinstance(prompt, str):
        return _given_ids(prompt, arm)
    if arm.get("chat_template"):
        return list(tokenizer(_rendered(tokenizer, prompt), add_special_tokens=False)["input_ids"])
    ids = list(tokenizer(prompt, add_special_tokens=arm.get("add_special_tokens", True))["input_ids"])
    appended = arm.get("clean") and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id
    return ids[:-1] if appended else ids


def _rendered(tokenizer: Any, prompt: str) -> str:
    turns = [{"role": "user", "content": prompt}]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception as fault:  # jinja has a dozen of them, and a template may raise its own
        told = {"what": "the tokenizer's chat template", "type": type(fault).__name__, "message": str(fault)}
        raise UserError(told) from None


def _given_ids(prompt: Any, arm: Mapping[str, Any]) -> list[int]:
    try:
        return plain_row(prompt if hasattr(prompt, "keys") else {"input_ids": prompt})["input_ids"]
    except BadRow as bad:
        what = f"[prompt] build = {arm['build']!r}" if arm.get("build") else f"prompts of {arm['name']}"
        raise UserError({"what": what, "type": "TypeError", "message": f"returned {bad}, or text"}) from None


def _require_ids(loaded: Loaded, prompts: Sequence[Sequence[int]], name: str) -> None:
    rows = int(loaded.model.get_input_embeddings().weight.shape[0])
    for number, ids in enumerate(prompts):
        wrong = next((i for i in ids if not 0 <= i < rows), None)
        if ids and wrong is None:
            continue
        why = f"has the token id {wrong}; the model has {rows} rows of embeddings" if ids else "has no token"
        raise UserError({"what": f"prompt {number} of {name}", "type": "ValueError", "message": why})


@contextlib.contextmanager
def _adapters(model: Any, active: bool) -> Iterator[None]:
    """Every adapter of the model off for the time being, unless it is wanted."""
    with contextlib.ExitStack() as stack:
        if not active and hasattr(model, "disable_adapter"):
            stack.enter_context(model.disable_adapter())
        yield


def generate_batch(
    model: Any, prompts: Sequence[Sequence[int]], pad: int, max_new_tokens: int
) -> list[list[int]]:
    """Greedy new token ids of every prompt, in one left-padded batch; a row that has ended is filled up with `pad`."""
    import torch

    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with torch.inference_mode():
        rows = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            use_cache=True,
        )
    return [row[width:] for row in rows.tolist()]


def _cut(ids: Sequence[int], ends: Sequence[int]) -> tuple[list[int], bool]:
    """The ids before the first terminator, and whether there was one."""
    at = next((i for i, token in enumerate(ids) if token in ends), None)
    return (list(ids), False) if at is None else (list(ids[:at]), True)
