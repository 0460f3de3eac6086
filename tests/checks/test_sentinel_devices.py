"""Sentinels on a GPU, as far as no GPU is needed: where a model goes, in which format, and how many prompts at a time."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import pytest

from llmguard.estimates import Architecture, architecture_of
from llmguard.estimates.generation import row_bytes, rows_that_fit, smallest_set, weight_bytes
from llmguard.sentinels.devices import NoRoom, Plan, accelerator, in_batches, plan_for, rows_at_once

GIB = 2**30
QWEN_HALF = {
    "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA_70 = {
    "model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "intermediate_size": 28672, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip


def sized(config: dict[str, Any]) -> Architecture:
    """The sizes of a config that tells enough."""
    found = architecture_of(config)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("config", "free", "prompt", "new", "rows"),
    [
        (QWEN_HALF, 0.0, 24, 64, 1),
        (QWEN_HALF, 0.1, 24, 64, 2),
        (QWEN_HALF, 1, 24, 64, 22),
        (QWEN_HALF, 8, 24, 64, 32),
        (QWEN_HALF, 40, 2000, 64, 9),
        (LLAMA_70, 1, 24, 64, 9),
        (LLAMA_70, 20, 24, 64, 32),
        (LLAMA_70, 20, 4000, 512, 1),
    ],
)
def test_a_batch_is_sized_by_what_is_free(
    config: dict[str, Any], free: float, prompt: int, new: int, rows: int
) -> None:
    """Never none, never more than there are; the longer the prompts, the fewer."""
    assert rows_that_fit(sized(config), free * GIB, prompt, new, 32) == rows


@pytest.mark.parametrize(("rows", "batch"), [(3, 3), (32, 8)])
def test_a_model_of_unknown_sizes_gets_a_few_rows(rows: int, batch: int) -> None:
    """What does not fit is then halved."""
    assert rows_that_fit(None, GIB, 24, 64, rows) == batch


def test_sizes_are_those_of_the_arithmetic() -> None:
    """Keys and values of 80 layers, 8 heads of 128, in two bytes: 320 KiB a token; 70.6 billion weights."""
    model = sized(LLAMA_70)
    assert row_bytes(model, 0, 1) - model.vocab * 6 == 2 * 80 * 8 * 128 * 2
    assert weight_bytes(model) == pytest.approx(2 * 70.6e9, rel=0.03)
    assert row_bytes(model, 100, 64) > row_bytes(model, 50, 64) > row_bytes(model, 50, 32)


@pytest.mark.parametrize(
    ("needed", "free", "devices"),
    [
        (1, [80], [0]),
        (73, [80], []),
        (1, [10, 79, 20], [1]),
        (71, [70, 80], [1]),
        (100, [80, 20, 80], [0, 2]),
        (140, [80, 80], []),
        (140, [80, 80, 80], [0, 1, 2]),
        (1, [], []),
    ],
)
def test_the_fewest_devices_that_hold_it(needed: float, free: list[float], devices: list[int]) -> None:
    """The emptiest first, with room left for what is computed."""
    assert smallest_set(needed, free) == devices


class Module:
    """torch.cuda, or torch.xpu: devices with so much free memory, and their generation."""

    def __init__(self, free: Sequence[float] = (), capability: int = 9, held: int = 0) -> None:
        self.free, self.capability, self.held = free, capability, held
        self.asked: list[int] = []

    def is_available(self) -> bool:
        return bool(self.free)

    def device_count(self) -> int:
        return len(self.free)

    def get_device_capability(self, number: int) -> tuple[int, int]:
        return self.capability, 0

    def mem_get_info(self, number: int) -> tuple[int, int]:
        self.asked.append(number)
        return int(self.free[number] * GIB), 80 * GIB

    def memory_reserved(self, number: int) -> int:
        return self.held

    def memory_allocated(self, number: int) -> int:
        return 0


def torch_with(
    cuda: Module | None = None, xpu: Module | None = None, mps: bool = False, hip: str | None = None
) -> Any:
    """What of torch is asked; its formats are their names."""
    return types.SimpleNamespace(
        cuda=cuda or Module(), xpu=xpu or Module(), version=types.SimpleNamespace(hip=hip),
        backends=types.SimpleNamespace(mps=types.SimpleNamespace(is_available=lambda: mps)),
        mps=types.SimpleNamespace(recommended_max_memory=lambda: 16 * GIB, driver_allocated_memory=lambda: 4 * GIB),
        bfloat16="bfloat16", float16="float16",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("torch", "wanted", "config", "arguments"),
    [
        (torch_with(), "auto", QWEN_HALF, {}),
        (torch_with(Module([79])), "cpu", QWEN_HALF, {}),
        (torch_with(Module([79])), "auto", QWEN_HALF, {"dtype": "bfloat16", "device_map": {"": "cuda:0"}}),
        (torch_with(Module([79, 79])), "cuda:1", QWEN_HALF, {"dtype": "bfloat16", "device_map": {"": "cuda:1"}}),
        (torch_with(Module([15], capability=7)), "auto", QWEN_HALF, {"dtype": "float16", "device_map": {"": "cuda:0"}}),
        (torch_with(Module([15], capability=8)), "auto", QWEN_HALF, {"dtype": "bfloat16", "device_map": {"": "cuda:0"}}),
        (torch_with(Module([15], capability=7), hip="6"), "auto", QWEN_HALF, {"dtype": "bfloat16", "device_map": {"": "cuda:0"}}),
        (torch_with(xpu=Module([15])), "auto", QWEN_HALF, {"dtype": "bfloat16", "device_map": {"": "xpu:0"}}),
        (torch_with(mps=True), "auto", QWEN_HALF, {"dtype": "float16", "device_map": {"": "mps"}}),
        (torch_with(Module([79])), "auto", {**QWEN_HALF, "quantization_config": {}}, {"dtype": "auto", "device_map": {"": "cuda:0"}}),
        (torch_with(Module([79, 79, 79])), "auto", LLAMA_70,
         {"dtype": "bfloat16", "device_map": "auto", "max_memory": dict.fromkeys(range(3), int(0.8 * 79 * GIB))}),
        (torch_with(Module([10, 79, 79])), "auto", {**LLAMA_70, "num_hidden_layers": 60},
         {"dtype": "bfloat16", "device_map": "auto", "max_memory": dict.fromkeys((1, 2), int(0.8 * 79 * GIB))}),
    ],
)  # fmt: skip
def test_where_a_model_goes(
    torch: Any, wanted: str, config: dict[str, Any], arguments: dict[str, Any]
) -> None:
    """Nothing on a processor; bfloat16 where the GPU has it; over several devices only what does not fit on one."""
    assert plan_for(torch, wanted, config, architecture_of(config)).arguments(torch, "5.23.0") == arguments


def test_the_format_has_the_name_that_this_version_knows() -> None:
    """`torch_dtype` until 4.55."""
    plan = Plan("cuda", (0,), "bfloat16")
    assert plan.arguments(torch_with(), "4.45.2")["torch_dtype"] == "bfloat16"
    assert plan.arguments(torch_with(), "4.56.0")["dtype"] == "bfloat16"


def test_other_devices_are_left_alone_where_one_is_enough() -> None:
    """Asking one what is free starts a context on it."""
    cuda = Module([79, 79])
    plan_for(torch_with(cuda), "auto", QWEN_HALF, architecture_of(QWEN_HALF))
    assert cuda.asked == [0]


def test_what_fits_nowhere_is_told_with_both_numbers() -> None:
    """Before anything is loaded."""
    with pytest.raises(NoRoom, match=r"need 13\d GiB in bfloat16, and 2 visible devices have 158 GiB free"):
        plan_for(torch_with(Module([79, 79])), "auto", LLAMA_70, architecture_of(LLAMA_70))


@pytest.mark.parametrize(
    ("torch", "kind"),
    [
        (torch_with(), "cpu"),
        (torch_with(Module([1])), "cuda"),
        (torch_with(xpu=Module([1])), "xpu"),
        (torch_with(mps=True), "mps"),
    ],
)
def test_the_accelerator_that_there_is(torch: Any, kind: str) -> None:
    """CUDA and ROCm first."""
    assert accelerator(torch) == kind


@pytest.mark.parametrize(
    ("torch", "plan", "rows"),
    [
        (torch_with(), Plan(), 32),
        (torch_with(Module([1])), Plan("cuda", (0,), "bfloat16"), 22),
        (torch_with(Module([0.5], held=GIB // 2)), Plan("cuda", (0,), "bfloat16"), 22),
        (torch_with(Module([1, 0.25])), Plan("cuda", (0, 1), "bfloat16"), 11),
        (torch_with(mps=True), Plan("mps", (0,), "float16"), 32),
    ],
)
def test_what_is_free_decides_about_the_batch(torch: Any, plan: Plan, rows: int) -> None:
    """What the allocator keeps unused is free, too; of several devices the fullest counts; a processor takes all at once."""
    assert rows_at_once(torch, plan, QWEN_HALF, [[1] * 24] * 32, 64) == rows


class Generator:
    """Answers with the length of each prompt; runs out of memory beyond so many rows."""

    def __init__(self, most: int, error: Exception | None = None) -> None:
        self.most, self.error = most, error or RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.sizes: list[int] = []

    def __call__(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        self.sizes.append(len(prompts))
        if len(prompts) > self.most:
            raise self.error
        return [[len(prompt)] for prompt in prompts]


PROMPTS = [[1] * length for length in (3, 9, 1, 7, 5, 2, 8)]


@pytest.mark.parametrize(
    ("most", "size", "sizes", "left"),
    [
        (7, 7, [7], 7),
        (7, 3, [3, 3, 1], 3),
        (4, 7, [7, 3, 3, 1], 3),
        (1, 4, [4, 2, *[1] * 7], 1),
        (2, 100, [7, 3, *[1] * 7], 1),
    ],
)
def test_batches_are_halved_where_memory_runs_out(most: int, size: int, sizes: list[int], left: int) -> None:
    """Every prompt has its own completion, in its own place; nothing is generated twice but what failed."""
    generate, released = Generator(most), []
    found, used = in_batches(generate, PROMPTS, size, release=lambda: released.append(1))
    assert found == [[len(prompt)] for prompt in PROMPTS]
    assert (generate.sizes, used) == (sizes, left)
    assert len(released) == sum(each > most for each in sizes)


def test_one_prompt_that_does_not_fit_is_told() -> None:
    """With what the allocator said, and nothing else."""
    with pytest.raises(
        NoRoom, match="not even one prompt at a time fits beside the model: RuntimeError: CUDA out of memory"
    ):
        in_batches(Generator(0), PROMPTS, 2)


@pytest.mark.parametrize("text", ["CUDA error: device-side assert triggered", "shapes cannot be multiplied"])
def test_other_errors_are_not_tried_again(text: str) -> None:
    """Less at once would not help."""
    generate = Generator(0, RuntimeError(text))
    with pytest.raises(RuntimeError, match=text):
        in_batches(generate, PROMPTS, 4)
    assert generate.sizes == [4]
