"""The pytest face of llmguard: does nothing until asked."""
