"""How settings go together over a run: rows and steps, epochs and max_steps, warm-up, saving, old checkpoints, budget."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from support.configs import Folder, of, only

from llmguard.configs.config import as_config
from llmguard.configs.runs import runs_of
from llmguard.configs.sizes import count_rows, plan_of

HEAD = "output_dir: out\nlr_scheduler_type: linear\nreport_to: none\nlogging_steps: 10\nsave_total_limit: 2\n"
AXOLOTL = "base_model: a/b\nsequence_len: 2048\nmicro_batch_size: 2\nlearning_rate: 0.0002\nadapter: lora\n"
DATA = 'train = ["train.jsonl"]'


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder without anything."""
    return Folder(tmp_path)


class TestRowsAndSteps:
    """`rows_fill_an_optimizer_step`."""

    CHECK = "rows_fill_an_optimizer_step"
    BATCH = f"{HEAD}per_device_train_batch_size: 16\ngradient_accumulation_steps: 8\nnum_train_epochs: 3\n"

    def test_fewer_rows_than_one_step_takes(self, folder: Folder) -> None:
        """The arithmetic is told: rows, batch, accumulation, steps."""
        folder.rows("train.jsonl", 100)
        finding = only(folder.config(self.BATCH, data=DATA), self.CHECK, key="gradient_accumulation_steps")
        assert "100 rows (train.jsonl) are fewer" in finding.message
        assert "16 per device x 8 accumulated = 128" in finding.message
        assert "3 steps" in finding.message
        assert finding.evidence == {"rows": 100, "effective_batch": 128, "steps": 3, "world": 1}

    def test_a_dropped_last_batch_leaves_no_step(self, folder: Folder) -> None:
        """With `dataloader_drop_last`, fewer rows than a batch are zero steps."""
        folder.rows("train.jsonl", 10)
        results = folder.config(f"{self.BATCH}dataloader_drop_last: true\n", data=DATA)
        assert "the whole run has 0 steps" in only(results, self.CHECK).message

    def test_as_many_rows_as_one_step_takes(self, folder: Folder) -> None:
        """128 rows fill a step of 128."""
        folder.rows("train.jsonl", 128)
        results = folder.config(self.BATCH, data=DATA)
        assert self.CHECK not in of(results)
        assert results[self.CHECK].looked_at == 128

    def test_the_configs_own_data_count_before_the_projects(self, folder: Folder) -> None:
        """A config that names its file is measured by it."""
        folder.rows("train.jsonl", 1000)
        folder.rows("own.jsonl", 5)
        assert self.CHECK in of(folder.config("batch_size: 8\nepochs: 5\ntrain_file: own.jsonl\n", data=DATA))
        folder.rows("own.jsonl", 5000)
        folder.rows("train.jsonl", 5)
        assert self.CHECK not in of(
            folder.config("batch_size: 8\nepochs: 5\ntrain_file: own.jsonl\n", data=DATA)
        )

    def test_what_cannot_be_counted_is_not_judged(self, folder: Folder) -> None:
        """Hub data among local files, parquet, and nothing at all: skipped, not green."""
        folder.rows("a.jsonl", 1)
        text = f"{AXOLOTL}num_epochs: 1\ndatasets: [{{path: a.jsonl, type: alpaca}}, {{path: a/b, type: alpaca}}]\n"
        assert folder.config(text)[self.CHECK].outcome.value == "skipped"
        folder.write("train.parquet", "PAR1")
        assert (
            folder.config(self.BATCH, data='train = ["train.parquet"]')[self.CHECK].outcome.value == "skipped"
        )
        assert folder.config(self.BATCH)[self.CHECK].outcome.value == "skipped"

    def test_validation_rows_are_taken_off(self, folder: Folder) -> None:
        """`val_set_size` and `max_samples` leave fewer rows to train on."""
        folder.rows("a.jsonl", 100)
        text = f"{AXOLOTL}num_epochs: 1\ngradient_accumulation_steps: 4\ndatasets: [{{path: a.jsonl, type: alpaca}}]\n"
        for line, rows in (("val_set_size: 0.95", 5), ("val_set_size: 97", 3), ("val_set_size: 0", 100)):
            config = as_config(folder.write("c.yml", f"{text}{line}\n"))
            assert plan_of(config, runs_of(config)[0]).rows == rows

    def test_epochs_that_nobody_gives_are_the_librarys(self, folder: Folder) -> None:
        """The Trainer's default is 3; in a config of the user's own nobody knows, and one is counted."""
        folder.rows("train.jsonl", 160)
        for text, steps in (
            (f"{HEAD}per_device_train_batch_size: 16\n", 30),
            ("batch_size: 16\ntrain_file: train.jsonl\n", 10),
        ):
            config = as_config(folder.write("c.yaml", f"{text}gradient_checkpointing: true\n"))
            config = dataclasses.replace(config, train_files=(folder.path / "train.jsonl",))
            assert plan_of(config, runs_of(config)[0]).steps == steps

    def test_rows_are_counted_where_that_is_cheap(self, folder: Folder) -> None:
        """Lines that hold something, the items of a small array; anything else is unknown."""
        assert count_rows(folder.write("a.jsonl", "{}\n\n{}\n{}")) == 3
        assert count_rows(folder.write("a.json", "[1, 2]")) == 2
        assert count_rows(folder.write("b.json", "{}\n{}\n")) == 2
        assert count_rows(folder.write("c.json", "[1, ")) is None
        assert count_rows(folder.write("d.csv", "a\n")) is None
        assert count_rows(folder.path / "gone.jsonl") is None

    @pytest.mark.needs_torch
    def test_the_arithmetic_is_the_trainers(self, folder: Folder) -> None:
        """The witness: transformers' own count of steps for rows, batch, accumulation and epochs."""
        torch = pytest.importorskip("torch")
        from transformers import Trainer, TrainingArguments

        model = torch.nn.Linear(1, 1)
        for rows, batch, accumulation, epochs in (
            (100, 8, 4, 3),
            (7, 8, 1, 2),
            (129, 16, 8, 1.5),
            (64, 8, 8, 1),
        ):
            arguments = TrainingArguments(
                str(folder.path), per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
                num_train_epochs=epochs, report_to="none", use_cpu=True,
            )  # fmt: skip
            trainer = Trainer(model, arguments, train_dataset=[{"x": n} for n in range(rows)])
            *_, steps = trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())
            folder.rows("train.jsonl", rows)
            text = f"epochs: {epochs}\nmicro_batch_size: {batch}\ngrad_accum: {accumulation}\ntrain_file: train.jsonl\n"
            config = as_config(folder.write("c.yaml", text))
            assert plan_of(config, runs_of(config)[0]).steps == steps


