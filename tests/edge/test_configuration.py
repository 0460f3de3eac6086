"""Edge cases 31 to 40: configs that are not there or no configs, values that no run survives, models and tokenizers that do not match."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.configs import keys, says
from support.guarded import trainer_of
from support.matrix import fault
from support.runs import collate, rows
from support.runs import model as small_model
from support.tiny import byte_level, chat
from support.weights import model
from transformers import TrainerCallback

from llmguard_core.config import make_config
from llmguard_core.errors import SettingsError, TrainingStopped
from llmguard_core.training import Guards, Limits

# peft still asks transformers 5 for the old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
Project = Any  # see conftest.py
GIB = 2**30
EIGHT = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "torch_dtype": "bfloat16"}  # fmt: skip
"""Sizes of a model of 8 billion parameters."""
HEAD = "output_dir: out\nreport_to: none\nlogging_steps: 10\nlr_scheduler_type: linear\n"


def settings(project: Project, lines: str, **tables: str) -> Project:
    """A project with a config of these lines."""
    project.write("train.yaml", HEAD + lines)
    project.project(**tables)
    return project


def test_edge_31_a_missing_config_is_told_with_the_paths_tried(project: Project) -> None:
    """And with the file that is spelt most like it; what needs the config is skipped and names this check."""
    project.write("trian.yaml", HEAD)
    project.project()
    with pytest.raises(FileNotFoundError):
        (project.path / "train.yaml").read_text()
    told = project.told("config_file_is_readable")
    says(
        told.message,
        "train.yaml",
        "there is no such file",
        f"tried {project.path / 'train.yaml'}",
        "'trian.yaml'",
    )
    skipped = project.results_of("every_config_value_is_in_range")[
        "every_config_value_is_in_range[train.yaml]"
    ]
    assert (skipped.outcome.value, "config_file_is_readable" in skipped.reason) == ("skipped", True)


BROKEN = {
    "train.yaml": ("output_dir: out\ntrain:\n  lr: [1, 2\nepochs: 3\n", yaml.YAMLError),
    "train.json": ('{\n  "output_dir": "out",\n  "epochs": 3,,\n}\n', json.JSONDecodeError),
    "train.toml": ('output_dir = "out"\nepochs = = 3\n', ValueError),
}


@pytest.mark.parametrize("name", BROKEN)
def test_edge_32_a_config_that_cannot_be_parsed_is_told_with_line_and_column(
    project: Project, name: str
) -> None:
    """Where the parser of its own kind gave up, within a line."""
    text, kind = BROKEN[name]
    project.write(name, text)
    line, column = parsed(name, text, kind)
    project.project(config=f'files = ["{name}"]')
    told = project.told("config_file_is_readable")
    assert (told.where.file, told.where.line) == (name, line)
    assert column is None or told.where.column == column
    says(told.message, f"{name}:{line}:", "cannot be read")


def parsed(name: str, text: str, kind: type[Exception]) -> tuple[int, int | None]:
    """The line and column at which the parser of a file's own kind raises."""
    if name.endswith("json"):
        with pytest.raises(json.JSONDecodeError) as json_told:
            json.loads(text)
        return json_told.value.lineno, json_told.value.colno
    if name.endswith("yaml"):
        with pytest.raises(yaml.MarkedYAMLError) as yaml_told:
            yaml.safe_load(text)
        mark: Any = yaml_told.value.problem_mark
        return mark.line + 1, mark.column + 1
    tomllib = pytest.importorskip("tomllib")
    with pytest.raises(kind, match="line 2, column 10"):
        tomllib.loads(text)
    return 2, 10


