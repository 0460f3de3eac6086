"""Types: text where a number is compared, None, YAML's truth values, quoted switches; and what is legal in each dialect."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.configs import Folder, keys, of, only

from llmguard.checks.config import every_config_value_has_its_type
from llmguard.configs import library as reading
from llmguard.configs.config import Config
from llmguard.configs.kinds import _dotted
from llmguard.configs.libraries import reads_yaml_floats
from llmguard.configs.reading import read_document

HUGGING_FACE = "output_dir: out\nper_device_train_batch_size: 4\ngradient_accumulation_steps: 2\n"
LLAMAFACTORY = "model_name_or_path: a/b\nstage: sft\nfinetuning_type: lora\ndataset: x\ntemplate: qwen\ncutoff_len: 1024\n"
AXOLOTL = "base_model: a/b\ndatasets: [{path: a/b, type: alpaca}]\nsequence_len: 2048\nmicro_batch_size: 2\nadapter: lora\n"
CHECK = "every_config_value_has_its_type"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder without anything."""
    return Folder(tmp_path)


@pytest.mark.parametrize("head", [HUGGING_FACE, LLAMAFACTORY, "epochs: 3\n", "run:\n  epochs: 3\n  "])
def test_an_exponent_without_a_dot_is_text(head: str, folder: Folder) -> None:
    """The witness first: the YAML parser really gives text. Then the finding, with line, key and what to write."""
    text = f"{head}learning_rate: 1e-4\n"
    assert "1e-4" in str(yaml.safe_load(text)).replace("'1e-4'", "'1e-4'")
    assert "'1e-4'" in str(yaml.safe_load(text))
    finding = only(folder.config(text), CHECK, line=text.count("\n"))
    assert "YAML 1.1" in finding.message
    assert "`learning_rate: 0.0001`" in finding.remedy
    assert finding.actual == "'1e-4'"


@given(st.floats(1e-8, 1e8))
def test_what_the_remedy_writes_is_a_number_again(value: float) -> None:
    """The number that a remedy proposes is read as that number by YAML 1.1."""
    read = yaml.safe_load(f"lr: {_dotted(value)}")["lr"]
    assert isinstance(read, float)
    assert math.isclose(read, value, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", '{"epochs": 3, "lr": "1e-4"}'), ("a.toml", 'epochs = 3\nlr = "1e-4"\n')]
)
def test_quoted_numbers_in_json_and_toml(name: str, text: str, folder: Folder) -> None:
    """There the quotes are the cause, and the remedy is in the file's own syntax."""
    finding = only(folder.config(text, name), CHECK)
    assert "the number stands in quotes" in finding.message
    assert ('"lr": 0.0001' if name == "a.json" else "lr = 0.0001") in finding.remedy


def test_axolotl_reads_numbers_from_text_itself(folder: Folder) -> None:
    """Its own examples write 2e-5: there it is a number, and quoted ones are, too."""
    results = folder.config(
        f'{AXOLOTL}learning_rate: 2e-5\nnum_epochs: "3"\nlora_r: "16"\nlora_alpha: 32.0\n'
    )
    assert of(results) == {}