class TestMaxSteps:
    """`max_steps_agrees_with_epochs`."""

    CHECK = "max_steps_agrees_with_epochs"

    @pytest.mark.parametrize("steps", [1, 3])
    def test_fewer_steps_than_epochs(self, steps: int, folder: Folder) -> None:
        """3 steps cannot be 5 epochs, however few the rows; nor can the one step of a trial run."""
        results = folder.config(f"{HEAD}max_steps: {steps}\nnum_train_epochs: 5\n")
        finding = only(results, self.CHECK, key="max_steps")
        assert finding.severity.value == "warning"
        assert f"max_steps = {steps} overrides num_train_epochs = 5" in finding.message

    def test_the_epochs_that_are_covered(self, folder: Folder) -> None:
        """With the rows known, the share of the plan is told."""
        folder.rows("train.jsonl", 800)
        text = f"{HEAD}per_device_train_batch_size: 8\nnum_train_epochs: 3\nmax_steps: {{}}\n"
        finding = only(folder.config(text.format(50), data=DATA), self.CHECK)
        assert "which is 0.50 epochs" in finding.message
        assert (
            "800 rows / (8 x 1 rows a step) = 100 steps an epoch, x 3 epochs = 300 steps" in finding.message
        )
        assert self.CHECK not in of(folder.config(text.format(300), data=DATA))
        assert self.CHECK not in of(folder.config(text.format(310), data=DATA))

    def test_without_rows_it_is_a_note(self, folder: Folder) -> None:
        """Both may be right: nobody can tell."""
        results = folder.config(f"{HEAD}max_steps: 300\nnum_train_epochs: 1\n")
        assert self.CHECK not in of(results)
        assert self.CHECK in of(results, "note")

    @pytest.mark.parametrize(
        "lines", ["max_steps: -1\nnum_train_epochs: 5\n", "max_steps: 300\n", "num_train_epochs: 5\n"]
    )
    def test_one_of_them_alone(self, lines: str, folder: Folder) -> None:
        """-1 is not set; one setting contradicts nobody."""
        assert self.CHECK not in of(folder.config(f"{HEAD}{lines}"), "error", "warning", "note")


