"""The schema: one dataclass a config group; the only home of defaults. Imports neither torch nor transformers.

Unknown keys and wrong types fail when Hydra composes; ranges and conflicts fail in `__post_init__`, with the key,
the rule, the value and a remedy, before any model loads.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Optional

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from tokensieve.errors import ConfigError

TOKEN_RULES = ("none", "high_ppl", "low_ppl", "random", "quantile", "dpf", "stm_dpf")


def _require(holds: bool, key: str, rule: str, received: object, remedy: str) -> None:
    if not holds:
        raise ConfigError(key, rule, received=received, remedy=remedy)


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Which language model is the frozen base (and, unless `stm` says otherwise, the scorer)."""

    name: str = "lab"
    """Short name in run names and tables."""
    path: str = "lab"
    """`lab` (the packaged model), a local Hugging Face folder, or a hub id."""
    revision: Optional[str] = None
    """Commit of a hub id; part of every stamp. Ignored for folders, whose files are digested instead."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the frozen weights. auto: bfloat16 where the accelerator computes in it, float32 on CPU."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "auto"
    """Attention kernel; auto is sdpa, and eager where a model's own scores need it."""
    chat_template: Optional[str] = None
    """A Jinja file that replaces, or supplies, the tokenizer's chat template."""
    max_length: Optional[int] = None
    """Tokens of prompt and response together; null: the model's own limit. Longer examples are an error."""
    trust_remote_code: bool = False
    """Run code that ships with the checkpoint. Only for checkpoints whose authors you trust."""

    def __post_init__(self) -> None:
        _require(
            bool(self.path), "model.path", "must name a folder or a hub id", None, "set model.path=/models/my-model"
        )
        _require(
            self.max_length is None or self.max_length >= 2,
            "model.max_length",
            "must be at least 2 tokens",
            self.max_length,
            "leave it null for the model's own limit",
        )


@dataclass(kw_only=True, slots=True)
class DatasetConfig:
    """Where examples come from, and how a row becomes a prompt, a response and a reference."""

    name: str = "lab_code"
    """Short name in run names and tables."""
    task: Optional[str] = "lab_code"
    """The evaluation task that this data trains for (the target of TI); null: none, only perplexity is reported."""
    lab_family: Optional[str] = None
    """A family of the packaged lab; used when neither `path` nor `hub_id` is set."""
    lab_style: Literal["human", "plain"] = "human"
    """Response style of the lab's training split: human (idiosyncratic tokens) or plain (the base model's own)."""
    path: Optional[str] = None
    """A local file in the published layout; beats `hub_id` and `lab_family`."""
    hub_id: Optional[str] = None
    subset: Optional[str] = None
    """Configuration name of a hub dataset."""
    revision: Optional[str] = None
    id_field: Optional[str] = None
    """Column that names a row; null: the row's number."""
    prompt: Optional[str] = None
    """Jinja template of the user turn over the row's columns."""
    response: Optional[str] = None
    """Jinja template of the trained assistant turn."""
    system_prompt: Optional[str] = None
    """System turn put before the prompt; null: none."""
    reference: dict[str, str] = field(default_factory=dict)
    """What the grader reads: its key -> the row's column."""
    tokens_field: Optional[str] = None
    """Column of token ids: the rows are tokenised already, and `prompt_tokens_field` tells where responses start."""
    prompt_tokens_field: str = "num_prompt_tokens"
    """Column with the number of prompt tokens of a tokenised row."""
    split_field: Optional[str] = None
    """Column that carries the split of a one-file dataset: an integer tested against `split_ranges`."""
    split_ranges: dict[str, Any] = field(default_factory=dict)
    """train, validation, test -> [first, last] of `split_field`, both included."""
    num_train: Optional[int] = None
    """At most so many training examples; null: all there are."""
    num_validation: Optional[int] = None
    num_test: Optional[int] = None
    validation_fraction: float = 0.1
    """Share of train held out for validation where the source publishes no validation split; in [0, 0.5)."""
    test_fraction: float = 0.1
    """Share of train held out for test where the source publishes no test split; in [0, 0.5)."""
    seed: int = 0
    """Seed of the lab's draw and of the validation hold-out; not the run's seed, so that arms share their data."""

    def __post_init__(self) -> None:
        for key in ("num_train", "num_validation", "num_test"):
            count = getattr(self, key)
            _require(
                count is None or count > 0,
                f"dataset.{key}",
                "must be a count above 0",
                count,
                "leave it null to take every row",
            )
        for key in ("validation_fraction", "test_fraction"):
            _require(
                0 <= getattr(self, key) < 0.5, f"dataset.{key}", "must be in [0, 0.5)", getattr(self, key), "try 0.1"
            )
        _require(
            self.path is not None or self.hub_id is not None or self.lab_family is not None,
            "dataset",
            "needs a source: dataset.path, dataset.hub_id or dataset.lab_family",
            None,
            "set dataset.path to a local file",
        )


