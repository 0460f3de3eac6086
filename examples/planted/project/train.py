"""Training."""

import json
from pathlib import Path

import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments

from project.prompts import MODEL, encode, tokenizer

HERE = Path(__file__).parent.parent


def collator():
    return DataCollatorForLanguageModeling(tokenizer, mlm=False)


def rows(split):
    lines = (HERE / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return Dataset.from_list([encode(json.loads(line)) for line in lines])


def build():
    settings = yaml.safe_load((HERE / "train.yaml").read_text(encoding="utf-8"))
    print(f"training for {total_steps} steps")
    total_steps = len(rows("train")) // settings["per_device_train_batch_size"]
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    return Trainer(model=model, args=TrainingArguments(**settings), train_dataset=rows("train"), data_collator=collator())
