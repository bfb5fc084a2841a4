"""Which unmasked runs an arm is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokensieve.report.load import Run

# Groups that weigh tokens, or hold the model back: an arm of theirs without a mask is compared with plain training.
_WEIGHING = ("weight", "regulariser", "loss")
Settings = tuple[tuple[str, str], ...]


def settings_of(run: Run) -> Settings:
    """Swept values beside the token rule and the seed: what an arm and its unmasked control share."""
    return tuple((key, value) for key, value in run.axes.items() if not key.startswith("stm") and key != "seed")


class Partners:
    """The unmasked runs among `groups`, the runs of each arm."""

    def __init__(self, groups: Iterable[Sequence[Run]]) -> None:
        self._same: dict[Settings, Sequence[Run]] = {}
        self._plain: dict[Settings, Sequence[Run]] = {}
        for runs in groups:
            if runs[0].rule == "none":
                self._same[settings_of(runs[0])] = runs
                if _is_plain(runs[0]):
                    self._plain.setdefault(_without_weighing(settings_of(runs[0])), runs)

    def find(self, run: Run) -> Sequence[Run] | None:
        """Of a masked arm: unmasked training with all its other settings, or else with those beside weights and
        regularisers; of an arm that weighs all tokens: the latter; None for plain unmasked training itself."""
        if run.rule != "none":
            found = self._same.get(settings_of(run))
            return found if found is not None else self._plain.get(_without_weighing(settings_of(run)))
        return None if _is_plain(run) else self._plain.get(_without_weighing(settings_of(run)))


def _is_plain(run: Run) -> bool:
    """Whether every token counts alike, and nothing but the loss acts on the weights."""
    config: Mapping[str, Any] = run.result.config if run.result is not None else {}
    return all((config.get(group) or {}).get("rule", "none") == "none" for group in ("weight", "regulariser"))


def _without_weighing(settings: Settings) -> Settings:
    return tuple((key, value) for key, value in settings if key.partition(".")[0] not in _WEIGHING)
