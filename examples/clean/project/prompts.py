"""One place that builds prompts: training, evaluation and serving all call it."""

from pathlib import Path

from transformers import AutoTokenizer

MODEL = Path(__file__).parent.parent / "models" / "base"
tokenizer = AutoTokenizer.from_pretrained(MODEL)


def build(row):
    """The prompt as the model sees it at generation time."""
    return f"Question: {row['instruction']}\nAnswer:"


def encode(row):
    """Prompt and response tokenised apart, so that no token straddles the boundary; labels on response and EOS alone."""
    prompt = tokenizer(build(row))["input_ids"]
    response = tokenizer(" " + row["output"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return {
        "input_ids": prompt + response,
        "attention_mask": [1] * (len(prompt) + len(response)),
        "labels": [-100] * len(prompt) + response,
    }
