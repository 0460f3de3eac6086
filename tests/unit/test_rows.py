"""Data files to rows, rows to turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmguard.errors import UsageError
from llmguard.rows import Columns, as_rows, read_files, turns_of


def roles(row: dict[str, object], columns: Columns) -> list[tuple[str, str]]:
    return [(t.role, t.content) for t in turns_of(row, columns) or ()]


def test_bad_lines_are_problems_and_good_lines_rows(tmp_path: Path) -> None:
    """Every malformed line is told with line, column and reason; the others are read with their line numbers."""
    file = tmp_path / "train.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": \n\n[1]\n{"a": "\xff"}\n{"a": 2}\n' + b"[" * 100_000 + b"\n")
    rows = read_files([file], root=tmp_path)
    assert [r["a"] for r in rows] == [1, 2]
    assert [rows.where(i).line for i in range(2)] == [1, 6]
    assert [(p.line, p.reason.split(":")[0]) for p in rows.problems] == [
        (2, "is not JSON"),
        (4, "is a JSON list, expected an object with the row's columns"),
        (5, "is not UTF-8"),
        (7, "is nested too deeply to be read"),
    ]


def test_a_json_array_keeps_the_line_of_each_row(tmp_path: Path) -> None:
    """Rows of a JSON array carry the line they start on; what is broken behind them is told, not lost."""
    file = tmp_path / "train.json"
    file.write_text('[\n {"a": 1},\n {"a":\n  2},\n 3,\n {"a" 4}\n]', "utf-8")
    rows = read_files([file], root=tmp_path)
    assert [(r["a"], rows.where(i).line) for i, r in enumerate(rows)] == [(1, 2), (2, 3)]
    assert [p.line for p in rows.problems] == [5, 6]


def test_a_missing_file_is_a_problem_that_names_its_neighbours(tmp_path: Path) -> None:
    """A wrong file name is told with the near ones."""
    (tmp_path / "train.jsonl").touch()
    rows = read_files([tmp_path / "trian.jsonl"], root=tmp_path)
    assert "does not exist; near it lies train.jsonl" in rows.problems[0].reason
    assert len(rows) == 0


def test_byte_order_marks_and_blank_lines_are_no_problems(tmp_path: Path) -> None:
    """What editors leave behind is read over."""
    file = tmp_path / "train.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    rows = read_files([file])
    assert len(rows) == 2
    assert not rows.problems


def test_parquet_and_saved_datasets_are_read(tmp_path: Path) -> None:
    """Parquet files and folders that `save_to_disk` left give the same rows as JSON Lines."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table({"prompt": ["a", "b"], "response": ["c", "d"]})
    pq.write_table(table, tmp_path / "train.parquet")
    folder = tmp_path / "saved"
    folder.mkdir()
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    for path in (tmp_path / "train.parquet", folder):
        rows = read_files([path])
        assert [dict(r) for r in rows] == [
            {"prompt": "a", "response": "c"},
            {"prompt": "b", "response": "d"},
        ], path
        assert rows.columns.prompt == "prompt"


def test_a_broken_parquet_file_is_a_problem(tmp_path: Path) -> None:
    """Bytes that are no Parquet are told as such."""
    pytest.importorskip("pyarrow")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 and nothing else")
    assert "cannot be read" in read_files([tmp_path / "train.parquet"]).problems[0].reason


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"prompt": "q", "response": "a"}, Columns(prompt="prompt", response="response")),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            Columns(messages="messages"),
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            Columns(messages="conversations"),
        ),
        (
            {
                "prompt": [{"role": "user", "content": "q"}],
                "completion": [{"role": "assistant", "content": "a"}],
            },
            Columns(prompt="prompt", response="completion"),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "q"}]},
                    {"role": "model", "content": "a"},
                ]
            },
            Columns(messages="messages"),
        ),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b"},
            Columns(prompt="prompt", chosen="chosen", rejected="rejected"),
        ),
        (
            {
                "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                "rejected": [],
            },
            Columns(chosen="chosen", rejected="rejected"),
        ),
    ],
)
def test_every_row_shape_gives_the_same_turns(row: dict[str, object], columns: Columns) -> None:
    """OpenAI, ShareGPT, prompt/completion and preference rows all mean a question and an answer."""
    assert roles(row, columns) == [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize("content", [None, 3, ["x"], {"a": 1}])
def test_content_that_is_no_text_gives_no_turns(content: object) -> None:
    """A content that is no text makes no turns: a data check says why, nothing is trained on 'None'."""
    assert (
        turns_of({"messages": [{"role": "user", "content": content}]}, Columns(messages="messages")) is None
    )


def test_columns_are_guessed_by_their_usual_names_unless_told() -> None:
    """Without a mapping the usual names are used; a mapping wins."""
    guessed = as_rows([{"instruction": "q", "output": "a"}])
    assert (guessed.columns.prompt, guessed.columns.response, guessed.columns.guessed) == (
        "instruction",
        "output",
        True,
    )
    told = as_rows([{"instruction": "q", "output": "a", "x": "z"}], Columns(prompt="x", response="output"))
    assert told.columns.prompt == "x"


def test_what_is_no_row_is_a_usage_error() -> None:
    """A bad argument names itself and what is allowed."""
    with pytest.raises(UsageError, match="rows that are mappings"):
        as_rows(["text"])


def test_tool_calls_without_content_are_turns() -> None:
    """An assistant turn that only calls tools has no content and is legitimate."""
    row = {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}]}
    turns = turns_of(row, Columns(messages="messages"))
    assert turns is not None
    assert turns[0].extra["tool_calls"]
    assert json.dumps(turns[0].message())
