"""Config groups `eval`, `tracking` and `sweep`: what is measured, where it goes, how jobs run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, Optional

from tokensieve.config.data import DatasetConfig
from tokensieve.config.rule import require

# Jobs that may share a GPU: of other numbers the parts would leave a rest, which another sweep took.
GPU_PARTS: Final = (1, 2, 3, 4, 6, 12)


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """What is measured after the fit, on held-out items."""

    backend: Literal["own", "lm_eval"] = "own"
    """Whose tasks `tasks` names: our own, or those of lm-evaluation-harness. The target's is our own in either case."""
    datasets: dict[str, DatasetConfig] = field(default_factory=dict)
    """Task -> where its items come from: a suite (`eval=...`) is a choice of these. The target's are the run's own."""
    tasks: Optional[list[str]] = None
    """Tasks beside the target (which is always evaluated); null: all of `datasets`; [] for the target alone. With
    backend=lm_eval: names of the harness's tasks and scored groups; their results bear them behind `lm_eval.`"""
    mode: Literal["generate", "log_likelihood"] = "generate"
    """How a task of choices is answered: in a text that is read, or by the likeliest of `Answer: A`, `Answer: B`, ...
    (of the options' texts where the reference has `options`). All other tasks are generated in either mode."""
    num_fewshot: Optional[int] = None
    """Solved examples before every question; null: each task's own number (`num_fewshot` of its dataset)."""
    seed: int = 0
    """Of the choice of such examples, and of sampled answers; not the run's seed, so that arms are asked the same."""
    samples_per_item: int = 1
    """Programs drawn for each item of a code task, for pass@k; 1: one greedy answer, as for every other task."""
    temperature: float = 0.8
    """Of several samples; not read for one."""
    top_p: float = 0.95
    """Nucleus mass of several samples; in (0, 1]."""
    include_path: Optional[str] = None
    """backend=lm_eval: a folder of further task declarations. They may name Python functions, which run here."""
    chat_template: bool = False
    """backend=lm_eval: put the harness's prompts into the chat template. Our own tasks always are."""
    num_items: Optional[int] = 200
    """Items a task, from the test split; null: all."""
    batch_size: int = 64
    """Rows decoded at once."""
    max_new_tokens: Optional[int] = None
    """Overrides every task's own limit."""
    bootstrap_samples: int = 10000
    """Resamples of the bootstrap; no other number is taken, so that all tables are alike."""
    code_seconds: float = 5.0
    """Wall-clock limit of one program in the sandbox."""

    def __post_init__(self) -> None:
        require(
            self.num_items is None or self.num_items >= 1,
            "eval.num_items",
            "must be at least 1",
            self.num_items,
            "leave it null for all items",
        )
        for key, least in (("num_fewshot", 0), ("seed", 0), ("samples_per_item", 1), ("max_new_tokens", 1)):
            value = getattr(self, key)
            require(value is None or value >= least, f"eval.{key}", f"must be at least {least}", value, f"use {least}")
        require(self.temperature > 0, "eval.temperature", "must be above 0", self.temperature, "use 0.8")
        require(0 < self.top_p <= 1, "eval.top_p", "must be in (0, 1]", self.top_p, "use 0.95")
        require(self.batch_size >= 1, "eval.batch_size", "must be at least 1", self.batch_size, "use 64")
        require(
            self.bootstrap_samples == 10000,
            "eval.bootstrap_samples",
            "is 10000 for every interval of a report",
            self.bootstrap_samples,
            "leave it out",
        )
        require(self.code_seconds > 0, "eval.code_seconds", "must be above 0", self.code_seconds, "use 5")


@dataclass(kw_only=True, slots=True)
class TrackingConfig:
    """Where results go beside the run's own folder, which always holds all of them."""

    backend: Literal["none", "mlflow"] = "mlflow"
    uri: Optional[str] = None
    """MLflow tracking URI; null: `sqlite:///<output_dir>/mlflow.db`."""
    experiment: str = "tokensieve"
    log_adapter: bool = True
    """Upload the adapter as an artefact."""


@dataclass(kw_only=True, slots=True)
class SweepConfig:
    """How `-m` runs its jobs: how many at a time on this machine (see `launcher` for others), and after a failure."""

    controls: list[str] = field(default_factory=lambda: ["unmasked"])
    """Arms added by themselves when a token rule or threshold is swept: unmasked, random, low; [] for none."""
    workers: int | str = 1
    """launcher=local: jobs at a time; auto: as many as the visible GPUs hold, without a GPU one for every 4 cores.
    Where there are GPUs, each job is given `trainer.devices` of its own, and waits for those that other sweeps use."""
    jobs_per_device: int = 1
    """Jobs that share one GPU, for jobs that leave most of it idle: 1, 2, 3, 4, 6 or 12."""
    fail_fast: bool = False
    """Stop the sweep at the first failed job."""
    max_failures: Optional[int] = None
    """Stop the sweep when more jobs than this have failed; null: never."""
    resume: Optional[str] = None
    """`latest`, or the folder of a sweep: skip finished jobs, continue the others. Values given beside it are added to
    the sweep (`seed=1,2,3`), and so are new arms of its file, which also takes unfinished ones away."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.controls if name not in ("unmasked", "random", "low")]
        require(not unknown, "sweep.controls", "may hold unmasked, random, low", unknown, "sweep.controls=[unmasked]")
        require(
            self.workers == "auto" or (isinstance(self.workers, int) and self.workers >= 1),
            "sweep.workers",
            "must be auto or at least 1",
            self.workers,
            "use auto",
        )
        shares = self.jobs_per_device
        known = ", ".join(map(str, GPU_PARTS))
        require(shares in GPU_PARTS, "sweep.jobs_per_device", f"must be one of {known}", shares, "use 1")
        require(
            self.max_failures is None or self.max_failures >= 0,
            "sweep.max_failures",
            "must be at least 0",
            self.max_failures,
            "leave it null to survive any number",
        )
