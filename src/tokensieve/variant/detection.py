"""RobustFT, first half: predictions for every row, and the checker that says whose label is noise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokensieve.completions.records import Completion
from tokensieve.records import Corpus
from tokensieve.variant.bench import Bench
from tokensieve.variant.example import Example
from tokensieve.variant.prompts import Prompt

BoolArray = npt.NDArray[np.bool_]


def detect_noise(bench: Bench, corpus: Corpus, predictions: Path) -> BoolArray:
    """Whether each row's label is taken for noise [N]; what the model said is written to `predictions`, a line a row.

    A base answer to the row's prompt, and a reasoning one (the prompt asks to think and to check). The label is clean
    iff both give it. With `num_experts` n > 0 it is clean iff at least the share `agreement_threshold` of n sampled
    answers give it instead; half of the experts, rounded down, reason. What gives no answer has no say (with
    compat=paper it disagrees); where nothing gives an answer, and without the checker, a row is taken for noise.
    """
    settings = bench.settings
    reasoning = Prompt("reasoning_prompt", settings.reasoning_prompt) if settings.use_reasoning else None
    is_noise = np.ones(len(corpus), dtype=np.bool_)
    num = 1 + (reasoning is not None) + (settings.num_experts if settings.use_checker else 0)
    with predictions.open("w", encoding="utf-8") as stream:
        for examples in bench.chunks(corpus, "variant robustft: detect", per_row=num):
            answers = _predict(bench, examples, reasoning)
            texts = [
                [example.response, *(entry.text for entry in said.values())]
                for example, said in zip(examples, answers, strict=True)
            ]
            for example, said, groups in zip(examples, answers, bench.group(examples, texts), strict=True):
                named = dict(zip(said, groups[1:], strict=True))
                for step, answer in named.items():
                    bench.note_answer(step.split()[0], answer)
                is_clean = settings.use_checker and _agrees(bench, groups[0], named)
                is_noise[example.position] = not is_clean
                bench.count(is_clean)
                stream.write(json.dumps({name: asdict(entry) for name, entry in said.items()}) + "\n")
    return is_noise


def read_predictions(path: Path) -> Iterator[dict[str, Completion]]:
    """What the model said about each row, by step, in row order."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield {name: Completion(**entry) for name, entry in json.loads(line).items()}


def _predict(bench: Bench, examples: Sequence[Example], reasoning: Prompt | None) -> list[dict[str, Completion]]:
    settings = bench.settings
    plain = [example.prompt for example in examples]
    thinking = [example.asked(reasoning.about(example, bench.grader)) for example in examples] if reasoning else []
    said: list[dict[str, Completion]] = [{} for _ in examples]

    def note(name: str, completions: Sequence[list[Completion]], step: int = 0) -> None:
        for known, row in zip(said, completions, strict=True):
            known[name] = row[step]

    note("base", bench.sample(plain))
    if thinking:
        note("reasoning", bench.sample(thinking))
    if settings.use_checker and settings.num_experts:
        num_thinking = settings.num_experts // 2 if thinking else 0
        num_plain = settings.num_experts - num_thinking
        voices: list[tuple[Any, int]] = [(plain, num_plain), (thinking, num_thinking)]
        number = 0
        for prompts, num in voices:
            answers = bench.sample(prompts, num, settings.expert_temperature) if num else []
            for step in range(num):
                note(f"expert {number}", answers, step)
                number += 1
    return said


def _agrees(bench: Bench, label: int | None, answers: Mapping[str, int | None]) -> bool:
    """The checker: does enough of what was said give the label?"""
    settings = bench.settings
    asked = [answer for name, answer in answers.items() if name.startswith("expert ") or not settings.num_experts]
    heard = asked if settings.compat == "paper" else [answer for answer in asked if answer is not None]
    if label is None or not heard:
        return False
    needed = settings.agreement_threshold if settings.num_experts else 1.0
    return sum(answer == label for answer in heard) >= needed * len(heard) - 1e-9