class TestWarmup:
    """`warmup_ends_within_the_run`."""

    CHECK = "warmup_ends_within_the_run"

    def test_a_warmup_as_long_as_the_run(self, folder: Folder) -> None:
        """The rate never reaches its value: how much of it is told."""
        finding = only(
            folder.config(f"{HEAD}max_steps: 50\nwarmup_steps: 100\n"), self.CHECK, key="warmup_steps"
        )
        assert finding.severity.value == "error"
        assert "100 of the run's 50 steps" in finding.message
        assert "ends at 50% of its value" in finding.message

    @pytest.mark.parametrize("steps", [1, 4])
    def test_a_warmup_of_a_few_steps_in_a_run_of_as_many(self, steps: int, folder: Folder) -> None:
        """A trial run: from 1 on it is a number of steps, and no share."""
        results = folder.config(f"{HEAD}max_steps: {steps}\nwarmup_steps: {steps}\n")
        finding = only(results, self.CHECK, key="warmup_steps")
        assert finding.severity.value == "error"
        assert f"takes {steps} of the run's {steps} steps" in finding.message

    def test_steps_from_rows(self, folder: Folder) -> None:
        """The steps follow from the rows where `max_steps` does not say them."""
        folder.rows("train.jsonl", 80)
        text = f"{HEAD}per_device_train_batch_size: 8\nnum_train_epochs: 3\nwarmup_steps: 100\n"
        assert "80 rows" in only(folder.config(text, data=DATA), self.CHECK).message

    def test_most_of_the_run_is_a_warning(self, folder: Folder) -> None:
        """60 of 100 steps."""
        results = folder.config(f"{HEAD}max_steps: 100\nwarmup_steps: 60\n")
        assert only(results, self.CHECK).severity.value == "warning"

    @pytest.mark.parametrize(
        "line", ["warmup_steps: 50", "warmup_steps: 0.9", "warmup_steps: 0", "warmup_ratio: 0.1"]
    )
    def test_warmups_that_end(self, line: str, folder: Folder) -> None:
        """Half of the run, a share, none."""
        assert self.CHECK not in of(folder.config(f"{HEAD}max_steps: 100\n{line}\n"))

    def test_unknown_length(self, folder: Folder) -> None:
        """Neither rows nor max_steps, or packed rows: nobody can tell."""
        assert self.CHECK not in of(folder.config(f"{HEAD}num_train_epochs: 1\nwarmup_steps: 100000\n"))
        folder.rows("train.jsonl", 80)
        packed = f"{HEAD}num_train_epochs: 1\nwarmup_steps: 100000\npacking: true\ndataset_text_field: text\n"
        assert self.CHECK not in of(folder.config(packed, data=DATA))


