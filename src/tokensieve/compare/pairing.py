"""Scores of two arms brought into one order; what cannot be paired is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tokensieve.compare.arms import ComparedArm, results_of
from tokensieve.compare.content import check_content
from tokensieve.errors import DataError
from tokensieve.records import EvalResult
from tokensieve.report.change import Array
from tokensieve.report.load import Run
from tokensieve.report.pairs import scores_of


class RunPair(NamedTuple):
    """What a seed of either arm scored, task -> result; the runs behind them, with labels for messages."""

    reference: Mapping[str, EvalResult]
    arm: Mapping[str, EvalResult]
    runs: tuple[Run, Run]
    reference_label: str
    arm_label: str


class PairedScores(NamedTuple):
    """Scores [N] of the same N items, one array a seed; items without a score in any of them are left out."""

    reference: list[Array]
    arm: list[Array]
    num_dropped: int


def pair_runs(reference: ComparedArm, arm: ComparedArm) -> tuple[list[RunPair], str]:
    """One pair a shared seed, and a note where seeds were left out. Two single runs are paired whatever their seeds.

    Raises:
        DataError: the same run on both sides, or no shared seed.
    """
    if reference.is_base or arm.is_base:
        runs = reference.runs or arm.runs
        if not runs:
            raise DataError("base", "must be compared with a run", received="base on both sides", remedy="name a run")
        found = [(run, run) for run in runs]
    elif len(reference.runs) == len(arm.runs) == 1:
        found = [(reference.runs[0], arm.runs[0])]
    else:
        seeds = {run.seed: run for run in reference.runs}
        found = [(seeds[run.seed], run) for run in arm.runs if run.seed in seeds]
    num = max(len(reference.runs), len(arm.runs))
    if not found:
        raise DataError(
            f"{arm.label} against {reference.label}",
            "must share seeds",
            received=f"{_seeds(arm)} and {_seeds(reference)}",
            remedy="compare runs of the same seeds",
        )
    if any(one.folder.resolve() == other.folder.resolve() for one, other in found) and not (
        reference.is_base or arm.is_base
    ):
        raise DataError(
            f"{arm.label} against {reference.label}",
            "must be two runs",
            received=f"{found[0][0].folder} on both sides",
            remedy="name another run",
        )
    pairs = [
        RunPair(
            results_of(one, of_base=reference.is_base),
            results_of(other, of_base=arm.is_base),
            (one, other),
            _label(reference, one.seed),
            _label(arm, other.seed),
        )
        for one, other in found
    ]
    note = f"{arm.label} against {reference.label}: {len(found)} shared seeds of {num}." if len(found) < num else ""
    return pairs, note


def pair_scores(task: str, pairs: Sequence[RunPair]) -> PairedScores:
    """Scores of one task, of all seeds, in one order of items.

    Raises:
        DataError: versions, metrics, splits or items differ, or an id stands twice in another order.
    """
    for pair in pairs:
        for run, label in zip(pair.runs, (pair.reference_label, pair.arm_label), strict=True):
            check_content(task, pairs[0].runs[0], run, pairs[0].reference_label, label)
    first = pairs[0].reference[task]
    results = [(pair.reference[task], pair.reference_label) for pair in pairs]
    results += [(pair.arm[task], pair.arm_label) for pair in pairs]
    for other, label in results[1:]:
        _check_same(task, first, other, pairs[0].reference_label, label)
    table = np.stack([_in_order(first, entry) for entry, _ in results])
    known = np.isfinite(table).all(axis=0)
    kept = table[:, known]
    return PairedScores(list(kept[: len(pairs)]), list(kept[len(pairs) :]), int((~known).sum()))


# What `EvalResult.decoding` tells of the answers themselves, which differ with the model.
_OUTCOMES = {"prompts_too_long", "outcomes", "harness_metrics"}


def decoding_differences(task: str, pairs: Sequence[RunPair]) -> str:
    """A note where the arms answered under other rules; empty where they did not."""
    one, other = pairs[0].reference[task].decoding, pairs[0].arm[task].decoding
    rules = sorted({*one, *other} - _OUTCOMES)
    keys = [key for key in rules if one.get(key) != other.get(key)]
    told = ", ".join(f"{key} {other.get(key)} against {one.get(key)}" for key in keys)
    return (
        f"{task}: {pairs[0].arm_label} and {pairs[0].reference_label} were decoded differently ({told})."
        if keys
        else ""
    )


def _check_same(task: str, one: EvalResult, other: EvalResult, one_label: str, label: str) -> None:
    for what, ours, theirs in (
        ("version", one.version, other.version),
        ("metric", one.metric, other.metric),
        ("split", one.split, other.split),
    ):
        if ours != theirs:
            raise DataError(
                f"task {task}",
                f"must have one {what} in all runs",
                received=f"{ours} in {one_label}, {theirs} in {label}",
                remedy="evaluate both with the same version, or leave the task out with --tasks",
            )
    if list(one.item_ids) == list(other.item_ids):
        return
    mine, others = set(one.item_ids), set(other.item_ids)
    if mine == others and len(mine) == len(one.item_ids) == len(other.item_ids):
        return
    raise DataError(
        f"task {task}",
        "must have the same items in all runs",
        received=f"{one.num_items} items in {one_label}, {other.num_items} in {label}, {len(mine & others)} shared",
        remedy="evaluate both with the same eval.num_items and data, or leave the task out with --tasks",
    )


def _in_order(first: EvalResult, entry: EvalResult) -> Array:
    scores = scores_of(entry)
    if list(entry.item_ids) == list(first.item_ids):
        return scores
    places = {name: place for place, name in enumerate(entry.item_ids)}
    return scores[[places[name] for name in first.item_ids]]


def _label(arm: ComparedArm, seed: int | None) -> str:
    return f"{arm.label} (seed {seed})" if len(arm.runs) > 1 else arm.label


def _seeds(arm: ComparedArm) -> str:
    return ", ".join(str(run.seed) for run in arm.runs)
