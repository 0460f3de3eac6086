"""Data files and the shape of rows: bad lines, missing files, columns, conversations, roles; real data pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmguard.auditing import Audit
from llmguard.checks.data import data_files_are_readable, every_row_has_its_columns
from llmguard.checks.data_conversations import every_conversation_has_turns, every_role_is_known
from llmguard.findings import Findings, Severity
from llmguard.project import load_project
from llmguard.report import CheckResult
from llmguard.rows import Columns, Rows, as_rows, read_files

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE


def run(folder: Path, name: str, target: str = "train") -> CheckResult:
    """One check on a project file."""
    audit = Audit(load_project(folder / "llmguard.toml"))
    return audit.run(audit.registry.get(name), target)


def severities(found: Findings) -> list[Severity]:
    """Of each finding."""
    return [f.severity for f in found]


def chat(*turns: str, **more: Any) -> dict[str, Any]:
    """A conversation from `role: content` strings."""
    return {
        "messages": [dict(zip(("role", "content"), t.split(": ", 1), strict=True)) for t in turns],
        **more,
    }


def test_every_bad_line_is_told_in_one_finding(tmp_path: Path) -> None:
    """All malformed lines come as file:line:column with the reason, in one error; the good lines are read."""
    good = json.dumps({"prompt": "a", "response": "b"}).encode()
    bad = [
        b'{"prompt": "a", "response": }',
        b"[1, 2]",
        b'{"prompt": "\xff"}',
        b'{"n": 1' + b"0" * 5000 + b"}",
    ]
    (tmp_path / "train.jsonl").write_bytes(b"\n".join([good, *bad, good]) + b"\n")
    rows = read_files([tmp_path / "train.jsonl"], root=tmp_path)
    found = data_files_are_readable(rows)
    assert severities(found) == [ERROR]
    assert len(rows) == 2
    assert found.looked_at == 6
    assert "4 of 6 lines cannot be read" in found[0].message
    assert "train.jsonl:2:29 is not JSON: Expecting value" in found[0].message
    assert "train.jsonl:4:13 is not UTF-8" in found[0].message
    assert [line.split(" ")[0] for line in found[0].evidence["lines"]] == [
        "train.jsonl:2:29",
        "train.jsonl:3",
        "train.jsonl:4:13",
        "train.jsonl:5",
    ]


def test_a_thousand_bad_lines_are_counted(tmp_path: Path) -> None:
    """A message names the first lines and says how many more there are."""
    (tmp_path / "train.jsonl").write_text("{\n" * 60 + "{}\n", "utf-8")
    found = data_files_are_readable(read_files([tmp_path / "train.jsonl"], root=tmp_path))
    assert "60 of 61 lines" in found[0].message
    assert "and 40 more" in found[0].message
    assert len(found[0].evidence["lines"]) == 60


@pytest.mark.parametrize(
    ("text", "rows", "told"),
    [
        ('[\n{"a": 1},\n{"a": "b', 1, "t.json:3:7 is not JSON: Unterminated string"),
        ('[\n{"a": 1},\n{"a": 2},\n', 2, "t.json:4:1 is not JSON: it ends in the middle"),
        ('[\n{"a": 1}\n{"a": 2}]', 2, "t.json:3:1 is not JSON: expected ',' or ']' after a row"),
        ('[{"a": 1}]\n[{"a": 2}]', 1, "t.json:1:10 is not JSON: more follows the array"),
        ('[{"a": 1}, 5, {"a": 2}]', 2, "t.json:1 holds a int where a row (object) belongs"),
        ('[{"a": 1' + "0" * 5000 + "}]", 0, "t.json:1 cannot be read on from here: Exceeds the limit"),
        ("{}", 0, "t.json holds no array of rows"),
    ],
)
def test_a_broken_json_array_is_told_with_its_place(tmp_path: Path, text: str, rows: int, told: str) -> None:
    """A download that broke off, arrays joined, commas lost: the rows that can be read, and where it broke."""
    (tmp_path / "t.json").write_text(text, "utf-8")
    found = read_files([tmp_path / "t.json"], root=tmp_path)
    assert len(found) == rows
    assert told in data_files_are_readable(found)[0].message


def test_missing_and_empty_files_fail_their_check_and_no_other(tmp_path: Path) -> None:
    """A named file that is not there, or has no rows, is one failed check; what needs its rows is skipped and names that check."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("\n\n", "utf-8")
    (tmp_path / "llmguard.toml").write_text(
        '[data]\ntrain = "data/trian.jsonl"\ntest = "data/train.jsonl"\n', "utf-8"
    )
    missing, empty = (
        run(tmp_path, "data_files_are_readable"),
        run(tmp_path, "data_files_are_readable", "test"),
    )
    assert (missing.outcome.value, empty.outcome.value) == ("failed", "failed")
    assert "data/trian.jsonl does not exist; near it lies train.jsonl" in missing.findings[0].message
    assert "data/train.jsonl holds no rows" in empty.findings[0].message
    skipped = run(tmp_path, "every_row_has_its_columns")
    assert skipped.outcome.value == "skipped"
    assert "data_files_are_readable" in skipped.reason


