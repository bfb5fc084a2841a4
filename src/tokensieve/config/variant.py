"""Config group `variant`: who writes the responses, and who is asked."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

from tokensieve.config.variant_checks import check_combinations, check_ranges
from tokensieve.errors import ConfigError
from tokensieve.prompt_wordings import CONTEXT, INSTRUCT, REASONING, REPHRASE, REVIEW

if TYPE_CHECKING:
    from tokensieve.variant import VariantSettings

_FROM_SCRATCH = ("self_output", "larger_model", "self_instruct")


@dataclass(kw_only=True, slots=True)
class VariantConfig:
    """Who wrote the responses (STM, arXiv 2501.14315, sections 3 and 4; RobustFT, arXiv 2412.14922)."""

    name: Literal[
        "ground_truth",
        "self_output",
        "rephrase",
        "filter_correct",
        "self_instruct",
        "larger_model",
        "robustft",
        "self_label",
        "self_select",
        "self_rag",
    ] = "ground_truth"
    """ground_truth: the data's own responses. self_output: the model's own correct answer. rephrase: the data's
    response in the model's words. filter_correct: the data's responses where a checker model solves the row.
    self_instruct: new instructions and answers, out of the data as seed tasks. larger_model: another model's answer.
    robustft: noisy labels found and relabelled. self_label, self_select, self_rag: RobustFT's baselines."""
    backend: Literal["local", "openai"] = "local"
    """Who is asked. local: the run's own base model. openai: an OpenAI-compatible endpoint."""
    base_url: Optional[str] = None
    """Of the endpoint, up to and with the version: http://localhost:8000/v1. No default: the data is sent there."""
    endpoint_model: Optional[str] = None
    """The model's name at the endpoint."""
    deployment: Optional[str] = None
    """Name under which answers are stored in place of `base_url`, for a server whose address changes."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key; the key itself is never part of a config."""
    max_concurrency: int = 16
    """Requests in flight at the endpoint."""
    timeout_seconds: float = 120.0
    """Of one request to the endpoint, above 0."""
    max_requests: Optional[int] = None
    """Budget: a build that would send more fails, and keeps what it has; null: no limit."""
    max_attempts: int = 8
    """How often one completion is tried at the endpoint."""
    with_logprobs: bool = True
    """Ask the endpoint for log-probabilities, which pick=lowest and robustft's selection need; some servers refuse."""
    token_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the limit of a completion."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """More fields of a request to the endpoint; null takes one away."""
    batch_size: int = 32
    """Rows that the local back end decodes at once; does not change a greedy answer."""
    num_samples: int = 1
    """Samples a row. The STM paper takes 32 for self_output, 1 for rephrase."""
    temperature: float = 0.0
    """0 is greedy; the STM paper takes 0.7."""
    top_p: float = 1.0
    """Nucleus mass in (0, 1]; the STM paper's code takes 0.95."""
    max_new_tokens: Optional[int] = None
    """Longest completion; null: the task's own limit, 512 where there is no task."""
    seed: int = 0
    """Of sampling, of pick=random and of self_instruct's draws; not the run's seed, so that arms share their data."""
    verify: bool = True
    """Whether the task's grader checks what self_output, larger_model and rephrase wrote. false: any response that is
    neither empty nor cut off is taken."""
    accept: Literal["correct", "wrong", "any"] = "correct"
    """Which verified samples may be used. wrong gives the control of wholly incorrect responses (STM, table 20); with
    filter_correct it keeps the rows that the checker does not solve."""
    pick: Literal["lowest", "highest", "random"] = "lowest"
    """Which accepted sample becomes the response: of lowest perplexity (the paper's), of highest, or any."""
    on_no_correct: Literal["drop", "ground_truth"] = "drop"
    """A row without a usable sample: dropped (the paper's text), or kept with its own response (its code)."""
    keep_truncated: bool = False
    """Whether an answer that was cut off at max_new_tokens may become a response."""
    agreement_threshold: float = 0.5
    """In (0, 1]. robustft: theta, the share of experts that must give the label. filter_correct: the share of samples
    that must be correct."""
    num_experts: int = 0
    """robustft: sampled experts that vote on each label (the paper's text: 4); 0: base and reasoning prediction must
    both give the label (its code)."""
    expert_temperature: float = 0.7
    """Of the experts, above 0."""
    num_neighbours: int = 3
    """robustft and self_rag: k, the rows shown as context, >= 1."""
    keep_fraction: float = 0.5
    """beta in (0, 1]: share of relabelled rows of lowest entropy that robustft keeps; share of rows of lowest loss that
    self_select keeps with select_by=loss."""
    use_checker: bool = True
    """false: every row is relabelled, and any other row may be its context."""
    use_reasoning: bool = True
    """false: no reasoning-enhanced prediction; the base one takes its place in the review."""
    use_context: bool = True
    """false: no context-enhanced relabelling; the reasoning-enhanced prediction is the new label."""
    use_review: bool = True
    """false: the context-enhanced label stands without a review."""
    use_selection: bool = True
    """false: every relabelled row is kept."""
    embedding: Literal["tfidf", "model"] = "tfidf"
    """What nearest rows are found by: words, or the mean of the local model's last hidden states."""
    compat: Literal["none", "paper"] = "none"
    """paper: select as the authors' code does, by the mean NLL of the sampled tokens, strictly below the median."""
    select_by: Literal["agreement", "loss"] = "agreement"
    """self_select: keep rows whose label the model gives, or the rows of lowest loss under the base model."""
    num_new: int = 100
    """self_instruct: new examples wanted."""
    num_seed_tasks: int = 8
    """self_instruct: tasks shown in one prompt, up to two of them new ones."""
    novelty_threshold: float = 0.7
    """self_instruct: highest ROUGE-L to any earlier instruction, in (0, 1]."""
    min_words: int = 3
    max_words: int = 150
    """self_instruct: bounds on the words of an instruction."""
    blocked_words: list[str] = field(
        default_factory=lambda: ["image", "images", "picture", "pictures", "graph", "graphs", "video", "audio", "file"]
    )
    """self_instruct: an instruction with one of these words or phrases asks for what a text model cannot do."""
    keep_seeds: bool = False
    """self_instruct: whether the seed tasks stay in the data."""
    rephrase_prompt: str = REPHRASE
    """Jinja template over question, response, labels and answer_form; so are the next three."""
    reasoning_prompt: str = REASONING
    context_prompt: str = CONTEXT
    """Has `examples`, each with question and response, besides."""
    review_prompt: str = REVIEW
    """Has `candidates`, a list of texts, besides."""
    instruct_prompt: str = INSTRUCT
    """Jinja template over `examples` and `num`, the number of new tasks to list."""
    instruct_prompt_path: Optional[str] = None
    """A file that replaces `instruct_prompt`."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_combinations(self)

    @property
    def rewrites_responses(self) -> bool:
        """Whether the data's own responses do not matter to the result: noise put into them would be lost."""
        return self.name in _FROM_SCRATCH and self.on_no_correct == "drop" and not self.keep_seeds

    @property
    def label(self) -> str:
        """The variant in a run's name: its own, and the steps of robustft that are switched off."""
        if self.name != "robustft":
            return self.name
        switches = ("checker", "reasoning", "context", "review", "selection")
        return "-no_".join([self.name, *(step for step in switches if not getattr(self, f"use_{step}"))])

    def settings(self) -> VariantSettings:
        """What the stage reads, as its own record.

        Raises:
            ConfigError: `instruct_prompt_path` cannot be read.
        """
        from tokensieve.variant import VariantSettings  # the stage's libraries: not for --help

        values = {entry.name: getattr(self, entry.name) for entry in fields(VariantSettings)}
        values["blocked_words"] = tuple(self.blocked_words)
        if self.name == "self_instruct" and self.instruct_prompt_path is not None:
            values["instruct_prompt"] = _read_prompt(self.instruct_prompt_path)
        return VariantSettings(**values)


def _read_prompt(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "variant.instruct_prompt_path",
            "must be a text file with a Jinja template",
            received=f"{path}: {error}",
            remedy="check the path; relative paths start at the working directory",
        ) from None