def test_llamafactory_by_the_installed_version(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the installed one reads YAML by OmegaConf, 1e-4 is a number to it; without it, older ones are thought of."""
    text = f"{LLAMAFACTORY}learning_rate: 1e-4\n"
    assert set(of(folder.config(text))) == {CHECK}
    folder.write("site/llamafactory/__init__.py", "raise RuntimeError('imported')\n")
    folder.write("site/llamafactory/hparams/parser.py", "config = OmegaConf.load(path)\n")
    monkeypatch.syspath_prepend(str(folder.path / "site"))
    reading.folder_of.cache_clear()
    reads_yaml_floats.cache_clear()
    try:
        assert of(folder.config(text)) == {}
    finally:
        reading.folder_of.cache_clear()
        reads_yaml_floats.cache_clear()


BAD = {
    "num_train_epochs: null": "it is None where a number is needed",
    "num_train_epochs:": "it is None where a number is needed",
    "num_train_epochs: ~": "it is None where a number is needed",
    "max_steps: null": "it is None where a whole number is needed",
    'num_train_epochs: "3"': 'it is the text "3"',
    "num_train_epochs: three": "a word or a unit",
    "warmup_steps: no": "it is False where a number of steps is needed",
    'max_steps: "2000000"': "`max_steps: 2000000`",
    'warmup_steps: "0.1"': "`warmup_steps: 0.1`",
    "max_steps: on": "it is True where a whole number is needed",
    "gradient_accumulation_steps: 2.0": "it is 2.0 where a whole number is needed",
    "per_device_eval_batch_size: 3.5": "write a whole number",
    "learning_rate: [1.0e-5, 2.0e-5]": "it is a list where a number is needed",
    "learning_rate: {min: 0.1}": "it is a mapping where a number is needed",
    "learning_rate: .nan": "it is NaN",
    "save_strategy: no": 'write it in quotes: `save_strategy: "no"`',
    "eval_strategy: off": 'write it in quotes: `eval_strategy: "no"`',
    "logging_strategy: false": "it is False where a name is needed",
    "eval_strategy: yes": "write one of epoch, no, steps",
    "eval_strategy: null": "it is None",
    "save_strategy: epochs": "write `save_strategy: epoch`",
    "eval_strategy: best": "which is not one of epoch, no, steps",
    "eval_strategy: 2": "a number where a name is needed",
    "lr_scheduler_type: cosin": "write `lr_scheduler_type: cosine`",
    "optim: adamw_torch_fusd": "write `optim: adamw_torch_fused`",
    "report_to: no": "YAML 1.1 reads no as False",
    'bf16: "true"': "write `bf16: true` without quotes",
    'fp16: "no"': "write `fp16: false` without quotes",
    'gradient_checkpointing: "maybe"': "write true or false without quotes",
    'do_train: "True"': "every text but the empty one counts as true",
    'weight_decay: "0.1"': "remove the quotes",
    "seed: 1.5": "it is 1.5 where a whole number is needed",
    "label_smoothing_factor: null": "it is None",
    "ddp_timeout: soon": "a word or a unit",
}


@pytest.mark.parametrize("line", BAD)
def test_a_value_of_another_type_is_an_error(line: str, folder: Folder) -> None:
    """Each is found in its line, under its key, with what it is and what to write."""
    base = {
        "output_dir": "out",
        "per_device_train_batch_size": 4,
        "lr_scheduler_kwargs": "null",
        "save_total_limit": 2,
    }
    head = "".join(f"{key}: {value}\n" for key, value in base.items())
    results = folder.config(f"{head}max_grad_norm: 1.0\n{line}\n")
    finding = only(results, CHECK, line=6, column=1, key=line.partition(":")[0])
    assert finding.severity.value == "error"
    assert BAD[line] in finding.message


GOOD = [
    "num_train_epochs: 0.5",
    "num_train_epochs: 3",
    "max_steps: -1",
    "warmup_steps: 0.1",
    "warmup_steps: 100",
    "save_steps: 0.2",
    "eval_steps: null",
    "save_total_limit: null",
    "tf32: null",
    "neftune_noise_alpha: null",
    'save_strategy: "no"',
    "save_strategy: best",
    "eval_strategy: epoch",
    "report_to: [wandb, tensorboard]",
    "report_to: none",
    "resume_from_checkpoint: true",
    "run_name: 20250101",
    "hub_token: null",
    "deepspeed: false",
    "debug: ''",
    "seed: 42",
    "bf16: 1",
    "fsdp_config: {min_num_params: 0}",
    "lr_scheduler_type: cosine_with_min_lr",
    "learning_rate: ${lr}",
    'per_device_eval_batch_size: "{{ n }}"',
    "include_num_input_tokens_seen: true",
]


@pytest.mark.parametrize("line", GOOD)
def test_a_value_of_its_type_is_none(line: str, folder: Folder) -> None:
    """What the Trainer takes is left alone, odd as it may look."""
    text = f"output_dir: out\nper_device_train_batch_size: 4\nmax_grad_norm: 1.0\n{line}\n"
    assert CHECK not in of(folder.config(text))


OWN_BAD = {
    "lr: 1e-4": "lr",
    "epochs: null": "epochs",
    "batch_size: '8'": "batch_size",
    "save_strategy: no": "save_strategy",
    "bf16: 'false'": "bf16",
    "lora:\n  r: eight": "lora.r",
}


@pytest.mark.parametrize("lines", OWN_BAD)
def test_recognised_names_of_an_own_config(lines: str, folder: Folder) -> None:
    """In a config of the user's own, the names that everyone uses are judged."""
    results = folder.config(f"name: x\n{lines}\n")
    assert list(keys(of(results)[CHECK])) == [OWN_BAD[lines]]


@pytest.mark.parametrize(
    "lines",
    [
        "max_steps: null",
        "seed: null",
        "max_length: null",
        "lora_r: null",
        "optimizer: off",
        "lr: [1, 2]",
        "lr: auto",
        "wandb: off",
    ],
)
def test_what_an_own_config_may_leave_open(lines: str, folder: Folder) -> None:
    """None means 'not set' for what has a default; lists are sweeps; other names are the user's business."""
    assert CHECK not in of(folder.config(f"epochs: 3\n{lines}\n"))


def test_an_empty_number_of_epochs_is_no_way_to_choose_steps(folder: Folder) -> None:
    """The remedy knows why people write it."""
    finding = only(folder.config(f"{HUGGING_FACE}num_train_epochs:\nmax_steps: 100\n"), CHECK)
    assert "where `max_steps` decides, leave the line out" in finding.remedy


def test_every_fault_is_told_at_once(folder: Folder) -> None:
    """Not the first only."""
    text = f"{HUGGING_FACE}learning_rate: 1e-4\nnum_train_epochs: null\nsave_strategy: no\nbf16: 'true'\n"
    found = of(folder.config(text))[CHECK]
    assert [f.where.line for f in found] == [4, 5, 6, 7]


def test_yaml_no_in_llamafactorys_attention(folder: Folder) -> None:
    """`flash_attn: off` was 'Unknown attention type: False'."""
    finding = only(folder.config(f"{LLAMAFACTORY}flash_attn: off\n"), CHECK, key="flash_attn")
    assert '`flash_attn: "off"`' in finding.remedy


@settings(deadline=None, max_examples=150)  # the first example reads the libraries' sources
@given(
    st.dictionaries(
        st.sampled_from(
            "learning_rate num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps bf16 fp16 optim "
            "save_strategy eval_strategy save_steps eval_steps warmup_steps lora_r lora_alpha max_length beta output_dir "
            "model_name_or_path load_best_model_at_end dataset_name packing resume_from_checkpoint use_peft seed lr epochs "
            "val_set_size max_samples logging_steps output_dir warmup_ratio train_file "
            "batch_size base_model sequence_len datasets stage finetuning_type template cutoff_len dataset num_generations".split()
        ),
        st.one_of(
            st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=8),
            st.lists(st.integers(0, 3), max_size=2), st.dictionaries(st.text(max_size=4), st.integers(0, 3), max_size=2),
            st.sampled_from(["1e-4", "no", "dpo", "lora", "sft", "${x}", "\0", "a/b", "./gone", "x" * 300]),
        ),
    )
)  # fmt: skip
@example(
    {
        "learning_rate": math.inf,
        "per_device_train_batch_size": math.inf,
        "max_steps": math.inf,
        "val_set_size": math.inf,
    }
)
@example(
    {"num_train_epochs": 1e308, "learning_rate": "0\x1f", "resume_from_checkpoint": "~\0", "stage": {"a": 1}}
)
@example({"base_model": "x/" * 300, "model_name_or_path": "a/" + "b" * 300, "max_length": 10**400})
def test_no_check_breaks_on_any_values(values: dict[str, object]) -> None:
    """Whatever a mapping holds, every check ends with findings or none, never with an exception."""
    import llmguard
    from llmguard.catalogue import CHECKS

    for entry in CHECKS:
        if entry.over == "config" and entry.family == "config":
            check = getattr(llmguard, entry.name)
            found = check(values, 512) if "max_length" in entry.needs else check(values)
            assert all(finding.message and finding.remedy is not None for finding in found)


def test_the_same_values_say_the_same_in_each_syntax(folder: Folder) -> None:
    """JSON, YAML and TOML of one mapping have the same findings."""
    yaml_text = 'epochs: 3\nlr: "1e-4"\nlora:\n  r: 0\n'
    json_text = '{"epochs": 3, "lr": "1e-4", "lora": {"r": 0}}'
    toml_text = 'epochs = 3\nlr = "1e-4"\n[lora]\nr = 0\n'
    said = []
    for name, text in (("a.yaml", yaml_text), ("a.json", json_text), ("a.toml", toml_text)):
        config = Config(name, read_document(folder.write(name, text)))
        said.append([(f.where.key, f.expected, f.actual) for f in every_config_value_has_its_type(config)])
    assert said[0] == said[1] == said[2] != []
