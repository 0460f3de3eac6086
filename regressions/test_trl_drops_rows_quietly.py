"""TRL drops rows whose response is cut away, and says so nowhere.

Symptom: an epoch has fewer steps than rows call for; long questions are answered worst, although the data hold many.
Severity: high
Cause: rows are cut at max_length (1024 unless told otherwise) from the right; what is left without a label is filtered out of the data set,
    with a progress bar for a notice.
First seen: TRL 1.16, `SFTTrainer._prepare_dataset`; read and measured there. Older versions kept such rows: https://github.com/huggingface/trl/issues/6668
Cost: the part of the data that was collected with most care.
Check: trainer_keeps_every_row, responses_are_not_cut
Lesson: compare the rows of the Trainer's data set with those of the file, after everything that prepares them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.importing import imported
from support.runs import model
from support.tiny import byte_level

from llmguard import require, responses_are_not_cut, trainer_keeps_every_row
from llmguard.errors import CheckFailed
from llmguard.formats import text_format
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for

pytestmark = [  # TRL gives transformers an argument of yesterday, and others' packages warn while it is imported
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LENGTH, LONG = 32, 3
"""Tokens of a row, and how many of the rows have a prompt that fills them."""
ROWS = [
    {"prompt": "one two three four " * (20 if n < LONG else 1), "completion": " the answer is five"}
    for n in range(12)
]


def broken(folder: Path, rows: list[dict[str, str]]) -> Any:
    """An SFTTrainer with a max_length, as TRL's own examples set it up."""
    trl, datasets = imported("trl"), imported("datasets")
    arguments = trl.SFTConfig(
        str(folder), max_length=LENGTH, report_to=[], use_cpu=True, bf16=False, disable_tqdm=True
    )
    return trl.SFTTrainer(
        model(), arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=byte_level()
    )


def fixed(rows: list[dict[str, str]]) -> Any:
    """The core's rows: cut from the left of the prompt, counted, the response whole."""
    encoder = Encoder(byte_level(), format_for(byte_level(), "completion"), max_length=LENGTH)
    return encoder.rows([{"prompt": row["prompt"], "response": row["completion"]} for row in rows])


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The Trainer, with its data set prepared."""
    return broken(tmp_path_factory.mktemp("trl"), ROWS)


def test_witness(trainer: Any, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    """Nine rows of twelve; building it says nothing, and neither does its training loader."""
    assert len(trainer.train_dataset) == len(ROWS) - LONG
    assert sum(len(batch["input_ids"]) for batch in trainer.get_train_dataloader()) == len(ROWS) - LONG
    assert [str(w.message) for w in recwarn if "drop" in str(w.message).lower()] == []
    assert "drop" not in capsys.readouterr().out.lower()
    assert len(fixed(ROWS)) == len(ROWS)
    assert all(any(label != -100 for label in row["labels"]) for row in fixed(ROWS))


def test_check_rejects(trainer: Any) -> None:
    """A warning with both counts."""
    with pytest.raises(CheckFailed, match="the Trainer has 9 of the 12 rows"):
        require(trainer_keeps_every_row({"rows": len(trainer.train_dataset)}, ROWS), strict=True)


def test_check_rejects_what_is_cut_before() -> None:
    """Where somebody cuts the rows before TRL sees them, the rows themselves tell."""
    tokenizer = byte_level()
    cut = [
        {
            "input_ids": tokenizer(r["prompt"] + r["completion"] + tokenizer.eos_token)["input_ids"][:LENGTH],
        }
        for r in ROWS
    ]
    with pytest.raises(CheckFailed, match="3 of 12 rows"):
        require(responses_are_not_cut(cut, ROWS, tokenizer, text_format("completion", tokenizer.eos_token)))


def test_check_accepts() -> None:
    """The core's rows."""
    encoded, tokenizer = fixed(ROWS), byte_level()
    require(trainer_keeps_every_row({"rows": len(encoded)}, ROWS), strict=True)
    fmt = text_format("completion", tokenizer.eos_token)
    require(responses_are_not_cut(list(encoded), ROWS, tokenizer, fmt), strict=True)