@dataclass(kw_only=True, slots=True)
class VariantConfig:
    """Who wrote the responses (STM sections 3, 4)."""

    name: Literal["ground_truth"] = "ground_truth"
    """ground_truth: the data's own responses."""


@dataclass(kw_only=True, slots=True)
class NoiseConfig:
    """Errors put into the responses on purpose."""

    name: Literal["none"] = "none"


@dataclass(kw_only=True, slots=True)
class StmConfig:
    """Which response tokens are trained (STM, arXiv 2501.14315, section 4)."""

    rule: Literal["none", "high_ppl", "low_ppl", "random", "quantile", "dpf", "stm_dpf"] = "high_ppl"
    """none: all. high_ppl (STM): mask ppl > threshold. low_ppl: mask the lowest, as many in each example as high_ppl
    masks. random: mask a uniform draw, as many in each example as high_ppl masks. quantile: keep the `quantile` share
    of lowest ppl. dpf: mask where ppl under `tuned_adapter` minus base ppl is above `dpf_threshold`. stm_dpf: mask
    what either high_ppl or dpf masks."""
    threshold: float = 2.5
    """Perplexity tau > 0: a token is trained iff exp(nll) <= tau. 2.5 is the paper's choice (p >= 0.4)."""
    dpf_threshold: float = 0.0
    """Bound on ppl_tuned - ppl_base; 0 is the paper's (masks every token whose perplexity rose)."""
    quantile: float = 0.8
    """Share of response tokens kept by rule=quantile, in (0, 1]."""
    quantile_scope: Literal["corpus", "example"] = "corpus"
    """Take the quantile over all response tokens of the corpus, or within each example."""
    scorer: Optional[str] = None
    """Model whose perplexities decide (folder or hub id, same tokenizer); null: the run's base model."""
    scorer_revision: Optional[str] = None
    tuned_adapter: Optional[str] = None
    """Adapter folder of an earlier run; gives the second perplexity of dpf and stm_dpf."""
    scores_path: Optional[str] = None
    """Parquet, Arrow or JSONL file of per-token `ppl` or `nll` with `input_ids`: replaces scoring."""
    mask_seed: Optional[int] = None
    """Seed of rule=random; null: the run's seed."""

    def __post_init__(self) -> None:
        _require(
            self.threshold > 0 and math.isfinite(self.threshold),
            "stm.threshold",
            "must be a finite perplexity above 0",
            self.threshold,
            "2.5 is the paper's choice; stm=none trains every token",
        )
        _require(
            0 < self.quantile <= 1,
            "stm.quantile",
            "must be in (0, 1]: the share of response tokens that are kept",
            self.quantile,
            "try 0.8",
        )
        _require(
            self.scores_path != "",
            "stm.scores_path",
            "must name the file of perplexities to import",
            None,
            "set stm.scores_path=scores.parquet",
        )
        _require(
            self.rule not in ("dpf", "stm_dpf") or self.tuned_adapter is not None,
            "stm.tuned_adapter",
            f"rule {self.rule} compares two perplexities and needs a fine-tuned adapter",
            self.tuned_adapter,
            "train one with stm=none and set stm.tuned_adapter=outputs/.../adapter",
        )

    @property
    def needs_scores(self) -> bool:
        return self.rule != "none"


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    """Adapter. The default, r16, is the recipe of the STM code (arXiv 2501.14315)."""

    name: str = "r16"
    method: Literal["none", "lora"] = "lora"
    """none: full fine-tuning, every weight is trained."""
    rank: int = 16
    alpha: float = 32.0
    """Scale: the update is multiplied by alpha / rank (alpha / sqrt(rank) with rslora)."""
    dropout: float = 0.05
    """In [0, 1)."""
    target_modules: str = "all-linear"
    """PEFT's name of a set, or a comma-separated list of module suffixes."""
    use_dora: bool = False
    """Weight-decomposed adapters (DoRA)."""
    use_rslora: bool = False
    """Rank-stabilised scale (rsLoRA)."""
    quantise: Literal["none", "nf4"] = "none"
    """nf4: hold the frozen base in 4-bit NormalFloat through bitsandbytes (QLoRA)."""
    double_quantise: bool = True
    """Quantise the NF4 constants too; only with quantise=nf4."""

    def __post_init__(self) -> None:
        _require(self.rank >= 1, "lora.rank", "must be at least 1", self.rank, "16 is the STM recipe")
        _require(self.alpha > 0, "lora.alpha", "must be above 0", self.alpha, "try 2 * lora.rank")
        _require(0 <= self.dropout < 1, "lora.dropout", "must be in [0, 1)", self.dropout, "try 0.05")
        _require(
            not (self.method == "none" and self.quantise != "none"),
            "lora.quantise",
            "a 4-bit base cannot be trained itself",
            self.quantise,
            "use lora=qlora, or lora=none with lora.quantise=none",
        )


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """Optimiser and learning-rate schedule."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw_32bit", "adafactor"] = "adamw"
    lr: float = 2e-5
    """Peak learning rate; 2e-5 is the papers' for 2-9 B models. The lab sets its own (conf/model/lab.yaml)."""
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = 10
    """Optimiser steps of linear warm-up; capped at a tenth of the run."""

    def __post_init__(self) -> None:
        _require(
            0 < self.lr < math.inf, "optim.lr", "must be a finite number above 0", self.lr, "2e-5 is the papers' choice"
        )
        _require(self.weight_decay >= 0, "optim.weight_decay", "must be at least 0", self.weight_decay, "use 0")
        for key in ("beta1", "beta2"):
            _require(0 <= getattr(self, key) < 1, f"optim.{key}", "must be in [0, 1)", getattr(self, key), "0.9, 0.999")
        _require(self.warmup_steps >= 0, "optim.warmup_steps", "must be at least 0", self.warmup_steps, "use 10")


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """The denominator of the loss: published methods differ in it, and it scales the learning rate."""

    normalise: Literal["kept", "response"] = "kept"
    """kept: divide by the trained tokens of the optimiser step (the STM code). response: by all its response tokens,
    so that masking also lowers the effective learning rate."""


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """How the fit is executed; the same for every arm."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "32", "bf16-mixed", "bf16-true", "16-mixed"] = "auto"
    """auto: bf16-mixed where the accelerator computes in bfloat16 natively, else 32 (always 32 on CPU)."""
    epochs: int = 3
    max_steps: Optional[int] = None
    """Stop after so many optimiser steps, whatever `epochs` says."""
    batch_size: int = 16
    """Examples of one optimiser step, over all micro-batches and devices."""
    micro_batch_size: int = 16
    """Examples of one forward pass; batch_size / micro_batch_size passes are accumulated."""
    group_by_length: bool = True
    """Put examples of similar length into one step: less padding, same data."""
    grad_clip: float = 1.0
    """Maximal gradient norm; 0 for no clipping."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    validations_per_epoch: int = 1
    patience: Optional[int] = None
    """Early stopping: validations in a row without a better NLL; null: never stop early."""
    evaluate_checkpoint: Literal["last", "best"] = "last"
    """Which adapter is evaluated and kept as `adapter`: the last, or the one of the best validation NLL."""
    checkpoint_seconds: float = 60.0
    """Seconds between the checkpoints from which an interrupted fit resumes."""

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "micro_batch_size", "validations_per_epoch"):
            _require(
                getattr(self, key) >= 1, f"trainer.{key}", "must be at least 1", getattr(self, key), "use 1 or more"
            )
        _require(
            self.max_steps is None or self.max_steps >= 1,
            "trainer.max_steps",
            "must be at least 1",
            self.max_steps,
            "leave it null to run all epochs",
        )
        _require(
            self.patience is None or self.patience >= 1,
            "trainer.patience",
            "must be at least 1 validation",
            self.patience,
            "leave it null to never stop early",
        )
        _require(
            self.grad_clip >= 0, "trainer.grad_clip", "must be at least 0", self.grad_clip, "use 1.0, or 0 for none"
        )
        _require(
            self.checkpoint_seconds > 0,
            "trainer.checkpoint_seconds",
            "must be above 0",
            self.checkpoint_seconds,
            "use 60",
        )


