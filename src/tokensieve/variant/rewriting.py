"""Variants whose responses a model writes (self_output, larger_model, rephrase), and the one it only checks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from random import Random

from tokensieve.completions.records import Completion
from tokensieve.errors import ConfigError
from tokensieve.records import Corpus
from tokensieve.variant.bench import Bench
from tokensieve.variant.example import Example, Outcome, Sampled, finite
from tokensieve.variant.prompts import Prompt
from tokensieve.variant.settings import VariantSettings


def rewrite(bench: Bench, corpus: Corpus) -> Iterator[Outcome]:
    """n samples a row; one of the accepted ones becomes the response (STM, section 3).

    self_output and larger_model answer the row's own prompt; rephrase is shown the data's response besides.
    """
    settings, grader = bench.settings, bench.grader
    prompt = Prompt("rephrase_prompt", settings.rephrase_prompt) if settings.name == "rephrase" else None
    num = settings.num_samples
    for examples in bench.chunks(corpus, f"variant {settings.name}", per_row=num):
        prompts = [example.asked(prompt.about(example, grader)) if prompt else example.prompt for example in examples]
        samples = bench.sample(prompts, num)
        verified: Sequence[Sequence[bool | None]] = [[None] * num] * len(examples)
        if settings.verify:
            verified = bench.verify(examples, samples)
        for example, row, verdicts in zip(examples, samples, verified, strict=True):
            outcome = _choose(bench, example, row, verdicts)
            bench.count(outcome.action == "rewritten")
            yield outcome


def _choose(bench: Bench, example: Example, row: Sequence[Completion], verdicts: Sequence[bool | None]) -> Outcome:
    settings = bench.settings
    wanted = {"correct": (True, None), "wrong": (False,), "any": (True, False, None)}[settings.accept]
    usable = [at for at, sample in enumerate(row) if bench.is_usable(sample)]
    candidates = [at for at in usable if verdicts[at] in wanted]
    if candidates:
        chosen = pick_sample(settings, example, row, candidates)
        return Outcome(
            example=example,
            action="rewritten",
            reason=f"{settings.pick} of {len(candidates)} accepted",
            response=row[chosen].text.strip(),
            sampled=Sampled(completions=row, verified=verdicts, chosen=chosen),
        )
    reason = f"no {settings.accept} sample" if usable else "every sample is empty or cut off"
    return keep_or_drop(settings, example, reason, Sampled(completions=row, verified=verdicts))


def keep_or_drop(settings: VariantSettings, example: Example, reason: str, sampled: Sampled) -> Outcome:
    """What `on_no_correct` says about a row without a usable sample."""
    action = "fallback" if settings.on_no_correct == "ground_truth" else "dropped"
    return Outcome(example=example, action=action, reason=reason, sampled=sampled)


def pick_sample(
    settings: VariantSettings, example: Example, row: Sequence[Completion], candidates: Sequence[int]
) -> int:
    """The number of the candidate that `pick` names; the lower number where perplexities are equal.

    Perplexity is that of the sampled tokens given the prompt; the paper's code leaves the prompt out.

    Raises:
        ConfigError: the back end tells no log-probabilities, and there is more than one candidate to rank.
    """
    if len(candidates) == 1:
        return candidates[0]
    if settings.pick == "random":
        return Random(f"{settings.seed}/{example.id}").choice(candidates)
    sign = 1.0 if settings.pick == "lowest" else -1.0

    def rank(at: int) -> tuple[float, int]:
        nll = finite(row[at].mean_nll)
        if nll is None:
            raise ConfigError(
                "variant.pick",
                "needs log-probabilities to rank accepted samples",
                received=f"{settings.pick}, from a back end that does not tell them",
                remedy="set variant.pick=random, or serve the model with logprobs",
            )
        return sign * nll, at

    return min(candidates, key=rank)


def filter_correct(bench: Bench, corpus: Corpus) -> Iterator[Outcome]:
    """Keep the rows that a checker model solves (accept=wrong: those it does not); responses stay the data's own.

    A row is solved when at least `agreement_threshold` of the samples, and one, are correct.
    """
    settings, num = bench.settings, bench.settings.num_samples
    needed = max(1, math.ceil(settings.agreement_threshold * num - 1e-9))
    for examples in bench.chunks(corpus, "variant filter_correct", per_row=num):
        samples = bench.sample([example.prompt for example in examples], num)
        for example, row, verdicts in zip(examples, samples, bench.verify(examples, samples), strict=True):
            is_kept = (sum(verdicts) >= needed) == (settings.accept == "correct")
            bench.count(is_kept)
            yield Outcome(
                example=example,
                action="own" if is_kept else "dropped",
                reason=f"{sum(verdicts)} of {num} checker samples correct, {needed} needed",
                sampled=Sampled(completions=row, verified=verdicts),
                flagged=not is_kept,
            )