def test_edge_33_a_max_length_below_every_row_is_told_with_the_lengths(project: Project) -> None:
    """No row keeps its end: the shortest, the middle, the longest; with the shortest one's own length nothing of it is lost."""
    tok = chat()
    talks = [
        [{"role": "user", "content": "how many apples " * n}, {"role": "assistant", "content": "ten"}]
        for n in range(1, 12)
    ]
    lengths = [len(tok(tok.apply_chat_template(t, tokenize=False))["input_ids"]) for t in talks]
    limit = min(lengths) - 3
    assert all(length > limit for length in lengths)
    project.write("train.jsonl", "".join(json.dumps({"messages": t}) + "\n" for t in talks))
    tables = {
        "model": 'kind = "chat"\ntokenizer = "tok"',
        "data": 'train = "train.jsonl"',
        "prompt": 'format = "chat-template"',
    }
    project.project(config="", pipeline=f"max_length = {limit}", **tables)
    told = project.told("rows_fit_max_length", known={"tokenizer": tok})
    says(told.message, f"11 of 11 rows are longer than max_length = {limit}", f"the shortest has {min(lengths)} tokens",
         "50% of rows up to", "90% of rows up to", f"the longest {max(lengths)} tokens")  # fmt: skip
    assert told.evidence["shortest"] == min(lengths)
    project.project(config="", pipeline=f"max_length = {max(lengths)}", **tables)
    assert project.findings("rows_fit_max_length", known={"tokenizer": tok}) == []


def test_edge_34_a_max_length_beyond_the_context_is_told_with_the_models_own(project: Project) -> None:
    """A model with learnt positions has no place for the next token."""
    from transformers import GPT2Config, GPT2LMHeadModel

    context = 16
    net = GPT2LMHeadModel(GPT2Config(n_positions=context, n_embd=32, n_layer=1, n_head=2, vocab_size=40))
    with pytest.raises((IndexError, RuntimeError)):
        net(torch.zeros(1, context + 1, dtype=torch.long))
    project.write("model/config.json", json.dumps(net.config.to_dict()))
    settings(project, f"model_name_or_path: model\nmax_length: {context + 1}\n")
    told = project.told("max_length_fits_the_model_context")
    says(
        told.message,
        f"max_length is {context + 1}, the model's context {context} tokens",
        "model/config.json",
    )
    assert told.where.key == "max_length"
    settings(project, f"model_name_or_path: model\nmax_length: {context}\n")
    assert project.findings("max_length_fits_the_model_context") == []


def judged(project: Project, lines: str, gib: int) -> list[tuple[str, str]]:
    """Severity and verdict of a full fine-tune of eight billion parameters, with so much memory on the device."""
    project.write("model/config.json", json.dumps(EIGHT))
    always = "model_name_or_path: model\nbf16: true\ndtype: bfloat16\npacking: true\nlearning_rate: 1.0e-5\n"
    settings(project, always + lines, environment=f'gpu_memory = "{gib} GiB"')
    return [(f.severity.value, f.evidence["verdict"]) for f in project.findings("training_fits_in_memory")]


def test_edge_34_a_max_length_is_judged_by_the_memory_in_three_values(project: Project) -> None:
    """Fits, tight, does not fit: the logits of the longest alone are more than the whole device."""
    batch = "gradient_checkpointing: true\nper_device_train_batch_size: 8\n"
    assert 8 * 8192 * EIGHT["vocab_size"] * 2 > 15 * GIB  # type: ignore[operator]  # a number
    verdicts = {n: judged(project, f"{batch}max_length: {n}\n", 80) for n in (128, 1024, 8192)}
    assert verdicts == {128: [], 1024: [("note", "tight")], 8192: [("error", "will not fit")]}


def test_edge_35_a_batch_of_no_rows_is_out_of_range(project: Project) -> None:
    """torch has no loader of such batches; the check and the core say what there may be."""
    with pytest.raises(ValueError, match="batch_size"):
        torch.utils.data.BatchSampler(range(2), batch_size=0, drop_last=False)
    settings(project, "learning_rate: 1.0e-4\nper_device_train_batch_size: 0\n")
    told = project.told("every_config_value_is_in_range")
    says(told.message, "train.yaml:6", "per_device_train_batch_size", "it is 0", "1 to")
    with pytest.raises(SettingsError, match=r"(?s)train\.batch_size.*it is 0.*1 to 128"):
        make_config({"train": {"batch_size": 0}})


