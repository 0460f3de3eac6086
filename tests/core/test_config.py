"""The settings of a run: every problem at once, with its place, its reason and what to write instead."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmguard_core.config import RunConfig, TrainSettings, load_config, make_config, steps_of
from llmguard_core.errors import SettingsError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a config beside 100 training rows and 10 validation rows; gives its path."""
    monkeypatch.delenv("MODEL_PATH", raising=False)
    for name, count in (("train.jsonl", 100), ("validation.jsonl", 10)):
        rows = [json.dumps({"prompt": f"p{n}", "response": "r"}) for n in range(count)]
        (tmp_path / name).write_text("\n".join(rows) + "\n")

    def written(text: str, name: str = "run.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return written


def refusal(path: Path, objective: Any = None) -> str:
    with pytest.raises(SettingsError) as refused:
        load_config(path, objective=objective)
    return str(refused.value)


RUN = "model: {path: org/base}\ndata: {train: train.jsonl, validation: validation.jsonl}\n"


def test_a_usual_run_is_read_with_paths_from_its_own_folder(write: Write) -> None:
    """Paths are those of the config's folder, wherever the command is started; what is left out has a default."""
    config = load_config(
        write(RUN + "train: {output_dir: out, batch_size: 4}\nqueue: {directory: q}\n"), objective="sft"
    )
    folder = write("").parent
    assert config.data.train == [folder / "train.jsonl"]
    assert (config.train.output_dir, config.queue.directory) == (folder / "out", folder / "q")
    assert config.evaluation.output_dir == folder / "evaluation"
    assert (config.model.path, config.train.batch_size, config.train.accumulation) == ("org/base", 4, 1)
    assert config.train.learning_rate == pytest.approx(2e-4)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("train:\n  batch_size: 4\n", "run.yaml"),
        ("[train]\nbatch_size = 4\n", "run.toml"),
        ('{"train": {"batch_size": 4}}', "run.json"),
    ],
)
def test_yaml_toml_and_json_say_the_same(write: Write, text: str, name: str) -> None:
    assert load_config(write(text, name)).train.batch_size == 4


def test_patterns_name_every_file_they_match(write: Write) -> None:
    config = load_config(write("data: {train: '*.jsonl'}\n"))
    assert [file.name for file in config.data.train] == ["train.jsonl", "validation.jsonl"]


def test_every_problem_is_told_at_once_with_file_line_and_column(write: Write) -> None:
    """Seven mistakes, seven lines, in the order of the file."""
    path = write(
        "model:\n  path: ./nowhere\ntrain:\n  learning_rate: 1e-4\n  batch_size: 0\n  epochs:\n  max_step: 9\n"
        "  method: lorra\n  packing: 'no'\n"
    )
    told = refusal(path)
    lines = told.splitlines()[1:]
    assert [line.strip().split(": ")[0] for line in lines] == [f"{path}:{n}:3" for n in (2, 4, 5, 6, 7, 8, 9)]
    assert "7 problems" in told


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("learning_rate: 1e-4", ['the text "1e-4"', "YAML 1.1", "learning_rate: 0.0001"]),
        ("learning_rate: '0.001'", ["the number stands in quotes", "learning_rate: 0.001"]),
        ("learning_rate: 0", ["it is 0", "0 trains nothing"]),
        ("learning_rate: 0.5", ["0.5", "1e-08 to 0.01", "diverge"]),
        ("learning_rate: .nan", ["it is NaN", "write a number"]),
        ("learning_rate:", ["None", "TypeError"]),
        ("batch_size: 0", ["it is 0", "1 to 128"]),
        ("batch_size: 2.5", ["2.5", "whole number"]),
        ("batch_size: yes", ["True", "YAML 1.1 reads yes"]),
        ("epochs: 0", ["more than 0"]),
        ("max_steps: 0", ["greater than or equal to 1"]),
        ("warmup_ratio: 3", ["0 to 1"]),
        ("packing: 'false'", ["every text but the empty one counts as true"]),
        ("batch_sise: 4", ["did you mean `train.batch_size`"]),
        ("gradient_accumulation_steps: 4", ["`train.accumulation` here"]),
        ("rank: 4", ["it belongs into `lora`"]),
        ("zzz: 4", ["known here are accumulation, batch_size"]),
        ("scheduler: cosin", ["'linear', 'cosine'"]),
        ("output_dir: ${OUT}", ["filled in by nobody"]),
        ("batch_size: 4\n  batch_size: 8", ["given twice, in lines 4 and 5"]),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_with_its_reason_and_the_way_out(
    write: Write, line: str, says: list[str]
) -> None:
    told = refusal(write(f"{RUN}train:\n  {line}\n"))
    assert "one problem" in told
    for part in says:
        assert part in told
    assert "run.yaml:" in told


@pytest.mark.parametrize(
    ("line", "says"),
    [("format: zephir", "did you mean 'zephyr'?"), ("format: {prompt: 'Q: '}", "with {prompt} in it"), ("format: 3", "valid string"),
     ("system: x", "no such key"), ("few_shot: '3'", 'the text "3"')],
)  # fmt: skip
def test_a_format_is_one_that_the_project_file_knows(write: Write, line: str, says: str) -> None:
    assert says in refusal(write(f"{RUN}prompt:\n  {line}\n"))


