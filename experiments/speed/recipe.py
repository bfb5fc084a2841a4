"""The peer of a sweep: masked fine-tuning as one writes it by hand, a Hydra application.

    python experiments/speed/recipe.py data=rows.parquet model=FOLDER order=order.json out=FOLDER threshold=2.5 ...

Loads the model, scores every example by full logits, masks by the threshold, trains LoRA with the model's own loss,
saves the adapter and the loss curve. Each run does all of it: nothing is shared between runs but, within one process,
imports.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore


@dataclass
class Recipe:
    data: str = ""
    model: str = ""
    order: str = ""  # JSON: row numbers of every step
    out: str = ""
    threshold: float = 2.5
    lr: float = 1e-3
    rank: int = 16


ConfigStore.instance().store("recipe", Recipe)


def mask_labels(model: Any, rows: list[dict[str, Any]], threshold: float) -> list[Any]:
    """Labels [T] of each row: -100 for the prompt and for tokens whose perplexity is above the threshold."""
    import torch
    import torch.nn.functional as F

    labels = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor(row["input_ids"])
            logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
            nll = F.cross_entropy(logits[:-1], ids[1:], reduction="none")
            label = ids.clone()
            label[: row["num_prompt_tokens"]] = -100
            label[1:][nll > math.log(threshold)] = -100
            labels.append(label)
    return labels


def train(model: Any, rows: list[dict[str, Any]], labels: list[Any], steps: list[list[int]], lr: float) -> list[float]:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    model.train()
    parameters = [value for value in model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    curve = []
    for step in steps:
        ids = pad_sequence([torch.tensor(rows[number]["input_ids"]) for number in step], batch_first=True)
        attention_mask = pad_sequence(
            [torch.ones(len(rows[n]["input_ids"]), dtype=torch.long) for n in step], batch_first=True
        )
        label = pad_sequence([labels[number] for number in step], batch_first=True, padding_value=-100)
        loss = model(input_ids=ids, attention_mask=attention_mask, labels=label).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        curve.append(loss.item())
    return curve


@hydra.main(config_path=None, config_name="recipe", version_base=None)
def main(config: Recipe) -> None:
    import pyarrow.parquet
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(config.model)
    model = AutoModelForCausalLM.from_pretrained(config.model).eval()
    rows = pyarrow.parquet.read_table(config.data).to_pylist()
    labels = mask_labels(model, rows, config.threshold)
    torch.manual_seed(1)
    lora = LoraConfig(
        r=config.rank, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, lora)
    curve = train(model, rows, labels, json.loads(Path(config.order).read_text()), config.lr)
    folder = Path(config.out) / f"{config.threshold:g}_{config.lr:g}_{config.rank}"
    model.save_pretrained(folder)
    (folder / "curve.json").write_text(json.dumps(curve))


if __name__ == "__main__":
    main()
