"""Training: a Trainer whose collator pads labels with -100."""

import json
from pathlib import Path

import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainingArguments

from project.prompts import MODEL, encode, tokenizer

HERE = Path(__file__).parent.parent


def collator():
    """Pads ids, attention mask and labels together."""
    return DataCollatorForSeq2Seq(tokenizer)


def rows(split):
    """The encoded rows of a split."""
    lines = (HERE / "data" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return Dataset.from_list([encode(json.loads(line)) for line in lines])


def build():
    """The Trainer, ready to train."""
    settings = yaml.safe_load((HERE / "train.yaml").read_text(encoding="utf-8"))
    arguments = TrainingArguments(
        **{**settings, "output_dir": str(HERE / settings["output_dir"])}, report_to=[]
    )
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=rows("train"),
        eval_dataset=rows("test"),
        data_collator=collator(),
    )


if __name__ == "__main__":
    build().train()
