"""The training script of a user: real Trainers on a tiny model, right ones and wrong ones. Copied into a project folder as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

HERE = Path(__file__).resolve().parent
IGNORE = -100
WIDTH = 512
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m.content + eos_token + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(HERE / "tokenizer"))


def rows() -> list[dict[str, str]]:
    with (HERE / "train.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def model(tok: Any) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tok), max_position_embeddings=1024, **sizes))


def arguments(kind: Any = TrainingArguments, **more: Any) -> Any:
    quiet = {"report_to": [], "use_cpu": True, "disable_tqdm": True}
    return kind(output_dir=str(HERE / "out"), per_device_train_batch_size=4, **quiet, **more)


def prompt(row: dict[str, str]) -> str:
    return f"### Instruction:\n{row['question']}\n\n### Response:\n"


def encode(tok: Any, row: dict[str, str]) -> dict[str, list[int]]:
    asked = tok(prompt(row))["input_ids"]
    answer = tok(row["answer"] + tok.eos_token, add_special_tokens=False)["input_ids"]
    ids = asked + answer
    return {"input_ids": ids, "labels": [IGNORE] * len(asked) + answer, "attention_mask": [1] * len(ids)}


def padded(tok: Any, row: dict[str, list[int]]) -> dict[str, list[int]]:
    more = WIDTH - len(row["input_ids"])
    fill = {"input_ids": tok.pad_token_id, "labels": IGNORE, "attention_mask": 0}
    return {name: row[name] + [value] * more for name, value in fill.items()}


def hf(tok: Any, dataset: list[Any], collator: Any, **more: Any) -> Any:
    data = Dataset.from_list(dataset)
    return Trainer(model(tok), arguments(**more), collator, data, processing_class=tok)


def seq2seq() -> Any:
    """Right: the collator pads labels with -100."""
    tok = tokenizer()
    return hf(tok, [encode(tok, r) for r in rows()], DataCollatorForSeq2Seq(tok, label_pad_token_id=IGNORE))


def equal_lengths() -> Any:
    """Right: rows of one length need no padding."""
    tok = tokenizer()
    return hf(tok, [padded(tok, encode(tok, r)) for r in rows()], default_data_collator)


def language_modeling() -> Any:
    """Wrong: this collator pads ids, and not the labels that are there."""
    tok = tokenizer()
    return hf(tok, [encode(tok, r) for r in rows()], DataCollatorForLanguageModeling(tok, mlm=False))


def overwritten() -> Any:
    """Wrong: on rows of one length it makes labels from ids, the prompt's included."""
    tok = tokenizer()
    data = [padded(tok, encode(tok, r)) for r in rows()]
    return hf(tok, data, DataCollatorForLanguageModeling(tok, mlm=False))


def sft(dataset: list[Any], tok: Any = None, **more: Any) -> Any:
    from trl import SFTConfig, SFTTrainer

    tok = tok or tokenizer()
    args = arguments(SFTConfig, **{"max_length": 512, **more})
    return SFTTrainer(model(tok), args, train_dataset=Dataset.from_list(dataset), processing_class=tok)


def pairs() -> list[dict[str, str]]:
    return [{"prompt": prompt(r), "completion": r["answer"]} for r in rows()]


def completion_only() -> Any:
    """Right: TRL masks the prompt of prompt and completion."""
    return sft(pairs())


def whole_text() -> Any:
    """Wrong where responses are to be trained: one text column is trained from its first token on."""
    return sft([{"text": prompt(r) + r["answer"]} for r in rows()])


def assistant_only() -> Any:
    """Right: the template marks what the assistant says."""
    tok = tokenizer()
    tok.chat_template = TEMPLATE
    return sft([messages(r) for r in rows()], tok, assistant_only_loss=True)


def messages(row: dict[str, str]) -> dict[str, Any]:
    said = (("user", row["question"]), ("assistant", row["answer"]))
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def packed() -> Any:
    """Right: documents packed into rows, told apart by position_ids."""
    return sft(pairs(), packing=True)


def padding_free() -> Any:
    """Right: a batch is one row without padding."""
    return sft(pairs(), padding_free=True, max_length=None)


def cut() -> Any:
    """Wrong: max_length below the length of most rows."""
    return sft(pairs(), max_length=160)


def too_long() -> list[dict[str, str]]:
    """Every fourth prompt fills a row by itself: nothing of its response is left, and TRL drops the row."""
    found = pairs()
    return [{**p, "prompt": p["prompt"] * (30 if i % 4 == 0 else 1)} for i, p in enumerate(found)]


def dropping() -> Any:
    """Wrong: rows are lost without a word in the preparation."""
    return sft(too_long())


def masked_packed() -> Any:
    """Wrong: the same under packing, which cuts such a row and keeps it: a document of which nothing is trained."""
    return sft(too_long(), packing=True)


def seeing() -> Any:
    """Wrong: a collator around TRL's own puts a mask of ones beside the positions, and packed documents see each other."""
    made = packed()
    own = made.data_collator

    def collate(rows: list[Any]) -> Any:
        batch = own(rows)
        batch["attention_mask"] = batch["input_ids"].new_ones(batch["input_ids"].shape)
        return batch

    made.data_collator = collate
    return made


def preference() -> Any:
    """Right: pairs, whose batches have no input_ids of one row each."""
    from trl import DPOConfig, DPOTrainer

    tok = tokenizer()
    data = [{"prompt": prompt(r), "chosen": r["answer"], "rejected": "I do not know that."} for r in rows()]
    args = arguments(DPOConfig, max_length=512)
    dataset = Dataset.from_list(data)
    return DPOTrainer(model(tok), model(tok), args, train_dataset=dataset, processing_class=tok)