def test_edge_36_a_batch_too_large_for_the_memory_is_told_with_an_interval(project: Project) -> None:
    """The same run with small batches and adapters fits; the message names what would."""
    shared = "gradient_checkpointing: true\nmax_length: 2048\nuse_peft: true\nlora_r: 16\n"
    assert judged(project, f"{shared}per_device_train_batch_size: 1\n", 80) == []
    assert judged(project, f"{shared}per_device_train_batch_size: 256\n", 80) == [("error", "will not fit")]
    (told,) = project.findings("training_fits_in_memory")
    low, high = told.evidence["low"], told.evidence["high"]
    assert 80 * GIB < low < high
    says(told.message, " GiB to ", "80.0 GiB free", "what would fit:", "batch size")
    assert told.where.key == "per_device_train_batch_size"


def test_edge_37_a_learning_rate_of_nought_is_refused(project: Project) -> None:
    """A step changes nothing; the check and the core say so before it is taken."""
    net = small_model()
    before = [p.detach().clone() for p in net.parameters()]
    net(**collate(rows(4))).loss.backward()
    torch.optim.AdamW(net.parameters(), lr=0.0).step()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    settings(project, "learning_rate: 0\n")
    says(project.told("every_config_value_is_in_range").message, "learning_rate", "it is 0")
    with pytest.raises(SettingsError, match=r"(?s)train\.learning_rate.*it is 0.*trains nothing"):
        make_config({"train": {"learning_rate": 0}})


RATES = [
    ("full", "2.0e-3", "use_peft: false\n", "warning"),
    ("LoRA", "2.0e-3", "use_peft: true\nlora_r: 8\n", ""),
    ("LoRA", "8.0e-3", "use_peft: true\nlora_r: 8\n", "warning"),
    (
        "preference",
        "2.0e-3",
        "use_peft: true\nlora_r: 8\nbeta: 0.1\nloss_type: sigmoid\nmax_prompt_length: 64\n",
        "warning",
    ),
    ("full", "0.5", "", "error"),
    ("preference", "5.0e-7", "beta: 0.1\nmax_prompt_length: 64\n", ""),
]


@pytest.mark.parametrize(
    ("method", "rate", "lines", "severity"), RATES, ids=[f"{m}-{r}" for m, r, *_ in RATES]
)
def test_edge_38_a_learning_rate_is_judged_by_the_method(
    project: Project, method: str, rate: str, lines: str, severity: str
) -> None:
    """What is usual for an adapter is far too high for all weights, and more so for preference training."""
    settings(project, f"learning_rate: {rate}\n{lines}")
    found = keys(project.findings("every_config_value_is_in_range"))
    assert [f.severity.value for f in found.values()] == ([severity] if severity else [])
    assert list(found) == (["learning_rate"] if severity else [])


@fault("I9")
def test_edge_38_a_run_that_diverges_is_stopped(tmp_path: Path) -> None:
    """A learning rate a thousand times too high, clipped gradients and all: transformers alone trains on to the end."""
    told: dict[str, Any] = {"learning_rate": 1.0, "max_steps": 60, "lr_scheduler_type": "constant"}
    alone = trainer_of(tmp_path, TrainerCallback(), **told)
    alone.train()
    losses = [line["loss"] for line in alone.state.log_history if "loss" in line]
    assert len(losses) == 60
    assert max(losses) > 2 * losses[0]
    with pytest.raises(TrainingStopped, match=r"the loss diverges: [\d.e+]+ now"):
        trainer_of(tmp_path, Guards(Limits(window=5)), **told).train()
    assert list(tmp_path.glob("stopped-at-step-*.json"))


