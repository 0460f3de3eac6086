"""Formats: one object renders training text, generation prompt and terminator from one definition, so they cannot drift."""

from llmguard.formats.chat import ChatTemplate
from llmguard.formats.pieces import Kind, Piece, pieces_text
from llmguard.formats.text import TEXT_FORMATS, TextFormat, text_format

__all__ = ["TEXT_FORMATS", "ChatTemplate", "Kind", "Piece", "TextFormat", "pieces_text", "text_format"]
