from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from rank_fits import limit_memory
from safetensors.torch import load_file
from tiny_checkpoint import tiny_model

from tokensieve.adapter import attach_adapter
from tokensieve.compilation import compile_layers
from tokensieve.errors import ConfigError, TrainingError
from tokensieve.gradient_scale import unscale
from tokensieve.loader import StepLoader, TrainingRows, validation_batches
from tokensieve.micro_batches import PassShape
from tokensieve.model import pick_dtype
from tokensieve.module import MaskedLMModule
from tokensieve.optimisers import build_optimiser
from tokensieve.packing import choose_packing
from tokensieve.records import MaskStats, Stamp, TokenisedCorpus, TokenMask
from tokensieve.run_metrics import last_values
from tokensieve.trainer import fit, read_curve
from tokensieve.trainer.devices import pick_precision
from tokensieve.trainer.precision import choose_precision

STAMP = Stamp("test", {})
Curve = list[dict[str, float]]


def data() -> tuple[TokenisedCorpus, TokenMask]:
    generator = np.random.default_rng(0)
    rows, keeps = [], []
    for number in range(18):
        length = int(generator.integers(6, 30))
        response = [False] * 3 + [True] * (length - 3)
        rows.append(
            {"id": str(number), "input_ids": generator.integers(3, 300, length).tolist(), "is_response": response}
        )
        keeps.append({"id": str(number), "keep": [r and bool(generator.random() < 0.5) for r in response]})
    stats = MaskStats(18, 0, 1, 1, math.nan, 1.0)
    return TokenisedCorpus(Dataset.from_list(rows), STAMP), TokenMask(Dataset.from_list(keeps), stats, STAMP)


def train(
    folder: Path,
    *,
    micro: int = 6,
    dropout: float = 0.1,
    method: str = "lora",
    optimiser: str = "adamw",
    lr: float = 1e-2,
    on_metrics: Callable[[Mapping[str, float], int], None] | None = None,
    checkpoints: Path | None = None,
    patience: int | None = None,
    gradient_checkpointing: bool = False,
    memory_rows: int | None = None,
    shape: PassShape | None = None,
    precision: str = "32",
    compiled: bool = False,
    max_steps: int | None = None,
    **adapter: Any,
) -> Curve:
    tokens, mask = data()
    options: dict[str, Any] = {
        "rank": 4,
        "alpha": 8.0,
        "target_modules": "all-linear",
        "use_dora": False,
        "use_rslora": False,
    } | adapter
    base = tiny_model()
    packing = choose_packing(base) if shape is not None and shape.padding_free else None
    model = attach_adapter(
        base, method=method, dropout=dropout, seed=1, gradient_checkpointing=gradient_checkpointing, **options
    )
    if compiled:
        assert compile_layers(model) == 2
    if memory_rows is not None:
        limit_memory(base, memory_rows)
    rows = TrainingRows.collect(tokens, mask, normalise="kept")
    loader = StepLoader(
        rows,
        epochs=2,
        max_steps=max_steps,
        batch_size=6,
        shape=shape or PassShape(micro),
        group_by_length=True,
        seed=1,
        pad_id=2,
    )
    folder.mkdir(exist_ok=True)
    fit(
        model,
        loader,
        validation_batches(tokens, mask, shape=PassShape(6), pad_id=2),
        folder,
        checkpoints or folder / "checkpoints",
        fit_digest="digest",
        device=torch.device("cpu"),
        precision=precision,
        packing=packing,
        optimiser={
            "optimiser": optimiser,
            "lr": lr,
            "weight_decay": 0.0,
            "betas": (0.9, 0.999),
            "schedule": "cosine",
            "warmup_steps": 2,
        },
        grad_clip=1.0,
        validations_per_epoch=1,
        patience=patience,
        checkpoint_seconds=1e-9,  # after every step
        on_metrics=on_metrics,
    )
    return read_curve(folder)


def make_module() -> MaskedLMModule:
    options: dict[str, Any] = {"optimiser": "adamw", "lr": 1e-2, "weight_decay": 0.0, "betas": (0.9, 0.999)}
    options |= {"schedule": "constant", "warmup_steps": 0, "total_steps": 1, "grad_clip": 1.0}
    return MaskedLMModule(tiny_model(), log_metrics=lambda values, step: None, **options)


def timeless(curve: Curve) -> Curve:
    return [{k: v for k, v in entry.items() if k not in ("time", "train/tokens_per_second")} for entry in curve]


