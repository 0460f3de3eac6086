"""`llmguard show`: rows with their label colours, on a terminal, in a file, as a page; and what is said where it cannot."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmguard.encoded import Encoded, as_encoded
from llmguard.errors import EvidenceError, MissingEvidence
from llmguard.formats import text_format
from llmguard.project import Project
from llmguard.rows import Rows, read_files

Run = Callable[..., Any]
ROWS = [
    {"prompt": "What is 2+2?", "response": "It is 4."},
    {"prompt": "Say\nhi", "response": "Hi \x1b[31m there"},
]
LINE = 'add `[pipeline] encode = "module:function"` to llmguard.toml'


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A byte-level tokenizer with one frequent word, ChatML control tokens and EOS."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<pad>"
    )
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    return made


def encode(
    tokenizer: Any, row: Mapping[str, str], *, train_prompt: bool = False, pad: int = 0
) -> dict[str, list[int]]:
    """A row in ChatML; the prompt trained, or padding behind it, where that is asked for."""
    asked = tokenizer(f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
    answered = tokenizer(f"{row['response']}<|im_end|>")["input_ids"]
    labels = [*(asked if train_prompt else [-100] * len(asked)), *answered, *[-100] * pad]
    mask = [1] * (len(asked) + len(answered)) + [0] * pad
    return {
        "input_ids": [*asked, *answered, *[tokenizer.pad_token_id] * pad],
        "labels": labels,
        "attention_mask": mask,
    }


class Prepared:
    """Evidence that is there already: what a provider would have gathered in a child."""

    kinds: dict[str, Any]
    closed = False

    def __init__(self, project: Project, options: Any) -> None:
        self.project, self.options = project, options

    def targets(self, kind: str) -> list[str]:
        """The sources of encoded rows."""
        return [] if isinstance(self.kinds["encoded"], MissingEvidence) else ["train", "validation"]

    def get(self, kind: str, target: str = "", *, over: str = "") -> Any:
        """What was put there, or the error that was."""
        found = self.kinds[kind]
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Remember that it was asked for."""
        type(self).closed = True


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a project file and two rows."""
    (tmp_path / "llmguard.toml").write_text('[data]\ntrain = "train.jsonl"\n', "utf-8")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return tmp_path


def evidence(tokenizer: Any, project: Path, **encoding: Any) -> dict[str, Any]:
    """The evidence of the project, its rows encoded in ChatML."""
    rows: Rows = read_files([project / "train.jsonl"], split="train", root=project)
    encoded = as_encoded([encode(tokenizer, row, **encoding) for row in ROWS], "train")
    return {
        "encoded": encoded,
        "tokenizer": tokenizer,
        "rows": rows,
        "template": text_format("chatml", "<|im_end|>"),
    }


@pytest.fixture
def kinds(tokenizer: Any, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The evidence that `show` will find, to be changed by the test."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("llmguard.cli.show.Evidence", Prepared)
    Prepared.kinds = evidence(tokenizer, project)
    yield Prepared.kinds
    assert Prepared.closed


def runs(out: str) -> list[tuple[str, str, str]]:
    """The lines of the table of runs as (span, mark, kind); white space at the seam may be either and is left out."""
    found = re.findall(r"(?m)^ *(\d+(?:-\d+)?)  (\w+) +(\w*)", out)
    return [run for run in found if run[2] not in ("white", "seam")]


def test_rows_are_shown_in_runs_with_their_place(kinds: dict[str, Any], run: Run) -> None:
    """Without colours each stretch has a line: masked prompt, trained response, trained terminator."""
    said = run("show")
    assert said.code == 0, said.err
    assert "train.jsonl:1, row 0" in said.out
    assert "train.jsonl:2, row 1" in said.out
    assert [(mark, kind) for _, mark, kind in runs(said.out)[:3]] == [
        ("masked", "prompt"), ("trained", "response"), ("trained", "terminator"),
    ]  # fmt: skip
    assert '"It is 4."' in said.out
    assert "format: chatml" in said.out
    assert "\x1b" not in said.out, "what the data hold does not steer the terminal"
    assert "⟨U+001B⟩" in said.out


def test_a_trained_prompt_and_trained_padding_look_wrong(
    kinds: dict[str, Any], run: Run, tokenizer: Any, project: Path
) -> None:
    """What should not be trained is told with the reason; a run of padding is one entry with its number."""
    kinds.update(evidence(tokenizer, project, train_prompt=True, pad=7))
    said = run("show", "--rows", 1)
    assert "belongs to the prompt and is trained" in said.out
    assert '"<pad>" ×7' in said.out
    assert [mark for _, mark, _ in runs(said.out)] == ["wrong", "trained", "trained", "pad"]
    assert "row 1" not in said.out


def test_one_row_is_shown_token_by_token(kinds: dict[str, Any], run: Run, tokenizer: Any) -> None:
    """`--row` lists every token with its position, id, label, mark and kind."""
    said = run("show", "--row", 1)
    lines = said.out[said.out.index("position") :].splitlines()[1:]
    row = encode(tokenizer, ROWS[1])
    cells = [line.split() for line in lines if line.strip()]
    assert [int(c[0]) for c in cells] == list(range(len(row["input_ids"])))
    assert [int(c[1]) for c in cells] == row["input_ids"]
    assert [int(c[2]) for c in cells] == row["labels"]
    assert cells[-1][3:5] == ["trained", "terminator"]


def test_with_colours_there_is_a_legend_and_the_row_itself(
    kinds: dict[str, Any], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where colours can be shown, the row is printed in them, its own line breaks kept, after a legend."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    said = run("show", "--rows", 1)
    plain = re.sub(r"\x1b\[[\d;]*m", "", said.out)
    assert "trained  in the loss" in plain
    assert "What␣is␣2+2?<|im_end|>↵\n<|im_start|>assistant↵\nIt␣is␣4.<|im_end|>" in plain
    assert re.search(r"\x1b\[[\d;]*48;", said.out)


def test_the_page_holds_the_rows(kinds: dict[str, Any], run: Run, project: Path) -> None:
    """`--html` writes a page and says so; nothing of the data is markup in it."""
    said = run("show", "--html", project / "rows.html")
    page = (project / "rows.html").read_text("utf-8")
    assert "2 rows of train" in said.out
    assert "train.jsonl:1, row 0" in page
    assert "⟨U+001B⟩" in page
    assert 'class="t trained k-terminator"' in page


def test_a_file_name_does_not_steer_the_terminal(kinds: dict[str, Any], run: Run, project: Path) -> None:
    """A name may hold anything; what it holds is shown."""
    odd = (project / "train.jsonl").rename(project / "\x1b[31mred.jsonl")
    kinds["rows"] = read_files([odd], split="train", root=project)
    said = run("show")
    assert "⟨U+001B⟩[31mred.jsonl:1" in said.out
    assert "\x1b" not in said.out


def test_rows_keep_the_number_of_their_source(kinds: dict[str, Any], run: Run) -> None:
    """`--row` counts source rows, also where rows were dropped or sampled; what is not there is said with what is."""
    whole: Encoded = kinds["encoded"]
    kinds["encoded"] = replace(whole.shard(1, 2), source=np.asarray([1]))
    assert "train.jsonl:2, row 1" in run("show", "--row", 1).out
    missing = run("show", "--row", 0)
    assert missing.code == 2
    assert "no encoded row 0 in train: its 1 rows are 1 to 1" in missing.err


@pytest.mark.parametrize("dropped", ["rows", "template"])
def test_rows_are_shown_without_what_is_not_needed(kinds: dict[str, Any], run: Run, dropped: str) -> None:
    """Without source rows the labels are still shown, and the line that would tell prompt from response is named."""
    kinds[dropped] = MissingEvidence(dropped, "add it")
    said = run("show")
    assert said.code == 0
    assert {mark for _, mark, _ in runs(said.out)} == {"masked", "trained"}
    assert ("add `[data] train" in said.out) == (dropped == "rows")


def test_rows_without_labels_say_so(kinds: dict[str, Any], run: Run) -> None:
    """Nothing is trained as far as these rows tell, and it is said who decides."""
    whole: Encoded = kinds["encoded"]
    kinds["encoded"] = replace(whole, columns={"input_ids": whole.input_ids})
    said = run("show")
    assert "have no labels" in said.out
    assert {mark for _, mark, _ in runs(said.out)} == {"masked"}


def test_a_row_that_was_cut_says_so(kinds: dict[str, Any], run: Run, tokenizer: Any) -> None:
    """A row that ends in its response is marked as cut off."""
    cut = {name: values[:-4] for name, values in encode(tokenizer, ROWS[0]).items()}
    kinds["encoded"] = as_encoded([cut], "train")
    assert "cut off at the end" in run("show").out


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MissingEvidence("encoded", LINE), LINE),
        (
            EvidenceError("encode", "ValueError: too long", told_by="pipeline_code_runs"),
            "reported by pipeline_code_runs",
        ),
    ],
)
def test_what_is_missing_is_said_with_the_line_to_add(
    kinds: dict[str, Any], run: Run, error: Exception, said: str
) -> None:
    """No encoded rows, or broken user code: one message, exit code 2."""
    kinds["encoded"] = error
    ended = run("show")
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_an_unknown_split_names_those_that_are_there(kinds: dict[str, Any], run: Run) -> None:
    """A misspelt split is told with the splits of the project."""
    ended = run("show", "--split", "tset")
    assert ended.code == 2
    assert "train, validation" in ended.err


def test_a_folder_without_a_project_says_how_to_get_one(tmp_path: Path, run: Run) -> None:
    """The message names `llmguard init`."""
    ended = run("show", "--project", tmp_path)
    assert ended.code == 2
    assert "`llmguard init` writes one" in ended.err


def test_a_broken_project_file_is_said_with_its_problems(tmp_path: Path, run: Run) -> None:
    """Every problem of the file, with its key, as the loader says it."""
    (tmp_path / "llmguard.toml").write_text("[modle]\npath = 1\n", "utf-8")
    ended = run("show", "--project", tmp_path / "llmguard.toml")
    assert ended.code == 2
    assert "did you mean `model`" in ended.err


@pytest.mark.parametrize("arguments", [["--rows", "0"], ["--row", "-1"], ["--rows", "x"], ["--nonsense"]])
def test_bad_options_are_said(run: Run, arguments: list[str]) -> None:
    """A value out of range or an unknown option is exit code 2 and says which."""
    ended = run("show", *arguments)
    assert ended.code == 2
    assert arguments[0] in ended.err


@pytest.mark.needs_torch
def test_a_real_project_is_shown_by_a_real_process(tokenizer: Any, project: Path) -> None:
    """The command, the project file, the user's own encode function and tokenizer, all in processes of their own."""
    tokenizer.save_pretrained(project / "model")
    (project / "pipeline.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "tokenizer = PreTrainedTokenizerFast.from_pretrained(Path(__file__).parent / 'model')\n"
        "def encode(row):\n"
        "    asked = tokenizer(row['prompt'] + ' ')['input_ids']\n"
        "    answered = tokenizer(row['response'] + tokenizer.eos_token)['input_ids']\n"
        "    return {'input_ids': asked + answered, 'labels': [-100] * len(asked) + answered}\n",
        "utf-8",
    )
    with (project / "llmguard.toml").open("a", encoding="utf-8") as file:
        file.write('[pipeline]\nencode = "pipeline:encode"\n[model]\ntokenizer = "model"\n')
    code = (
        "import sys\nfrom llmguard.cli import main\nended = main(['show'])\n"
        "print('torch' in sys.modules, ended, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.stderr.splitlines()[-1] == "False 0", done.stderr
    assert [(mark, kind) for _, mark, kind in runs(done.stdout)[:3]] == [
        ("masked", "prompt"), ("trained", "response"), ("trained", "terminator"),
    ]  # fmt: skip