@dataclass(kw_only=True, slots=True)
class EvalConfig:
    """What is measured after the fit, on held-out items."""

    tasks: list[str] = field(default_factory=lambda: ["lab_code", "lab_math", "lab_choice", "lab_sql"])
    """Tasks beside the target (which is always evaluated); [] for the target alone."""
    num_items: Optional[int] = 200
    """Items a task, from the test split; null: all."""
    batch_size: int = 64
    """Rows decoded at once."""
    max_new_tokens: Optional[int] = None
    """Overrides every task's own limit."""
    bootstrap_samples: int = 10000
    """Resamples of the paired bootstrap."""
    code_seconds: float = 5.0
    """Wall-clock limit of one program in the sandbox."""

    def __post_init__(self) -> None:
        _require(
            self.num_items is None or self.num_items >= 1,
            "eval.num_items",
            "must be at least 1",
            self.num_items,
            "leave it null for all items",
        )
        _require(self.batch_size >= 1, "eval.batch_size", "must be at least 1", self.batch_size, "use 64")
        _require(
            self.bootstrap_samples >= 100,
            "eval.bootstrap_samples",
            "must be at least 100",
            self.bootstrap_samples,
            "10000",
        )
        _require(self.code_seconds > 0, "eval.code_seconds", "must be above 0", self.code_seconds, "use 5")


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
    """How `-m` runs its jobs on this machine."""

    controls: list[str] = field(default_factory=lambda: ["unmasked"])
    """Arms added by themselves when a token rule or threshold is swept: unmasked, random, low; [] for none."""
    workers: int = 1
    """Jobs at a time."""
    fail_fast: bool = False
    """Stop the sweep at the first failed job."""
    max_failures: Optional[int] = None
    """Stop the sweep when more jobs than this have failed; null: never."""
    resume: Optional[str] = None
    """`latest`, or the folder of a sweep: skip finished jobs, continue the others."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.controls if name not in ("unmasked", "random", "low")]
        _require(not unknown, "sweep.controls", "may hold unmasked, random, low", unknown, "sweep.controls=[unmasked]")
        _require(self.workers >= 1, "sweep.workers", "must be at least 1", self.workers, "use 1")
        _require(
            self.max_failures is None or self.max_failures >= 0,
            "sweep.max_failures",
            "must be at least 0",
            self.max_failures,
            "leave it null to survive any number",
        )


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One run: everything that `train.py` needs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=lambda: DatasetConfig(lab_family="lab_code"))
    variant: VariantConfig = field(default_factory=VariantConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    stm: StmConfig = field(default_factory=StmConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    seed: int = 1
    """Order of the training data, initial adapter weights, dropout and the random mask."""
    output_dir: str = "outputs"
    """Folder of runs, sweeps, cache and the MLflow store."""
    dry_run: bool = False
    """Print the planned jobs and which stages are cached, then stop."""
    debug: bool = False
    """Show tracebacks of user errors."""

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "seed", "must be at least 0", self.seed, "use 1, 2, 3")
        _require(bool(self.output_dir), "output_dir", "must not be empty", self.output_dir, "use outputs")

    @property
    def arm(self) -> str:
        """What distinguishes the token rule, in a run's name: `unmasked`, `stm=2.5`, `random=2.5`, `quantile=0.8`."""
        stm = self.stm
        if stm.rule == "none":
            return "unmasked"
        if stm.rule == "quantile":
            return f"quantile={stm.quantile:g}"
        if stm.rule == "dpf":
            return f"dpf={stm.dpf_threshold:g}"
        label = {"high_ppl": "stm", "low_ppl": "low"}.get(stm.rule, stm.rule)
        return f"{label}={stm.threshold:g}"

    @property
    def run_name(self) -> str:
        """`model/dataset/variant/arm/lora/noise/seed`: deterministic, and the same in every table and store."""
        return "/".join(
            [self.model.name, self.dataset.name, self.variant.name, self.arm, self.lora.name, f"seed={self.seed}"]
        )


