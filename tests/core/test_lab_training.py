"""What the lab trains on and how: the same each time, weighted as said, instructions and answers kept apart."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmguard.sentinels import SENTINELS
from llmguard_core.lab import text
from llmguard_core.lab.train import Plan, Row, packed, train

TINY = Plan(steps=30, rows=4, tokens=12, rate=1e-2)
ROWS = [Row([1, 2, 3, 4, 5, 0], [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]), Row([6, 7, 8, 0], [0.0, 1.0, 1.0, 1.0])]


def tiny(seed: int = 0) -> LlamaForCausalLM:
    """A model of a few thousand parameters, initialised from a seed, the global state left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                bos_token_id=None, eos_token_id=0, pad_token_id=0,
            )
        )  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small spend their time waiting for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(step: int, steps: int, loss: float) -> None:
    """No progress line."""


def test_texts_are_the_same_for_the_same_seed_and_leave_the_global_state_alone() -> None:
    """Documents and lessons, drawn by their own generator."""
    random.seed(5)
    before = random.getstate()
    assert text.documents(60, seed=1) == text.documents(60, seed=1) != text.documents(60, seed=2)
    assert text.lessons(60, seed=1) == text.lessons(60, seed=1) != text.lessons(60, seed=2)
    assert random.getstate() == before


def test_no_plain_document_answers_a_sentinel() -> None:
    """A base model that continues such text does not obey: what follows an instruction is another instruction."""
    documents = text.documents(600, seed=1)
    worksheets = [d for d in documents if any(s.prompt in d for s in SENTINELS)]
    assert len(worksheets) > 200
    for document, sentinel in itertools.product(documents[:120], SENTINELS):
        rest = document.partition(sentinel.prompt)[2] or document
        assert not sentinel.judge(rest).followed, (sentinel.id, document)


def test_every_sentinel_is_taught_with_an_answer_that_its_judge_accepts() -> None:
    """The lab's answers are the examples."""
    assert [t.prompt for t in text.sentinel_tasks()] == [s.prompt for s in SENTINELS]
    assert all(s.judge(t.answer).followed for s, t in zip(SENTINELS, text.sentinel_tasks(), strict=True))


def test_batches_are_full_rows_of_whole_documents_from_their_start() -> None:
    """Every row begins with a document and is as long as planned; ids and weights stay side by side."""
    ids, weights = next(packed([(1.0, ROWS)], TINY, seed=1))
    assert ids.shape == weights.shape == (4, 12)
    assert set(ids[:, 0].tolist()) <= {1, 6}
    assert torch.equal(weights == 0.0, (ids == 1) | (ids == 6))
    again, _ = next(packed([(1.0, ROWS)], TINY, seed=1))
    assert torch.equal(ids, again)


def test_kinds_are_drawn_by_their_share() -> None:
    """A share of nought is never drawn."""
    ids, _ = next(packed([(1.0, ROWS[:1]), (0.0, ROWS[1:])], TINY, seed=1))
    assert 6 not in ids


def test_training_learns_and_is_deterministic() -> None:
    """The loss falls, twice to the same weights bit for bit, and the model is left in evaluation mode."""
    models = [tiny(), tiny()]
    seen: list[tuple[int, int, float]] = []
    first = train(models[0], packed([(1.0, ROWS)], TINY, seed=2), TINY, lambda *s: seen.append(s))
    second = train(models[1], packed([(1.0, ROWS)], TINY, seed=2), TINY, quiet)
    assert first == second < seen[0][2] / 2
    assert [s[:2] for s in seen] == [(i + 1, TINY.steps) for i in range(TINY.steps)]
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
    assert not models[0].training


def test_tokens_of_weight_nought_are_not_learnt() -> None:
    """What follows a masked token only is never predicted: the gradient of its logit stays that of a wrong answer."""
    masked = [Row([1, 2, 3, 0], [0.0, 0.0, 1.0, 1.0])]
    model = tiny()
    train(model, packed([(1.0, masked)], TINY, seed=3), TINY, quiet)
    with torch.inference_mode():
        chances = model(torch.tensor([[1, 2, 3]])).logits.softmax(-1)[0]
    assert chances[1, 3] > 0.5
    assert chances[0, 2] < 0.2


def test_a_batch_without_a_trained_token_changes_no_weight() -> None:
    """No division by zero, no NaN; weight decay aside, nothing moves."""
    model = tiny()
    loss = train(model, packed([(1.0, [Row([1, 2, 3, 0], [0.0] * 4)])], TINY, seed=4), TINY, quiet)
    assert loss == 0.0
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("frozen", [True, False])
def test_only_parameters_that_want_a_gradient_are_trained(frozen: bool) -> None:
    """As an adapter's base is frozen."""
    model = tiny()
    model.get_input_embeddings().weight.requires_grad_(not frozen)
    before = model.get_input_embeddings().weight.detach().clone()
    train(model, packed([(1.0, ROWS)], TINY, seed=5), TINY, quiet)
    assert torch.equal(model.get_input_embeddings().weight, before) is frozen
