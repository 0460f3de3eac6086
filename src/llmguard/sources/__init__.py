"""The user's Python sources as data: parsed, never imported."""

from llmguard.sources.read import SourceFile, Sources, as_sources, read_sources

__all__ = ["SourceFile", "Sources", "as_sources", "read_sources"]
