"""One run: all config groups together, its names, and its identity."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from tokensieve.config.data import DatasetConfig
from tokensieve.config.launcher import LauncherConfig
from tokensieve.config.model import LoraConfig, ModelConfig
from tokensieve.config.noise import NoiseConfig
from tokensieve.config.outcome import EvalConfig, SweepConfig, TrackingConfig
from tokensieve.config.rule import require, require_compatible
from tokensieve.config.search import SearchConfig
from tokensieve.config.tokens import StmConfig
from tokensieve.config.training import TRAINER_EXECUTION_KEYS, LossConfig, OptimConfig, TrainerConfig
from tokensieve.config.variant import VariantConfig
from tokensieve.config.weighting import RegulariserConfig, WeightConfig, check_weighting

# Keys that say how or where a run is executed, not what it computes: they do not change its identity.
EXECUTION_KEYS = ("sweep", "search", "launcher", "tracking", "output_dir", "dry_run", "debug")


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """One run: everything that `train.py` needs."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=lambda: DatasetConfig(lab_family="lab_code"))
    variant: VariantConfig = field(default_factory=VariantConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    stm: StmConfig = field(default_factory=StmConfig)
    weight: WeightConfig = field(default_factory=WeightConfig)
    regulariser: RegulariserConfig = field(default_factory=RegulariserConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    launcher: LauncherConfig = field(default_factory=LauncherConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    seed: int = 1
    """Order of the training data, initial adapter weights, dropout and the random mask."""
    output_dir: str = "outputs"
    """Folder of runs, sweeps, cache and the MLflow store."""
    dry_run: bool = False
    """Print the planned jobs and which stages are cached, then stop."""
    debug: bool = False
    """Show tracebacks of user errors."""

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", "must be at least 0", self.seed, "use 1, 2, 3")
        require_compatible(
            not (self.noise.corrupts_responses and self.variant.rewrites_responses),
            "noise.ratio",
            f"noise would be lost with variant={self.variant.name}, which writes every response anew",
            self.noise.label,
            "set noise.ratio=0, or choose a variant that reads the responses (robustft, rephrase, ground_truth)",
        )
        require_compatible(
            self.model.adapter is None or self.lora.quantise == "none",
            "model.adapter",
            "cannot be merged into a 4-bit base",
            f"lora.quantise={self.lora.quantise}",
            "merge it with tokensieve export and give the result as model.path, or set lora.quantise=none",
        )
        require_compatible(
            self.dataset.tokens_field is None
            or (not self.noise.corrupts_responses and self.variant.name == "ground_truth"),
            "dataset.tokens_field",
            "goes with neither noise nor a variant, which change texts",
            self.dataset.tokens_field,
            "set noise.ratio=0 variant=ground_truth",
        )
        require(
            self.search.pruner == "none" or self.search.trial is not None,
            "search.pruner",
            "ends trials of a search; runs of given values, such as a threshold curve, are all needed to their end",
            self.search.pruner,
            "add -m and search=tpe (or random, grid, cmaes), or leave it none",
        )
        require_compatible(
            self.lora.method != "none"
            or self.model.dtype not in ("bfloat16", "float16")
            or self.trainer.precision not in ("bf16-mixed", "16-mixed"),
            "trainer.precision",
            "mixed precision trains weights of higher precision",
            f"{self.trainer.precision} with model.dtype={self.model.dtype}",
            "set model.dtype=auto or float32, or train an adapter (lora=r16)",
        )
        check_weighting(self.weight, self.regulariser, self.lora, self.trainer)
        require(bool(self.output_dir), "output_dir", "must not be empty", self.output_dir, "use outputs")

    @property
    def arm(self) -> str:
        """What distinguishes the token rule, in a run's name: `unmasked`, `stm=2.5`, `random=2.5`, `quantile=0.8`."""
        stm = self.stm
        if stm.rule == "none":
            return "unmasked"
        if stm.rule == "quantile":
            return f"quantile={stm.quantile:g}"
        kept = f"-{stm.dpf_keep.replace('_', '-')}" if stm.dpf_keep != "fallen" else ""
        if stm.rule == "dpf" and not kept.startswith("-most"):
            return f"dpf{kept}={stm.dpf_threshold:g}"
        label = {"high_ppl": "stm", "low_ppl": "low", "dpf": f"dpf{kept}", "stm_dpf": f"stm_dpf{kept}"}.get(
            stm.rule, stm.rule
        )
        return f"{label}={stm.threshold:g}"

    @property
    def widens_weights(self) -> bool:
        """Whether weights that load in 16 bits are trained in float32: of small updates to them most would round to
        nothing."""
        return self.lora.method == "none" and self.model.dtype == "auto" and self.trainer.precision != "bf16-true"

    @property
    def method(self) -> str:
        """The arm with its weight and its regulariser: `unmasked`, `stm=2.5 dft`, `unmasked kl=0.05`, ..."""
        return " ".join([self.arm, *self._rules])

    @property
    def _rules(self) -> list[str]:
        return [group.label for group in (self.weight, self.regulariser) if group.rule != "none"]

    @property
    def run_name(self) -> str:
        """`model/dataset/variant/arm/lora[/weight][/regulariser][/noise]/seed`: deterministic, and the same in every
        table and store."""
        noise = [self.noise.label] if self.noise.corrupts_responses else []
        parts = [
            self.model.name,
            self.dataset.name,
            self.variant.label,
            self.arm,
            self.lora.label,
            *self._rules,
            *noise,
        ]
        return "/".join([*parts, f"seed={self.seed}"])


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


def identity(run: RunConfig) -> dict[str, Any]:
    """The resolved config without `EXECUTION_KEYS`, as plain JSON values: what a job id digests.

    Of `weight` and `regulariser` it holds what their rules read, and nothing without a rule.
    """
    values = {key: value for key, value in to_plain(run).items() if key not in EXECUTION_KEYS}
    values["trainer"] = {k: v for k, v in values["trainer"].items() if k not in TRAINER_EXECUTION_KEYS}
    rules = {"weight": run.weight.identity(), "regulariser": run.regulariser.identity()}
    return {key: rules.get(key, value) for key, value in values.items() if rules.get(key, True)}
