"""What an arm is called: its token rule, and the swept values that this does not spell out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokensieve.report.load import Run, parse_number

# Keys that an arm's label spells out.
_IN_LABEL = (
    *("stm", "stm.rule", "stm.threshold", "stm.quantile"),
    *("stm.dpf_threshold", "stm.dpf_keep", "stm.tuned_adapter"),
)


def group_label(run: Run, runs: Sequence[Run]) -> str:
    """The arm's label and the swept values that it does not spell out; the seed is what an arm is averaged over."""
    parts = [run.arm]
    shared = [other for other in runs if other.arm == run.arm]
    for key, value in run.axes.items():
        spelled = key in _IN_LABEL or key == "seed"
        if spelled and (key == "seed" or run.rule == "none" or len({other.axes.get(key) for other in shared}) == 1):
            continue
        if key.startswith("stm.") and run.rule == "none":
            continue  # nothing is masked, whatever the rule's other settings
        if run.given is not None and (key not in run.given or _is_idle_path(key, run, runs)):
            continue  # an arm of a file that leaves it alone
        parts.append(f"{_short(key, run.axes)}={_legible(value)}")
    return " · ".join(parts)


def _is_idle_path(key: str, run: Run, runs: Sequence[Run]) -> bool:
    """Whether `key` holds a path, which is long, and tells no two arms apart: whoever could lack it has the same."""
    value, others = run.axes[key], frozenset(run.given or ()) - {key}
    if "/" not in value:
        return False
    like = [
        other
        for other in runs
        if other.given is not None
        and other.given - {key} == others
        and all(other.axes[name] == run.axes[name] for name in others if name != "seed")
    ]
    return all(key in (other.given or ()) and other.axes[key] == value for other in like)


def _legible(value: str) -> str:
    """
    >>> _legible("0.0031622776601683794"), _legible("4e-3")
    ('0.00316228', '4e-3')
    """
    number = parse_number(value)
    return value if number is None or len(value) < 10 else f"{number:.6g}"


def _short(key: str, axes: Mapping[str, str]) -> str:
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in axes) == 1 else key
