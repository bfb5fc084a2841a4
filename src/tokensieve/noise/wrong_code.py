"""`wrong_code`: a small edit after which a program that passed its tests fails them, seen in the sandbox."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from tqdm import tqdm

from tokensieve.errors import DataError
from tokensieve.graders import Grade, RowError, grade_texts
from tokensieve.graders.code import extract_block
from tokensieve.noise.mutations import draw_mutants
from tokensieve.noise.plan import Plan, num_wanted, order_key, row_rng, too_few
from tokensieve.noise.rows import Example, located, read_examples, stream_examples

if TYPE_CHECKING:
    import datasets

KIND: Final = "wrong_code"
# A row whose first so many edits all pass its tests gives way to the next one.
_MAX_TRIES: Final = 8
_BATCH_ROWS: Final = 64
# A program that stands so often in the text around it is not looked for any further.
_MAX_PLACES: Final = 20
_UNDECIDED: Final = ("timeout", "memory")


def plan_wrong_code(rows: datasets.Dataset, ratio: float, seed: int, seconds: float) -> Plan:
    """Walk the rows in the order of the seed until `round(ratio * N)` of them have an edit that fails their tests.

    A row is skipped when its own program does not pass, or when no edit tried gives a wrong result or an error; a
    program that only runs out of time or memory does not count, since that may be the machine's doing.

    Raises:
        DataError: a row without tests; fewer rows than asked can be changed.
    """
    keys = np.empty(len(rows), np.uint64)
    for example in stream_examples(rows):
        keys[example.position] = order_key(seed, example.id)
    order = np.argsort(keys, kind="stable")
    wanted, found, at = num_wanted(len(rows), ratio), 0, 0
    choices = np.full(len(rows), -1, np.int16)
    with tqdm(total=wanted, desc=f"noise: {KIND}", unit="ex", disable=None, delay=2) as bar:
        while found < wanted and at < len(order):
            # As many rows as are still needed, at least a few: the sandbox judges them side by side.
            positions = order[at : at + min(_BATCH_ROWS, max(wanted - found, 8))]
            failing = _find_failing(rows, read_examples(rows, positions.tolist()), seed, seconds)
            for position, choice in zip(positions, failing, strict=True):
                if found == wanted:
                    break
                at += 1
                choices[position] = choice
                found += choice >= 0
            bar.update(found - bar.n)
    if found < wanted:
        raise too_few(KIND, wanted, found, len(rows))

    def rewrite(examples: Sequence[Example]) -> list[str]:
        return [wrong_versions(example, seed)[choices[example.position]] for example in examples]

    return Plan(choices >= 0, rewrite, num_skipped=at - found)


def wrong_versions(example: Example, seed: int) -> list[str]:
    """The responses to try, at most `_MAX_TRIES`, in the row's own random order: slips first, blunt edits last."""
    block = _Block.find(example.response)
    if block is None:
        return []
    mutants = draw_mutants(block.source, row_rng(seed, example.id, KIND), _MAX_TRIES)
    return [block.put(mutant) for mutant in mutants]


@dataclass(frozen=True, slots=True)
class _Block:
    """The program of a response, as its grader reads it, and the text around it; fenced or bare."""

    before: str
    source: str
    after: str
    line_end: str

    @classmethod
    def find(cls, response: str) -> _Block | None:
        """The block, or None where putting it back would not give the response again."""
        source = extract_block(response)
        line_end = "\r\n" if "\r\n" in response else "\n"
        written = source.replace("\n", line_end)
        start = response.find(written)
        for _ in range(_MAX_PLACES):
            if start < 0:
                break
            block = cls(response[:start], source, response[start + len(written) :], line_end)
            # The same text may stand before the fence too; a mark tells which of the two the grader reads.
            if extract_block(block.put(source + "# mark\n")).endswith("# mark\n"):
                return block
            start = response.find(written, start + 1)
        return None

    def put(self, source: str) -> str:
        return self.before + source.replace("\n", self.line_end) + self.after


def _find_failing(rows: datasets.Dataset, examples: Sequence[Example], seed: int, seconds: float) -> list[int]:
    """For each example which of its wrong versions is the first to fail its tests; -1 where none does."""
    versions = [wrong_versions(example, seed) for example in examples]
    right = _grade(rows, examples, [example.response for example in examples], seconds)
    found = [-1] * len(examples)
    open_rows = [at for at, grade in enumerate(right) if grade.score == 1]
    for attempt in range(_MAX_TRIES):
        open_rows = [at for at in open_rows if found[at] < 0 and attempt < len(versions[at])]
        tried = _grade(rows, [examples[at] for at in open_rows], [versions[at][attempt] for at in open_rows], seconds)
        for at, grade in zip(open_rows, tried, strict=True):
            if grade.score == 0 and not grade.reason.startswith(_UNDECIDED):
                found[at] = attempt
    return found


def _grade(rows: datasets.Dataset, examples: Sequence[Example], texts: Sequence[str], seconds: float) -> list[Grade]:
    references: list[Any] = [json.loads(example.reference) for example in examples]
    try:
        return grade_texts("code", texts, references, seconds=seconds)
    except RowError as error:
        fault = DataError(
            "",
            f"{KIND} needs tests to see a program fail: {error.rule}",
            received=error.received,
            remedy="name the column of tests in dataset.reference, or choose noise=answer_swap",
        )
        raise located(rows, examples[error.row].position, fault) from None
