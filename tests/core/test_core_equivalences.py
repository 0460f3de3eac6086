"""What may not matter does not: packing, padding, batch size, the disk, merging. On five architectures, in double precision.

Models are tiny and random, with weights large enough for attention to matter: each test first shows that the wrong way differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.tiny import byte_level
from torch.nn.functional import cross_entropy

from llmguard_core.collating import Collator
from llmguard_core.encoding import Encoder
from llmguard_core.formats import format_for
from llmguard_core.loading import load_base
from llmguard_core.packing import pack

ARCHITECTURES = ("Llama", "Qwen2", "GPTNeoX", "Mistral", "Phi")
SAME = {"rtol": 1e-9, "atol": 1e-11}
"""In float64: sums of another order differ by some 1e-15."""
OTHER = 1e-4
"""What another result differs by at least, as a share."""
# peft asks transformers 5 for an old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def model(architecture: str, attention: str = "sdpa", dtype: torch.dtype = torch.float64) -> Any:
    """A tiny random model, the same for the same arguments."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(byte_level()), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, bos_token_id=None,
        eos_token_id=byte_level().eos_token_id, pad_token_id=byte_level().pad_token_id,
    )  # fmt: skip
    config._attn_implementation = attention
    return getattr(transformers, f"{architecture}ForCausalLM")(config).to(dtype).eval()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """One behind the other."""
    return str(request.param)


@pytest.fixture(scope="module")
def rows() -> list[dict[str, list[int]]]:
    """Encoded rows of 12 to 60 tokens."""
    source = [
        {"prompt": f"what is the number of {'apples ' * (i % 4)}", "response": f"{'one two ' * (i % 3)}{i}"}
        for i in range(9)
    ]
    return list(Encoder(byte_level(), format_for(byte_level(), "chatml")).rows(source))