def test_edge_39_a_model_name_that_nobody_has_is_told_with_near_names(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the local cache; a note where it may still be downloaded, a warning where it may not."""
    from huggingface_hub import try_to_load_from_cache

    cache = project.path / "hub"
    model(cache / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / "abc")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    assert try_to_load_from_cache("Qwen/Qwen2.5-0.5b", "config.json", cache_dir=cache) is None
    project.project(config="", model='path = "Qwen/Qwen2.5-0.5b"')
    says(
        project.told("model_path_exists", "note").message,
        "not in the local cache",
        "near it lies Qwen/Qwen2.5-0.5B",
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    says(
        project.told("model_path_exists", "warning").message,
        "downloads are switched off",
        "Qwen/Qwen2.5-0.5B",
    )
    project.project(config="", model='path = "Qwen/Qwen2.5-0.5B"')
    assert project.findings("model_path_exists") == []


def told_of(project: Project, size: int, config: dict[str, Any], generation: dict[str, Any]) -> list[Any]:
    """What is said of the tiny tokenizer and a model with so many embedding rows and these special ids."""
    folder = model(project.path / "base", weights={}, **{"vocab_size": size, **config})
    (folder / "generation_config.json").write_text(json.dumps(generation))
    project.project(config="", model='path = "base"')
    found: list[Any] = project.findings("tokenizer_belongs_to_the_model", known={"tokenizer": byte_level()})
    return found


def test_edge_40_a_tokenizer_of_another_model_is_told_by_its_size(project: Project) -> None:
    """Ids beyond the embedding, where the model ends with an index error; and far fewer tokens than rows."""
    tok = byte_level()
    largest = max(tok.get_vocab().values())
    with pytest.raises(IndexError):
        torch.nn.Embedding(largest, 4)(torch.tensor([largest]))
    assert told_of(project, largest + 1, {}, {}) == []
    (beyond,) = told_of(project, largest - 9, {}, {})
    says(
        beyond.message, f"10 tokens of the tokenizer have ids beyond the model's {largest - 9} embedding rows"
    )
    (few,) = told_of(project, 32_000, {}, {})
    assert few.severity.value == "error"
    says(few.message, f"the tokenizer has {largest + 1} tokens, and the model 32,000 embedding rows")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_edge_40_special_ids_are_held_against_both_configs(project: Project, file: str) -> None:
    """An end that is an ordinary word of this tokenizer: generation would stop at it."""
    tok = copy.deepcopy(byte_level())
    word = tok("the")["input_ids"][0]
    assert word not in tok.all_special_ids
    right, wrong = {"eos_token_id": tok.eos_token_id}, {"eos_token_id": [word]}
    both = [wrong if name == file else right for name in ("config.json", "generation_config.json")]
    size = max(tok.get_vocab().values()) + 1
    assert told_of(project, size, right, right) == []
    (told,) = told_of(project, size, *both)
    assert (told.where.file, told.where.key) == (f"base/{file}", "eos_token_id")
    says(told.message, f"eos_token_id {word} is the ordinary token")


def test_edge_32_pytest_tells_it_as_a_user_starts_it(project: Project) -> None:
    """`pytest -m preflight` in the folder: exit code 1, each broken file with its line and column, what is sound stays green."""
    project.write("train.yaml", f"{HEAD}train: [1, 2\nepochs: 3\n")
    line, column = parsed("train.yaml", (project.path / "train.yaml").read_text(), yaml.YAMLError)
    project.write("train.jsonl", '{"prompt": "a", "response": "b"}\n{"prompt": \n')
    project.project(data='train = "train.jsonl"')
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "preflight",
        "-k",
        "readable or has_its_columns",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    says(
        done.stdout,
        f"train.yaml:{line}:{column}",
        "train.jsonl:2:",
        "1 of 2 lines cannot be read",
        "2 failed, 1 passed",
    )
    assert "Traceback" not in done.stdout
