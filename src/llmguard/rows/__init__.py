"""Source examples: rows with their file and line, turned into turns whatever shape they were written in."""

from llmguard.rows.columns import Columns, guess_columns
from llmguard.rows.read import read_files
from llmguard.rows.rows import Problem, Rows, as_rows
from llmguard.rows.turns import ROLES, Turn, turns_of

__all__ = [
    "ROLES",
    "Columns",
    "Problem",
    "Rows",
    "Turn",
    "as_rows",
    "guess_columns",
    "read_files",
    "turns_of",
]
