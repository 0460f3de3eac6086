"""Placeholders that were never filled are told; code, LaTeX, letters and text about templates are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmguard.checks.data_placeholders import no_placeholder_is_left
from llmguard.findings import Severity
from llmguard.rows import Columns, Rows, as_rows, read_files

ERROR, WARNING = Severity.ERROR, Severity.WARNING
PLAIN = {"instruction": "How does a canal lock work?", "output": "Water flows in and lifts the boat."}


def rows_with(text: str, column: str = "instruction") -> list[dict[str, Any]]:
    """Twenty plain rows, then one with the text."""
    return [PLAIN] * 20 + [{**PLAIN, column: text}]


@pytest.mark.parametrize("column", ["instruction", "output"])
@pytest.mark.parametrize(
    ("text", "placeholder"),
    [
        ("{instruction}", "{instruction}"),
        ("{{ prompt }}", "{{ prompt }}"),
        ("<INPUT>", "<INPUT>"),
        ("[RESPONSE HERE]", "[RESPONSE HERE]"),
        ("Instruction: {instruction}\nResponse:", "{instruction}"),
        ("Answer the question.\n\n### Input:\n{input}\n\n### Response:\n", "{input}"),
        ("Question: {{question}}\nContext: some text", "{{question}}"),
        ("Summarise this text for me: [INSERT TEXT HERE]", "[INSERT TEXT HERE]"),
        ("The answer is [YOUR ANSWER HERE].", "[YOUR ANSWER HERE]"),
        ("Input: <INPUT>\nOutput:", "<INPUT>"),
        ("Hello,\n\n{output}\n", "{output}"),
    ],
)
def test_a_placeholder_that_stands_alone_is_an_error(text: str, placeholder: str, column: str) -> None:
    """A whole field, a line, or behind a label: told with the field, the row and the text."""
    found = no_placeholder_is_left(rows_with(text, column))
    assert [f.severity for f in found] == [ERROR]
    assert (
        f"1 of 21 rows (4.8 %) hold a placeholder that was never filled: {placeholder!r} in {column}"
        in found[0].message
    )
    row = found[0].evidence["rows"][0]
    assert (row["row"], row["placeholder"]) == (20, placeholder)


def test_the_data_s_own_columns_are_names_of_placeholders() -> None:
    """A name that only this data set has, as a line of its own."""
    rows = [{**PLAIN, "poem_title": "x"}] * 5 + [
        {**PLAIN, "poem_title": "x", "instruction": "Write a poem.\nTitle: {poem_title}"}
    ]
    assert no_placeholder_is_left(rows)[0].evidence["rows"][0]["placeholder"] == "{poem_title}"
    assert not no_placeholder_is_left(rows_with("Write a poem.\nTitle: {poem_title}"))


def test_a_placeholder_in_running_text_is_a_warning_unless_many_rows_have_it() -> None:
    """In the middle of a sentence: likely in one row, certain in many."""
    text = "Please answer {question} in one sentence."
    assert [f.severity for f in no_placeholder_is_left(rows_with(text))] == [WARNING]
    assert [f.severity for f in no_placeholder_is_left([PLAIN, {**PLAIN, "instruction": text}])] == [ERROR]


LEGITIMATE = {
    "f-string": 'Explain this line: print(f"Hello {input}")',
    "format call": "What does '{prompt}'.format(prompt=1) give?",
    "fenced code": "Fix this:\n```python\ndef build(instruction):\n    return f'''\n{instruction}\n'''\n```",
    "code without a fence": "def build(prompt):\n    text = '''\n{prompt}\n'''\n    return text.format(prompt=prompt)\nprint(build('x'))",
    "JSX": "function Box({input}) {\n  return (\n    <div>\n      {input}\n    </div>\n  );\n}",
    "inline code": "Put the text into the slot `{instruction}` of it.",
    "JSON": 'Return {"answer": 4, "context": {"question": "x"}}.',
    "LaTeX": r"Simplify \frac{input}{output} + \text{answer} and x_{input}^{output}.",
    "set": "Let A = {input, output} and B = {x}.",
    "a template is asked for": "Write a prompt template with the placeholders {instruction} and {input}.",
    "templates are taught": "In Jinja you write {{ prompt }} where the prompt is to stand.",
    "a letter": "Dear [Hiring Manager],\nThank you.\nBest regards,\n[Your Name]",
    "a letter in capitals": "Dear [NAME],\nsee you on [DATE] at [ADDRESS].",
    "marks of names": "[Naruto] is a [Nippon] manga by [Masashi].",
    "tags": "<INPUT>\nsome text\n</INPUT>",
    "an XML answer": "<answer>4</answer> and <question>?</question>",
    "sections": "[QUESTION]\nHow many?\n[ANSWER]\nFour.",
    "shell": "Run `echo ${input}` and then $HOME/${output}.",
    "rust": 'println!("{answer}");',
    "a shell loop": "for f in ${input} ; do\n  cat ${f} > ${output}\ndone",
    "a speaker": "[INST] is a marker and <EOS> a token.",
    "mustache": "Mustache fills {{name}} and {{ question }} from a hash.",
    "braces of words": "The word {cat} is in braces.",
    "C": 'int main() {\n  int input;\n  scanf("%d", &input);\n  if (input) { output(input); }\n  return 0;\n}',
}


@pytest.mark.parametrize("name", LEGITIMATE)
@pytest.mark.parametrize("column", ["instruction", "output"])
def test_what_only_looks_like_a_placeholder_passes(name: str, column: str) -> None:
    """Code, formulas, letters that leave names open, talk about templates, tags that close."""
    found = no_placeholder_is_left(rows_with(LEGITIMATE[name], column))
    assert not found, found[0].message


def test_real_data_hold_no_placeholders(real_data: Path) -> None:
    """GSM8K, Alpaca's seeds (with `[Your Name]` in a letter) and real conversations pass; planted ones are found."""
    data = real_data / "data"
    seeds = [
        json.loads(line)
        for line in (data / "alpaca-seeds" / "seed_tasks.jsonl").read_text("utf-8").splitlines()
    ]
    flat = as_rows([{"instruction": s["instruction"], **i} for s in seeds for i in s["instances"]])
    gsm8k = read_files([data / "gsm8k" / "train.jsonl"])
    for rows in (flat, gsm8k, read_files([data / "conversations" / "dummy_conversation.json"])):
        assert not no_placeholder_is_left(rows)
    records = [
        {**r, "question": "Question: {question}\nAnswer:"} if i in (3, 5, 4000) else r
        for i, r in enumerate(gsm8k.records)
    ]
    found = no_placeholder_is_left(Rows(records, Columns(prompt="question", response="answer")))
    assert [row["row"] for row in found[0].evidence["rows"]] == [3, 5, 4000]
