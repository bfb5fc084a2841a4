"""Several examples in one row, without padding: each gets what it gets alone, and nothing of the others."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import fake_flash
import numpy as np
import pytest
import torch
from tiny_fit import attach_lora
from tiny_zoo import FAMILIES, WINDOW, save_family
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tokensieve import packing as packing_module
from tokensieve.errors import ConfigError
from tokensieve.head import split_head
from tokensieve.loss import compute_logits, weighted_nll_sum
from tokensieve.micro_batches import lay_out, split_examples
from tokensieve.model import load_base
from tokensieve.packing import Packing, choose_packing, compute_hidden, mask_pays, run_packed
from tokensieve.records import Batch

CPU = torch.device("cpu")
LENGTHS = (3 * WINDOW, 2, WINDOW + 1, 1, 2 * WINDOW)  # some fit into the sliding window
# Layers with a state along the row, and attention that is biased by the place in it.
REFUSED = ("falcon-rw", "falcon-h1", "mamba", "recurrent-gemma")
PACKED = [family for family in FAMILIES if family not in REFUSED]
# Without sdpa, or with an attention of their own: soft-capped scores, sinks, Falcon's classes.
UNDER_A_MASK = ("gemma-2", "gpt-oss", "falcon", "falcon-40b")
every_packed_family = pytest.mark.parametrize("family", PACKED)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("zoo")

    def find(family: str) -> Path:
        folder = root / family
        return folder if folder.is_dir() else save_family(family, folder)

    return find


@pytest.fixture
def load(folder_of: Callable[[str], Path]) -> Callable[..., PreTrainedModel]:
    def load_family(family: str, attention: str = "auto") -> PreTrainedModel:
        return load_base(str(folder_of(family)), None, dtype="float32", attention=attention, device=CPU)

    return load_family


def examples() -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [generator.integers(6, 300, length).tolist() for length in LENGTHS]


def one_row() -> torch.Tensor:
    return torch.tensor([[token for ids in examples() for token in ids]])


def packed_logits(model: PreTrainedModel, packing: Packing) -> list[torch.Tensor]:
    """Logits [T_i, V] of each example, from one row of all."""
    decoder, head = split_head(model)
    with torch.no_grad():
        hidden = run_packed(decoder, one_row(), LENGTHS, packing)
        return split_examples(compute_logits(hidden[0], head)[None], LENGTHS)


def assert_equal_alone(folder: Path, found: list[torch.Tensor]) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    for ids, logits in zip(examples(), found, strict=True):
        with torch.no_grad():
            expected = plain(input_ids=torch.tensor([ids])).logits[0]
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


@every_packed_family
def test_each_example_of_a_row_has_the_logits_it_has_alone(
    folder_of: Callable[[str], Path], load: Callable[..., PreTrainedModel], family: str
) -> None:
    model = load(family)
    packing = choose_packing(model)
    assert packing == ("block_diagonal" if family in UNDER_A_MASK else "by_example")
    assert_equal_alone(folder_of(family), packed_logits(model, packing))
    if packing == "by_example":
        assert_equal_alone(folder_of(family), packed_logits(load(family), "block_diagonal"))


@pytest.mark.parametrize("family", [family for family in PACKED if family not in ("falcon", "falcon-40b")])
def test_written_out_attention_uses_a_mask(
    folder_of: Callable[[str], Path], load: Callable[..., PreTrainedModel], family: str
) -> None:
    model = load(family, attention="eager")
    assert choose_packing(model) == "block_diagonal"
    assert_equal_alone(folder_of(family), packed_logits(model, "block_diagonal"))


@every_packed_family
def test_no_token_reads_another_example(load: Callable[..., PreTrainedModel], family: str) -> None:
    """The gradient of an example's hidden states by the embeddings of all others is zero, exactly."""
    model = load(family)
    packing = choose_packing(model)
    decoder, _ = split_head(model)
    embedded: list[torch.Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    model.get_input_embeddings().register_forward_hook(keep)
    hidden = run_packed(decoder, one_row(), LENGTHS, packing)
    ends = np.cumsum((0, *LENGTHS))
    for number, (start, stop) in enumerate(pairwise(ends)):
        upstream = torch.zeros_like(hidden)
        upstream[:, start:stop] = torch.randn(1, stop - start, hidden.shape[-1])
        (gradient,) = torch.autograd.grad(hidden, embedded[0], upstream, retain_graph=True)
        reads = gradient[0].abs().sum(-1) > 0
        inside = torch.zeros(len(reads), dtype=torch.bool)
        inside[start:stop] = True
        assert not (reads & ~inside).any(), number
        assert reads[start]


@pytest.mark.parametrize("family", ["llama", "gemma-3-multimodal"])
def test_reference_beside_the_prepared_model_attends_alike(
    folder_of: Callable[[str], Path], load: Callable[..., PreTrainedModel], family: str
) -> None:
    """Nobody chose a packing for this one."""
    assert_equal_alone(folder_of(family), packed_logits(load(family), "by_example"))


@pytest.mark.parametrize("family", REFUSED)
def test_families_that_cannot_are_refused(load: Callable[..., PreTrainedModel], family: str) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.padding_free: .*keep the examples of one row apart.*=false"):
        choose_packing(load(family))


def test_attention_that_leaks_is_refused(load: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """A family that ignores positions and masks, as code that ships with a checkpoint may."""
    model = load("llama")
    forward = model.get_decoder().forward

    def without(input_ids: torch.Tensor, **options: Any) -> Any:
        return forward(input_ids=input_ids, use_cache=False)

    monkeypatch.setattr(model.get_decoder(), "forward", without)
    with pytest.raises(ConfigError, match=r"trainer\.padding_free"):
        choose_packing(model)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "gemma-2", "gemma-3", "qwen-2.5", "qwen-3", "phi-3", "olmo-2", "gpt-neox", "mixtral"]
)
def test_flash_attention_gets_the_ends_of_the_examples(
    folder_of: Callable[[str], Path],
    load: Callable[..., PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:
    fake_flash.install(monkeypatch)
    model = load(family, attention="flash_attention_2")
    assert choose_packing(model) == "varlen"
    fake_flash.calls.clear()
    logits = packed_logits(model, "varlen")
    assert fake_flash.calls.count("varlen") == 2  # once a layer
    assert_equal_alone(folder_of(family), logits)


def lora(model: PreTrainedModel, **changes: Any) -> nn.Module:
    adapted = attach_lora(model, **changes)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:  # which starts at zero, and then lora_A has no gradient
                parameter.fill_(0.02)
    return adapted.train()


def batch(padding_free: bool) -> Batch:
    """Every third token trains, none of the second example."""
    keeps = [
        [float(place % 3 == 1 and number != 1) for place in range(length)] for number, length in enumerate(LENGTHS)
    ]
    weight = sum(map(sum, keeps))
    return lay_out(examples(), keeps, pad_id=2, padding_free=padding_free, step_weight=weight, seed=1)


def loss_and_gradients(model: nn.Module, packing: Packing | None) -> dict[str, torch.Tensor]:
    decoder, head = split_head(model)
    examples = batch(packing is not None)
    hidden = compute_hidden(decoder, examples, packing)
    loss = weighted_nll_sum(hidden, head, examples.input_ids, examples.weights) / examples.step_weight
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return {"loss": loss.detach()} | gradients


@every_packed_family
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_of_padded_rows(
    load: Callable[..., PreTrainedModel], family: str, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing_module, "mask_pays", lambda lengths, width, written_out: True)
    base = load(family)
    packing = choose_packing(base)
    model = lora(base, gradient_checkpointing=recompute)
    expected, found = loss_and_gradients(model, None), loss_and_gradients(model, packing)
    assert expected.keys() == found.keys()
    assert found["loss"] == pytest.approx(float(expected["loss"]), rel=1e-6)
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-6 * max(1.0, float(value.abs().max())), name


def test_flash_kernels_that_cannot_run_here_are_taken_on_trust(load: Callable[..., PreTrainedModel]) -> None:
    """Weights in main memory that will be split over devices; by_example and masks can be tried anywhere."""
    model = load("llama")
    assert choose_packing(model, can_run=False) == "by_example"
    model.config._attn_implementation = "flash_attention_2"
    assert choose_packing(model, can_run=False) == "varlen"


def test_mask_that_does_not_pay_gives_way_to_padding(
    load: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("gemma-2")
    packing = choose_packing(model)
    decoder, _ = split_head(model)
    seen: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_hook(lambda module, ids, output: seen.append(tuple(ids[0].shape)))
    assert not mask_pays((4, 4, 4), 4096, written_out=False)  # nothing is padded
    assert mask_pays((4, 1, 1), 4096, written_out=True)
    assert mask_pays((300, 200, 200), 512, written_out=False)
    assert not mask_pays((300, 200, 200), 512, written_out=True)
    found = []
    for pays in (False, True):
        monkeypatch.setattr(packing_module, "mask_pays", lambda lengths, width, written_out, pays=pays: pays)
        with torch.no_grad():
            found.append(compute_hidden(decoder, batch(True), packing))
    assert seen == [(len(LENGTHS), max(LENGTHS)), (1, sum(LENGTHS))]
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
