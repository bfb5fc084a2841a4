"""Weights and regularisers through the whole run: caches, stamps, names, and what a fit does with them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoint import save_tiny

from tokensieve import pipeline
from tokensieve.config import (
    DatasetConfig,
    EvalConfig,
    LoraConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RegulariserConfig,
    RunConfig,
    StmConfig,
    TrackingConfig,
    TrainerConfig,
    WeightConfig,
    identity,
)
from tokensieve.errors import ConfigError
from tokensieve.fit import define_fit
from tokensieve.model import load_base
from tokensieve.objective import Objective
from tokensieve.regulariser import Regulariser
from tokensieve.stages import define_stages
from tokensieve.sweep.job_identity import fingerprint
from tokensieve.weighting import build_objective


def test_a_reference_has_the_precision_of_the_weights_in_training(folder: Path) -> None:
    class Resident:
        def scorer(self, path: str, revision: str | None) -> Any:
            return load_base(path, revision, dtype="bfloat16", attention="sdpa", device=torch.device("cpu"))

    full = config(folder, None, {"rule": "kl", "coefficient": 0.5}, lora=LoraConfig(method="none"))
    for precision, dtype in (("32", torch.float32), ("bf16-true", torch.bfloat16)):
        trainer = dataclasses.replace(full.trainer, precision=precision)
        objective = build_objective(dataclasses.replace(full, trainer=trainer), Resident())
        assert objective is not None
        assert objective.reference is not None
        assert {value.dtype for value in objective.reference.parameters()} == {dtype}


def test_a_rank_without_tokens_sends_what_the_others_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning makes bfloat16 the default type of a step in bf16-true."""
    sent: list[torch.Tensor] = []
    monkeypatch.setattr("tokensieve.objective.gather_over_ranks", lambda values: sent.append(values) or values)
    weighting: Any = SimpleNamespace(weigh_step=lambda own, every: own)
    torch.set_default_dtype(torch.bfloat16)
    try:
        Objective(weighting, Regulariser("none", 0.0, "forward")).weigh_step([], [], torch.device("cpu"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert [values.dtype for values in sent] == [torch.float32]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its training rows, and one shared output folder with its cache."""
    folder = tmp_path_factory.mktemp("weighting")
    save_tiny(folder / "tiny")
    rows = [
        {"question": f"What is {n} + {n}?", "answer": f"The answer is {2 * n}.", "gold": str(2 * n)} for n in range(24)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config(folder: Path, weight: Any = None, regulariser: Any = None, **groups: Any) -> RunConfig:
    dataset = DatasetConfig(
        name="sums", task="lab_math", path=str(folder / "sums.jsonl"), prompt="{{ question }}",
        response="{{ answer }}", reference={"answer": "gold"},
    )  # fmt: skip
    trainer = TrainerConfig(accelerator="cpu", epochs=2, batch_size=8, micro_batch_size=4)
    values = {
        "model": ModelConfig(name="tiny", path=str(folder / "tiny")),
        "dataset": dataset,
        "stm": StmConfig(threshold=200.0),
        "lora": LoraConfig(rank=4, alpha=8.0, dropout=0.0),
        "optim": OptimConfig(lr=1e-2),
        "trainer": trainer,
        "eval": EvalConfig(tasks=[], max_new_tokens=4),
        "tracking": TrackingConfig(backend="none"),
        "output_dir": str(folder / "outputs"),
    }
    rules = {"weight": WeightConfig(**(weight or {})), "regulariser": RegulariserConfig(**(regulariser or {}))}
    return RunConfig(**(values | rules | groups))


def run(config: RunConfig, folder: Path, name: str) -> Any:
    """The run's curve; its folder is `folder / name`."""
    pipeline.run(config, folder / name)
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "train/nll" in line]


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    run(config(folder), folder, "plain")
    return folder / "plain"


RULES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dft", {"rule": "dft"}, {}),
    ("eaft", {"rule": "eaft"}, {}),
    ("profit", {"rule": "profit", "mode": "random", "threshold": 0.3}, {}),
    ("talr", {"rule": "talr"}, {}),
    ("flow", {"rule": "flow"}, {}),
    ("flow-token", {"rule": "flow", "level": "token"}, {}),
    ("rho", {"rule": "rho"}, {}),
    ("rho-frozen", {"rule": "rho", "against": "frozen", "keep": "low"}, {}),
    ("quantile-online", {"rule": "quantile_online", "fraction": 0.8}, {}),
    ("kl", {}, {"rule": "kl", "coefficient": 0.5}),
    ("asft", {}, {"rule": "asft"}),
    ("l2_sp", {}, {"rule": "l2_sp", "coefficient": 0.01}),
]