def adapters_equal(first: Path, second: Path) -> bool:
    a, b = (load_file(folder / "last" / "adapter_model.safetensors") for folder in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_end_is_validated_wherever_it_comes(tmp_path: Path) -> None:
    curve = train(tmp_path, max_steps=5)  # 3 steps an epoch
    assert [entry["step"] for entry in curve if "val/nll" in entry] == [3, 5]
    assert max(entry["step"] for entry in curve) == 5
    found = [entry for entry in curve if "val/nll" in entry]
    found[1]["val/nll_kept"] = found[0]["val/nll_kept"] + 1
    assert last_values(curve)["val/nll"] == found[1]["val/nll"]
    assert last_values(curve, "best")["val/nll"] == found[0]["val/nll"]
    assert last_values(curve, "best")["train/nll"] == last_values(curve)["train/nll"]


def test_a_pass_that_is_known_to_be_too_large_is_split_after_a_resume() -> None:
    saved: dict[str, Any] = {"state_dict": {}}
    first, second = (make_module() for _ in range(2))
    first.rows_limit = 2
    first.on_save_checkpoint(saved)
    second.on_load_checkpoint(saved)
    assert second.rows_limit == 2


def test_a_rank_without_a_pass_has_a_scale() -> None:
    value = torch.nn.Parameter(torch.ones(2))
    optimiser, scaler = torch.optim.SGD([value]), torch.amp.GradScaler("cpu", init_scale=4.0)
    value.grad = torch.full((2,), 8.0)  # what the other ranks sent
    unscale(scaler, optimiser)
    assert value.grad.tolist() == [2.0, 2.0]


def test_fit_lowers_the_loss_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    first, second = train(tmp_path / "a"), train(tmp_path / "b")
    assert timeless(first) == timeless(second)
    assert adapters_equal(tmp_path / "a", tmp_path / "b")
    nll = [entry["val/nll_kept"] for entry in first if "val/nll_kept" in entry]
    assert nll[-1] < nll[0]
    assert [entry["step"] for entry in first if "val/nll" in entry] == [3, 6]


@pytest.mark.parametrize(
    ("stop_at", "changes"),
    [
        *((stop_at, {}) for stop_at in (1, 2, 3, 4, 5)),
        (2, {"shape": PassShape(6, 50, padding_free=True)}),
        (4, {"shape": PassShape(6, 50)}),
        (3, {"precision": "16-mixed", "lr": 1e-3}),
    ],
    ids=str,
)
def test_interrupted_fit_resumes_exactly(tmp_path: Path, stop_at: int, changes: dict[str, Any]) -> None:
    class Killed(BaseException):
        pass

    def kill(values: Mapping[str, float], step: int) -> None:
        if step == stop_at + 1:  # the checkpoint of `stop_at` is the last one
            raise Killed

    whole = train(tmp_path / "whole", **changes)
    checkpoints = tmp_path / "checkpoints"
    with pytest.raises(Killed):
        train(tmp_path / "part", on_metrics=kill, checkpoints=checkpoints, **changes)
    assert (checkpoints / "last.ckpt").is_file()
    resumed = train(tmp_path / "resumed", checkpoints=checkpoints, **changes)
    assert timeless(resumed) == timeless(whole)
    assert adapters_equal(tmp_path / "whole", tmp_path / "resumed")


def test_damaged_checkpoint_starts_over(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "last.ckpt").write_bytes(b"not a checkpoint")
    assert timeless(train(tmp_path / "a", checkpoints=checkpoints)) == timeless(train(tmp_path / "b"))


def test_accumulation_changes_nothing_but_memory(tmp_path: Path) -> None:
    whole, parts = train(tmp_path / "a", micro=6, dropout=0.0), train(tmp_path / "b", micro=1, dropout=0.0)
    for expected, got in zip(whole, parts, strict=True):
        for key in ("train/nll", "train/grad_norm", "val/nll"):
            if key in expected:
                assert got[key] == pytest.approx(expected[key], rel=2e-5)


@pytest.mark.parametrize(
    "shape",
    [PassShape(6, padding_free=True), PassShape(2, padding_free=True), PassShape(6, 40), PassShape(6, 40, True)],
    ids=str,
)
def test_layout_of_passes_changes_nothing_but_speed(tmp_path: Path, shape: PassShape) -> None:
    padded, other = train(tmp_path / "a", dropout=0.0), train(tmp_path / "b", dropout=0.0, shape=shape)
    assert len(padded) == len(other)
    for expected, got in zip(padded, other, strict=True):
        for key in expected.keys() & {"train/nll", "train/grad_norm", "val/nll", "val/nll_kept"}:
            assert got[key] == pytest.approx(expected[key], rel=2e-5)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    passes: list[bool] = []
    original = LlamaMLP.forward
    monkeypatch.setattr(
        LlamaMLP, "forward", lambda self, x: passes.append(torch.is_grad_enabled()) or original(self, x)
    )
    plain = train(tmp_path / "a", dropout=0.0)
    once = sum(passes)
    passes.clear()
    saved = train(tmp_path / "b", dropout=0.0, gradient_checkpointing=True)
    assert sum(passes) == 2 * once  # each layer is passed again when its gradients are made
    for expected, got in zip(plain, saved, strict=True):
        if "train/nll" in expected:
            assert got["train/nll"] == pytest.approx(expected["train/nll"], rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"method": "none"},
        {"optimiser": "adafactor"},
        {"target_modules": "q_proj,v_proj"},
    ],
    ids=str,
)
def test_every_adapter_and_optimiser_trains(tmp_path: Path, changes: dict[str, Any]) -> None:
    lr = 1e-3 if changes.get("method") == "none" else 1e-2
    curve = train(tmp_path, dropout=0.0, lr=lr, **changes)
    nll = [entry["train/nll"] for entry in curve if "train/nll" in entry]
    assert nll[-1] < nll[0]


