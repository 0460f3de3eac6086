"""Edge cases 71 to 80: mistakes in the user's own code, told before a run from its sources and configs, and by a dry run of its trainer."""

from __future__ import annotations

import importlib.util
import json
import operator
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from support.importing import imported

import llmguard
from llmguard import probe
from llmguard.auditing import Audit
from llmguard.evidence import Evidence, Options
from llmguard.findings import Finding
from llmguard.probe import Limits, Verdict
from llmguard.project import load_project
from llmguard.report import CheckResult

GiB = 2**30
TRAINER = '''
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

HERE = Path(__file__).resolve().parent
tokenizer = AutoTokenizer.from_pretrained(HERE / "model")


class Rows(torch.utils.data.Dataset):
    """Rows that are tokenised when they are asked for."""

    def __init__(self):
        self.rows = [json.loads(line) for line in (HERE / "train.jsonl").read_text().splitlines()]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = tokenizer(row["response"])["input_ids"] + [tokenizer.eos_token_id]
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def make():
    model = AutoModelForCausalLM.from_pretrained(HERE / "model")
    data = Rows()
    arguments = TrainingArguments(
        str(HERE / "out"), max_steps=2, per_device_train_batch_size=4, report_to=[], use_cpu=True, disable_tqdm=True
    )
    collate = DataCollatorForSeq2Seq(tokenizer)
    return Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data, data_collator=collate)
'''
"""The training script of a user, in which each fault below changes some lines."""
BUILT = "    data = Rows()\n"
CHANGES: dict[str, dict[str, str]] = {
    "use before assignment": {BUILT: f"{BUILT}    warmup = total // 10\n    total = len(data)\n"},
    "late": {
        "def make():\n": '''class Own(Trainer):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) * 0.0 + 1.0

    def _load_from_checkpoint(self, *args, **kwargs):
        print(self.args.output_folder)

    def evaluate(self, *args, **kwargs):
        return {"eval_score": np.mean([1.0])}


def make():
''',
        "return Trainer(": "return Own(",
    },
    "key": {},
    "ids": {'tokenizer = AutoTokenizer.from_pretrained(HERE / "model")\n': '''tokenizer = AutoTokenizer.from_pretrained(HERE / "model")
tokenizer.add_tokens(["<answer>"])
'''},
    "index": {BUILT: f'{BUILT}    print("first words:", [row["response"].split()[4] for row in data.rows])\n'},
    "type": {"max_steps=2": "num_train_epochs=None"},
    "recursion": {
        "def make():\n": '''def flat(row):
    return [word for each in row for word in words(each)]


def words(text):
    return flat([text])


def make():
''',
        BUILT: f"{BUILT}    print(words(data.rows[0]))\n",
    },
    "memory": {BUILT: f"{BUILT}    table = [bytearray(2**30) for _ in range(4096)]\n"},
}  # fmt: skip
ROWS = [{"prompt": f"what is {i}?", "response": f"one two three {i}"} for i in range(8)]
STRANGE = {
    "key": {3: {"prompt": "what is 3?", "answer": "one two three"}},
    "ids": {5: {"prompt": "what is 5?", "response": "<answer> one two"}},
    "index": {6: {"prompt": "what is 6?", "response": "six"}},
}
"""Rows that are not as the others are."""


IN_ONE = """
import json, sys
from llmguard.collect.dry_run import main
for spec, out in json.loads(sys.argv[1]):
    main([spec, out])
"""