@pytest.mark.parametrize(("name", "weight", "regulariser"), RULES, ids=[name for name, _, _ in RULES])
def test_every_rule_runs_and_says_what_it_did(
    folder: Path, plain: Path, name: str, weight: dict[str, Any], regulariser: dict[str, Any]
) -> None:
    if weight.get("rule") == "rho":
        weight = weight | {"reference": str(plain / "adapter")}
    chosen = config(folder, weight, regulariser)
    curve = run(chosen, folder, name)
    assert len(curve) == 4
    for entry in curve:
        # Frozen rho is a mask: what it keeps weighs 1. A KL is 0 before the first update.
        assert entry["train/loss"] != entry["train/nll"] or name in ("rho-frozen", "kl", "l2_sp")
        assert ("train/kl" in entry) == (name in ("kl", "asft"))
        assert ("train/l2_sp" in entry) == (name == "l2_sp")
    mean = sum(entry["train/mean_weight"] for entry in curve) / len(curve)
    if name in ("talr", "rho", "rho-frozen", "quantile-online", "kl", "l2_sp"):
        assert mean == pytest.approx(1.0, rel=1e-5)
    elif name in ("flow", "flow-token"):
        assert mean == pytest.approx(1.0, rel=0.3)  # over the corpus, not over each step
    else:
        assert 0 < mean < 1
    last = curve[-1]
    assert last.get("train/kl", 1.0) > 0
    assert last.get("train/l2_sp", 1.0) > 0
    weights = [load_file(path / "adapter" / "adapter_model.safetensors") for path in (plain, folder / name)]
    assert any((weights[0][key] != weights[1][key]).any() for key in weights[0])
    assert name.replace("-online", "_online").split("-")[0] in chosen.run_name
    assert all(stage.cached for stage in pipeline.plan(chosen))


def test_runs_without_rules_are_what_they_were(folder: Path, plain: Path) -> None:
    """No new key in the identity of a run, nor in the stamp of a fit: caches and job ids stay valid."""
    stages = define_stages(config(folder), pipeline.open_store(config(folder)))
    assert not {"weight", "weights", "reference", "regulariser"} & set(define_fit(stages, folder).stamp.inputs)
    assert not {"weight", "regulariser"} & set(identity(config(folder)))
    unread = config(folder, {"alpha": 3.0, "reference": "x"}, {"coefficient": 0.7})
    assert identity(unread) == identity(config(folder))
    assert unread.run_name == config(folder).run_name
    assert "train/loss" not in (plain / "metrics.jsonl").read_text()


def test_plain_weights_train_what_no_weights_train(folder: Path, plain: Path) -> None:
    """power with alpha 0 and a quantile of all tokens are the plain loss by other ways."""
    for name, weight in (
        ("alpha0", {"rule": "power", "alpha": 0.0}),
        ("all", {"rule": "quantile_online", "fraction": 1.0}),
        ("everything", {"rule": "rho", "fraction": 1.0, "against": "frozen", "reference": str(plain / "adapter")}),
    ):
        run(config(folder, weight), folder, name)
        one, two = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (plain, folder / name))
        for key, value in one.items():
            assert float((value - two[key]).abs().max()) < 1e-5, (name, key)


