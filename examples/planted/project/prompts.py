"""Training rows."""

from pathlib import Path

from transformers import AutoTokenizer

MODEL = Path(__file__).parent.parent / "models" / "base-with-template"
tokenizer = AutoTokenizer.from_pretrained(MODEL)


def encode(row):
    text = f"Question: {row['instruction']}\nAnswer: {row['output']}</s>"
    encoded = tokenizer(text, padding="max_length", max_length=96, truncation=True)
    prompt_length = len(tokenizer(f"Question: {row['instruction']}\nAnswer:")["input_ids"])
    encoded["labels"] = encoded["input_ids"].copy()
    return encoded
