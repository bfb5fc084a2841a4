"""What a sweep's plots have on their horizontal axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokensieve.report.arms import Arm
from tokensieve.report.load import parse_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_THRESHOLD_RULES = {"high_ppl": "STM", "low_ppl": "low", "random": "random", "stm_dpf": "STM + DPF"}
_LOG_RATIO = 8.0  # a numeric axis that spans more than this is drawn logarithmically
_MAX_SERIES = 9
_DIGIT = 0.0208  # width of a digit of a label, as a share of the axis


@dataclass(frozen=True, slots=True)
class Axis:
    """`places`: label of an arm -> x; `none_place`: where `unmasked` stands, right of every number."""

    title: str
    series: Mapping[str, Sequence[Arm]]
    places: Mapping[str, float]
    ticks: Mapping[float, str]
    is_log: bool = False
    is_categorical: bool = False
    is_scatter: bool = False  # too many combinations for lines: points alone
    none_place: float | None = None

    def place(self, arm: Arm) -> float:
        return self.places[arm.label]

    def shifted(self, x: float, number: int) -> float:
        """`x` for series `number`: a little aside, so that error bars stand next to each other."""
        steps = number - (len(self.series) - 1 - ("unmasked" in self.series)) / 2
        if x == self.none_place or len(self.ticks) < 2:
            return x
        if self.is_categorical:
            return x + 0.16 * steps
        low, high = min(self.ticks), max(self.ticks)
        return x * (high / low) ** (0.008 * steps) if self.is_log else x + 0.008 * steps * (high - low)

    def apply(self, axes: Axes) -> None:
        if self.is_log:
            axes.set_xscale("log")
        axes.set_xlabel(self.title)
        shown = self._spaced()
        rotate = self.is_categorical and sum(len(text) for text in shown.values()) > 34
        axes.set_xticks(
            list(shown), list(shown.values()), rotation=35 if rotate else 0, ha="right" if rotate else "center"
        )
        axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        if self.is_categorical:
            axes.set_xlim(-0.6, len(self.places) - 0.4)
        if self.none_place is not None and len(self.ticks) > 1:
            last = max(x for x in self.ticks if x != self.none_place)
            border = math.sqrt(last * self.none_place) if self.is_log else (last + self.none_place) / 2
            axes.axvline(border, color="#bbbbbb", linewidth=0.8, linestyle=":")

    def _spaced(self) -> dict[float, str]:
        """Ticks whose labels do not overlap; the smallest and the rightmost always stay."""
        if self.is_categorical or len(self.ticks) < 3:
            return dict(self.ticks)
        scale = math.log if self.is_log else float
        low, high = scale(min(self.ticks)), scale(max(self.ticks))
        kept: dict[float, str] = {}
        for x in sorted(self.ticks):
            others = [other for other in (*kept, max(self.ticks)) if other != x]
            if all(abs(scale(x) - scale(other)) / ((high - low) or 1.0) > self._room(x, other) for other in others):
                kept[x] = self.ticks[x]
        return kept

    def _room(self, one: float, other: float) -> float:
        return sum(_DIGIT / (4 if sign in ".-" else 2) for sign in self.ticks[one] + self.ticks[other]) + 0.01


def choose_axis(arms: Sequence[Arm]) -> Axis:
    """The swept threshold (unmasked at its right end) if there is one, else a swept number, else the arms' labels."""
    trained = [arm for arm in arms if not arm.is_base]
    masked = [arm for arm in trained if arm.border is not None]
    settings = {_settings(arm) for arm in trained}
    numeric = [
        key for key in (trained[0].axes if trained else ()) if not key.startswith("stm") and _numbers(trained, key)
    ]
    per_rule = {rule: {arm.border for arm in masked if arm.rule == rule} for rule in {arm.rule for arm in masked}}
    swept = max((len(borders) for borders in per_rule.values()), default=0)
    if masked and all(arm.border is not None or arm.rule == "none" for arm in trained) and (
        swept > 1 or (len(trained) > len(settings) and not numeric)
    ):  # fmt: skip
        kinds = {"threshold" if arm.rule in _THRESHOLD_RULES else arm.rule for arm in masked}
        if len(kinds) == 1:
            return _border_axis(trained, kinds.pop())
    if numeric:
        return _numeric_axis(trained, numeric[0])
    places = {arm.label: float(number) for number, arm in enumerate(trained)}
    return Axis("", {"": trained}, places, {place: label for label, place in places.items()}, is_categorical=True)


def _border_axis(arms: Sequence[Arm], kind: str) -> Axis:
    numbers = sorted({arm.border for arm in arms if arm.border is not None})
    is_log = kind == "threshold" and numbers[0] > 0
    span = math.log(numbers[-1] / numbers[0]) if is_log else numbers[-1] - numbers[0]
    right = numbers[-1] * math.exp(max(0.16 * span, 0.5)) if is_log else numbers[-1] + (0.16 * span or 1.0)
    ticks = {number: f"{number:g}" for number in numbers}
    has_unmasked = any(arm.rule == "none" for arm in arms)
    if has_unmasked:
        ticks[right] = "none"
    series, is_scatter = _series(arms, _settings)
    titles = {
        "threshold": "threshold (perplexity above which a token is masked)",
        "quantile": "quantile (share of tokens kept)",
        "dpf": "DPF bound",
    }
    places = {arm.label: right if arm.border is None else arm.border for arm in arms}
    none_place = right if has_unmasked else None
    return Axis(titles.get(kind, kind), series, places, ticks, is_log, is_scatter=is_scatter, none_place=none_place)


def _numeric_axis(arms: Sequence[Arm], key: str) -> Axis:
    values = {arm.label: parse_number(arm.axes[key]) or 0.0 for arm in arms}
    numbers = sorted(set(values.values()))
    is_log = numbers[0] > 0 and numbers[-1] / numbers[0] >= _LOG_RATIO
    series, is_scatter = _series(arms, lambda arm: tuple(pair for pair in _settings(arm) if pair[0] != key))
    ticks = {number: f"{number:g}" for number in numbers}
    return Axis(key, series, values, ticks, is_log, is_scatter=is_scatter)


def _series(
    arms: Sequence[Arm], settings: Callable[[Arm], tuple[tuple[str, str], ...]]
) -> tuple[dict[str, list[Arm]], bool]:
    """Arms by rule and by the settings that are not on the axis; by rule alone where that would be too many."""
    for is_scatter in (False, True):
        series: dict[str, list[Arm]] = {}
        for arm in arms:
            rule = "unmasked" if arm.rule == "none" else _THRESHOLD_RULES.get(arm.rule, arm.rule)
            parts = [] if is_scatter else [f"{key}={value}" for key, value in settings(arm)]
            series.setdefault(", ".join([rule, *parts]), []).append(arm)
        if len(series) <= _MAX_SERIES:
            break
    return series, is_scatter


def _settings(arm: Arm) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in arm.given_axes.items() if not key.startswith("stm") and key != "seed")


def _numbers(arms: Sequence[Arm], key: str) -> bool:
    values = {arm.given_axes.get(key, "") for arm in arms}
    return key != "seed" and len(values) > 1 and all(parse_number(value) is not None for value in values)
