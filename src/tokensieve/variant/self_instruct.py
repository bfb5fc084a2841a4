"""self_instruct (arXiv 2212.10560): the corpus as seed tasks; new instructions, filtered for novelty, and answers."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Final

from tokensieve.completions.records import Messages
from tokensieve.records import Corpus
from tokensieve.variant.bench import Bench
from tokensieve.variant.example import Example, Outcome, Sampled, read_examples
from tokensieve.variant.novelty import NoveltyFilter, split_words
from tokensieve.variant.prompts import Prompt, as_shots
from tokensieve.variant.settings import VariantSettings

ITEMS_PER_REQUEST: Final = 8  # new instructions wanted of one completion
_REQUESTS_PER_ROUND: Final = 16  # asked with one state of the pool
_BARREN_ROUNDS: Final = 3  # rounds without any new instruction after which to give up
_ITEM: Final = re.compile(r"^\s*(?:[-*]\s+)?(?:(?:task|instruction)\s*)?\d{1,3}\s*[.):]\s*", re.IGNORECASE)
log = logging.getLogger(__name__)


def self_instruct(bench: Bench, corpus: Corpus) -> Iterator[Outcome]:
    """`num_new` new examples, with new ids; the seeds themselves too where `keep_seeds`.

    A prompt shows seed tasks, and up to two of the new ones, as the paper does. What a completion lists is kept when it
    has the right length, none of the blocked words, and a ROUGE-L of at most `novelty_threshold` to every seed and
    every new instruction before it. The model then answers each by itself. All seeds' words are held in memory.
    """
    settings = bench.settings
    known = NoveltyFilter()
    for examples in read_examples(corpus.rows, 1024):
        for example in examples:
            known.add(example.question, example.id)
            if settings.keep_seeds:
                yield Outcome(example=example, action="own", reason="a seed task")
    pool: list[_Instruction] = []
    barren = requests = 0
    while len(pool) < settings.num_new and barren < _BARREN_ROUNDS:
        num = min(_REQUESTS_PER_ROUND, -(-(settings.num_new - len(pool)) // ITEMS_PER_REQUEST))
        found: list[_Instruction] = []
        for instruction in _invent(bench, corpus, pool, range(requests, requests + num)):
            fault = _find_fault(settings, instruction.text, known)
            if fault is not None:
                yield _reject(instruction, fault)
            elif len(pool) + len(found) < settings.num_new:
                known.add(instruction.text, instruction.id)
                found.append(instruction)
        answered = yield from _answer(bench, found)
        pool += answered
        requests, barren = requests + num, 0 if answered else barren + 1
    if len(pool) < settings.num_new:
        log.warning(
            "self_instruct: %d of %d new examples after %d prompts; the rest were refused (see the ledger)",
            len(pool),
            settings.num_new,
            requests,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Instruction:
    text: str
    seeds: Sequence[str]  # ids of the tasks shown, seeds and new ones
    system: Messages  # the first seed's system turn, if it has one

    @property
    def id(self) -> str:
        return f"self_instruct/{blake2b(self.text.encode(), digest_size=8).hexdigest()}"

    @property
    def prompt(self) -> Messages:
        return [*self.system, {"role": "user", "content": self.text}]

    def example(self, answer: str) -> Example:
        messages = [*self.prompt, {"role": "assistant", "content": answer}]
        return Example(position=-1, id=self.id, task="", messages=messages, reference_text="{}", provenance=[])

    @property
    def lineage(self) -> dict[str, object]:
        return {"source": self.seeds[0], "sources": list(self.seeds)}


def _invent(bench: Bench, corpus: Corpus, pool: Sequence[_Instruction], requests: range) -> Iterator[_Instruction]:
    """What the completions of one round list, in the order of requests."""
    settings = bench.settings
    template = Prompt("instruct_prompt", settings.instruct_prompt)
    shown: list[tuple[list[str], Messages]] = []
    prompts: list[Messages] = []
    for request in requests:
        rng = Random(f"{settings.seed}/self_instruct/{request}")
        num_new = min(2, len(pool), settings.num_seed_tasks - 1)
        chosen = rng.sample(range(len(corpus)), min(len(corpus), settings.num_seed_tasks - num_new))
        seeds = [example for some in read_examples(corpus.rows.select(chosen), len(chosen)) for example in some]
        extra = rng.sample(pool, num_new)
        tasks = as_shots(seeds) + [{"question": one.text, "response": ""} for one in extra]
        rng.shuffle(tasks)
        prompts.append([{"role": "user", "content": template.render(examples=tasks, num=ITEMS_PER_REQUEST)}])
        system: Messages = [turn for turn in seeds[0].prompt[:1] if turn["role"] == "system"]
        shown.append(([seed.id for seed in seeds] + [one.id for one in extra], system))
    for (sources, first), (completion,) in zip(shown, bench.sample(prompts), strict=True):
        for text in parse_list(completion.text, is_complete=completion.is_complete):
            yield _Instruction(text=text, seeds=sources, system=first)


def parse_list(text: str, *, is_complete: bool = True) -> list[str]:
    r"""The items of a numbered list, each with its further lines; without the last one when the text was cut off.

    >>> parse_list("Sure:\n1. Name a tea.\n2) Sort these:\n   b, a\n\n3. Na", is_complete=False)
    ['Name a tea.', 'Sort these:\nb, a']
    """
    items: list[list[str]] = []
    for line in text.splitlines():
        start = _ITEM.match(line)
        if start:
            items.append([line[start.end() :].strip()])
        elif items and line.strip():
            items[-1].append(line.strip())
    found = ["\n".join(part for part in item if part) for item in items]
    return [item for item in (found if is_complete else found[:-1]) if item]


def _find_fault(settings: VariantSettings, text: str, known: NoveltyFilter) -> str | None:
    """Why an instruction is refused; None: it is not."""
    words = split_words(text)
    if not settings.min_words <= len(words) <= settings.max_words:
        return f"{len(words)} words"
    phrase = f" {' '.join(words)} "
    for blocked in settings.blocked_words:
        if f" {' '.join(split_words(blocked))} " in phrase:
            return f"names {blocked!r}"
    similar = known.find_similar(text, settings.novelty_threshold)
    return f"ROUGE-L {similar[1]:.2f} to {similar[0]}" if similar else None


def _reject(instruction: _Instruction, reason: str, sampled: Sampled | None = None) -> Outcome:
    return Outcome(
        example=instruction.example(""),
        action="dropped",
        reason=reason,
        sampled=sampled or Sampled(),
        lineage={**instruction.lineage, "instruction": instruction.text},
    )


def _answer(bench: Bench, found: Sequence[_Instruction]) -> Generator[Outcome, None, list[_Instruction]]:
    """Yield the answered instructions as new rows; return those that go into the pool."""
    answered = []
    for instruction, row in zip(found, bench.sample([one.prompt for one in found]), strict=True):
        if not bench.is_usable(row[0]):
            yield _reject(instruction, "its answer is empty or cut off", Sampled(completions=row, verified=[None]))
            continue
        answered.append(instruction)
        yield Outcome(
            example=instruction.example(row[0].text.strip()),
            action="new",
            reason="novel",
            sampled=Sampled(completions=row, verified=[None], chosen=0),
            lineage=instruction.lineage,
        )
    return answered
