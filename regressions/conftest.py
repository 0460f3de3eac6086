"""What the regressions stand on: the lab's base model and tokenizer, loaded once a session, and rows to train on."""

from __future__ import annotations

from typing import Any

import pytest
from support.quick import frozen

__all__ = ["frozen"]

QUESTIONS = (
    "What is two and three?",
    "Name a fruit that is red.",
    "Which month follows May?",
    "How many legs has a spider?",
)
ANSWERS = ("Two and three is five.", "An apple is red.", "June follows May.", "A spider has eight legs.")


@pytest.fixture(scope="session")
def lab_path() -> Any:
    """The lab's folders."""
    from llmguard_core.lab import lab

    return lab()


@pytest.fixture(scope="session")
def tokenizer(lab_path: Any) -> Any:
    """The lab's tokenizer, which ships a ChatML template as some base models do.

    With one thread for what follows: with more, tensors this small spend their time waiting for each other.
    """
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    return AutoTokenizer.from_pretrained(lab_path.base_with_template)


@pytest.fixture
def model(lab_path: Any) -> Any:
    """A fresh copy of the lab's base model, in float32 and without dropout."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(lab_path.base).eval()


@pytest.fixture(scope="session")
def rows() -> list[dict[str, str]]:
    """Four questions and their answers."""
    return [{"prompt": q, "response": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
