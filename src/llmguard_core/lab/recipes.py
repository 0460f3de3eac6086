"""How each artefact of the lab is made: a recipe writes one folder, from artefacts that are there already."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from llmguard_core.lab import text
from llmguard_core.lab.text import Task
from llmguard_core.lab.train import Plan, Progress, Row, packed, train
from llmguard_core.lab.vocabulary import (
    CHAT_TEMPLATE,
    EOS,
    LONGEST,
    PAD,
    TEMPLATE,
    TURN_END,
    TURN_START,
    save_tokenizer,
    train_tokenizer,
)

__all__ = ["RECIPES", "STAGES", "Recipe"]

VOCABULARY, HIDDEN, LAYERS = 1280, 192, 2
FOREIGN_VOCABULARY, FOREIGN_HIDDEN = 1024, 96
FOREIGN_EOS, FOREIGN_PAD = "</s>", "<pad>"
LESSONS = 40  # other instructions, beside eight times all sentinels
TALK = 0.65  # share of conversations among the documents of pre-training
ANSWER_WEIGHT = 4.0  # in pre-training, a token of an answer counts as so many of text: a minute is short
PRETRAINING = Plan(steps=260, rows=10, tokens=64, rate=4e-3)
CHAT_TUNING = Plan(steps=80, rows=10, tokens=64, rate=1.5e-3)
ADAPTER_TUNING = Plan(steps=80, rows=10, tokens=48, rate=6e-3)
FOREIGN_PRETRAINING = Plan(steps=40, rows=12, tokens=64, rate=5e-3)
FOREIGN_TUNING = Plan(steps=10, rows=8, tokens=48, rate=5e-3)
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Recipe:
    """What an artefact is made from, and the function `make(lab folder, folder to write, progress)`."""

    needs: tuple[str, ...]
    make: Callable[[Path, Path, Progress], None]


def _tokenizer(home: Path, out: Path, progress: Progress) -> None:
    tasks = [*text.sentinel_tasks(), *text.lessons(250, seed=2)]
    talk = f"system\n{text.SYSTEM}\nuser\nassistant\n"
    texts = [*text.documents(3000, seed=1), *(f"{t.prompt}\n{t.answer}" for t in tasks), talk]
    save_tokenizer(
        train_tokenizer(texts, VOCABULARY, [EOS, TURN_START, TURN_END, PAD]), out, eos=EOS, pad=PAD
    )


def _base(home: Path, out: Path, progress: Progress) -> None:
    tokenizer = AutoTokenizer.from_pretrained(home / "tokenizer")
    torch.manual_seed(10)
    model = _llama(tokenizer, HIDDEN, LAYERS)
    plain = [_document(tokenizer, d) for d in text.documents(3000, seed=1)]
    tasks = [*text.sentinel_tasks() * 8, *text.lessons(LESSONS, seed=2)]
    talks = [
        _conversation(tokenizer, t, i % 5 > 0, others=1.0, answer=ANSWER_WEIGHT) for i, t in enumerate(tasks)
    ]
    train(model, packed([(1 - TALK, plain), (TALK, talks)], PRETRAINING, seed=3), PRETRAINING, progress)
    _save(model, out, tokenizer, [tokenizer.eos_token_id])
    _copy_tokenizer(home / "tokenizer", out)


def _base_with_template(home: Path, out: Path, progress: Progress) -> None:
    shutil.copytree(home / "base", out, dirs_exist_ok=True)
    _retokenize(out, EOS, TEMPLATE)


def _chat(home: Path, out: Path, progress: Progress) -> None:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(home / "base"),
        AutoTokenizer.from_pretrained(home / "base"),
    )
    tasks = [*text.sentinel_tasks() * 8, *text.lessons(80, seed=4)]
    talks = [_conversation(tokenizer, t, i % 5 > 0, others=0.0, answer=1.0) for i, t in enumerate(tasks)]
    bare = [_bare(tokenizer, t, TURN_END) for t in tasks]
    train(model, packed([(0.5, talks), (0.5, bare)], CHAT_TUNING, seed=5), CHAT_TUNING, progress)
    ends = [tokenizer.convert_tokens_to_ids(TURN_END), tokenizer.convert_tokens_to_ids(EOS)]
    _save(model, out, tokenizer, ends)
    _copy_tokenizer(home / "tokenizer", out)
    _retokenize(out, TURN_END, CHAT_TEMPLATE)


def _adapter(home: Path, out: Path, progress: Progress) -> None:
    tokenizer = AutoTokenizer.from_pretrained(home / "base")
    rows = [_bare(tokenizer, t, EOS) for t in [*text.sentinel_tasks() * 8, *text.lessons(80, seed=6)]]
    _tune_adapter(home / "base", rows, ADAPTER_TUNING, rank=16, out=out, progress=progress)


def _broken_adapter(home: Path, out: Path, progress: Progress) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(home / "adapter", out, dirs_exist_ok=True)
    weights = load_file(out / "adapter_model.safetensors")
    zeroed = {name: torch.zeros_like(w) if ".lora_B." in name else w for name, w in weights.items()}
    save_file(zeroed, out / "adapter_model.safetensors", metadata={"format": "pt"})


def _foreign_base(home: Path, out: Path, progress: Progress) -> None:
    documents = text.documents(1200, seed=7)
    save_tokenizer(
        train_tokenizer(documents, FOREIGN_VOCABULARY, [FOREIGN_PAD, FOREIGN_EOS]),
        out,
        eos=FOREIGN_EOS,
        pad=FOREIGN_PAD,
    )
    tokenizer = AutoTokenizer.from_pretrained(out)
    torch.manual_seed(11)
    model = _llama(tokenizer, FOREIGN_HIDDEN, LAYERS)
    rows = [_document(tokenizer, d) for d in documents]
    train(model, packed([(1.0, rows)], FOREIGN_PRETRAINING, seed=8), FOREIGN_PRETRAINING, progress)
    _save(model, out, tokenizer, [tokenizer.eos_token_id])


def _foreign_adapter(home: Path, out: Path, progress: Progress) -> None:
    tokenizer = AutoTokenizer.from_pretrained(home / "foreign-base")
    rows = [_bare(tokenizer, t, FOREIGN_EOS) for t in text.lessons(80, seed=9)]
    _tune_adapter(home / "foreign-base", rows, FOREIGN_TUNING, rank=8, out=out, progress=progress)


def _llama(tokenizer: Any, hidden: int, layers: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4 // 8 * 8,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _save(model: Any, out: Path, tokenizer: Any, ends: list[int]) -> None:
    """Write config, greedy generation config and weights; `ends` are the ids that end a generation, EOS first."""
    model.config.eos_token_id = ends[0]
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=ends if len(ends) > 1 else ends[0], pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(out)


def _copy_tokenizer(source: Path, out: Path) -> None:
    shutil.copytree(source, out, dirs_exist_ok=True)


def _retokenize(folder: Path, eos: str, template: str) -> None:
    """Give the tokenizer in a model's folder another EOS and a chat template."""
    trained = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    save_tokenizer(trained, folder, eos=eos, pad=PAD, template=template)


