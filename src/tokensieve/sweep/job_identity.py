"""What a job computes, as digests: its id, and the fingerprint by which equal jobs of one sweep are found.

A sweep may be older than a config key. Where a job leaves such a key at its default, which is what the program did
before it had the key, the job keeps the id that it would have had then, so that a sweep can be resumed after an update.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokensieve.config import RunConfig, identity, to_plain
from tokensieve.records import digest

_SCORER = {"scorer", "scorer_revision", "scores_path"}
_DIFFERENCE = {*_SCORER, "tuned_adapter", "dpf_keep"}
# What each token rule reads, beside its name.
_READ = {
    "none": set[str](),
    "high_ppl": {*_SCORER, "threshold"},
    "low_ppl": {*_SCORER, "threshold"},
    "random": {*_SCORER, "threshold", "mask_seed"},
    "quantile": {*_SCORER, "quantile", "quantile_scope"},
    "dpf": {*_DIFFERENCE, "dpf_threshold"},
    "stm_dpf": {*_DIFFERENCE, "threshold", "dpf_threshold"},
}


def fingerprint(config: RunConfig) -> str:
    """Digest of what a run computes: its identity without the fields that its token rule does not read.

    >>> one, two = RunConfig(), RunConfig()
    >>> one.stm.rule = two.stm.rule = "none"
    >>> one.stm.threshold = 7
    >>> fingerprint(one) == fingerprint(two)
    True
    """
    return identify(config)[1]


def identify(config: RunConfig, then: Mapping[str, Any] | None = None) -> tuple[str, str]:
    """Id and fingerprint. `then`: the base values of a sweep's manifest, which hold every key of its time."""
    values = identity(config)
    read = {"rule", *_READ[config.stm.rule]}
    if config.weight.needs_scores:
        read |= _SCORER
    if config.stm.rule in ("dpf", "stm_dpf") and config.stm.dpf_keep.startswith("most_"):
        read = read - {"dpf_threshold"} | {"threshold"}
    mark = digest({**values, "stm": {key: value for key, value in values["stm"].items() if key in read}})
    if then is None:
        return digest(values), mark
    kept, chooses = _without_new_keys(values, then, _defaults(then))
    return digest(values if chooses else kept), mark  # what uses a new key could not be planned then


def without_new_keys(values: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without the keys that `then` lacks and that are at their defaults."""
    return _without_new_keys(values, then, _defaults(then))[0]


def _defaults(then: Mapping[str, Any]) -> dict[str, Any]:
    defaults = to_plain(RunConfig())
    # Evaluation sets are named by the user; each of them has the keys of a dataset.
    names = (then.get("eval") or {}).get("datasets") or ()
    defaults["eval"]["datasets"] = dict.fromkeys(names, defaults["dataset"])
    return defaults


def _without_new_keys(
    values: Mapping[str, Any], then: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], bool]:
    """What is left, and whether it holds a new key. A key that has no default is a name that the user gave."""
    kept: dict[str, Any] = {}
    chooses = False
    for key, value in values.items():
        if key not in then and key in defaults:
            if value == defaults[key]:
                continue
            chooses = True
        is_known_group = isinstance(value, Mapping) and isinstance(then.get(key, {}), Mapping)
        if is_known_group and (key in then or key in defaults):
            value, inner = _without_new_keys(value, then.get(key) or {}, defaults.get(key) or {})
            chooses = chooses or inner
        kept[key] = value
    return kept, chooses
