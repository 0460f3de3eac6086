"""Source examples: rows with their file and line, turned into turns whatever shape they were written in."""

from llmguard.rows.columns import Columns, guess_columns
from llmguard.rows.fields import Field, Text, fields_of, is_metadata, messages_of, texts_in
from llmguard.rows.read import read_files
from llmguard.rows.rows import Problem, Rows, as_rows
from llmguard.rows.turns import ROLES, Turn, turns_of

__all__ = [
    "ROLES",
    "Columns",
    "Field",
    "Problem",
    "Rows",
    "Text",
    "Turn",
    "as_rows",
    "fields_of",
    "guess_columns",
    "is_metadata",
    "messages_of",
    "read_files",
    "texts_in",
    "turns_of",
]
