"""One task after another: a run that starts from the adapter of an earlier one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tokensieve import pipeline
from tokensieve.adapter import load_adapter
from tokensieve.config import (
    DatasetConfig,
    EvalConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    StmConfig,
    TrackingConfig,
    TrainerConfig,
)
from tokensieve.errors import ConfigError
from tokensieve.resident import ResidentModel


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> RunConfig:
    lines = [
        {"question": f"What is {n} + {n}?", "answer": f"The answer is {2 * n}.", "gold": str(2 * n)} for n in range(24)
    ]
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return RunConfig(
        model=ModelConfig(name="tiny", path=str(tiny_folder)),
        dataset=DatasetConfig(
            name="sums", task="lab_math", path=str(data), prompt="{{ question }}", response="{{ answer }}",
            reference={"answer": "gold"},
        ),
        stm=StmConfig(rule="high_ppl", threshold=1e6),
        lora=LoraConfig(rank=4, alpha=8.0),
        optim=OptimConfig(lr=1e-2),
        trainer=TrainerConfig(accelerator="cpu", max_steps=3, batch_size=8, micro_batch_size=8),
        eval=EvalConfig(tasks=[], max_new_tokens=4),
        tracking=TrackingConfig(backend="none"),
        output_dir=str(tmp_path / "outputs"),
    )  # fmt: skip


def test_the_second_run_starts_where_the_first_one_ended(config: RunConfig, tmp_path: Path) -> None:
    first = pipeline.run(config, tmp_path / "first")
    adapter = tmp_path / "first" / "adapter"
    then = dataclasses.replace(config, model=dataclasses.replace(config.model, adapter=str(adapter)))

    ids = torch.arange(5, 25).unsqueeze(0)
    with torch.no_grad():
        tuned = load_adapter(ResidentModel(config).base(), adapter)(input_ids=ids).logits
        merged = ResidentModel(then).base()(input_ids=ids).logits
        plain = ResidentModel(config).base()(input_ids=ids).logits
    torch.testing.assert_close(merged, tuned, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain, tuned, atol=1e-2)

    second = pipeline.run(then, tmp_path / "second")
    assert second.stamps["fit"] != first.stamps["fit"]
    assert [entry.outputs for entry in second.base_evals] == [entry.outputs for entry in first.evals]
    assert second.fit["fit/weight_change"] > 0  # of this run's own adapter


def test_what_is_no_adapter_is_refused_before_a_model_loads(config: RunConfig, tmp_path: Path) -> None:
    lost = dataclasses.replace(config, model=dataclasses.replace(config.model, adapter=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"model\.adapter"):
        pipeline.validate(lost)
    with pytest.raises(ConfigError, match="4-bit"):
        dataclasses.replace(lost, lora=dataclasses.replace(config.lora, quantise="nf4"))
