"""Ranges: the documented ones, the project's own, and what the optimizer, the objective and the method make of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.configs import Folder, keys, of, only

from llmguard.checks.config import every_config_value_is_in_range
from llmguard.configs.rules import RULES

CHECK = "every_config_value_is_in_range"
HUGGING_FACE = "output_dir: out\nlogging_steps: 10\nreport_to: none\nsave_total_limit: 1\n"
DPO = "dataset_name: a/b\nuse_peft: true\nreport_to: none\nsave_total_limit: 1\nlogging_steps: 10\nprecompute_ref_log_probs: false\n"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder without anything."""
    return Folder(tmp_path)


DOCUMENTED = {
    "max_length": (128, 32768),
    "learning_rate": (1e-6, 1e-2),
    "per_device_train_batch_size": (1, 128),
    "batch_size": (1, 128),
    "gradient_accumulation_steps": (1, 128),
    "lora_r": (1, 1024),
}


def severities(values: dict[str, object]) -> dict[str, str]:
    """Key -> severity of what the check says about a mapping."""
    return {str(f.where.key): f.severity.value for f in every_config_value_is_in_range(values)}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_bounds_are_inside(name: str) -> None:
    """Both bounds are allowed; the next value beyond each is an error."""
    low, high = DOCUMENTED[name]
    step = 1 if isinstance(low, int) else 1e-9
    assert (RULES[name].low, RULES[name].high) == (low, high)
    assert severities({name: low, "name": "x"}) == severities({name: high}) == {}
    assert severities({name: low - step}) == severities({name: high + step}) == {name: "error"}


BAD = {
    "learning_rate: 0": "0 trains nothing",
    "learning_rate: -1.0e-5": "outside 1e-06 to 0.01",
    "learning_rate: 2": "outside 1e-06 to 0.01",
    "learning_rate: 2e-2": "outside 1e-06 to 0.01",
    "per_device_train_batch_size: 0": "it is 0, outside 1 to 128",
    "per_device_eval_batch_size: 0": "it is 0, outside 1 or more",
    "gradient_accumulation_steps: 0": "it is 0, outside 1 to 128",
    "num_train_epochs: 0": "it is 0, outside more than 0",
    "num_train_epochs: -3": "it is -3, outside more than 0",
    "max_steps: -2": "it is -2, outside -1 or more",
    "max_steps: 0": "takes no step at all",
    "warmup_ratio: 3": "it is 3, outside 0 to 1",
    "warmup_steps: -1": "it is -1, outside 0 or more",
    "weight_decay: 1.5": "it is 1.5, outside 0 to 1",
    "max_grad_norm: -1": "outside 0 or more",
    "adam_beta2: 1.0": "it is 1, outside 0 to less than 1",
    "adam_epsilon: 0": "it is 0, outside more than 0, up to 0.01",
    "logging_steps: 0": "outside more than 0",
    "seed: 4294967296": "outside 0 to 4.29497e+09",
    "lora_alpha: 0": "alpha / r scales the adapter",
    "lora_dropout: 1.0": "drops the whole input",
    "max_length: 127": "outside 128 to 32768",
    "block_size: 65536": "outside 128 to 32768",
    "learning_rate: .inf": "it is inf",
}


@pytest.mark.parametrize("line", BAD)
def test_out_of_range_is_an_error_in_its_line(line: str, folder: Folder) -> None:
    """The line, the key, the value, the range and why it matters; all at once with the others."""
    text = "output_dir: out\nlr_scheduler_type: linear\nreport_to: none\nsave_total_limit: 1\nmetric_for_best_model: loss\n"
    finding = keys(of(folder.config(f"{text}{line}\n"), "error")[CHECK])[line.partition(":")[0]]
    assert BAD[line] in finding.message
    assert finding.where.line == 6


