"""`python -m llmguard_core`: one config, one command; mistakes are told in words and by the exit code, never as a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmguard_core.__main__ import main
from llmguard_core.errors import CheckpointError, DataRefused, OutOfMemory, TrainingStopped

needs_torch = pytest.mark.needs_torch
Run = Callable[..., tuple[int, str, str]]
TEXT = """
model: {path: model, device: cpu}
data: {train: train.jsonl, prompt: question, response: answer}
prompt: {format: alpaca}
train: {output_dir: out, batch_size: 4, epochs: 1, max_length: 256, learning_rate: 1.0e-3, save_steps: 2}
lora: {rank: 4, alpha: 8.0}
evaluation:
  models:
    base: {path: model, device: cpu}
    tuned: {path: model, adapter: out/final, device: cpu}
  items: test.jsonl
  metrics: [token_f1, gsm8k]
  output_dir: evaluation
generation: {max_new_tokens: 8}
"""


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process; gives its exit code and what it wrote to stdout and stderr."""
    monkeypatch.delenv("MODEL_PATH", raising=False)

    def ran(*arguments: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        told = capfd.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    return ran


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config that is right, with a model folder that is empty."""
    (tmp_path / "model").mkdir()
    write_rows(tmp_path)
    (tmp_path / "run.yaml").write_text(TEXT.replace(", adapter: out/final", ""))
    return tmp_path / "run.yaml"


def write_rows(folder: Path) -> None:
    for name, count in (("train", 8), ("test", 4)):
        rows = [
            {"id": f"{name}{n}", "question": f"What is {n} + 2?", "answer": f"It is {n + 2}.\n#### {n + 2}"}
            for n in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_a_mistake_in_the_settings_ends_with_2_and_every_problem(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("train:\n  batch_size: 0\n  learning_rate: 1e-4\n")
    code, out, err = run("sft", "--config", tmp_path / "bad.yaml")
    assert (code, out) == (2, "")
    assert "bad.yaml:2:3: `train.batch_size`: it is 0" in err
    assert "bad.yaml:3:3" in err
    assert "`data.train`" in err


@pytest.mark.parametrize("command", ["sft", "dpo", "evaluate", "compare", "queue"])
def test_a_config_that_is_not_there_is_named_with_its_neighbour(run: Run, config: Path, command: str) -> None:
    code, _, err = run(command, "-c", config.with_name("rum.yaml"))
    assert code == 2
    assert f"did you mean {config}?" in err


@pytest.mark.parametrize(
    "arguments", [("sft",), ("teach", "-c", "x.yaml"), ("sft", "-c", "x.yaml", "--fast")]
)
def test_a_wrong_command_line_ends_with_2(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments)[0] == 2


@pytest.mark.parametrize("command", [(), ("sft",), ("dpo",), ("evaluate",), ("compare",), ("queue",)])
def test_help_needs_no_config(run: Run, command: tuple[str, ...]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert "Usage" in out


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (TrainingStopped("the loss is NaN", step=7, remedy="lower the rate"), 1, "step 7: the loss is NaN"),
        (OutOfMemory("no memory left", where="training"), 1, "no memory left"),
        (CheckpointError("it is damaged", where="out/checkpoint-2"), 1, "out/checkpoint-2: it is damaged"),
        (OSError(28, "No space left on device", "out/x"), 1, "out/x: No space left on device"),
        (DataRefused("there is no row", where="train.jsonl"), 2, "train.jsonl: there is no row"),
        (KeyboardInterrupt(), 130, "interrupted; start the same command again"),
    ],
    ids=["guard", "memory", "checkpoint", "disk", "data", "ctrl-c"],
)
@needs_torch
def test_the_exit_code_tells_what_stopped_a_run(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    """1: stopped on the way; 2: refused before it began; the text is the error's own."""

    def stop(_: Any) -> None:
        raise error

    monkeypatch.setattr("llmguard_core.training.sft", stop, raising=False)
    ended, out, err = run("sft", "-c", config, "--json")
    assert (ended, out) == (code, "")
    assert says in err


@needs_torch
def test_preference_training_has_its_own_usual_rate_and_tells_alarms(
    run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the guards saw is part of the result."""
    from llmguard_core.training import Alarm, TrainResult

    seen: list[Any] = []
    alarm = Alarm(step=2, kind="plateau", what="the loss does not fall", stops=False)

    def dpo(settings: Any) -> TrainResult:
        seen.append(settings)
        print("what a library prints")
        return TrainResult(
            3, {"train_loss": 0.69314, "epoch": 1.0}, config.parent / "out/final", alarms=(alarm,)
        )

    monkeypatch.setattr("llmguard_core.training.dpo", dpo, raising=False)
    config.write_text(TEXT.replace(", learning_rate: 1.0e-3", ""))
    code, out, err = run("dpo", "-c", config)
    assert (code, out.splitlines()[:2]) == (
        0,
        ["trained: 3 steps, train_loss 0.6931", "alarm at step 2: the loss does not fall"],
    )
    assert "what a library prints" in err
    assert seen[0].train.learning_rate == pytest.approx(5e-6)
    assert json.loads(run("dpo", "-c", config, "--json")[1])["alarms"][0]["kind"] == "plateau"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lab's base model, eight rows to learn, four to answer, and a run of two steps over them."""
    pytest.importorskip("peft", reason="training needs torch, transformers and peft")
    from llmguard_core.lab import lab

    folder = tmp_path_factory.mktemp("run")
    (folder / "model").symlink_to(lab().base)
    write_rows(folder)
    (folder / "run.yaml").write_text(TEXT)
    ran = subprocess.run(
        [sys.executable, "-m", "llmguard_core", "sft", "-c", str(folder / "run.yaml"), "--json"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    (folder / "told.json").write_text(ran.stdout)
    return folder


@needs_torch
def test_training_tells_its_steps_and_its_model_as_json(trained: Path) -> None:
    """Stdout is the JSON object and nothing else, whatever the libraries print."""
    told = json.loads((trained / "told.json").read_text())
    assert (told["steps"], told["already_trained"], told["final"]) == (2, False, str(trained / "out/final"))
    assert (trained / "out/final/adapter_model.safetensors").is_file()
    assert told["metrics"]["train_loss"] > 0


@needs_torch
def test_a_run_that_is_done_is_not_done_again(run: Run, trained: Path) -> None:
    before = (trained / "out/final/adapter_model.safetensors").stat().st_mtime_ns
    code, out, _ = run("sft", "-c", trained / "run.yaml")
    assert code == 0
    assert out.startswith("already trained: 2 steps")
    assert (trained / "out/final/adapter_model.safetensors").stat().st_mtime_ns == before


@needs_torch
@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # peft 0.19 asks transformers 5.23 by its old name
def test_evaluation_answers_every_item_and_compares_the_models(run: Run, trained: Path) -> None:
    """Two models, one after the other; then the same results compared again by themselves, and by their other measure."""
    code, out, err = run("evaluate", "-c", trained / "run.yaml", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert {name: model["items"] for name, model in told["models"].items()} == {"base": 4, "tuned": 4}
    assert len(told["comparisons"]) == 1
    assert told["methodology"]
    lines = [json.loads(line) for line in (trained / "evaluation/tuned.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["test0", "test1", "test2", "test3"]
    code, out, _ = run("compare", "-c", trained / "run.yaml")
    assert code == 0
    assert "| base | 4 |" in out
    other = trained / "other.yaml"
    other.write_text(TEXT.replace("output_dir: evaluation", "output_dir: evaluation\n  score: gsm8k"))
    told = json.loads(run("compare", "-c", other, "--json")[1])
    assert told["models"]["base"]["interval"][1] > told["models"]["base"]["mean"]


@needs_torch
def test_a_queue_shows_its_state_and_ends_when_it_is_empty(run: Run, config: Path) -> None:
    """The folder is made; a file that waits is shown; nothing that failed is nothing to retry."""
    config.write_text(TEXT + "queue: {directory: jobs}\n")
    assert run("queue", "-c", config, "--once")[0] == 0
    (config.parent / "jobs/pending/rows.jsonl").write_text('{"prompt": "p", "response": "r"}\n')
    code, out, _ = run("queue", "-c", config, "--status")
    assert code == 0
    assert "rows.jsonl" in out
    told = json.loads(run("queue", "-c", config, "--status", "--json")[1])
    assert told["counts"]["pending"] == 1
    assert "nothing has failed" in run("queue", "-c", config, "--retry")[1]


@needs_torch
def test_a_queue_that_another_daemon_holds_is_refused(run: Run, config: Path) -> None:
    from llmguard.locks import locked

    config.write_text(TEXT + "queue: {directory: jobs}\n")
    run("queue", "-c", config, "--once")
    with locked(config.parent / "jobs/.daemon.lock"):
        code, _, err = run("queue", "-c", config, "--once")
    assert code == 2
    assert "another daemon" in err


def test_mistakes_and_help_load_no_torch(tmp_path: Path) -> None:
    """A typo is told in well under a second."""
    (tmp_path / "bad.yaml").write_text("train: {batch_size: 0}\n")
    code = (
        "import sys; from llmguard_core.__main__ import main; "
        f"assert main(['sft', '-c', {str(tmp_path / 'bad.yaml')!r}]) == 2; "
        "print(sorted({'torch', 'transformers', 'numpy', 'peft'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"
