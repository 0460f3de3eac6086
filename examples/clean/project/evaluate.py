"""Evaluation: the prompt as training wrote it, tokenised as it is, padded on the left."""

import torch
from transformers import AutoModelForCausalLM

from project.prompts import MODEL, tokenizer


def generate(prompts):
    """Greedy completions of text prompts."""
    model = AutoModelForCausalLM.from_pretrained(MODEL).eval()
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    with torch.inference_mode():
        ids = model.generate(**batch, max_new_tokens=48, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
