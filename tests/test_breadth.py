"""Every published family, from a checkpoint on disk: scores, losses, fits and texts equal what transformers computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from generating import generate
from tiny_fit import attach_lora, make_module
from tiny_zoo import FAMILIES, VOCABULARY, WINDOW, save_family
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from tokensieve import loss as loss_module
from tokensieve import score
from tokensieve.adapter import load_adapter
from tokensieve.errors import ConfigError
from tokensieve.head import check_head
from tokensieve.loader import StepLoader, TrainingRows
from tokensieve.log_likelihood import score_continuations
from tokensieve.micro_batches import PassShape
from tokensieve.model import load_base, load_tokenizer
from tokensieve.module import MaskedLMModule
from tokensieve.records import Batch, MaskStats, Stamp, TokenisedCorpus, TokenMask
from tokensieve.score import compute_nll
from tokensieve.trainer import fit

CPU = torch.device("cpu")
STAMP = Stamp("test", {})
LENGTHS = (3 * WINDOW, 5, WINDOW + 1, 2 * WINDOW)  # some fit into the sliding window
every_family = pytest.mark.parametrize("family", FAMILIES)


class Zoo:
    """Checkpoints on disk, each written once, and models of them that no test changes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[str, nn.Module] = {}

    def folder(self, family: str) -> Path:
        folder = self._root / family
        return folder if folder.is_dir() else save_family(family, folder)

    def load(self, family: str) -> PreTrainedModel:
        """As a run loads it."""
        return load_base(str(self.folder(family)), None, dtype="float32", attention="auto", device=CPU)

    def loaded(self, family: str) -> PreTrainedModel:
        return self._hold(f"{family}, ours", lambda: self.load(family))

    def plain(self, family: str) -> PreTrainedModel:
        """As transformers loads it, with the attention that is written out."""
        # Falcon's written-out attention adds its linear biases twice in transformers 5.23.
        attention = "sdpa" if family == "falcon-rw" else "eager"
        return self._hold(
            family,
            lambda: AutoModelForCausalLM.from_pretrained(
                self.folder(family), attn_implementation=attention, dtype=torch.float32
            ).eval(),
        )

    def plain_logits(self, family: str, ids: list[int]) -> torch.Tensor:
        """Logits [T, V] of one row alone."""
        with torch.no_grad():
            logits: torch.Tensor = self.plain(family)(input_ids=torch.tensor([ids])).logits[0]
        return logits

    def _hold(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._held:
            self._held[key] = make()
        return self._held[key]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several passes of scoring, several chunks of logits."""
    monkeypatch.setattr(score, "BATCH_TOKENS", 3 * max(LENGTHS))
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 10 * VOCABULARY)


def rows(lengths: tuple[int, ...] = LENGTHS) -> list[list[int]]:
    generator = np.random.default_rng(0)
    return [generator.integers(6, 300, length).tolist() for length in lengths]


def corpus() -> TokenisedCorpus:
    """The first two tokens of each row are its prompt."""
    return TokenisedCorpus(
        Dataset.from_list(
            [
                {"id": str(number), "input_ids": ids, "is_response": [place >= 2 for place in range(len(ids))]}
                for number, ids in enumerate(rows())
            ]
        ),
        STAMP,
    )


def mask() -> TokenMask:
    """Every third token trains, none of the second row."""
    keeps = [
        {"id": str(number), "keep": [number != 1 and place >= 2 and place % 3 == 0 for place in range(len(ids))]}
        for number, ids in enumerate(rows())
    ]
    return TokenMask(Dataset.from_list(keeps), MaskStats(len(keeps), 1, 1, 1, math.nan, 1.0), STAMP)


def loader(pad_id: int, steps: int, *, micro_batch_size: int = 2) -> StepLoader:
    return StepLoader(
        TrainingRows.collect(corpus(), mask(), normalise="kept"),
        epochs=steps,
        max_steps=None,
        batch_size=len(LENGTHS),
        shape=PassShape(micro_batch_size),
        group_by_length=False,
        seed=1,
        pad_id=pad_id,
    )


def step_loss(module: MaskedLMModule, batches: list[Batch]) -> torch.Tensor:
    """The loss of an optimiser step, as training adds it up."""
    return torch.stack([module(batch) / batch.step_weight for batch in batches]).sum()


@every_family
def test_scores_equal_the_plain_forward(zoo: Zoo, family: str) -> None:
    tokens = corpus()
    for ids, nll in zip(rows(), compute_nll(zoo.loaded(family), tokens), strict=True):
        expected = -zoo.plain_logits(family, ids).double().log_softmax(-1)[:-1].gather(-1, torch.tensor(ids)[1:, None])
        assert np.isnan(nll[:2]).all()
        np.testing.assert_allclose(nll[2:], expected[1:, 0].numpy(), rtol=1e-5, atol=1e-5)


@every_family
def test_loss_and_gradients_equal_the_per_token_loop(zoo: Zoo, family: str) -> None:
    expected_model, model = zoo.plain(family), zoo.load(family).requires_grad_(True)
    kept = mask().rows["keep"]
    expected = torch.zeros(())
    for ids, keep in zip(rows(), kept, strict=True):
        logits = expected_model(input_ids=torch.tensor([ids])).logits[0].float()
        for place in range(1, len(ids)):
            if keep[place]:
                expected = expected - F.log_softmax(logits[place - 1], dim=-1)[ids[place]]
    expected = expected / sum(map(sum, kept))
    expected_model.zero_grad()
    expected.backward()
    loss = step_loss(make_module(model), loader(pad_id=2, steps=1).micro_batches(0))
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    references = dict(expected_model.named_parameters())
    assert references.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        if references[name].grad is None:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, references[name].grad, rtol=1e-4, atol=1e-5, msg=name)


@every_family
def test_a_lora_fit_changes_the_loss_and_loads_again(zoo: Zoo, family: str, tmp_path: Path) -> None:
    tokens, keeps = corpus(), mask().rows["keep"]

    def mean_nll(model: nn.Module) -> float:
        found = zip(compute_nll(model, tokens), keeps, strict=True)
        return float(np.concatenate([nll[np.array(keep)] for nll, keep in found]).mean())

    before = mean_nll(zoo.loaded(family))
    model = attach_lora(zoo.load(family))
    assert mean_nll(model.eval()) == before
    history = run_fit(model, tmp_path)
    assert history[0] == pytest.approx(before, abs=1e-5)
    trained = mean_nll(model.eval())
    assert trained < before - 0.01
    again = load_adapter(zoo.load(family), tmp_path / "fit" / "last")
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert mean_nll(again) == pytest.approx(trained, abs=1e-6)


def run_fit(model: nn.Module, folder: Path) -> list[float]:
    """Three steps; returns their losses."""
    losses: list[float] = []
    fit(
        model,
        loader(pad_id=2, steps=3),
        [],
        folder / "fit",
        folder / "checkpoints",
        fit_digest="digest",
        device=CPU,
        precision="32",
        optimiser={
            "optimiser": "adamw",
            "lr": 1e-2,
            "weight_decay": 0.0,
            "betas": (0.9, 0.999),
            "schedule": "constant",
            "warmup_steps": 0,
        },
        grad_clip=1.0,
        validations_per_epoch=1,
        patience=None,
        checkpoint_seconds=1e9,
        on_metrics=lambda values, step: losses.append(values["train/nll"]),
    )
    return losses


@pytest.mark.parametrize("family", ["gemma-2", "mixtral"])
def test_a_full_fit_changes_the_loss_and_loads_again(zoo: Zoo, family: str, tmp_path: Path) -> None:
    model = attach_lora(zoo.load(family), method="none")
    history = run_fit(model, tmp_path)
    assert history[2] < history[0] - 0.1
    trained = compute_nll(model.eval(), corpus())
    again = load_base(str(tmp_path / "fit" / "last"), None, dtype="float32", attention="auto", device=CPU)
    for found, expected in zip(compute_nll(again, corpus()), trained, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


@every_family
def test_recomputed_activations_give_the_same_adapter_gradients(zoo: Zoo, family: str) -> None:
    gradients = []
    for recompute in (False, True):
        model = attach_lora(zoo.load(family), gradient_checkpointing=recompute).train()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:  # which starts at zero, and then lora_A has no gradient
                    parameter.fill_(0.02)
        step_loss(make_module(model), loader(pad_id=2, steps=1).micro_batches(0)).backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
    for name, gradient in gradients[0].items():
        assert gradient is not None, f"{name} does not learn"
        assert gradient.any(), f"{name} does not learn"
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


class Numerals:
    """A tokenizer whose texts are the token ids."""

    eos_token_id, pad_token_id = 1, 2

    def decode(self, tokens: list[int], **options: object) -> str:
        return " ".join(map(str, tokens))


@every_family
def test_greedy_texts_equal_those_of_transformers(zoo: Zoo, family: str) -> None:
    plain, limit = zoo.plain(family), max(LENGTHS) + 4  # the longest row leaves its batch early
    expected = []
    for ids in rows():
        with torch.no_grad():
            out = plain.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                do_sample=False,
                max_new_tokens=min(8, limit - len(ids)),
            )
        new = out[0, len(ids) :].tolist()
        expected.append(Numerals().decode(new[: new.index(1)] if 1 in new else new))
    assert len(set(expected)) > 1
    tokenizer: Any = Numerals()
    # Where pads stand on the left, RecurrentGemma's convolution reads them.
    for batch_size in (1,) if family == "recurrent-gemma" else (1, 4):
        found = generate(
            zoo.loaded(family), tokenizer, rows(), max_new_tokens=8, batch_size=batch_size, max_length=limit
        )
        assert found == expected


@every_family
def test_continuations_of_one_context_score_as_in_the_plain_forward(zoo: Zoo, family: str) -> None:
    contexts = rows()
    options = [[7, 8, 9], [10], [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]]
    requests = [(context, option) for context in contexts for option in options]
    for batch_size in (1, 8):
        found = score_continuations(zoo.loaded(family), requests, batch_size=batch_size)
        for (context, option), result in zip(requests, found, strict=True):
            logs = zoo.plain_logits(family, [*context, *option]).double().log_softmax(-1)[len(context) - 1 : -1]
            expected = float(logs.gather(-1, torch.tensor(option)[:, None]).sum())
            assert result.log_probability == pytest.approx(expected, abs=1e-4)


def test_attention_that_a_family_does_not_have_is_named(zoo: Zoo) -> None:
    with pytest.raises(ConfigError, match=r"model\.attention.*received .*sdpa.*attention=auto"):
        load_base(str(zoo.folder("gemma-2")), None, dtype="float32", attention="sdpa", device=CPU)


@every_family
def test_half_precision_loads(zoo: Zoo, family: str) -> None:
    model = load_base(str(zoo.folder(family)), None, dtype="bfloat16", attention="auto", device=CPU)
    assert {parameter.dtype for parameter in model.parameters()} <= {torch.bfloat16, torch.float32}


@every_family
@pytest.mark.parametrize("change", [lambda logits: 1.5 * logits, lambda logits: 2 * torch.tanh(logits / 2)])
def test_logits_made_in_an_unknown_way_are_refused(
    zoo: Zoo, family: str, change: Callable[[torch.Tensor], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.loaded(family)
    forward = model.forward

    def unlike(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    check_head(model)
    monkeypatch.setattr(model, "forward", unlike)
    with pytest.raises(ConfigError, match="whose logits differ"):
        check_head(model)


def test_adapters_keep_to_what_a_text_passes_through(zoo: Zoo) -> None:
    for method in ("lora", "none"):
        model = attach_lora(zoo.load("gemma-3-multimodal"), method=method)
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trained
        assert all("language_model" in name or "lm_head" in name for name in trained)


@pytest.mark.parametrize("family", ["falcon-h1", "mamba"])
def test_of_mamba_mixers_only_the_first_projection_gets_an_adapter(zoo: Zoo, family: str) -> None:
    names = [name for name, parameter in attach_lora(zoo.load(family)).named_parameters() if parameter.requires_grad]
    assert any("in_proj" in name for name in names)
    assert not any(layer in name for name in names for layer in ("x_proj", "dt_proj", "out_proj"))


def test_experts_are_adapted_and_only_without_dropout(zoo: Zoo) -> None:
    names = [name for name, parameter in attach_lora(zoo.load("mixtral")).named_parameters() if parameter.requires_grad]
    assert any("experts" in name for name in names)
    with pytest.raises(ConfigError, match=r"lora\.dropout=0\.1"):
        attach_lora(zoo.load("mixtral"), dropout=0.1)
    with pytest.raises(ConfigError, match=r"lora\.use_dora=true"):
        attach_lora(zoo.load("mixtral"), use_dora=True)
    attach_lora(zoo.load("mixtral"), dropout=0.1, target_modules="q_proj,v_proj")


@every_family
def test_tokenizers_come_with_the_checkpoint(zoo: Zoo, family: str) -> None:
    tokenizer = load_tokenizer(str(zoo.folder(family)), None)
    assert len(tokenizer) <= VOCABULARY
    assert tokenizer.decode(tokenizer("add 2").input_ids) == "add 2"