def test_the_projects_own_ranges_win(folder: Folder) -> None:
    """`[config.range]` allows what the documented range forbids, and forbids what it allows; own keys count too."""
    text = f"{HUGGING_FACE}learning_rate: 0.05\nmax_length: 65536\nlora_r: 512\nmy_temperature: 3.0\n"
    ranges = (
        "learning_rate = [1e-6, 0.1]\nmax_length = [128, 131072]\nlora_r = [1, 64]\nmy_temperature = [0, 1]\n"
    )
    found = of(folder.config(text, **{"config.range": ranges}))[CHECK]
    assert list(keys(found)) == ["lora_r"]
    assert "[config.range]" in found[0].message
    own = of(folder.config("epochs: 3\nmy_temperature: 3.0\n", **{"config.range": ranges}))[CHECK]
    assert "outside 0 to 1 that `[config.range]` allows" in own[0].message


def test_an_error_names_the_way_to_allow_it(folder: Folder) -> None:
    """A value that may be meant comes with the line for the project file; 0 and negative ones do not."""
    allow = only(folder.config(f"{HUGGING_FACE}max_length: 65536\n"), CHECK)
    assert "`[config.range]` max_length = [low, high]" in allow.remedy
    assert allow.actual == "65536"
    assert "config.range" not in only(folder.config(f"{HUGGING_FACE}learning_rate: 0\n"), CHECK).remedy


@pytest.mark.parametrize(
    "optimizer", ["prodigy", "sgd", "muon", "adafactor", "schedule_free_sgd", "galore_adamw", "dadaptadam"]
)
def test_optimizers_with_a_scale_of_their_own(optimizer: str) -> None:
    """Prodigy runs at 1.0, Muon at 0.02: an upper bound for Adam is none for them; 0 is an error all the same."""
    assert severities({"optim": optimizer, "learning_rate": 1.0}) == {}
    assert severities({"optim": optimizer, "learning_rate": 0.0}) == {"learning_rate": "error"}
    assert severities({"optim": "adamw_torch", "learning_rate": 1.0}) == {"learning_rate": "error"}


@pytest.mark.parametrize("method", ["PROMPT_TUNING", "prefix_tuning", "ia3"])
def test_prompt_tuning_learns_at_high_rates(method: str) -> None:
    """3e-2 is usual there."""
    assert severities({"peft_type": method, "lr": 3e-2, "epochs": 3}) == {}
    assert severities({"peft_type": "LORA", "lr": 3e-2, "epochs": 3}) == {"lr": "error"}


@pytest.mark.parametrize(
    "said",
    [{"stage": "dpo"}, {"rl": "kto"}, {"method": "orpo"}, {"num_generations": 8}, {"trainer": "GRPOTrainer grpo"}, {"beta": 0.1},
     {"reward_model": True}, {"training_type": "reward"}, {"lmbda": 0.5, "teacher_model_name_or_path": "a/b"}],
)  # fmt: skip
def test_preference_and_reward_training_learn_at_low_rates(said: dict[str, object]) -> None:
    """5e-7 is Zephyr's rate for DPO: below the range of fine-tuning, usual there."""
    assert severities({**said, "learning_rate": 5e-7, "epochs": 1}) == {}
    assert severities({"learning_rate": 5e-7, "epochs": 1}) == {"learning_rate": "error"}


def test_a_file_name_tells_the_objective(folder: Folder) -> None:
    """`dpo.yaml` is a preference run, `sft.yaml` is none."""
    text = "learning_rate: 5.0e-7\nepochs: 1\n"
    assert of(folder.config(text, "train_dpo.yaml")) == {}
    assert set(of(folder.config(text, "sft.yaml"))) == {CHECK}


def test_high_rates_by_method_are_a_warning() -> None:
    """In range, and high for the method: full training, LoRA and DPO have habits of their own."""
    full = {"finetuning_type": "full", "learning_rate": 5e-3}
    lora = {"lora_r": 8, "learning_rate": 8e-3}
    dpo = {"rl": "dpo", "learning_rate": 2e-3}
    assert severities(full) == severities(lora) == severities(dpo) == {"learning_rate": "warning"}
    assert severities({**full, "learning_rate": 1e-3}) == severities({**lora, "learning_rate": 2e-3}) == {}
    assert severities({**full, "stage": "pt"}) == severities({**full, "use_galore": True}) == {}
    assert severities({"learning_rate": 5e-3}) == {}