BEST = {
    "": "nothing is evaluated",
    "eval_strategy: epoch\n": "the save strategy is steps, the evaluation strategy epoch",
    "eval_strategy: steps\nsave_strategy: epoch\n": "set both to steps",
    "eval_strategy: steps\neval_steps: 200\nsave_steps: 300\n": "save_steps 300 is no multiple of eval_steps 200",
    "eval_strategy: no\nsave_strategy: epoch\n": "nothing is evaluated",
}


class TestSaving:
    """`run_saves_what_it_trains`."""

    CHECK = "run_saves_what_it_trains"

    def test_an_interval_longer_than_the_run(self, folder: Folder) -> None:
        """max_steps 10 with save_steps 500: no checkpoint before the last step."""
        finding = only(folder.config(f"{HEAD}max_steps: 10\nsave_steps: 500\n"), self.CHECK, key="save_steps")
        assert "save_steps is 500, the run has 10 steps" in finding.message

    def test_an_interval_of_the_whole_run(self, folder: Folder) -> None:
        """500 of 500 steps: the last step is one."""
        assert self.CHECK not in of(folder.config(f"{HEAD}max_steps: 500\nsave_steps: 500\n"))

    def test_an_evaluation_that_never_comes(self, folder: Folder) -> None:
        """The same for evaluations, where they run by steps."""
        text = f"{HEAD}max_steps: 10\neval_steps: 500\neval_strategy: {{}}\n"
        assert only(folder.config(text.format("steps")), self.CHECK, key="eval_steps")
        assert self.CHECK not in of(folder.config(text.format("epoch")))
        assert self.CHECK not in of(folder.config(text.format('"no"')))

    def test_save_steps_of_zero(self, folder: Folder) -> None:
        """No step is a multiple of 0."""
        assert "save_steps is 0" in only(folder.config(f"{HEAD}save_steps: 0\n"), self.CHECK).message

    @pytest.mark.parametrize("lines", BEST)
    def test_a_best_model_that_nobody_can_tell(self, lines: str, folder: Folder) -> None:
        """`load_best_model_at_end` without evaluations at the saved steps."""
        finding = only(folder.config(f"{HEAD}load_best_model_at_end: true\n{lines}"), self.CHECK)
        assert finding.severity.value == "error"
        assert BEST[lines] in finding.message

    @pytest.mark.needs_torch
    @pytest.mark.parametrize("lines", BEST)
    def test_the_trainer_refuses_each_of_them(self, lines: str) -> None:
        """The witness: TrainingArguments raises for every one."""
        import yaml
        from transformers import TrainingArguments

        values = yaml.safe_load(lines.replace(": no\n", ': "no"\n')) or {}
        with pytest.raises(ValueError, match="load_best_model_at_end"):
            TrainingArguments("out", load_best_model_at_end=True, use_cpu=True, **values)

    @pytest.mark.parametrize(
        "lines",
        [
            "eval_strategy: epoch\nsave_strategy: epoch\n",
            "eval_strategy: steps\neval_steps: 200\nsave_steps: 400\n",
            "eval_strategy: steps\neval_steps: 0.1\nsave_steps: 0.2\n",
            "eval_strategy: epoch\nsave_strategy: best\n",
        ],
    )
    def test_a_best_model_that_can_be_told(self, lines: str, folder: Folder) -> None:
        """Matching strategies, a multiple, shares, `best`."""
        assert self.CHECK not in of(folder.config(f"{HEAD}load_best_model_at_end: true\n{lines}"))

    @pytest.mark.parametrize(
        "lines",
        [
            'save_strategy: "no"\nmax_steps: 10\nsave_steps: 500\n',
            "max_steps: 10\n",
            "save_steps: 0.1\nmax_steps: 5\n",
        ],
    )
    def test_what_is_meant_so(self, lines: str, folder: Folder) -> None:
        """Saving switched off, a default interval, a share of the run."""
        assert self.CHECK not in of(folder.config(f"{HEAD}{lines}"))

    def test_axolotl_decides_its_strategies_itself(self, folder: Folder) -> None:
        """evals_per_epoch and saves_per_epoch make them."""
        text = f"{AXOLOTL}datasets: [{{path: a/b, type: alpaca}}]\nnum_epochs: 1\nload_best_model_at_end: true\nevals_per_epoch: 4\n"
        assert self.CHECK not in of(folder.config(text))


