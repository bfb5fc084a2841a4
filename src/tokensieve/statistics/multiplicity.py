"""Many comparisons at once: some look real by chance."""

from __future__ import annotations

import math
from collections.abc import Mapping


def adjust_p_values(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: compared with 0.05, they err in any of the comparisons with 5 % at most.

    NaN (a comparison that could not be made) stays NaN and does not count.

    >>> {arm: round(p, 3) for arm, p in adjust_p_values({"a": 0.01, "b": 0.04, "c": 0.03}).items()}
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    from statsmodels.stats.multitest import multipletests

    known = {name: p_value for name, p_value in p_values.items() if not math.isnan(p_value)}
    adjusted = multipletests(list(known.values()), method="holm")[1] if known else ()
    found = dict(zip(known, map(float, adjusted), strict=True))
    return {name: found.get(name, math.nan) for name in p_values}


def describe_multiplicity(num_comparisons: int, *, level: float = 0.95) -> str:
    """One line on how many of so many intervals exclude zero by chance; empty for fewer than two.

    >>> describe_multiplicity(12)
    'Of 12 comparisons at 95 %, 0.6 exclude zero by chance when no arm differs; P(at least one) up to 46 %.'
    """
    if num_comparisons < 2:
        return ""
    by_chance, any_one = num_comparisons * (1 - level), 1 - level**num_comparisons
    return (
        f"Of {num_comparisons} comparisons at {100 * level:g} %, {by_chance:.1f} exclude zero by chance when no arm "
        f"differs; P(at least one) up to {100 * any_one:.0f} %."
    )
