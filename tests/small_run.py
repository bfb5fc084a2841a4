"""A run that takes a second or two: a few sums in a file, a tiny model, an adapter of rank 4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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


def small_run(
    model: Path, data: Path, output: Path, *, num: int = 30, threshold: float = 200.0, **changes: dict[str, Any]
) -> RunConfig:
    """The config of one; `data`: where its `num` rows are written. `changes`: of dataset and trainer."""
    rows = [
        {"question": f"What is {n} + {n}?", "answer": f"The answer is {2 * n}.", "gold": str(2 * n)} for n in range(num)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = {
        "name": "sums",
        "task": "lab_math",
        "path": str(data),
        "prompt": "{{ question }}",
        "response": "{{ answer }}",
        "reference": {"answer": "gold"},
    }
    trainer = {"accelerator": "cpu", "epochs": 2, "batch_size": 8, "micro_batch_size": 8}
    return RunConfig(
        model=ModelConfig(name="tiny", path=str(model)),
        dataset=DatasetConfig(**(dataset | changes.get("dataset", {}))),
        stm=StmConfig(threshold=threshold),
        lora=LoraConfig(rank=4, alpha=8.0),
        optim=OptimConfig(lr=1e-2),
        trainer=TrainerConfig(**(trainer | changes.get("trainer", {}))),
        eval=EvalConfig(tasks=[], max_new_tokens=4),
        tracking=TrackingConfig(backend="none"),
        output_dir=str(output),
    )
