"""What every variant works with: the back end through its store, the grader, and a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokensieve.completions.records import Completion, Decoding, Messages
from tokensieve.errors import DataError
from tokensieve.graders import RowError, grade_samples
from tokensieve.records import Corpus
from tokensieve.retrieval import Embedder
from tokensieve.tasks import Task
from tokensieve.variant.answers import Groups, group_answers
from tokensieve.variant.example import Example, read_examples
from tokensieve.variant.settings import VariantSettings

if TYPE_CHECKING:
    from tqdm import tqdm

Ask = Callable[[Sequence[Messages], Decoding, int, Callable[[], None]], Iterator[list[Completion]]]
"""(conversations, decoding, samples of each, what to call at each completion) -> the samples of each, in order."""
DEFAULT_MAX_NEW_TOKENS: Final = 512  # where neither the settings nor a task say; the STM paper's
_COMPLETIONS_AT_ONCE: Final = 2048  # asked in one go: enough to fill batches, little enough to hold


@dataclass(slots=True, kw_only=True)
class Bench:
    """The tools of one build.

    Attributes:
        settings: what is asked for.
        ask: the back end behind its store.
        task: whose grader reads the answers; None: answers are compared as text.
        code_seconds: wall-clock limit of one program or query.
        embedder: vectors for retrieval; None: TF-IDF.
        folder: an empty folder for what must not stay in memory.
        losses: gives the mean NLL of each row's response, by position; None: not known.
    """

    settings: VariantSettings
    ask: Ask
    task: Task | None
    code_seconds: float
    embedder: Embedder | None
    folder: Path
    losses: Callable[[], Sequence[float]] | None = None
    _bar: tqdm[Any] | None = field(default=None, init=False)
    _num_seen: int = field(default=0, init=False)
    _num_accepted: int = field(default=0, init=False)
    _answers: dict[str, list[int]] = field(default_factory=dict, init=False)  # step -> [asked, answered]

    @property
    def grader(self) -> str | None:
        return self.task.grader if self.task is not None else None

    def decoding(self, temperature: float | None = None) -> Decoding:
        """How a completion is drawn; `temperature` beats the settings'."""
        limit = self.settings.max_new_tokens or (self.task.max_new_tokens if self.task else DEFAULT_MAX_NEW_TOKENS)
        chosen = self.settings.temperature if temperature is None else temperature
        return Decoding(
            max_new_tokens=limit,
            temperature=chosen,
            top_p=self.settings.top_p if chosen > 0 else 1.0,
            stop=self.task.stop if self.task is not None else (),
            seed=self.settings.seed,
        )

    def sample(
        self, prompts: Sequence[Messages], num: int = 1, temperature: float | None = None
    ) -> list[list[Completion]]:
        """`num` completions of each prompt, in order.

        Raises:
            DataError: a prompt without any turn.
        """
        if not all(prompts):
            rule = f"variant {self.settings.name} asks each row's prompt"
            remedy = "use variant=ground_truth for plain text, or give the rows a prompt"
            raise DataError("dataset", rule, received="a row that is a response only", remedy=remedy)
        return list(self.ask(prompts, self.decoding(temperature), num, self._tick)) if prompts else []

    def _tick(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def count(self, accepted: bool) -> None:
        """Note a row as accepted or not: the share is shown on the bar."""
        self._num_seen += 1
        self._num_accepted += accepted

    def note_answer(self, step: str, answer: int | None) -> None:
        """Note whether what was said in a step gives an answer."""
        counts = self._answers.setdefault(step, [0, 0])
        counts[0] += 1
        counts[1] += answer is not None

    def answered_fractions(self) -> dict[str, float]:
        """Step -> share of its completions that give an answer."""
        return {step: answered / asked for step, (asked, answered) in self._answers.items()}

    def verify(self, examples: Sequence[Example], samples: Sequence[Sequence[Completion]]) -> list[list[bool]]:
        """Which texts the task's grader finds fully correct. Equal texts of a row are graded once; empty ones fail."""
        assert self.task is not None
        distinct = [list(dict.fromkeys(sample.text for sample in row if sample.text.strip())) for row in samples]
        references = [example.reference for example in examples]
        with _naming_rows(examples):
            grades = grade_samples(self.task.grader, distinct, references, seconds=self.code_seconds)
        correct = [
            {text for text, grade in zip(texts, own, strict=True) if grade.score >= 1}
            for texts, own in zip(distinct, grades, strict=True)
        ]
        return [[sample.text in good for sample in row] for row, good in zip(samples, correct, strict=True)]

    def group(self, examples: Sequence[Example], texts: Sequence[Sequence[str | None]]) -> Groups:
        """Which texts of a row give the same answer; see `group_answers`."""
        references: list[Any] = [example.reference if self.grader else {} for example in examples]
        with _naming_rows(examples):
            return group_answers(self.grader, texts, references, seconds=self.code_seconds)

    def is_usable(self, completion: Completion) -> bool:
        """Whether it can be a response: not empty, and not cut off at the limit."""
        return bool(completion.text.strip()) and (completion.is_complete or self.settings.keep_truncated)

    def chunks(self, corpus: Corpus, label: str, *, per_row: int, total: int | None = None) -> Iterator[list[Example]]:
        """The rows in order, as many at a time as can be asked at once, under a progress bar of completions.

        `per_row` completions are asked of a row, `total` of all rows together (None: `per_row` of each).
        """
        from tqdm import tqdm

        size = max(1, _COMPLETIONS_AT_ONCE // max(1, per_row))
        expected = len(corpus) * per_row if total is None else total
        self._num_seen = self._num_accepted = 0
        with tqdm(total=expected, desc=label, unit="completion", disable=None, delay=2) as bar:
            self._bar = bar
            try:
                for examples in read_examples(corpus.rows, size):
                    yield examples
                    if self._num_seen:
                        bar.set_postfix_str(f"{self._num_accepted / self._num_seen:.0%} accepted")
            finally:
                self._bar = None


@contextmanager
def _naming_rows(examples: Sequence[Example]) -> Iterator[None]:
    """Say by its id which row's reference is at fault."""
    try:
        yield
    except RowError as error:
        where = f"row {examples[error.row].id}, {error.subject}"
        raise DataError(where, error.rule, received=error.received, remedy=error.remedy) from error
