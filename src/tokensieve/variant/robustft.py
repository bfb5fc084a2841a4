"""RobustFT (arXiv 2412.14922, section 3): detect noisy labels, relabel them in context, keep the confident half."""

from __future__ import annotations

from collections.abc import Iterator

from tokensieve.records import Corpus
from tokensieve.variant.bench import Bench
from tokensieve.variant.detection import detect_noise, read_predictions
from tokensieve.variant.example import Example, Outcome, Sampled, finite
from tokensieve.variant.relabelling import Proposal, read_proposals, relabel


def robustft(bench: Bench, corpus: Corpus) -> Iterator[Outcome]:
    """Clean rows as they are, noisy ones with a new label where the model is confident of it.

    Three passes, so that no more than a few numbers a row stay in memory: predictions and verdicts; proposals, which
    need all verdicts; the rows, which need all entropies.
    """
    predictions, proposals = bench.folder / "predictions.jsonl", bench.folder / "proposals.jsonl"
    is_noise = detect_noise(bench, corpus, predictions)
    is_used = relabel(bench, corpus, is_noise, predictions, proposals)
    said, proposed = read_predictions(predictions), read_proposals(proposals)
    for examples in bench.chunks(corpus, "variant robustft: write", per_row=0):
        for example in examples:
            answers = next(said)
            if is_noise[example.position]:
                yield _relabelled(example, next(proposed), bool(is_used[example.position]))
                continue
            sampled = Sampled(completions=list(answers.values()), verified=[None] * len(answers), steps=list(answers))
            reason = "the checker finds the label clean"
            yield Outcome(example=example, action="own", reason=reason, sampled=sampled, flagged=False)


def _relabelled(example: Example, proposal: Proposal, is_used: bool) -> Outcome:
    steps = list(proposal.said)
    chosen = steps.index(proposal.step) if proposal.step is not None else None
    text = proposal.said[proposal.step].text.strip() if proposal.step is not None else None
    measured = proposal.measured
    if text is None:
        reason = "no step gives a usable answer"
    else:
        reason = f"relabelled by {proposal.step}" if is_used else "not among the most confident"
    return Outcome(
        example=example,
        action="relabelled" if is_used else "dropped",
        reason=reason,
        response=text if is_used else None,
        sampled=Sampled(
            completions=list(proposal.said.values()), verified=[None] * len(steps), steps=steps, chosen=chosen
        ),
        lineage={
            "step": proposal.step,
            "context": proposal.neighbours,
            "entropy": finite(measured.mean_entropy),
            "nll": finite(measured.mean_nll),
        },
        flagged=True,
        proposal=text,
    )
