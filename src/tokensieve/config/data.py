"""Config groups `dataset`, `noise` and `variant`: what is learnt from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Optional

from tokensieve.config.rule import require


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
            require(
                count is None or count > 0,
                f"dataset.{key}",
                "must be a count above 0",
                count,
                "leave it null to take every row",
            )
        for key in ("validation_fraction", "test_fraction"):
            require(
                0 <= getattr(self, key) < 0.5, f"dataset.{key}", "must be in [0, 0.5)", getattr(self, key), "try 0.1"
            )
        require(
            self.path is not None or self.hub_id is not None or self.lab_family is not None,
            "dataset",
            "needs a source: dataset.path, dataset.hub_id or dataset.lab_family",
            None,
            "set dataset.path to a local file",
        )


@dataclass(kw_only=True, slots=True)
class NoiseConfig:
    """Errors put into the responses on purpose."""

    name: Literal["none"] = "none"


@dataclass(kw_only=True, slots=True)
class VariantConfig:
    """Who wrote the responses (STM sections 3, 4)."""

    name: Literal["ground_truth"] = "ground_truth"
    """ground_truth: the data's own responses."""