def test_one_empty_shard_among_others_is_a_warning(tmp_path: Path) -> None:
    """The split has rows, a file of it has none."""
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "response": "b"}\n', "utf-8")
    (tmp_path / "b.jsonl").touch()
    found = data_files_are_readable(read_files([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], root=tmp_path))
    assert severities(found) == [WARNING]
    assert "b.jsonl holds no rows" in found[0].message


def test_good_files_of_every_kind_pass(tmp_path: Path) -> None:
    """JSON Lines with a byte order mark and blank lines, arrays, and Parquet."""
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "\xc3\xa9"}\r\n\r\n{"prompt": "b"}')
    (tmp_path / "b.json").write_text('[{"prompt": "a"}]', "utf-8")
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "c.parquet")
    rows = read_files(sorted(tmp_path.iterdir()), root=tmp_path)
    assert len(rows) == 4
    assert not data_files_are_readable(rows)


def test_a_mapped_column_that_no_row_has_is_an_error() -> None:
    """The error says which key maps it, the keys that are there, and the nearest."""
    rows = as_rows([{"instruction": "a", "output": "b"}] * 3, Columns(prompt="instrction", response="output"))
    found = every_row_has_its_columns(rows)
    assert severities(found) == [ERROR]
    assert (
        "no row has the column 'instrction' (prompt); keys of the first of them: instruction, output"
        in found[0].message
    )
    assert "nearest is 'instruction'" in found[0].message
    assert "`[data] prompt = 'instruction'`" in found[0].remedy


def test_a_column_that_some_rows_lack_is_an_error_with_the_rows() -> None:
    """Rows of another origin with other keys: how many, which, and what they have instead."""
    rows = [{"prompt": "a", "response": "b"}] * 20 + [{"prompt": "a", "answer": "b"}] * 2
    found = every_row_has_its_columns(rows)
    assert (
        "2 of 22 rows lack the column 'response' (response); keys of the first of them: prompt, answer, nearest is 'answer'"
        in found[0].message
    )
    assert [row["row"] for row in found[0].evidence["rows"]] == [20, 21]
    assert found.looked_at == 22


@pytest.mark.parametrize("rows", [[{"frage": "a", "antwort": "b"}], [{"prompt": "a", "reply": "b"}]])
def test_columns_with_names_of_their_own_need_a_mapping(rows: list[dict[str, str]]) -> None:
    """Where no usual name is there the error says what is, and the lines to add."""
    found = every_row_has_its_columns(rows)
    assert severities(found) == [ERROR]
    assert all(key in found[0].message for key in rows[0])
    assert "[data] prompt" in found[0].remedy


@pytest.mark.parametrize("row", [{"text": "a"}, {"input_ids": [1, 2]}])
def test_whole_texts_and_tokens_are_a_note(row: dict[str, Any]) -> None:
    """Data for language modelling have no prompts and responses, and need none."""
    assert severities(every_row_has_its_columns([row])) == [NOTE]


def test_a_test_split_of_prompts_is_a_note() -> None:
    """A test split may have prompts alone; a training split may not."""
    records = [{"prompt": "a"}] * 3
    told = Columns(prompt="prompt", response="response")
    assert severities(every_row_has_its_columns(Rows(records, told, "test"))) == [NOTE]
    assert severities(every_row_has_its_columns(Rows(records, told, "train"))) == [ERROR]


def test_the_group_column_must_be_there_too() -> None:
    """A group that is mapped and missing is told like any column."""
    rows = Rows(
        [{"prompt": "a", "response": "b"}],
        Columns(prompt="prompt", response="response", group="doc"),
        "train",
    )
    assert "no row has the column 'doc' (group)" in every_row_has_its_columns(rows)[0].message


@pytest.mark.parametrize(
    ("row", "severity", "words"),
    [
        ({"messages": []}, ERROR, "have an empty list of messages"),
        ({"messages": '[{"role": "user"}]'}, ERROR, "hold their messages as text"),
        ({"messages": None}, ERROR, "something else than a list of messages (the first: NoneType)"),
        ({"messages": ["hello", "hi"]}, ERROR, "a message that is no object"),
        (chat("user: a", "user: b"), ERROR, "have no turn of the assistant (the first: user, user)"),
        (
            chat("user: a", "assistant: b", "user: c"),
            WARNING,
            "end with a turn that is not the assistant's (the first: user)",
        ),
        (chat("user: a", "assistant: b", "tool: c"), WARNING, "(the first: tool)"),
    ],
)
def test_conversations_without_turns_are_told(row: dict[str, Any], severity: Severity, words: str) -> None:
    """Empty, no list, no assistant, no last answer: each is told with its rate and its rows."""
    found = every_conversation_has_turns([chat("system: s", "user: a", "assistant: b"), row])
    assert severities(found) == [severity]
    assert "1 of 2 rows (50.0 %)" in found[0].message
    assert words in found[0].message
    assert found[0].evidence["rows"][0]["row"] == 1