def test_adafactor_moves_an_adapter_by_its_learning_rate() -> None:
    """torch's own multiplies the rate by the size of the weights, which is 0 for B at the start."""
    fresh = torch.nn.Parameter(torch.zeros(8, 4))
    optimiser = build_optimiser("adafactor", [fresh], 1e-2, 0.0, (0.9, 0.999))
    fresh.grad = torch.full_like(fresh, 3.0)
    optimiser.step()
    assert float(fresh.detach().abs().max()) == pytest.approx(1e-2, rel=0.1)


@pytest.mark.parametrize("is_native", [True, False])
def test_auto_takes_bfloat16_only_where_it_is_native(is_native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or is_native
    )
    device = torch.device("cuda")
    assert pick_precision("auto", device) == ("bf16-mixed" if is_native else "32")
    assert pick_dtype("auto", device) == (torch.bfloat16 if is_native else torch.float32)


def test_fresh_adapter_changes_no_output() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = tiny_model()(ids).logits
    options: dict[str, Any] = {
        "rank": 4,
        "alpha": 8.0,
        "target_modules": "all-linear",
        "use_dora": False,
        "use_rslora": False,
    }
    model = attach_adapter(tiny_model(), method="lora", dropout=0.0, seed=1, gradient_checkpointing=False, **options)
    assert torch.equal(model(ids).logits, expected)


def test_loss_that_is_not_finite_fails_with_its_step(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d+.*finite"):
        train(tmp_path, lr=1e30, method="none")


def test_early_stopping_keeps_the_best_weights(tmp_path: Path) -> None:
    curve = train(tmp_path, lr=1.0, patience=1)
    validated = [entry["val/nll_kept"] for entry in curve if "val/nll_kept" in entry]
    assert len(validated) <= 2
    assert (tmp_path / "best" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("shape", [PassShape(6), PassShape(6, padding_free=True)], ids=str)
def test_step_out_of_memory_is_repeated_in_smaller_passes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: int, shape: PassShape
) -> None:
    whole = train(tmp_path / "a", dropout=0.0)
    less = train(tmp_path / "b", dropout=0.0, memory_rows=rows, shape=shape)
    for expected, got in zip(whole, less, strict=True):
        for key in expected.keys() - {"time", "train/tokens_per_second"}:
            assert got[key] == pytest.approx(expected[key], rel=2e-5)
    said = [record.getMessage() for record in caplog.records if "does not fit into memory" in record.getMessage()]
    halvings = {4: [(6, 3)], 2: [(6, 3), (3, 2)], 1: [(6, 3), (3, 2), (2, 1)]}[rows]
    assert len(said) == len(halvings)
    for line, (before, after) in zip(said, halvings, strict=True):
        assert line.startswith(f"step 1 does not fit into memory with {before} examples a pass: repeated with {after},")


def test_validation_out_of_memory_counts_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = train(tmp_path / "a", micro=2, dropout=0.0)  # validates in batches of 6
    less = train(tmp_path / "b", micro=2, dropout=0.0, memory_rows=2)
    for expected, got in zip(whole, less, strict=True):
        for key in expected.keys() & {"train/nll", "val/nll", "val/nll_kept"}:
            assert got[key] == pytest.approx(expected[key], rel=1e-6)
    said = [record.getMessage() for record in caplog.records if "does not fit into memory" in record.getMessage()]
    assert [line[:42] for line in said] == [
        "step 3 does not fit into memory with 6 exa",
        "step 3 does not fit into memory with 3 exa",
    ]


def test_example_that_does_not_fit_into_memory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^step 1: a single example .*tokens.*gradient_checkpointing"):
        train(tmp_path, memory_rows=0)


def test_bfloat16_fits_stay_near_the_float32_fit(tmp_path: Path) -> None:
    exact = train(tmp_path / "32", dropout=0.0)
    for precision in ("bf16-mixed", "bf16-true"):
        rounded = train(tmp_path / precision, dropout=0.0, precision=precision)
        nll = [[entry["train/nll"] for entry in curve if "train/nll" in entry] for curve in (exact, rounded)]
        assert nll[0] != nll[1]
        assert nll[1] == pytest.approx(nll[0], rel=0.02)
        assert nll[1][-1] < nll[1][0]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)])
