"""The arms as a table: its columns, its cells, its notes; and all of it as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokensieve.report.arms import Arm
from tokensieve.report.load import Sweep
from tokensieve.report.standing import describe_to_come, heading, unfinished
from tokensieve.statistics import Interval, describe_multiplicity

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Column:
    """`cell` gives a number and its interval (or nothing); `short`: the title where room is dear (Δ: points against
    the base); `rank`: columns of low rank stay on a narrow terminal."""

    title: str
    short: str
    cell: Callable[[Arm], tuple[str, str]]
    rank: int
    width: int


def percent(value: float, digits: int = 1) -> str:
    """
    >>> percent(0.8123), percent(math.nan)
    ('81.2', '-')
    """
    return NOTHING if not math.isfinite(value) else f"{100 * value:.{digits}f}"


def signed(value: float) -> str:
    """
    >>> signed(3.14159), signed(-0.01), signed(math.nan)
    ('+3.1', '0.0', '-')
    """
    if not math.isfinite(value):
        return NOTHING
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def score_cell(interval: Interval | None) -> tuple[str, str]:
    """A score in percent, and its interval."""
    if interval is None or not math.isfinite(interval.value):
        return NOTHING, ""
    return percent(interval.value), _bracket(percent(interval.low), percent(interval.high))


def change_cell(interval: Interval | None) -> tuple[str, str]:
    """A change with its sign, and its interval."""
    if interval is None or not math.isfinite(interval.value):
        return NOTHING, ""
    return signed(interval.value), _bracket(signed(interval.low), signed(interval.high))


def _bracket(low: str, high: str) -> str:
    return "" if NOTHING in (low, high) else f"[{low}, {high}]"


def n_cell(arm: Arm) -> tuple[str, str]:
    """Items of the target x seeds, and items of all other tasks together."""
    others = sum(arm.tasks[task].num_items for task in arm.other_tasks)
    seeds = "" if arm.is_base else f" x {len(arm.seeds)}"
    return f"{arm.target.num_items if arm.target else 0}{seeds}", f"others {others}{seeds}" if others else ""


def columns(arms: Sequence[Arm]) -> list[Column]:
    """The columns of a report; those that would be empty in every row are left out."""
    targets = sorted({arm.target_task for arm in arms if arm.target})
    name = targets[0] if len(targets) == 1 else "target"
    every = [
        Column("kept %", "kept %", lambda arm: (percent(arm.kept_fraction), ""), 0, 6),
        Column(f"{name} %", f"{name} %", lambda arm: score_cell(arm.target.score if arm.target else None), 0, 13),
        Column(f"{name} vs base, points", f"Δ {name}", lambda arm: change_cell(arm.target_change), 0, 14),
        Column("other tasks vs base, points", "Δ others", lambda arm: change_cell(arm.others_change), 0, 14),
        Column("BWT %", "BWT %", lambda arm: change_cell(arm.backward_transfer), 2, 14),
        Column("TI %", "TI %", lambda arm: change_cell(arm.target_improvement), 4, 14),
        Column("other tasks vs unmasked", "others vs unmasked", lambda arm: change_cell(_against(arm, 1)), 1, 14),
        Column(f"{name} vs unmasked", f"{name} vs unmasked", lambda arm: change_cell(_against(arm, 0)), 3, 14),
    ]
    every += [
        Column(f"MDD of {name}, points", f"MDD {name}", lambda arm: (_points(arm, "target"), ""), 5, 8),
        Column("MDD of other tasks, points", "MDD others", lambda arm: (_points(arm, "others"), ""), 5, 8),
    ]
    if common_n(arms) is None:
        every.append(Column("n = items x seeds", "n = items x seeds", n_cell, 0, 11))
    return [column for column in every if any(column.cell(arm) != (NOTHING, "") for arm in arms)]


def common_n(arms: Sequence[Arm]) -> str | None:
    """The n of every number in one sentence, or None where arms differ."""
    trained = [arm for arm in arms if not arm.is_base]
    if len({(n_cell(arm), arm.target_task, len(arm.other_tasks)) for arm in trained}) != 1:
        return None
    arm = trained[0]
    others = sum(arm.tasks[task].num_items for task in arm.other_tasks)
    seeds = len(arm.seeds)
    text = f"n = {arm.target.num_items if arm.target else 0} items of {arm.target_task or 'the target'}"
    text += f", {others} of {len(arm.other_tasks)} other tasks" if others else ""
    return f"{text}; {seeds} seed{'s' if seeds != 1 else ''} an arm."


def _points(arm: Arm, comparison: str) -> str:
    """The minimum detectable difference of a comparison."""
    value = arm.detectable.get(comparison, math.nan)
    return f"{value:.1f}" if math.isfinite(value) else NOTHING


def _describe_detectable(arms: Sequence[Arm]) -> str:
    """One line with the range over the arms for each kind of comparison; empty where nothing was compared."""
    kinds = dict.fromkeys(kind for arm in arms for kind in arm.detectable)
    told = []
    for kind in kinds:
        values = [value for arm in arms if math.isfinite(value := arm.detectable.get(kind, math.nan))]
        if values:
            low, high = f"{min(values):.1f}", f"{max(values):.1f}"
            told.append(f"{kind} {low}" + (f" to {high}" if high != low else ""))
    text = "Minimum detectable differences (MDD: true points found with 80 % power at 5 %): "
    return f"{text}{', '.join(told)}." if told else ""


def _describe_versions(arms: Sequence[Arm]) -> list[str]:
    """One line for each task that was graded in several versions: those scores do not compare."""
    versions: dict[str, set[int]] = {}
    for entry in (entry for arm in arms for run in arm.runs if run.result for entry in run.result.evals):
        versions.setdefault(entry.task, set()).add(entry.version)
    return [
        f"{task} was graded in versions {', '.join(map(str, sorted(found)))}, which do not compare: run the older anew."
        for task, found in versions.items()
        if len(found) > 1
    ]


def _against(arm: Arm, place: int) -> Interval | None:
    return arm.against_unmasked[place] if arm.against_unmasked else None


def explain(sweep: Sweep, arms: Sequence[Arm]) -> list[str]:
    """Lines that say what the numbers are."""
    lines = [text] if (text := common_n(arms)) else []
    several = max((len(arm.seeds) for arm in arms), default=0) > 1
    lines += [
        "95 % intervals: the wider of the t-interval over seeds and that over seeds and items (means of several tasks, "
        "TI and BWT: a paired bootstrap over both)."
        if several
        else "95 % intervals over items (scores: Wilson; differences: paired bootstrap), of one seed each.",
        "Δ and vs: percentage points against the base (Δ) or against unmasked training. TI, BWT: percent of the base.",
    ]
    if any(arm.other_tasks for arm in arms):
        lines.append("Others: mean over the tasks that were not trained for; below 0 is forgetting.")
    if detectable := _describe_detectable(arms):
        lines.append(detectable)
    if any(_is_still(arm) for arm in arms):
        lines.append(
            "[0.0, 0.0]: no item changed; what could have been seen is the MDD. Where few changed, the bootstrap's "
            "interval is too narrow: take more items."
        )
    several_arms = sum(not arm.is_base for arm in arms) > 1
    num_compared = several_arms * sum(math.isfinite(value) for arm in arms for value in arm.detectable.values())
    if multiplicity := describe_multiplicity(num_compared):
        lines.append(f"{multiplicity} tokensieve compare adjusts its p-values for that (Holm).")
    lines += _describe_versions(arms)
    for run in sweep.runs:
        if run.same_as and run.result is not None:
            first = next(
                (other.arm for other in sweep.runs if other.job_id == run.job_id and not other.same_as), run.job_id[:8]
            )
            lines.append(f"{run.arm} (seed {run.seed}) is the same training as {first}: trained once.")
    undefined = [task for arm in arms if arm.is_base for task, one in arm.tasks.items() if one.score.value == 0]
    if undefined:
        lines.append(f"TI and BWT are undefined where the base scores 0 ({', '.join(undefined)}).")
    unequal = sorted({len(arm.seeds) for arm in arms if not arm.is_base})
    if len(unequal) > 1:
        lines.append(f"Arms have {unequal[0]} to {unequal[-1]} seeds; comparisons with unmasked use the shared ones.")
    return lines


def _is_still(arm: Arm) -> bool:
    return any(change == (0.0, 0.0, 0.0) for change in (arm.target_change, arm.others_change))


def markdown(sweep: Sweep, arms: Sequence[Arm]) -> str:
    """The whole report as a Markdown table with its notes; also what MLflow shows on the sweep's page."""
    lines = [f"**{heading(sweep)}**", ""]
    if arms:
        shown = columns(arms)
        lines += ["| arm | " + " | ".join(column.title for column in shown) + " |"]
        lines += ["|---|" + "---:|" * len(shown)]
        for arm in arms:
            cells = [" ".join(filter(None, column.cell(arm))) for column in shown]
            lines.append(f"| {_escape(arm.label)} | " + " | ".join(cells) + " |")
        lines += ["", *(line + "  " for line in explain(sweep, arms))]
    else:
        lines.append("No run finished: there is nothing to compare yet.")
    if to_come := describe_to_come(sweep):
        lines += ["", to_come]
    for run in unfinished(sweep):
        lines += [
            "",
            f"- {run.state} {_escape(run.name)}: {_escape(run.error or 'no error recorded')} (log: {run.log_path})",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