class TestOldCheckpoints:
    """`output_dir_holds_no_old_checkpoint`."""

    CHECK = "output_dir_holds_no_old_checkpoint"

    @pytest.fixture(autouse=True)
    def _checkpoints(self, folder: Folder) -> None:
        for step in (500, 1500, 1000):
            folder.write(f"out/checkpoint-{step}/trainer_state.json", json.dumps({"global_step": step}))
        folder.write("out/checkpoint-best/x", "")
        folder.write("fresh/checkpoint-9", "a file")

    def test_an_earlier_runs_checkpoint(self, folder: Folder) -> None:
        """The newest by number, and how many there are."""
        finding = only(folder.config(f"{HEAD}num_train_epochs: 1\n"), self.CHECK, key="output_dir")
        assert finding.severity.value == "warning"
        assert "3 checkpoints, newest step 1,500" in finding.message
        assert "checkpoint-1500" in finding.message

    @pytest.mark.parametrize(
        "lines",
        [
            "resume_from_checkpoint: true\n",
            "resume_from_checkpoint: out/checkpoint-1500\n",
            "overwrite_output_dir: true\n",
            "max_steps: 5000\nresume_from_checkpoint: true\n",
        ],
    )
    def test_on_purpose(self, lines: str, folder: Folder) -> None:
        """Whoever says that the run goes on, or overwrites, is not warned."""
        assert self.CHECK not in of(folder.config(f"{HEAD}{lines}"))

    @pytest.mark.parametrize("steps", [1000, 1500])
    def test_a_run_that_would_end_at_once(self, steps: int, folder: Folder) -> None:
        """Resuming at max_steps or beyond trains nothing: an error."""
        text = f"{HEAD}max_steps: {steps}\nresume_from_checkpoint: true\n"
        finding = only(folder.config(text), self.CHECK)
        assert finding.severity.value == "error"
        assert "it would end at once" in finding.message

    def test_a_fresh_folder(self, folder: Folder) -> None:
        """No checkpoint folder, no finding; a folder that does not exist neither."""
        for name in ("fresh", "gone"):
            assert self.CHECK not in of(folder.config(HEAD.replace("out", name, 1)))


class TestBudget:
    """`training_budget_fits_the_data`."""

    CHECK = "training_budget_fits_the_data"
    TEXT = "learning_rate: 1.0e-4\nbatch_size: 16\nepochs: {}\n"

    def test_one_epoch_over_few_rows(self, folder: Folder) -> None:
        """7,888 rows, one epoch: the documented run."""
        folder.rows("train.jsonl", 7888)
        finding = only(folder.config(self.TEXT.format(1), data=DATA), self.CHECK, key="epochs")
        assert finding.severity.value == "warning"
        assert "7,888 rows" in finding.message
        assert "493 steps" in finding.message

    def test_several_epochs_many_rows_other_objectives(self, folder: Folder) -> None:
        """Three epochs; 10,000 rows; one epoch of DPO, of pretraining, of max_steps."""
        folder.rows("train.jsonl", 7888)
        for lines in (
            "epochs: 3\n",
            "epochs: 1\nstage: dpo\n",
            "epochs: 1\nstage: pretrain\n",
            "epochs: 1\nmax_steps: 10\n",
            "epochs: 1\nmax_steps: 1\n",
        ):
            assert self.CHECK not in of(folder.config(f"batch_size: 16\n{lines}", data=DATA))
        folder.rows("train.jsonl", 10_000)
        assert self.CHECK not in of(folder.config(self.TEXT.format(1), data=DATA))