def test_a_format_of_ones_own_is_a_table(write: Write) -> None:
    config = load_config(write(f"{RUN}prompt:\n  format: {{prompt: 'Q: {{prompt}}', end: END}}\n"))
    assert config.prompt.table == {"prompt": "Q: {prompt}", "response": "{response}", "end": "END"}


def test_a_section_that_is_no_section_is_named(write: Write) -> None:
    assert "a section is needed" in refusal(write("train: 3\n"))


def test_a_missing_config_names_the_nearest_file(write: Write) -> None:
    """The place that was tried, and what lies there under a like name."""
    path = write(RUN)
    told = refusal(path.with_name("rum.yaml"))
    assert "there is no such file" in told
    assert f"did you mean {path}?" in told


def test_a_config_that_cannot_be_parsed_names_line_and_column(write: Write) -> None:
    assert "run.yaml:3:2: it cannot be read" in refusal(write("train:\n  a: [1\nb: 2\n"))


def test_a_misspelt_data_file_and_a_missing_model_folder_get_near_names(write: Write) -> None:
    folder = write("").parent
    (folder / "mymodel").mkdir()
    told = refusal(write("model: {path: ./mymodle}\ndata: {train: trian.jsonl}\n"))
    assert f"did you mean {folder / 'mymodel'}?" in told
    assert f"did you mean {folder / 'train.jsonl'}?" in told


