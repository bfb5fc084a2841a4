"""What of a variant's config cannot work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tokensieve.config.rule import require

if TYPE_CHECKING:
    from tokensieve.config.variant import VariantConfig

_SAMPLERS: Final = ("self_output", "larger_model", "rephrase", "filter_correct")
_COUNTS: Final = {
    "max_concurrency": 16,
    "max_attempts": 8,
    "batch_size": 32,
    "num_samples": 1,
    "num_neighbours": 3,
    "num_new": 100,
    "min_words": 3,
}
_SHARES: Final = {"top_p": 0.95, "agreement_threshold": 0.5, "keep_fraction": 0.5, "novelty_threshold": 0.7}
_POSITIVE: Final = {"timeout_seconds": 120, "expert_temperature": 0.7}


def check_ranges(config: VariantConfig) -> None:
    """Refuse a value out of its own range."""

    def refuse(key: str, holds: bool, rule: str, proposal: object) -> None:
        require(holds, f"variant.{key}", rule, getattr(config, key), f"try {proposal}")

    for key, proposal in _COUNTS.items():
        refuse(key, getattr(config, key) >= 1, "must be at least 1", proposal)
    for key in ("max_requests", "max_new_tokens"):
        value = getattr(config, key)
        refuse(key, value is None or value >= 1, "must be at least 1", "null")
    for key, share in _SHARES.items():
        refuse(key, 0 < getattr(config, key) <= 1, "must be in (0, 1]", share)
    for key, size in _POSITIVE.items():
        refuse(key, getattr(config, key) > 0, "must be above 0", size)
    for key in ("num_experts", "seed"):
        refuse(key, getattr(config, key) >= 0, "must be at least 0", 0)
    refuse("temperature", 0 <= config.temperature < 10, "must be in [0, 10)", "0 (greedy) or 0.7")
    refuse("num_seed_tasks", config.num_seed_tasks >= 2, "must be at least 2", 8)
    refuse("max_words", config.max_words >= config.min_words, "must not be below variant.min_words", 150)


def check_combinations(config: VariantConfig) -> None:
    """Refuse values that contradict each other."""
    require(
        config.name not in _SAMPLERS or config.num_samples == 1 or config.temperature > 0,
        "variant.temperature",
        f"greedy decoding gives {config.num_samples} equal samples",
        config.temperature,
        "set variant.temperature=0.7, or variant.num_samples=1",
    )
    require(
        config.verify or config.accept != "wrong" or config.name not in _SAMPLERS,
        "variant.accept",
        "wrong responses can only be told by verifying them",
        config.accept,
        "set variant.verify=true",
    )
    if config.name == "filter_correct":
        remedy = "set variant.accept=correct and variant.on_no_correct=drop"
        found = f"accept={config.accept}, on_no_correct={config.on_no_correct}"
        holds = config.accept != "any" and config.on_no_correct == "drop"
        require(holds, "variant.filter_correct", "must drop some rows to be a filter", found, remedy)
    require(
        config.name != "larger_model" or config.backend == "openai",
        "variant.backend",
        "larger_model asks another model than the run's own",
        config.backend,
        "set variant.backend=openai, or use variant=self_output",
    )
    for key, proposal in (("base_url", "http://localhost:8000/v1"), ("endpoint_model", "my-model")):
        holds = config.backend == "local" or bool(getattr(config, key))
        rule = "must be set with variant.backend=openai"
        require(holds, f"variant.{key}", rule, getattr(config, key), f"set variant.{key}={proposal}")
    require(
        config.compat == "none" or config.keep_fraction == 0.5,
        "variant.keep_fraction",
        "compat=paper keeps what is below the median",
        config.keep_fraction,
        "set variant.keep_fraction=0.5, or variant.compat=none",
    )
    require(
        config.embedding == "tfidf" or config.backend == "local",
        "variant.embedding",
        "embeddings are those of the local model",
        config.embedding,
        "set variant.embedding=tfidf, or variant.backend=local",
    )
