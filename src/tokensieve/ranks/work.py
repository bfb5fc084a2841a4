"""What a rank does with an order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from tokensieve.ranks.order import FitOrder


def fit_order(order: FitOrder, on_metrics: Callable[[Mapping[str, float], int], None] | None) -> None:
    """Fit as one rank of the group that the environment describes. Reads its inputs from the cache."""
    from tokensieve.config import from_yaml
    from tokensieve.fit import fit_here
    from tokensieve.ranks.layout import plan_ranks
    from tokensieve.stages import define_stages
    from tokensieve.store import Store

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = from_yaml(order.config)
    fit_here(
        define_stages(config, Store(Path(order.cache))),
        Path(order.folder),
        Path(order.checkpoints),
        order.digest,
        on_metrics,
        layout=plan_ranks(config),
        rows_limit=order.rows_limit,
    )