class Run:
    """A project with one fault in it: where it lies, and what the checks of the dry run said of it."""

    def __init__(self, fault: str, folder: Path) -> None:
        self.fault, self.folder = fault, folder
        self.module, text = f"trainer_of_{fault}".replace(" ", "_"), TRAINER
        for before, after in CHANGES[fault].items():
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        (folder / f"{self.module}.py").write_text(text)
        rows = [STRANGE.get(fault, {}).get(i, row) for i, row in enumerate(ROWS)]
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "llmguard.toml").write_text(f'[pipeline]\ntrainer = "{self.module}:make"\n')
        self.results: dict[str, CheckResult] = {}

        project = load_project(folder / "llmguard.toml", environ={})
        self.audit = Audit(project, evidence=Evidence(project, Options(share=folder / "share")))

    def job(self) -> tuple[str, str]:
        """What a child is told that is not started by the audit: it makes several dry runs, and imports torch once."""
        run = self.audit.evidence.dry_run
        run.out.mkdir(parents=True)
        (run.out / "spec.json").write_text(json.dumps(run._spec()))
        return str(run.out / "spec.json"), str(run.out)

    def judge(self) -> None:
        """What the checks say."""
        plan = [(e, t) for e, t in self.audit.plan() if "dry_run" in e.needs]
        self.results = {e.name: self.audit.run(e, t) for e, t in plan}
        self.audit.evidence.close()

    @property
    def file(self) -> Path:
        """The script."""
        return self.folder / f"{self.module}.py"

    def script(self) -> ModuleType:
        """The user's script, imported as the user does it."""
        spec = importlib.util.spec_from_file_location(self.module, self.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def failures(self, stage: str) -> list[Finding]:
        """What was told of a stage."""
        found = self.results["trainer_survives_a_dry_run"]
        assert found.outcome.value == "failed", found.reason
        return [f for f in found.findings if f.where.what == f"dry run, stage {stage!r}"]

    def line_of(self, text: str) -> int:
        """The line of the script that holds a text."""
        lines = self.file.read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if text in line)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Run]:
    """Every faulty script in a project of its own, after its dry run."""
    for needed in ("torch", "transformers", "accelerate"):
        imported(needed)
    from support.runs import model
    from support.tiny import byte_level

    home = tmp_path_factory.mktemp("projects")
    model().save_pretrained(home / "model")
    byte_level().save_pretrained(home / "model")
    made = {}
    for fault in CHANGES:
        folder = home / fault.replace(" ", "_")
        folder.mkdir()
        (folder / "model").symlink_to(home / "model")
        made[fault] = Run(fault, folder)
    alone = made["memory"]  # in a child of its own, for its limit
    with ThreadPoolExecutor(1) as thread:
        judged = thread.submit(alone.judge)
        jobs = [run.job() for run in made.values() if run is not alone]
        done = subprocess.run(
            [sys.executable, "-c", IN_ONE, json.dumps(jobs)],
            capture_output=True, text=True, check=False, timeout=240, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        judged.result()
    for run in made.values():
        if run is not alone:
            run.judge()
    return made


def only(findings: list[Finding]) -> Finding:
    """The one finding."""
    assert len(findings) == 1, [f.message for f in findings]
    return findings[0]


def crash_of(script: Path) -> str:
    """The last line that Python says when it runs a script."""
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    return done.stderr.splitlines()[-1]


@pytest.fixture
def sources(project: Any) -> Callable[[str, str], Finding]:
    """What a check says of a script, which is first seen to crash."""

    def told(check: str, code: str) -> Finding:
        script = project.write("train.py", code)
        project.project(config="", environment='sources = ["train.py"]')
        told.crashed = crash_of(script)  # type: ignore[attr-defined]  # for the test to compare
        return project.told(check)  # type: ignore[no-any-return]  # fixtures of a conftest have no types

    return told


# 71


def test_edge_71_a_name_used_before_it_is_set_is_told_from_the_sources(sources: Any) -> None:
    """By ruff, whose rule is named; with the line that sets it."""
    code = (
        "def main(rows):\n    warmup = total // 10\n    total = len(rows)\n    return warmup\n\n\nmain([1])\n"
    )
    found = sources("names_are_defined_before_use", code)
    assert sources.crashed.startswith("UnboundLocalError")
    assert "`total` is used in line 2, before line 3 sets it (ruff F821)" in found.message
    assert (found.where.file, found.where.line) == ("train.py", 2)


@pytest.mark.needs_torch
def test_edge_71_a_name_used_before_it_is_set_ends_a_dry_run(runs: Mapping[str, Run]) -> None:
    """In the user's own line, whichever library called it."""
    run = runs["use before assignment"]
    with pytest.raises(UnboundLocalError):
        run.script().make()
    found = only(run.failures("build"))
    assert "UnboundLocalError" in found.message
    assert "`warmup = total // 10` in make()" in found.message
    assert (found.where.file, found.where.line) == (run.file.name, run.line_of("warmup = total"))


# 72


def test_edge_72_an_undefined_name_is_told_from_the_sources(sources: Any) -> None:
    """By ruff, with the name that was meant."""
    code = "def main(rows):\n    totals = len(rows)\n    return total\n\n\nmain([1])\n"
    found = sources("names_are_defined_before_use", code)
    assert sources.crashed.startswith("NameError")
    assert "`total` is used, and set nowhere that line 3 can see (ruff F821)" in found.message
    assert found.remedy == "did you mean `totals`"


@pytest.mark.needs_torch
def test_edge_72_an_undefined_name_in_the_evaluation_ends_a_dry_run(runs: Mapping[str, Run]) -> None:
    """Which a run reaches after its first epoch."""
    run = runs["late"]
    with pytest.raises(NameError, match="'np' is not defined"):
        run.script().make().evaluate()
    found = only(run.failures("evaluate"))
    assert "while it evaluated: NameError: name 'np' is not defined" in found.message
    assert (found.where.file, found.where.line) == (run.file.name, run.line_of("np.mean"))


# 73


def test_edge_73_a_missing_attribute_is_told_from_the_sources(sources: Any) -> None:
    """By mypy, whose rule is named."""
    pytest.importorskip("mypy")
    found = sources(
        "attributes_exist", "import json\n\n\ndef main():\n    return json.laods('1')\n\n\nmain()\n"
    )
    assert sources.crashed.startswith("AttributeError")
    assert "the module `json` has no attribute `laods` (mypy attr-defined)" in found.message
    assert (found.where.file, found.where.line, found.remedy) == ("train.py", 5, "did you mean `loads`")


@pytest.mark.needs_torch
def test_edge_73_a_missing_attribute_ends_a_dry_run(runs: Mapping[str, Run]) -> None:
    """Of an object whose class only the run knows, in code that only a resumed run reaches."""
    run = runs["late"]
    with pytest.raises(AttributeError, match="output_folder"):
        run.script().make()._load_from_checkpoint("checkpoint-1")
    found = only(run.failures("resume"))
    assert "AttributeError: 'TrainingArguments' object has no attribute 'output_folder'" in found.message
    assert (found.where.file, found.where.line) == (run.file.name, run.line_of("output_folder"))


# 66, as a check


@pytest.mark.needs_torch
def test_edge_66_a_batch_that_cannot_be_learnt_by_heart_is_told(runs: Mapping[str, Run]) -> None:
    """A loss that nothing of the model changes; of a loss that is right, one batch is learnt."""
    run = runs["late"]
    trainer = run.script().make()
    trainer.args.logging_steps = 1
    trainer.train()
    assert [e["loss"] for e in trainer.state.log_history if "loss" in e] == [1.0, 1.0], "the loss falls"
    found = only(list(run.results["one_batch_can_be_overfitted"].findings))
    assert "the loss of one batch went from 1 to 1" in found.message
    assert found.severity.value == "warning"


# 74


@pytest.mark.needs_torch
def test_edge_74_a_missing_key_is_told_with_its_row_and_the_keys_that_are_there(
    runs: Mapping[str, Run],
) -> None:
    """Row 3 of eight, in the first epoch or in the last."""
    run = runs["key"]
    with pytest.raises(KeyError, match="response"):
        run.script().make().train()
    found = only(run.failures("collate"))
    assert "KeyError" in found.message
    assert "row 3 has no key 'response'; it has prompt, answer" in found.message
    assert found.where.row == 3


# 75


@pytest.mark.needs_torch
def test_edge_75_ids_beyond_the_embedding_are_named_before_the_device_fails(runs: Mapping[str, Run]) -> None:
    """torch says "index out of range" on a CPU and "device-side assert" on a GPU: neither the id nor the row."""
    run = runs["ids"]
    script = run.script()
    beyond = script.tokenizer.convert_tokens_to_ids("<answer>")
    with pytest.raises(IndexError, match="index out of range in self"):
        script.make().train()
    found = only(run.failures("collate"))
    assert f"input_ids holds the token id {beyond} in row" in found.message
    assert f"the embedding has {beyond} rows" in found.message
    assert found.where.row == 5
    assert "resize_token_embeddings" in found.remedy


@pytest.mark.needs_torch
def test_edge_75_an_index_out_of_range_ends_a_dry_run(runs: Mapping[str, Run]) -> None:
    """A row of one word, where the script takes the fifth."""
    run = runs["index"]
    with pytest.raises(IndexError, match="list index out of range"):
        run.script().make()
    found = only(run.failures("build"))
    assert "IndexError: list index out of range" in found.message
    assert (found.where.file, found.where.line) == (run.file.name, run.line_of("first words"))


# 76


def test_edge_76_wrong_types_are_told_from_configs(project: Any) -> None:
    """A rate that YAML reads as text, and a number of epochs that is not there; the same numbers with a point are right."""
    text = "learning_rate: 1e-4\nnum_train_epochs: null\n"
    read = yaml.safe_load(text)
    for name in read:
        with pytest.raises(TypeError):
            operator.gt(read[name], 0)
    project.write("train.yaml", text)
    project.project()
    found = {f.where.key: f for f in project.findings("every_config_value_has_its_type")}
    assert found.keys() == {"learning_rate", "num_train_epochs"}
    assert "text" in found["learning_rate"].message
    assert "0.0001" in found["learning_rate"].remedy
    project.write("train.yaml", "learning_rate: 1.0e-4\nnum_train_epochs: 3\n")
    assert project.findings("every_config_value_has_its_type") == []


def test_edge_76_wrong_types_are_told_from_the_sources(project: Any) -> None:
    """As arguments of TrainingArguments, with the line."""
    with pytest.raises(TypeError):
        operator.gt(None, 0)  # as the Trainer asks
    project.write(
        "train.py",
        "from transformers import TrainingArguments\n"
        "TrainingArguments(output_dir='out', num_train_epochs=None, learning_rate='fast')\n",
    )
    project.project(config="", environment='sources = ["train.py"]')
    found = project.findings("training_arguments_are_valid")
    assert {f.where.key for f in found} == {
        "TrainingArguments.num_train_epochs",
        "TrainingArguments.learning_rate",
    }
    assert {f.where.line for f in found} == {2}


@pytest.mark.needs_torch
def test_edge_76_wrong_types_end_a_dry_run(runs: Mapping[str, Run]) -> None:
    """`None > 0`, raised in the library on behalf of the user's factory, which is named."""
    run = runs["type"]
    with pytest.raises(TypeError, match="NoneType"):
        run.script().make().train()
    found = only(run.failures("train"))
    assert "TypeError" in found.message
    assert "NoneType" in found.message
    assert (found.where.file, found.where.line) == (run.file.name, run.line_of("def make"))


# 77


@pytest.mark.parametrize(
    ("line", "key"), [("learning_rate: -1.0", "learning_rate"), ("lora_dropout: 1.5", "lora_dropout")]
)
def test_edge_77_values_out_of_range_are_told_with_the_range(project: Any, line: str, key: str) -> None:
    """Which torch refuses where they are used, and nothing before; values within it pass."""
    torch = imported("torch")
    with pytest.raises(ValueError, match=r"-1\.0|1\.5"):
        torch.optim.AdamW([torch.zeros(1)], lr=-1.0) if key == "learning_rate" else torch.nn.Dropout(1.5)
    project.write("train.yaml", f"{line}\n")
    project.project()
    found = project.told("every_config_value_is_in_range")
    assert found.where.key == key
    assert f"it is {float(line.split()[1]):g}, outside" in found.message
    project.write("train.yaml", "learning_rate: 1.0e-4\nlora_dropout: 0.05\n")
    assert project.findings("every_config_value_is_in_range") == []


def test_edge_77_values_out_of_range_are_told_from_the_sources(project: Any) -> None:
    """By the same rules."""
    torch = imported("torch")
    with pytest.raises(ValueError, match=r"-1\.0"):
        torch.optim.AdamW([torch.zeros(1)], lr=-1.0)
    project.write(
        "train.py",
        "from transformers import TrainingArguments\nTrainingArguments('out', learning_rate=-1.0)\n",
    )
    project.project(config="", environment='sources = ["train.py"]')
    found = project.told("training_arguments_are_valid")
    assert found.where.key == "TrainingArguments.learning_rate"
    assert "outside" in found.message


# 78


def test_edge_78_nothing_to_divide_by_is_told(project: Any) -> None:
    """Results without an item, and rows without a supervised token, before a mean is taken of them."""
    labels = [[-100, -100], [-100]]
    with pytest.raises(ZeroDivisionError):
        sum(map(len, labels)) / sum(label != -100 for row in labels for label in row)
    encoded = [{"input_ids": [5] * len(row), "labels": row} for row in labels]
    found = list(llmguard.every_row_has_a_supervised_token(encoded))
    assert [f.severity.value for f in found] == ["error"]
    assert "2 of 2" in found[0].message
    project.write("results.jsonl", "")
    project.project(config="", evaluation='results = { tuned = "results.jsonl" }')
    assert "the file holds no results" in project.told("result_files_are_readable").message


def test_edge_78_rates_of_nothing_are_unknown_and_not_zero() -> None:
    """No outputs, no division."""
    from llmguard_core.metrics import rate_of

    with pytest.raises(ZeroDivisionError):
        sum([]) / len([])
    assert rate_of([], "x") is None
    assert rate_of(["<think>a", "b"], "<think>") == 0.5
    assert rate_of(["a\nb"], "^a.b$") == 1.0


def test_edge_78_a_summary_of_nothing_has_no_mean() -> None:
    """An empty evaluation set."""
    from llmguard_core.metrics import summary

    assert summary([]) == {
        "items": 0, "right": 0, "wrong": 0, "empty": 0, "unparseable": 0, "score": None, "interval": None,
    }  # fmt: skip


@pytest.mark.needs_torch
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_edge_78_rows_without_a_supervised_token_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of their loss is NaN in torch, and 0 in the core; as long as the step has others, they change nothing."""
    torch = imported("torch")
    from support.runs import IGNORED, rows, run, same

    alone = torch.nn.functional.cross_entropy(torch.zeros(2, 5), torch.tensor([IGNORED, IGNORED]))
    assert alone.isnan(), "torch divides by no nought"
    monkeypatch.setattr("llmguard_core.training.run.png", lambda records, path: None)
    data = rows(24)
    mute = [{**r, "labels": [IGNORED] * len(r["labels"])} for r in data[:4]]
    told = {
        "max_steps": 1,
        "optimizer": "sgd",
        "learning_rate": 1e-2,
        "grad_clip": 50.0,
        "batch_size": 8,
        "accumulation": 1,
    }
    nets = [
        run(tmp_path / str(i), data=d, **told)[0]
        for i, d in enumerate([data[4:8] + mute, data[4:8] + data[4:8]])
    ]
    assert same(*nets)


# 79


@pytest.mark.needs_torch
def test_edge_79_a_recursion_without_end_is_bounded_and_its_cycle_named(runs: Mapping[str, Run]) -> None:
    """Function by function, each with its place."""
    run = runs["recursion"]
    with pytest.raises(RecursionError):
        run.script().make()
    found = only(run.failures("build"))
    assert "RecursionError" in found.message
    cycle = found.message.partition("the cycle is ")[2].partition("\n")[0]
    for function in ("flat", "words"):
        assert f"{function} ({run.file.name}:{run.line_of(f'def {function}')})" in cycle
    assert run.results["trainer_survives_a_dry_run"].seconds < 120


# 80

HOARD = "table = []\nwhile True:\n    table.append(bytearray(2**26))\n"


def ends_in(code: str) -> str:
    """The last line of a Python process that may have 1 GiB."""
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_DATA, ({GiB}, {GiB}))\n"
    done = subprocess.run([sys.executable, "-c", limit + code], capture_output=True, text=True, check=False)
    return done.stderr.splitlines()[-1]


def test_edge_80_a_probe_tells_the_limit_and_the_peak() -> None:
    """A process that may have 1 GiB, and asks for ever more: what it was at is told, too."""
    assert ends_in(HOARD) == "MemoryError", "memory does not end"
    result = probe.run(HOARD, limits=Limits(memory=4 * GiB, data=GiB), timeout=60, what="building the table")
    assert result.verdict is Verdict.RESOURCE, result.explain()
    said = result.explain()
    assert "building the table" in said
    assert "MemoryError at <probe>:3; at most " in said
    assert "MiB were resident when looked at (it may have 1,024 MiB)" in said


@pytest.mark.needs_torch
def test_edge_80_memory_that_ends_in_a_dry_run_is_told_with_the_line(runs: Mapping[str, Run]) -> None:
    """Limit, peak, and what was being built; the machine is spared."""
    run = runs["memory"]
    line = "table = [bytearray(2**30) for _ in range(4096)]"
    assert ends_in(line) == "MemoryError", "memory does not end"
    found = only(run.failures("build"))
    assert "MemoryError" in found.message
    assert f"`{line}`" in found.message
    assert "the limit of the dry run is" in found.message
    assert "were resident" in found.message
