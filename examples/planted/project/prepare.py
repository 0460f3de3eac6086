"""Tokenise once and keep the result: this was run before the data were edited by hand."""

import json
from pathlib import Path

from datasets import Dataset

from project.prompts import tokenizer

HERE = Path(__file__).parent.parent


def encode(row):
    prompt = tokenizer(f"Question: {row['instruction']}\nAnswer:")["input_ids"]
    response = tokenizer(f" {row['output']}{tokenizer.eos_token}", add_special_tokens=False)["input_ids"]
    return {
        "input_ids": prompt + response,
        "attention_mask": [1] * (len(prompt) + len(response)),
        "labels": [-100] * len(prompt) + response,
    }


if __name__ == "__main__":
    lines = (HERE / "data" / "train.before-edit.jsonl").read_text(encoding="utf-8").splitlines()
    Dataset.from_list([encode(json.loads(line)) for line in lines]).save_to_disk(HERE / "prepared")