def test_a_preference_run_needs_a_positive_beta(folder: Folder) -> None:
    """beta 0 freezes the loss at ln 2 in DPO; in GRPO 0 is the default."""
    assert "0.6931" in keys(of(folder.config(f"{DPO}beta: 0\n"), "error")[CHECK])["beta"].message
    assert CHECK in of(
        folder.config("stage: dpo\nfinetuning_type: lora\ndataset: x\ntemplate: qwen\npref_beta: 0.0\n")
    )
    assert of(folder.config(f"{DPO}beta: 0.1\n")) == {}
    assert of(folder.config(f"{DPO}beta: 0.0\nnum_generations: 8\n")) == {}


def test_half_is_much() -> None:
    """A warm-up of 60 %, a dropout of 0.9, a decay of 0.8 are legal and unusual."""
    values = {"warmup_ratio": 0.6, "lora_dropout": 0.9, "weight_decay": 0.8, "epochs": 3}
    assert severities(values) == {
        "warmup_ratio": "warning",
        "lora_dropout": "warning",
        "weight_decay": "warning",
    }
    assert severities({"warmup_ratio": 0.5, "lora_dropout": 0.5, "weight_decay": 0.1, "epochs": 3}) == {}


def test_epochs_that_do_not_count() -> None:
    """0 epochs are fine where `max_steps` decides, or where nothing is trained."""
    assert severities({"num_train_epochs": 0, "max_steps": 100}) == {}
    assert severities({"num_train_epochs": 0, "do_train": False}) == {}
    assert severities({"num_train_epochs": 0, "do_predict": True}) == {}
    assert severities({"num_train_epochs": 0, "max_steps": -1}) == {"num_train_epochs": "error"}


def test_a_whole_batch_beside_micro_batches(folder: Folder) -> None:
    """`batch_size: 256` is the whole batch where `micro_batch_size` stands beside it."""
    assert severities({"batch_size": 256, "micro_batch_size": 4}) == {}
    assert severities({"batch_size": 256}) == {"batch_size": "error"}
    assert severities({"batch_size": 0, "micro_batch_size": 4}) == {"batch_size": "error"}


def test_two_runs_of_one_file_are_judged_apart(folder: Folder) -> None:
    """The `dpo` section may learn at 5e-7, the `sft` section may not."""
    stages = "[sft]\nlearning_rate = {}\nepochs = 3\n[dpo]\nlearning_rate = 5e-7\nbeta = {}\n"
    assert of(folder.config(stages.format("2e-5", "0.1"), "run.toml")) == {}
    found = of(folder.config(stages.format("5e-7", "0"), "run.toml"))[CHECK]
    assert list(keys(found)) == ["sft.learning_rate", "dpo.beta"]


def test_text_that_is_a_number_is_judged_as_one() -> None:
    """ "1e3" as text is one mistake of type and one of range."""
    assert severities({"learning_rate": "1e3"}) == {"learning_rate": "error"}
    assert severities({"learning_rate": "1e-4"}) == severities({"learning_rate": "fast"}) == {}


@given(st.floats(allow_nan=True) | st.integers(-(10**400), 10**400))
def test_any_number_ends_in_a_verdict(value: float) -> None:
    """In the range no finding, outside one, whatever the number."""
    found = severities({"learning_rate": value, "epochs": 3})
    if value != value:  # noqa: PLR0124  # NaN, which is a matter of type
        assert found == {}
    else:
        assert found == ({} if 1e-6 <= value <= 1e-2 else {"learning_rate": "error"})


def test_what_is_judged_of_a_rule() -> None:
    """Ranges read as people read them."""
    assert RULES["learning_rate"].range == "1e-06 to 0.01"
    assert RULES["num_train_epochs"].range == "more than 0"
    assert RULES["adam_beta1"].range == "0 to less than 1"
    assert RULES["adam_epsilon"].range == "more than 0, up to 0.01"
    assert RULES["warmup_steps"].range == "0 or more"
