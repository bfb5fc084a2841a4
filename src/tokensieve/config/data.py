"""Config group `dataset`: what is learnt from."""

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
    """A local file, a folder of train, validation and test files, or an Arrow folder, in the published layout; beats
    `hub_id` and `lab_family`. JSON, JSON Lines, CSV, Parquet, Arrow; plain, .gz or .zst."""
    hub_id: Optional[str] = None
    subset: Optional[str] = None
    """Configuration name of a hub dataset."""
    revision: Optional[str] = None
    """Commit of a hub dataset, 40 hex digits; null: whatever is newest, which no cache can tell."""
    splits: dict[str, Any] = field(default_factory=dict)
    """train, validation, test -> the name it is published under; null: not published (held out of train)."""
    id_field: Optional[str] = None
    """Column that names a row; null: the row's number."""
    layout: Literal[
        "auto",
        "messages",
        "sharegpt",
        "alpaca",
        "prompt_completion",
        "question_answer",
        "instruction_response",
        "text",
        "transcript",
    ] = "auto"
    """How rows become chat turns; auto: told by the columns of the first row. Not read where `prompt` is set.
    text: one assistant turn without a prompt. transcript: a text of `### Human:` and `### Assistant:` turns."""
    columns: dict[str, str] = field(default_factory=dict)
    """The layout's column (or `system`) -> the row's column that holds it; beats what is detected."""
    prompt: Optional[str] = None
    """Jinja template of the user turn over the row's columns; beats `layout`. Filters: see dataset.templates."""
    response: Optional[str] = None
    """Jinja template of the trained assistant turn; goes together with `prompt`."""
    train_on: Literal["all", "last"] = "last"
    """Which assistant turns of a conversation are trained: all of them, or the last."""
    system_prompt: Optional[str] = None
    """System turn put before the prompt; null: none."""
    reference: dict[str, str] = field(default_factory=dict)
    """What the grader reads: its key -> the row's column, a dotted path, or a Jinja expression in double braces."""
    databases: Optional[str] = None
    """Path of a row's SQLite file, a Jinja template from the folder of `path`; * is any name. It gives the other
    templates the columns `database_file` and `schema` (the CREATE statements, where the row has no schema itself)."""
    num_fewshot: int = 0
    """Solved examples put before each question when this is evaluated, as turns of user and assistant."""
    fewshot_split: Literal["train", "validation"] = "train"
    """Where they are drawn from, by `eval.seed` and the item's id."""
    fewshot_group: Optional[str] = None
    """Key of `reference` in which examples agree with the question, such as its subject; null: any example."""
    tokens_field: Optional[str] = None
    """Column of token ids: the rows are tokenised already, and `prompt_tokens_field` tells where responses start."""
    prompt_tokens_field: str = "num_prompt_tokens"
    """Column with the number of prompt tokens of a tokenised row."""
    split_field: Optional[str] = None
    """Column that carries the split of a one-file dataset: an integer tested against `split_ranges`."""
    split_ranges: dict[str, Any] = field(default_factory=dict)
    """train, validation, test -> [first, last] of `split_field`, both included."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that does not fit: an error, or skipped with a ledger; above 5 % bad rows it is an error in any case."""
    deduplicate: Literal["none", "exact", "near"] = "none"
    """Leave out training examples that repeat an earlier one, or whose prompt is in an evaluation set."""
    near_threshold: float = 0.8
    """Jaccard similarity of three-word sequences from which `deduplicate=near` drops; in [0.3, 1]."""
    shuffle_seed: Optional[int] = None
    """Permute the examples of each split before any limit; null: the order of the source."""
    limit: Optional[int] = None
    """At most so many examples of every split; num_train and its like narrow one split further."""
    num_train: Optional[int] = None
    """At most so many training examples; null: all there are."""
    num_validation: Optional[int] = None
    num_test: Optional[int] = None
    val_fraction: float = 0.1
    """Share of train held out for validation where the source publishes no validation split; in [0, 0.5)."""
    test_fraction: float = 0.1
    """Share of train held out for test where the source publishes no test split; in [0, 0.5)."""
    seed: int = 0
    """Seed of the lab's draw and of the validation hold-out; not the run's seed, so that arms share their data."""

    def __post_init__(self) -> None:
        for key in ("limit", "num_train", "num_validation", "num_test"):
            count = getattr(self, key)
            require(
                count is None or count > 0,
                f"dataset.{key}",
                "must be a count above 0",
                count,
                "leave it null to take every row",
            )
        require(self.num_fewshot >= 0, "dataset.num_fewshot", "must be at least 0", self.num_fewshot, "use 5")
        for key in ("val_fraction", "test_fraction"):
            require(
                0 <= getattr(self, key) < 0.5, f"dataset.{key}", "must be in [0, 0.5)", getattr(self, key), "try 0.1"
            )
        require(
            0.3 <= self.near_threshold <= 1,
            "dataset.near_threshold",
            "must be in [0.3, 1]",
            self.near_threshold,
            "try 0.8",
        )
        require(
            (self.prompt is None) == (self.response is None),
            "dataset.prompt",
            "goes together with dataset.response",
            None,
            "set both, or neither to use dataset.layout",
        )
        require(
            self.tokens_field is None or (self.deduplicate == "none" and self.shuffle_seed is None),
            "dataset.tokens_field",
            "goes with neither dataset.deduplicate nor dataset.shuffle_seed, which read texts and ids of examples",
            self.tokens_field,
            "set dataset.deduplicate=none dataset.shuffle_seed=null",
        )
        require(
            self.tokens_field is None or self.val_fraction == self.test_fraction == 0,
            "dataset.tokens_field",
            "goes with neither dataset.val_fraction nor dataset.test_fraction, which hold examples out by their texts",
            self.tokens_field,
            "set both to 0, and give a folder with a validation file instead",
        )
        unknown = set(self.splits) - {"train", "validation", "test"}
        require(
            not unknown,
            "dataset.splits",
            "must map train, validation and test",
            sorted(unknown),
            "published names stand on the right: dataset.splits={test: dev}",
        )
        require(
            self.path is not None or self.hub_id is not None or self.lab_family is not None,
            "dataset",
            "needs a source: dataset.path, dataset.hub_id or dataset.lab_family",
            None,
            "set dataset.path to a local file",
        )
