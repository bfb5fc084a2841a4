"""What a variant is asked to do, as one flat record, and which of its fields decide each variant's content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_SAMPLING: Final = ("num_samples", "temperature", "top_p", "max_new_tokens", "seed")
_REWRITING: Final = (*_SAMPLING, "verify", "accept", "pick", "on_no_correct", "keep_truncated")
_PREDICTION: Final = ("temperature", "top_p", "max_new_tokens", "seed", "keep_truncated")
# variant -> the fields that can change what it makes: what enters its stamp
FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "ground_truth": (),
    "self_output": _REWRITING,
    "larger_model": _REWRITING,
    "rephrase": (*_REWRITING, "rephrase_prompt"),
    "filter_correct": (*_SAMPLING, "accept", "agreement_threshold"),
    "self_instruct": (
        "temperature",
        "top_p",
        "max_new_tokens",
        "seed",
        "keep_truncated",
        "instruct_prompt",
        "num_new",
        "num_seed_tasks",
        "novelty_threshold",
        "min_words",
        "max_words",
        "blocked_words",
        "keep_seeds",
    ),
    "robustft": (
        *_PREDICTION,
        "num_experts",
        "expert_temperature",
        "agreement_threshold",
        "num_neighbours",
        "keep_fraction",
        "use_checker",
        "use_reasoning",
        "use_context",
        "use_review",
        "use_selection",
        "compat",
        "reasoning_prompt",
        "context_prompt",
        "review_prompt",
    ),
    "self_label": (*_PREDICTION, "on_no_correct"),
    "self_select": (*_PREDICTION, "select_by", "keep_fraction"),
    "self_rag": (*_PREDICTION, "on_no_correct", "num_neighbours", "context_prompt"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantSettings:
    """The fields of the config group `variant` that a variant reads; the schema holds their meaning and defaults."""

    name: str
    num_samples: int
    temperature: float
    top_p: float
    max_new_tokens: int | None
    verify: bool
    accept: str
    pick: str
    on_no_correct: str
    keep_truncated: bool
    agreement_threshold: float
    num_experts: int
    expert_temperature: float
    num_neighbours: int
    keep_fraction: float
    use_checker: bool
    use_reasoning: bool
    use_context: bool
    use_review: bool
    use_selection: bool
    compat: str
    select_by: str
    num_new: int
    num_seed_tasks: int
    novelty_threshold: float
    min_words: int
    max_words: int
    blocked_words: tuple[str, ...]
    keep_seeds: bool
    rephrase_prompt: str
    reasoning_prompt: str
    context_prompt: str
    review_prompt: str
    instruct_prompt: str
    seed: int

    def identity(self) -> dict[str, Any]:
        """The fields that decide this variant's content, as JSON values: part of the stamp.

        A field that a switch leaves unread is still part of it: a stamp may tell too much apart, never too little.
        """
        values = {field: getattr(self, field) for field in FIELDS[self.name]}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @property
    def needs_backend(self) -> bool:
        """Whether a model is asked anything."""
        return self.name != "ground_truth" and not (self.name == "self_select" and self.select_by == "loss")

    @property
    def needs_grader(self) -> bool:
        """Whether the variant cannot be made for data without a task's grader."""
        if self.name in ("self_output", "larger_model", "rephrase"):
            return self.verify
        return self.name == "filter_correct"