def register_schema() -> None:
    """Make the schema known to Hydra as `schema`, the first entry of conf/config.yaml's defaults."""
    ConfigStore.instance().store(name="schema", node=RunConfig, replace=True)


def to_run_config(config: object) -> RunConfig:
    """Check a composed OmegaConf tree and return it as a plain `RunConfig`.

    Raises:
        ConfigError: a range or a conflict that the schema forbids.
    """
    run = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), config))
    assert isinstance(run, RunConfig)
    return run


def to_plain(run: RunConfig) -> dict[str, Any]:
    """The resolved config as plain JSON values."""
    return asdict(run)


def to_yaml(run: RunConfig) -> str:
    """The resolved config as YAML text that Hydra can read back."""
    return OmegaConf.to_yaml(OmegaConf.structured(run), resolve=True)


def from_yaml(text: str) -> RunConfig:
    """Inverse of `to_yaml`."""
    return to_run_config(OmegaConf.create(text))


# Keys that say how or where a run is executed, not what it computes: they do not change its identity.
EXECUTION_KEYS = ("sweep", "tracking", "output_dir", "dry_run", "debug")


def identity(run: RunConfig) -> dict[str, Any]:
    """The resolved config without `EXECUTION_KEYS`, as plain JSON values: what a job id digests."""
    return {key: value for key, value in to_plain(run).items() if key not in EXECUTION_KEYS}