def test_open_conversations_are_legitimate_in_a_test_split() -> None:
    """A test conversation ends where the model is to go on; halves of a conversation need no answer."""
    rows = Rows(
        [chat("user: a"), chat("user: a", "assistant: b", "user: c")], Columns(messages="messages"), "test"
    )
    assert set(severities(every_conversation_has_turns(rows))) == {NOTE}
    half = {
        "prompt": [{"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}],
    }
    found = every_conversation_has_turns([half])
    assert not found
    assert found.looked_at == 1


def test_rows_without_conversations_are_nothing_to_look_at() -> None:
    """Plain prompts and responses are not what this check is about: it says that it looked at none."""
    assert every_conversation_has_turns([{"prompt": "a", "response": "b"}]).looked_at == 0


def test_unknown_roles_are_told_with_all_roles() -> None:
    """A typing error is told with the nearest role, how many rows have it, and all roles with their counts."""
    rows = [chat("user: a", "assistant: b")] * 9 + [chat("user: a", "asistant: b")]
    found = every_role_is_known(rows)
    assert severities(found) == [ERROR]
    assert "in 1 of 10 rows the role 'asistant' is not known; nearest is 'assistant'" in found[0].message
    assert "roles in this split: 'user' (10), 'assistant' (9), 'asistant' (1)" in found[0].message
    assert found.looked_at == 20


def test_a_message_without_a_role_is_an_error() -> None:
    """An export with other keys."""
    found = every_role_is_known(
        [{"messages": [{"speaker": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    )
    assert "the key 'role' (or 'from') is missing or empty" in found[0].message


def test_a_role_of_their_own_in_most_rows_is_a_warning() -> None:
    """A role that nearly all rows have is meant so, and may be known to the template."""
    assert severities(every_role_is_known([chat("persona: p", "user: a", "assistant: b")] * 5)) == [WARNING]


def test_roles_in_use_pass() -> None:
    """OpenAI, ShareGPT, tools, reasoning models' developer role, any case."""
    share = {
        "conversations": [
            {"from": r, "value": "x"} for r in ("system", "human", "gpt", "function_call", "observation")
        ]
    }
    found = every_role_is_known(
        [
            chat("developer: d", "User: a", "assistant: b", "tool: t", "assistant: c"),
            chat("user: a", "model: b"),
        ]
    )
    assert not found
    assert not every_role_is_known([share])
    assert found.looked_at == 7


@pytest.mark.parametrize(
    "name", ["gsm8k/train.jsonl", "gsm8k/test.jsonl", "conversations/dummy_conversation.json"]
)
def test_real_data_pass(real_data: Path, name: str) -> None:
    """Real files have readable rows with their columns, turns and roles."""
    rows = read_files([real_data / "data" / name])
    for check in (
        data_files_are_readable,
        every_row_has_its_columns,
        every_conversation_has_turns,
        every_role_is_known,
    ):
        assert not check(rows), check
    assert len(rows) > 400


def test_real_rows_with_nested_answers_need_a_mapping(real_data: Path) -> None:
    """Alpaca's seed tasks keep their answers nested: that is told, with the columns there are."""
    found = every_row_has_its_columns(read_files([real_data / "data" / "alpaca-seeds" / "seed_tasks.jsonl"]))
    assert "'instruction' may be the prompt, and no column looks like its response" in found[0].message
    assert "instances (175)" in found[0].message


def test_a_conversation_is_broken_on_purpose(real_data: Path) -> None:
    """Real conversations with a fault planted in some of them: exactly those are told."""
    rows = read_files([real_data / "data" / "conversations" / "dummy_conversation.json"])
    records: list[Mapping[str, Any]] = [json.loads(json.dumps(r)) for r in rows.records]
    for i in (7, 70):
        records[i] = {**records[i], "conversations": []}
    for i in (9, 90, 99):
        records[i]["conversations"][0]["from"] = "humann"
    broken = Rows(records, rows.columns, "train")
    assert [e["row"] for e in every_conversation_has_turns(broken)[0].evidence["rows"]] == [7, 70]
    assert [e["row"] for e in every_role_is_known(broken)[0].evidence["rows"]] == [9, 90, 99]