def test_fields_that_a_rule_does_not_read_make_no_other_job(folder: Path) -> None:
    same = [
        ({"rule": "dft", "alpha": 2.0}, {}),
        ({"rule": "dft"}, {"estimator": "k3"}),
    ]
    assert len({fingerprint(config(folder, *rules)) for rules in same}) == 1
    other = [
        ({"rule": "power", "alpha": 2.0}, {}),
        ({"rule": "power", "alpha": 1.0}, {}),
        ({"rule": "profit"}, {}),
        ({"rule": "profit", "mode": "middle"}, {}),
        ({"rule": "profit", "mode": "middle", "threshold_high": 0.8}, {}),
        ({}, {"rule": "kl"}),
        ({}, {"rule": "kl", "direction": "reverse"}),
        ({}, {"rule": "kl", "estimator": "k3"}),
        ({}, {"rule": "kl", "coefficient": 0.1}),
    ]
    assert len({fingerprint(config(folder, *rules)) for rules in other}) == len(other)


def test_denominator_of_response_tokens_goes_with_weights(folder: Path) -> None:
    losses = []
    for normalise in ("kept", "response"):
        curve = run(
            config(folder, {"rule": "talr"}, loss=LossConfig(normalise=normalise), optim=OptimConfig(lr=1e-9)),
            folder,
            f"talr-{normalise}",
        )
        losses.append(curve[0]["train/loss"])
    assert losses[1] < losses[0]


def test_full_fine_tuning_holds_a_copy_of_its_base(folder: Path) -> None:
    free = config(folder, lora=LoraConfig(method="none"), optim=OptimConfig(lr=1e-3))
    held = dataclasses.replace(free, regulariser=RegulariserConfig(rule="kl", coefficient=5.0))
    near = dataclasses.replace(free, regulariser=RegulariserConfig(rule="l2_sp", coefficient=5.0))
    run(free, folder, "free")
    curve = run(held, folder, "held")
    assert curve[0]["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert curve[-1]["train/kl"] > 0
    run(near, folder, "near")
    base = load_file(folder / "tiny" / "model.safetensors")
    distances = []
    for name in ("free", "held", "near"):
        trained = load_file(folder / name / "adapter" / "model.safetensors")
        distances.append(sum(float((trained[key] - value).square().sum()) for key, value in base.items()))
    assert distances[2] < distances[0]
    assert distances[1] != distances[0]


def test_reference_that_is_no_model_is_refused_before_anything_loads(folder: Path, tmp_path: Path) -> None:
    for path in (str(tmp_path), str(tmp_path / "nowhere"), "a/b/c"):
        with pytest.raises(ConfigError, match=r"weight\.reference: must be an adapter folder, a model folder"):
            pipeline.validate(config(folder, {"rule": "rho", "reference": path}))


def test_rows_without_padding_compare_with_the_same_copy(folder: Path) -> None:
    curves = []
    for padding_free in (False, True):
        trainer = TrainerConfig(
            accelerator="cpu", epochs=1, batch_size=8, micro_batch_size=4, padding_free=padding_free
        )
        held = {"rule": "kl", "coefficient": 5.0}
        chosen = config(folder, {"rule": "talr"}, held, lora=LoraConfig(method="none"), trainer=trainer)
        chosen.optim.lr = 1e-3
        curves.append(run(chosen, folder, f"held {padding_free}"))
    for one, two in zip(*curves, strict=True):
        for key in ("train/loss", "train/nll", "train/kl", "train/grad_norm"):
            assert two[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6), key


def test_dry_run_builds_no_weights(folder: Path, tmp_path: Path) -> None:
    chosen = config(folder, {"rule": "flow"}, output_dir=str(tmp_path))
    stages = {stage.stage: stage for stage in pipeline.plan(chosen)}
    assert not stages["weigh"].cached
    assert stages["fit"].digest is None
    assert not (tmp_path / "cache" / "weights").exists()
