"""Strategies for hypothesis, for tests of data pipelines; and `prove_encoder`, which needs no hypothesis.

    from hypothesis import given
    from llmguard.strategies import conversations, prove_encoder

    @given(conversations())
    def test_encode_keeps_every_message(messages): ...

    def test_encode_is_right(tokenizer):
        prove_encoder(encode, tokenizer, format="chatml")

One example costs one draw of 24 bits, which shrinks towards short and plain text. Where hypothesis itself is the bottleneck,
`batches` gives a property many examples a draw. `AWKWARD` and `LOOKALIKES` are fixed pools to run through as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from llmguard import examples
from llmguard.errors import UsageError
from llmguard.examples import AWKWARD, LOOKALIKES
from llmguard.prove import prove_encoder

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

__all__ = [
    "AWKWARD",
    "LOOKALIKES",
    "HypothesisMissing",
    "awkward_texts",
    "batches",
    "broken_configs",
    "chat_templates",
    "conversations",
    "format_names",
    "prove_encoder",
    "sft_rows",
    "training_configs",
]

T = TypeVar("T")
Messages = list[dict[str, str]]


class HypothesisMissing(UsageError, ImportError):
    """A strategy was asked for and hypothesis is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "hypothesis", None, "hypothesis to be installed: pip install 'pytest-llmguard[test]'"
        )


def _strategies() -> Any:
    try:
        from hypothesis import strategies
    except ImportError:
        raise HypothesisMissing from None
    return strategies


def _seeded(expand: Callable[[int], T]) -> SearchStrategy[T]:
    found: SearchStrategy[T] = _strategies().integers(0, examples.SEEDS - 1).map(expand)
    return found


def conversations(
    *, pairs: int = 4, system: bool = True, lookalikes: bool = False
) -> SearchStrategy[Messages]:
    """Lists of messages with `role` and `content`: one to `pairs` of user and assistant, perhaps with a system message.

    With `lookalikes`, some user turns hold texts that look like control tokens.

    Raises:
        UsageError: `pairs` below 1, or hypothesis is not installed.
    """
    if pairs < 1:
        raise UsageError("pairs", pairs, "at least 1")
    return _seeded(
        lambda seed: examples.conversation(seed, pairs=pairs, system=system, lookalikes=lookalikes)
    )


def sft_rows(
    *, prompt: str = "prompt", response: str = "response", lookalikes: bool = False
) -> SearchStrategy[dict[str, str]]:
    """Rows with a prompt and a response in the columns named.

    Raises:
        UsageError: hypothesis is not installed.
    """
    return _seeded(
        lambda seed: examples.sft_row(seed, prompt=prompt, response=response, lookalikes=lookalikes)
    )


def awkward_texts(*, lookalikes: bool = True) -> SearchStrategy[str]:
    """Texts that encoders trip over, the empty one among them; valid Unicode all of them.

    Raises:
        UsageError: hypothesis is not installed.
    """
    return _seeded(lambda seed: examples.awkward_text(seed, lookalikes=lookalikes))


def chat_templates() -> SearchStrategy[str]:
    """Jinja chat templates of the usual builds.

    Raises:
        UsageError: hypothesis is not installed.
    """
    return _seeded(examples.chat_template)


def format_names() -> SearchStrategy[str]:
    """Names that `[prompt] format` takes.

    Raises:
        UsageError: hypothesis is not installed.
    """
    from llmguard.project.schema import FORMATS

    found: SearchStrategy[str] = _strategies().sampled_from(FORMATS)
    return found


def training_configs() -> SearchStrategy[dict[str, Any]]:
    """Sound training configurations.

    Raises:
        UsageError: hypothesis is not installed.
    """
    return _seeded(examples.training_config)


def broken_configs() -> SearchStrategy[tuple[dict[str, Any], str, str]]:
    """Training configurations with one wrong value: (configuration, key, fault).

    Raises:
        UsageError: hypothesis is not installed.
    """
    return _seeded(examples.broken_config)


def batches(expand: Callable[[int], T], *, size: int = 32) -> SearchStrategy[list[T]]:
    """Lists of 1 to `size` examples from two small draws, where one draw an example is too slow; shrinks to the one that fails.

    `expand` makes an example of a seed: a function of `llmguard.examples`.

    Raises:
        UsageError: `size` below 1, or hypothesis is not installed.
    """
    if size < 1:
        raise UsageError("size", size, "at least 1")
    st = _strategies()
    drawn = st.tuples(st.integers(1, size), st.integers(0, examples.SEEDS - size))
    found: SearchStrategy[list[T]] = drawn.map(lambda pair: [expand(pair[1] + i) for i in range(pair[0])])
    return found