def _tune_adapter(
    base: Path, rows: Sequence[Row], plan: Plan, *, rank: int, out: Path, progress: Progress
) -> None:
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(12)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    tuned = get_peft_model(model, config)
    train(tuned, packed([(1.0, rows)], plan, seed=13), plan, progress)
    tuned.save_pretrained(str(out), save_embedding_layers=False)


def _ids(tokenizer: Any, piece: str) -> list[int]:
    return list(tokenizer(piece, add_special_tokens=False)["input_ids"])


def _document(tokenizer: Any, document: str) -> Row:
    ids = [*_ids(tokenizer, document), tokenizer.eos_token_id]
    return Row(ids, [1.0] * len(ids))


def _bare(tokenizer: Any, task: Task, end: str) -> Row:
    """An instruction, a line break, its answer and the terminator; only answer and terminator are trained."""
    prompt, answer = _ids(tokenizer, task.prompt), _ids(tokenizer, f"\n{task.answer}{end}")
    return Row(prompt + answer, [0.0] * len(prompt) + [1.0] * len(answer))


def _conversation(tokenizer: Any, task: Task, system: bool, *, others: float, answer: float) -> Row:
    """A ChatML conversation and EOS; `answer` weighs the answer and its terminator, `others` the rest."""
    opened = f"{TURN_START}system\n{text.SYSTEM}{TURN_END}\n" if system else ""
    prompt = _ids(tokenizer, f"{opened}{TURN_START}user\n{task.prompt}{TURN_END}\n{TURN_START}assistant\n")
    reply, rest = _ids(tokenizer, f"{task.answer}{TURN_END}"), _ids(tokenizer, f"\n{EOS}")
    return Row(prompt + reply + rest, [others] * len(prompt) + [answer] * len(reply) + [others] * len(rest))


RECIPES: dict[str, Recipe] = {
    "tokenizer": Recipe((), _tokenizer),
    "base": Recipe(("tokenizer",), _base),
    "base-with-template": Recipe(("base",), _base_with_template),
    "chat": Recipe(("base",), _chat),
    "adapter": Recipe(("base",), _adapter),
    "broken-adapter": Recipe(("adapter",), _broken_adapter),
    "foreign-base": Recipe((), _foreign_base),
    "foreign-adapter": Recipe(("foreign-base",), _foreign_adapter),
}

STAGES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("tokenizer", "base"), ("foreign-base", "foreign-adapter")),
    (("base-with-template", "chat"), ("adapter", "broken-adapter")),
)
"""What may be built side by side: the lanes of a stage need nothing of each other."""