def test_model_path_in_the_environment_makes_the_file_s_own_path_irrelevant(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("model: {path: ./elsewhere}\ndata: {train: train.jsonl}\n")
    assert "there is no model" in refusal(path, "sft")
    monkeypatch.setenv("MODEL_PATH", "/models/base")
    assert load_config(path, objective="sft").model.path == "./elsewhere"


BETWEEN = [
    ("train: {batch_size: 32, accumulation: 8}", "100 rows make 0 whole optimizer steps: 32 rows a batch x 8 accumulated = 256"),
    ("train: {warmup_steps: 50, batch_size: 10}", "warm-up takes 50 steps of 10"),
    ("train: {warmup_steps: 2, warmup_ratio: 0.1}", "both given"),
    ("train: {early_stopping: 2}", "none is planned"),
    ("train: {early_stopping: 2, eval_steps: 4, save_steps: 6}", "save_steps 6 is no multiple of eval_steps 4"),
    ("train: {method: full}\nlora: {rank: 8}", "this section does nothing"),
    ("lora: {rank: 1, alpha: 500}\ntrain: {}", "scales the adapter, and with it the rate, by 500"),
    ("train: {dtype: float16, method: full}\nmodel: {path: org/base, dtype: float16}", "cannot be unscaled"),
    ("train: {dtype: float16}\nmodel: {path: org/base, dtype: bfloat16}", "65,504"),
    ("train: {learning_rate: 1.0e-7}", "outside 1e-06 to 0.01"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), BETWEEN)
def test_settings_that_contradict_each_other_are_refused(write: Write, text: str, says: str) -> None:
    data = "data: {train: train.jsonl, validation: validation.jsonl}\n"
    model = "" if "model:" in text else "model: {path: org/base}\n"
    assert says in refusal(write(f"{model}{data}{text}\n"), "sft")


def test_evaluation_without_rows_to_evaluate_on_is_refused(write: Write) -> None:
    told = refusal(write("model: {path: a/b}\ndata: {train: train.jsonl}\ntrain: {eval_steps: 5}\n"), "sft")
    assert "data.validation" in told


def test_a_length_beyond_the_model_s_context_is_refused(write: Write) -> None:
    folder = write("").parent
    (folder / "base").mkdir()
    (folder / "base/config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    text = "model: {path: base}\ndata: {train: train.jsonl}\ntrain: {max_length: 513}\n"
    assert "the model's context 512 tokens" in refusal(write(text), "sft")
    assert load_config(write(text.replace("513", "512")), objective="sft").train.max_length == 512


def test_a_rate_that_is_right_for_sft_is_refused_for_preference_training(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """2e-3 is unremarkable for LoRA, and far too high for DPO; DPO may go below what SFT needs."""
    high, low = (
        write(f"{RUN}train: {{learning_rate: {rate}}}\n", f"{rate}.yaml") for rate in ("2.0e-3", "5.0e-7")
    )
    assert load_config(high, objective="sft").train.learning_rate == pytest.approx(2e-3)
    assert "too high for preference training" in refusal(high, "dpo")
    assert load_config(low, objective="dpo").train.learning_rate == pytest.approx(5e-7)
    assert load_config(write(RUN), objective="dpo").train.learning_rate == pytest.approx(5e-6)
    assert not caplog.records


def test_unusual_but_legitimate_settings_are_spoken_of_and_taken(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"{RUN}train: {{method: full, learning_rate: 2.0e-3, max_length: 64, epochs: 2, max_steps: 5}}\n"
    with caplog.at_level(logging.WARNING):
        config = load_config(write(text), objective="sft")
    said = [record.getMessage() for record in caplog.records]
    assert config.train.max_steps == 5
    assert len(said) == 3
    assert all("run.yaml:3:" in line for line in said)
    assert "high for training of all weights" in "".join(said)


@pytest.mark.parametrize(
    ("objective", "key"),
    [("sft", "data.train"), ("sft", "model.path"), ("dpo", "data.train"), ("evaluate", "evaluation.items"),
     ("evaluate", "evaluation.models"), ("queue", "queue.directory")],
)  # fmt: skip
def test_what_a_command_cannot_do_without_is_named(write: Write, objective: Any, key: str) -> None:
    assert f"`{key}`" in refusal(write("generation: {seed: 1}\n"), objective)


def test_rules_that_read_a_wrong_value_do_not_speak(write: Write) -> None:
    """A batch of text says nothing about steps: one mistake, one line."""
    assert "one problem" in refusal(write(f"{RUN}train: {{batch_size: many, accumulation: 100}}\n"), "sft")


def test_a_mapping_is_judged_as_a_file_is(tmp_path: Path) -> None:
    config = make_config({"train": {"output_dir": "x"}}, folder=tmp_path)
    assert config.train.output_dir == tmp_path / "x"
    with pytest.raises(SettingsError, match=r"did you mean `lora\.rank`"):
        make_config({"lora": {"rankk": 3}})


@pytest.mark.parametrize("lines", ["method: full", "warmup_steps: 2, batch_size: 8", "max_steps: 7"])
def test_a_config_that_a_program_wrote_out_in_full_reads_as_it_was(
    write: Write, lines: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every default written out contradicts nothing: what is dumped can be loaded again."""
    config = load_config(write(f"{RUN}train: {{{lines}}}\n"), objective="sft")
    dumped = write(json.dumps(config.model_dump(mode="json")), "whole.json")
    assert load_config(dumped, objective="sft") == config
    assert not caplog.records


@pytest.mark.parametrize(
    ("train", "rows", "world", "steps"),
    [
        ({"batch_size": 8}, 7_473, 1, 935),
        ({"batch_size": 8, "accumulation": 4}, 7_473, 2, 117),
        ({"batch_size": 8, "epochs": 2.5}, 80, 1, 25),
        ({"batch_size": 8, "max_steps": 3}, 80, 1, 3),
        ({"batch_size": 8, "max_steps": -1}, 8, 1, 1),
    ],
)
def test_steps_follow_from_rows_batch_accumulation_and_devices(
    train: dict[str, Any], rows: int, world: int, steps: int
) -> None:
    assert steps_of(TrainSettings(**train), rows, world) == steps


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers() | st.text(max_size=5), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.sampled_from(["1e-4", "lora", "full", "zephyr", "train.jsonl", "*", "~nobody/x", "${X}", "./x", "\0"]),
)  # fmt: skip
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        name: VALUES
        | st.dictionaries(
            st.sampled_from([*getattr(field.annotation, "model_fields", {}), "batch_sise"]), VALUES
        )
        for name, field in RunConfig.model_fields.items()
    },
)


@given(given_=SECTIONS, objective=st.sampled_from([None, "sft", "dpo", "evaluate", "compare", "queue"]))
@settings(max_examples=150, deadline=None)
def test_whatever_a_config_holds_it_is_settings_or_a_refusal_in_words(
    given_: dict[str, Any], objective: Any
) -> None:
    """No value of any key ends in another error, and every line of a refusal names its key."""
    try:
        make_config(given_, folder="nowhere", objective=objective)
    except SettingsError as refused:
        lines = str(refused).splitlines()
        assert "problem" in lines[0]
        assert any(line.startswith("  config: `") for line in lines[1:])


def test_every_setting_is_read_by_something(root: Path) -> None:
    """A key that is taken and then ignored would be the silent bug that this library is about."""
    home = root / "src/llmguard_core"
    readers = [
        file
        for file in home.rglob("*.py")
        if file.name not in ("settings.py", "config.py", "config_rules.py")
    ]
    text = "\n".join(file.read_text("utf-8") for file in readers)
    keys = [
        (section, key)
        for section, field in RunConfig.model_fields.items()
        for key in getattr(field.annotation, "model_fields", {})
    ]
    assert len(keys) > 60
    ignored = [f"{section}.{key}" for section, key in keys if not re.search(rf'\.{key}\b|"{key}"', text)]
    assert not ignored


def test_the_reference_of_the_settings_is_current(root: Path) -> None:
    """docs/run-config.md is what `python ci/gen_run_config.py` writes."""
    ran = subprocess.run(
        [sys.executable, str(root / "ci/gen_run_config.py"), "--check"], timeout=60, check=False
    )
    assert ran.returncode == 0, "run: python ci/gen_run_config.py"


def test_reading_settings_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, llmguard_core.config; print(sorted({'torch', 'transformers', 'peft', 'trl'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"