def test_mixed_precision_refuses_trained_weights_of_16_bits(precision: str, dtype: torch.dtype) -> None:
    model = tiny_model().to(dtype)
    with pytest.raises(ConfigError, match=rf"trainer\.precision: {precision} trains .*{str(dtype)[6:]}.*model\.dtype"):
        choose_precision(precision, torch.device("cpu"), model)
    choose_precision(precision, torch.device("cpu"), model.requires_grad_(False))
    choose_precision("bf16-true", torch.device("cpu"), model)


def test_a_batch_keeps_its_precision_in_bfloat16() -> None:
    plugin = choose_precision("bf16-true", torch.device("cpu"), tiny_model())["plugins"][0]
    weights = torch.tensor([0.123456789])
    assert plugin.convert_input({"weights": weights})["weights"] is weights
    exact = tiny_model()
    frequencies = exact.model.rotary_emb.inv_freq.clone()
    half = plugin.convert_module(exact)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.model.rotary_emb.inv_freq, frequencies)


def test_float16_clips_and_reports_what_it_would_without_a_scale(tmp_path: Path) -> None:
    """The gradients of a loss that is scaled by 65536 are far above the limit of 1."""
    exact, scaled = train(tmp_path / "a", dropout=0.0), train(tmp_path / "b", dropout=0.0, precision="16-mixed")
    steps = [[entry for entry in curve if "train/nll" in entry] for curve in (exact, scaled)]
    assert [entry["train/skipped_steps"] for entry in steps[1]] == [0] * 6
    assert "train/skipped_steps" not in steps[0][0]
    for expected, got in zip(*steps, strict=True):
        for key in ("train/nll", "train/grad_norm", "train/lr"):
            assert got[key] == pytest.approx(expected[key], rel=0.03), key


def test_steps_whose_scaled_gradients_overflow_are_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: plain(device, init_scale=2.0**120))
    curve = train(tmp_path, dropout=0.0, precision="16-mixed", optimiser="adafactor")
    steps = [entry for entry in curve if "train/nll" in entry]
    assert [entry["train/skipped_steps"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    assert len({entry["train/lr"] for entry in steps}) == 1  # the schedule waits, too
    adapter = load_file(tmp_path / "last" / "adapter_model.safetensors")
    assert not any(value.any() for name, value in adapter.items() if "lora_B" in name)  # nothing was trained
    said = [record.getMessage() for record in caplog.records if "float16's range" in record.getMessage()]
    assert said[0].startswith("step 1: gradients times 1.32923e+36 leave float16's range; skipped")
    assert len(said) == 6


def test_skipped_steps_are_counted_on_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(values: Mapping[str, float], step: int) -> None:
        if step == 3:
            raise Killed

    plain = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: plain(device, init_scale=2.0**120))
    with pytest.raises(Killed):
        train(tmp_path / "part", precision="16-mixed", on_metrics=kill, checkpoints=tmp_path / "checkpoints")
    monkeypatch.setattr(torch.amp, "GradScaler", plain)
    curve = train(tmp_path / "resumed", precision="16-mixed", checkpoints=tmp_path / "checkpoints")
    assert [entry["train/skipped_steps"] for entry in curve if "train/nll" in entry] == [1, 2, 3, 4, 5, 6]


def test_gradients_that_no_scale_makes_finite_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: plain(device, init_scale=1.0))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, limit: torch.tensor(torch.inf))
    with pytest.raises(TrainingError, match=r"step 1: loss and gradient must be finite"):
        train(tmp_path, precision="16-mixed")


def test_float16_weights_are_not_trained_in_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny_model
    monkeypatch.setitem(globals(), "tiny_model", lambda: plain().half())
    with pytest.raises(ConfigError, match=r"trainer\.precision: .*model\.dtype=float32"):
        train(tmp_path, precision="16-mixed", method="none")
