"""A sweep's folder as a real one would leave it, without training: for tests of the report and of tracking."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokensieve.records import EvalResult, MaskStats, RunResult, digest
from tokensieve.statistics import wilson_interval

TASKS = {"lab_code": 0.55, "lab_math": 0.88, "lab_choice": 0.93, "lab_sql": 0.90}
# threshold -> (target, mean change of the others), shaped like the lab's dose-response
EFFECT = {None: (0.58, -0.22), 1000.0: (0.60, -0.17), 25.0: (0.63, -0.10), 10.0: (0.66, -0.06),
          4.0: (0.69, -0.03), 2.5: (0.70, -0.01), 1.5: (0.66, 0.0)}  # fmt: skip
KEPT = {None: 1.0, 1000.0: 0.93, 25.0: 0.87, 10.0: 0.84, 4.0: 0.80, 2.5: 0.76, 1.5: 0.70}


def job(
    overrides: Sequence[str], *, control: str | None = None, state: str = "FINISHED", **fields: Any
) -> dict[str, Any]:
    """A manifest entry; `same_as`, `error` and others through `fields`."""
    identity = digest({"overrides": sorted(overrides)})
    return {
        "id": identity,
        "name": run_name(config_of(overrides), overrides),
        "overrides": list(overrides),
        "dir": f"jobs/{identity[:8]}",
        "state": state,
        "same_as": None,
        "control": control,
        "error": None,
        **fields,
    }


def config_of(overrides: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model": {"name": "lab", "path": "lab"},
        "dataset": {"name": "lab_code", "task": "lab_code"},
        "variant": {"name": "ground_truth"},
        "noise": {"name": "none"},
        "stm": {"rule": "high_ppl", "threshold": 2.5, "quantile": 0.8, "dpf_threshold": 0.0},
        "weight": {"rule": "none", "keep": "high", "reference": None},
        "lora": {"name": "r16", "rank": 16},
        "optim": {"name": "adamw", "lr": 1e-3},
        "trainer": {"epochs": 3, "batch_size": 16},
        "eval": {"tasks": list(TASKS), "num_items": 200},
        "seed": 1,
    }
    for entry in overrides:
        key, value = entry.split("=", 1)
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        *path, last = key.split(".")
        place = config
        for part in path:
            place = place[part]
        if isinstance(place.get(last), dict):
            place[last]["name"] = value
        else:
            place[last] = parsed
    return config


def run_name(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> str:
    stm = config["stm"]
    label = {"high_ppl": "stm", "low_ppl": "low"}.get(stm["rule"], stm["rule"])
    arm = (
        "unmasked"
        if stm["rule"] == "none"
        else f"quantile={stm['quantile']:g}"
        if stm["rule"] == "quantile"
        else f"{label}={stm['threshold']:g}"
    )
    names = [config[group]["name"] for group in ("model", "dataset", "variant")]
    return "/".join([*names, arm, config["lora"]["name"], config["noise"]["name"], f"seed={config['seed']}"])


def result_of(entry: Mapping[str, Any], *, tasks: Mapping[str, float] | None = None, num_items: int = 200) -> RunResult:
    """Scores drawn so that an item's difficulty is the same for the base and for every arm."""
    config = config_of(entry["overrides"])
    tasks = TASKS if tasks is None else tasks
    stm, seed = config["stm"], config["seed"]
    threshold = None if stm["rule"] == "none" else float(stm["threshold"])
    target, change = EFFECT.get(threshold, (0.6, -0.05))
    if stm["rule"] in ("random", "low_ppl"):
        target, change = 0.57, -0.18
    change *= math.sqrt(config["optim"]["lr"] / 1e-3)
    noise = np.random.default_rng(int(hashlib.sha256(entry["id"].encode()).hexdigest()[:8], 16))
    base, after = [], []
    for number, (task, level) in enumerate(tasks.items()):
        difficulty = np.random.default_rng(number).uniform(size=num_items)
        wanted = target if task == config["dataset"]["task"] else level + change * (1 + 0.4 * (number - 2))
        jitter = noise.normal(0, 0.12, size=num_items)
        base.append(_evaluation(task, (difficulty < level).astype(float)))
        after.append(_evaluation(task, (difficulty + jitter < wanted + noise.normal(0, 0.01)).astype(float)))
    kept = KEPT.get(threshold, 0.8) if stm["rule"] != "none" else 1.0
    return RunResult(
        job_id=entry["id"],
        name=entry["name"],
        status="FINISHED",
        config=config,
        target_task=config["dataset"]["task"],
        stamps={"tokenise": digest("tokens"), "score": digest("scores"), "mask": digest([threshold, stm["rule"]])},
        mask=MaskStats(400, 2 if kept < 0.75 else 0, 23212, round(23212 * kept), math.nan if kept == 1 else 0.6, 1.0),
        base_evals=base,
        evals=after,
        fit={"train/nll": 0.4, "val/nll": 1.1 - 0.2 * kept, "train/lr": 0.0},
        seconds={"score": 1.2, "fit": 6.5 + seed, "evaluate/lab_code": 8.1},
        peak_memory_bytes={"fit": 612_000_000, "evaluate/lab_code": 480_000_000},
        versions={"python": "3.11.9", "torch": "2.13.0"},
        git_commit="0123456789abcdef0123456789abcdef01234567",
    )