def loss(net: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Mean over the supervised tokens in the model's own precision (transformers computes it in float32), and the gradients."""
    net.zero_grad()
    told = {name: value for name, value in batch.items() if name != "labels"}
    found = cross_entropy(net(**told).logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    found.backward()
    return found.detach(), [p.grad.clone() for p in net.parameters() if p.grad is not None]


def far(one: Any, other: Any) -> bool:
    """Whether two results are not the same in truth."""
    return float((one - other).abs().max()) > OTHER * float(one.abs().max())


def collator(**more: Any) -> Collator:
    """In the models' precision."""
    return Collator(byte_level(), **{"dtype": torch.float64, **more})


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_teach_what_unpacked_ones_do(architecture: str, attention: str, rows: Any) -> None:
    """Loss and every gradient; without the mask, or without positions that restart, they are others."""
    net, packed = model(architecture, attention), pack(rows, 128)
    assert max(len(each["seq_lengths"]) for each in packed) > 1
    batch = collator()(packed)
    (one, grads), (other, others) = loss(net, collator()(rows)), loss(net, batch)
    torch.testing.assert_close(one, other, **SAME)
    assert len(grads) == len(others) > 10
    for grad, same in zip(grads, others, strict=True):
        torch.testing.assert_close(grad, same, **SAME)
    plain = {**batch, "attention_mask": batch["input_ids"].ne(byte_level().pad_token_id).long()}
    assert far(one, loss(net, plain)[0])


def test_packed_rows_may_be_one_row_without_a_mask(architecture: str, rows: Any) -> None:
    """As flash attention takes them; transformers 5 reads the positions for sdpa, too, where no cache is asked for."""
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("transformers before 5 needs flash attention for it")
    net = model(architecture)
    net.config.use_cache = False
    (one, grads), (other, others) = (
        loss(net, collator(packed=p)(pack(rows, 128))) for p in ("mask", "positions")
    )
    torch.testing.assert_close(one, other, **SAME)
    for grad, same in zip(grads, others, strict=True):
        torch.testing.assert_close(grad, same, **SAME)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mask_serves_other_precisions(architecture: str, dtype: torch.dtype, rows: Any) -> None:
    """A mask of the default dtype, models in single and in half precision."""
    net = model(architecture, dtype=dtype)
    batches = [Collator(byte_level(), dtype=dtype)(each) for each in (rows, pack(rows, 128))]
    with torch.no_grad():
        one, other = (float(net(**batch).loss) for batch in batches)
    assert one == pytest.approx(other, rel=1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_on_the_left_changes_no_logits(architecture: str, attention: str, rows: Any) -> None:
    """Of any token of any row, against the row alone without padding.

    Eager attention in single precision: it computes its softmax in float32, where float64's least number is -inf, and padding NaN.
    """
    net = model(architecture, attention, torch.float64 if attention == "sdpa" else torch.float32)
    same = SAME if attention == "sdpa" else {"rtol": 1e-5, "atol": 1e-6}
    batch = collator(side="left")(rows)
    batch.pop("labels")
    with torch.no_grad():
        found = net(**batch).logits
        blind = net(input_ids=batch["input_ids"]).logits
        for row, logits, without in zip(rows, found, blind, strict=True):
            length = len(row["input_ids"])
            alone = net(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            torch.testing.assert_close(logits[-length:], alone, **same)
            assert length == len(logits) or far(alone, without[-length:])


def test_a_batch_of_n_is_n_batches_of_one(architecture: str, rows: Any) -> None:
    """Logits of every token, and the loss by tokens; the mean of the rows' means is another number."""
    net = model(architecture)
    batch = collator()(rows)
    labels = batch.pop("labels")
    with torch.no_grad():
        together = net(**batch).logits
        sums, counts = [], []
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            alone = net(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            torch.testing.assert_close(together[number, :length], alone, **SAME)
            targets = torch.tensor(row["labels"][1:])
            sums.append(cross_entropy(alone[:-1], targets, reduction="sum"))
            counts.append(int((targets != -100).sum()))
    whole = cross_entropy(together[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(whole, sum(sums) / sum(counts), **SAME)
    assert far(whole, torch.stack([s / n for s, n in zip(sums, counts, strict=True)]).mean())


def test_a_model_comes_back_from_the_disk_bit_for_bit(architecture: str, rows: Any, tmp_path: Path) -> None:
    """Saved and loaded by the core's loader."""
    net = model(architecture, dtype=torch.float32)
    net.save_pretrained(tmp_path / "model")
    byte_level().save_pretrained(tmp_path / "model")
    loaded = load_base(tmp_path / "model", device="cpu", dtype="float32")
    batch = Collator(loaded.tokenizer)(rows)
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, net(**batch).logits)
    assert loaded.tokenizer.get_vocab() == byte_level().get_vocab()


def test_an_adapter_merged_is_the_adapter_put_on(architecture: str, rows: Any, tmp_path: Path) -> None:
    """And put on from the disk by the core's loader; with it off, the base is as it was."""
    from peft import LoraConfig, get_peft_model

    base = model(architecture, dtype=torch.float32)
    base.save_pretrained(tmp_path / "model")
    byte_level().save_pretrained(tmp_path / "model")
    base.config._name_or_path = base.name_or_path = str(tmp_path / "model")
    batch = Collator(byte_level())(rows)
    with torch.no_grad():
        before = base(**batch).logits
        tuned = get_peft_model(
            base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        ).eval()
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        on = tuned(**batch).logits
        tuned.save_pretrained(tmp_path / "adapter")
        loaded = load_base(tmp_path / "adapter", device="cpu")
        assert torch.equal(loaded.model(**batch).logits, on)
        with loaded.model.disable_adapter():
            assert torch.equal(loaded.model(**batch).logits, before)
        assert far(before, on)
        exact = tuned.double()(**batch).logits
        merged = tuned.merge_and_unload()(**batch).logits
    torch.testing.assert_close(merged, exact, **SAME)
    torch.testing.assert_close(on, exact.float(), rtol=1e-3, atol=1e-4)
