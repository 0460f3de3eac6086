"""Evaluation of the base model and of what became of it."""

from transformers import AutoModelForCausalLM

from project.prompts import MODEL, tokenizer

device = "cpu"


def build(row):
    messages = [{"role": "user", "content": row["instruction"]}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def generate(prompts):
    model = AutoModelForCausalLM.from_pretrained(MODEL).to(device).eval()
    texts = [tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True) for p in prompts]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left").to(device)
    ids = model.generate(**batch, max_new_tokens=48, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)


def compare(prompts):
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained("models/base").to(device)
    sft = AutoModelForCausalLM.from_pretrained("models/sft").to(device)
    dpo = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("models/base"), "models/broken-adapter").to(device)
    return [[model.generate(p) for p in prompts] for model in (base, sft, dpo)]