def _evaluation(task: str, scores: np.ndarray) -> EvalResult:
    value, low, high = wilson_interval(float(scores.sum()), len(scores))
    ids = [f"{task}-{number}" for number in range(len(scores))]
    return EvalResult(
        task, "accuracy", 1, ids, scores.tolist(), value, low, high, {"max_new_tokens": 96}, outputs=["x"] * len(scores)
    )


def write_run(folder: Path, entry: Mapping[str, Any], **options: Any) -> None:
    """Everything that a run leaves: status.json, and when it finished result.json and metrics.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    failed = entry["state"] == "FAILED"
    message = entry.get("error") or "loss is not finite at step 17"
    error = {"type": "TrainingError", "message": message, "traceback": "..."} if failed else None
    status = {"status": entry["state"], "job_id": entry["id"], "name": entry["name"], "error": error, "stage": "fit",
              "started": "2026-01-02T03:04:05+00:00", "ended": None}  # fmt: skip
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "log.txt").write_text("log\n")
    if entry["state"] != "FINISHED":
        return
    result = result_of(entry, **options)
    (folder / "result.json").write_text(result.to_json())
    rng = np.random.default_rng(3)
    kept = result.mask.kept_fraction if result.mask else 1.0
    with (folder / "metrics.jsonl").open("w") as stream:
        for step in range(1, 76):
            loss = kept**3 * (1.6 * math.exp(-step / 15) + 0.5) + rng.normal(0, 0.08)
            line: dict[str, Any] = {"step": step, "time": 1.7e9 + step, "train/nll": loss, "train/lr": 1e-3}
            if step % 25 == 0:
                line["val/nll"] = 1.9 - 0.5 * kept * (1 - math.exp(-step / 30))
            stream.write(json.dumps(line) + "\n")


def write_sweep(
    folder: Path, jobs: Sequence[Mapping[str, Any]], axes: Mapping[str, Sequence[str]], **options: Any
) -> Path:
    """Write `sweep.json` and the folder of every job that has been started."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in jobs:
        if entry["same_as"] is None and entry["state"] != "PENDING":
            write_run(folder / entry["dir"], entry, **options)
    manifest = {
        "created": "2026-01-02T03:04:05+00:00",
        "name": folder.name,
        "command": "python train.py -m " + " ".join(f"{key}={','.join(values)}" for key, values in axes.items()),
        "overrides": [entry["overrides"] for entry in jobs if not entry["control"]],
        "axes": {key: list(values) for key, values in axes.items()},
        "base": {},
        "jobs": list(jobs),
        "mlflow_parent_run_id": None,
    }
    (folder / "sweep.json").write_text(json.dumps(manifest, indent=1))
    return folder


def threshold_sweep(
    folder: Path, thresholds: Sequence[str] = ("1.5", "2.5", "4"), seeds: Sequence[int] = (1,), **options: Any
) -> Path:
    """`-m stm.threshold=... [seed=...]` with its unmasked controls."""
    swept = len(seeds) > 1
    suffix = {seed: [f"seed={seed}"] if swept else [] for seed in seeds}
    jobs = [job([f"stm.threshold={threshold}", *suffix[seed]]) for threshold in thresholds for seed in seeds]
    jobs += [job(["stm.rule=none", *suffix[seed]], control="unmasked") for seed in seeds]
    axes = {"stm.threshold": thresholds, **({"seed": [str(seed) for seed in seeds]} if swept else {})}
    return write_sweep(folder, jobs, axes, **options)
