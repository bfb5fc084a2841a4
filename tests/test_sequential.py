"""One task after another: a run that starts from the adapter of an earlier one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from small_run import small_run

from tokensieve import pipeline
from tokensieve.adapter import load_adapter
from tokensieve.config import (
    RunConfig,
)
from tokensieve.errors import ConfigError
from tokensieve.resident import ResidentModel


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> RunConfig:
    trainer = {"max_steps": 3}
    data, output = tmp_path / "sums.jsonl", tmp_path / "outputs"
    return small_run(tiny_folder, data, output, num=24, threshold=1e6, trainer=trainer)


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
