"""Code that ruins runs: prompts of a base model left to defaults, a collator that undoes masks; and practice that looks alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configs import Folder, of

import llmguard
from llmguard.findings import Finding
from llmguard.sources.patterns import is_base

LOAD = """\
from transformers import AutoModelForCausalLM, AutoTokenizer
NAME = "{name}"
tokenizer = AutoTokenizer.from_pretrained(NAME)
model = AutoModelForCausalLM.from_pretrained(NAME, torch_dtype="auto").eval()
"""
TEMPLATED = """
def ask(question):
    chat = [{{"role": "user", "content": question}}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    return model.generate(ids)
"""
PLAIN = """
def ask(question):
    ids = tokenizer(question, return_tensors="pt"{more}).input_ids
    return model.generate(ids)
"""
COLLATOR = """\
from transformers import DataCollatorForLanguageModeling, Trainer
collator = DataCollatorForLanguageModeling(tokenizer=tok, mlm={mlm})
"""
MASK = """
def encode(row):
    asked, said = tok(row["q"])["input_ids"], tok(row["a"])["input_ids"]
    return {"input_ids": asked + said, "labels": [-100] * len(asked) + said}
"""


def noted(folder: Path, text: str, **given: str) -> list[Finding]:
    """What the check of base models says of a file."""
    file = folder / "eval.py"
    file.write_text(text, "utf-8")
    return list(llmguard.base_model_is_prompted_plainly(file, **given))


def script(name: str = "Qwen/Qwen2.5-0.5B", body: str = TEMPLATED, more: str = "") -> str:
    return LOAD.format(name=name) + body.format(more=more)


class TestBaseModels:
    """`base_model_is_prompted_plainly`."""

    def test_a_template_on_a_base_model_is_noted(self, tmp_path: Path) -> None:
        """The documented bug: with the line, the model, and the guard to write."""
        (found,) = noted(tmp_path, script())
        assert found.severity.value == "note"
        assert found.where.line == 8
        assert "Qwen/Qwen2.5-0.5B" in found.message
        assert "chat_template = None" in found.remedy

    def test_special_tokens_left_to_defaults_are_noted(self, tmp_path: Path) -> None:
        """Tokenised with nothing said: by a call, and by `encode`; once a file."""
        (found,) = noted(tmp_path, script(body=PLAIN))
        assert "nothing said about special tokens" in found.message
        assert found.where.line == 7
        text = script(body=PLAIN) + "\nprint(model.generate(tokenizer.encode('a', return_tensors='pt')))\n"
        assert len(noted(tmp_path, text)) == 1

    def test_a_model_that_the_project_calls_base(self, tmp_path: Path) -> None:
        """A path says nothing; `kind` does, in both directions."""
        text = script("models/mine")
        assert not noted(tmp_path, text)
        assert len(noted(tmp_path, text, kind="base")) == 1
        assert not noted(tmp_path, script(), kind="chat")

    @pytest.mark.parametrize(("name", "base"), [
        ("Qwen/Qwen2.5-0.5B", True),
        ("meta-llama/Llama-3.1-8B", True),
        ("mistralai/Mistral-7B-v0.3", True),
        ("google/gemma-2-2b", True),
        ("Qwen/Qwen3-8B-Base", True),
        ("Qwen/Qwen3-8B", False),
        ("Qwen/Qwen2.5-7B-Instruct", False),
        ("google/gemma-2-2b-it", False),
        ("meta-llama/Llama-2-7b-chat-hf", False),
        ("HuggingFaceH4/zephyr-7b-beta", False),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", False),
        ("out/checkpoint", False),
    ])  # fmt: skip
    def test_names_of_base_models(self, name: str, base: bool) -> None:
        """By what is written after the owner."""
        assert is_base(name) is base

    @pytest.mark.parametrize("text", [
        script("Qwen/Qwen2.5-0.5B-Instruct"),
        script(body=PLAIN, more=", add_special_tokens=False"),
        script(body=PLAIN, more=", **settings"),
        LOAD.format(name="Qwen/Qwen2.5-0.5B") + "tokenizer.chat_template = None\n" + PLAIN.format(more=""),
        LOAD.format(name="Qwen/Qwen2.5-0.5B") + "tokenizer.chat_template = MINE\n" + TEMPLATED.format(),
        script() + "\ntrainer = SFTTrainer(model=model)\n",
        LOAD.format(name="Qwen/Qwen2.5-0.5B") + "\nlength = len(tokenizer('a').input_ids)\n",
        script() + "\njudge = AutoModelForCausalLM.from_pretrained('Qwen/Qwen2.5-7B-Instruct')\n",
        "def ask(model, tokenizer, text):\n    return model.generate(**tokenizer(text))\n",
    ])  # fmt: skip
    def test_sound_code_is_left_alone(self, tmp_path: Path, text: str) -> None:
        """Tuned models, what is said, templates that are set or taught, code without generation, models given from elsewhere."""
        assert not noted(tmp_path, text)
        if "from_pretrained" not in text:
            assert not noted(tmp_path, text, kind="base")


class TestCollators:
    """`collator_leaves_masks_alone`."""

    @staticmethod
    def told(folder: Path, **files: str) -> list[Finding]:
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text, "utf-8")
        return list(llmguard.collator_leaves_masks_alone(folder))

    def test_in_one_file(self, tmp_path: Path) -> None:
        """The documented bug: labels are masked, and made again."""
        (found,) = self.told(tmp_path, train=COLLATOR.format(mlm=False) + MASK)
        assert (found.where.file, found.where.line) == ("train.py", 2)
        assert "train.py:" in found.message
        assert "DataCollatorForSeq2Seq" in found.remedy

    @pytest.mark.parametrize(
        "line",
        ["from data import encode", "from proj.data import encode", "import data", "from . import data"],
    )
    def test_the_mask_lies_in_a_file_that_is_imported(self, tmp_path: Path, line: str) -> None:
        """Found through the import, whichever way it is written."""
        (found,) = self.told(tmp_path, train=f"{line}\n{COLLATOR.format(mlm=False)}", data=MASK)
        assert "data.py:" in found.message

    @pytest.mark.parametrize("mask", [
        'def f(row):\n    row["labels"] = [IGNORE_INDEX] * 3\n    return row\n',
        "def f(ids):\n    labels = list(ids)\n    labels[:3] = [-100] * 3\n    return dict(input_ids=ids, labels=labels)\n",
    ])  # fmt: skip
    def test_other_ways_to_mask(self, tmp_path: Path, mask: str) -> None:
        """By name, by slice, through dict()."""
        assert self.told(tmp_path, train=COLLATOR.format(mlm=False) + mask)

    @pytest.mark.parametrize("text", [
        COLLATOR.format(mlm=True) + MASK,
        COLLATOR.format(mlm=False),
        COLLATOR.format(mlm=False) + "def f(row):\n    return {**row, 'labels': row['input_ids'].copy()}\n",
        COLLATOR.format(mlm=False) + "def metrics(p):\n    wanted = p.label_ids != -100\n    return {'labels': int(wanted.sum())}\n",
        COLLATOR.replace("transformers", "mine").format(mlm=False) + MASK,
        "from transformers import DataCollatorForSeq2Seq\ncollator = DataCollatorForSeq2Seq(tok)\n" + MASK,
    ])  # fmt: skip
    def test_sound_code_is_left_alone(self, tmp_path: Path, text: str) -> None:
        """Masked language models, pre-training, copied labels, metrics that skip -100, a class of one's own, another collator."""
        assert not self.told(tmp_path, train=text)

    def test_two_runs_of_one_project_are_left_alone(self, tmp_path: Path) -> None:
        """Pre-training and fine-tuning in files that do not know each other."""
        assert not self.told(tmp_path, pretrain=COLLATOR.format(mlm=False), finetune=MASK)


def test_files_that_do_not_parse_break_nothing(tmp_path: Path) -> None:
    """They are a finding of `sources_parse`; the others are looked at, the kind is read, and the check passes with a note."""
    folder = Folder(tmp_path)
    folder.write("pkg/bad.py", "def f(:\n")
    folder.write("pkg/eval.py", script("models/mine"))
    folder.write("pkg/train.py", COLLATOR.format(mlm=False) + MASK)
    folder.project(config="", environment='sources = ["pkg"]', model='kind = "base"')
    results = {r.check: r for r in folder.results(["source"]).values()}
    assert "sources_parse" in of(results)
    for check in ("base_model_is_prompted_plainly", "collator_leaves_masks_alone"):
        assert results[check].outcome.value == "passed"
        assert [f.severity.value for f in results[check].findings] == ["note"]
        assert results[check].looked_at == 2, "of three files, those that could be read"
