"""What a build reads besides the corpus: the back end through the store of its completions, and losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tokensieve.completions.records import Backend, Completion, Decoding, Messages
from tokensieve.records import TokenisedCorpus, TokenScores
from tokensieve.store import Artefact

if TYPE_CHECKING:
    from tokensieve.completions.store import CompletionStore
    from tokensieve.variant.bench import Ask


def open_completions(
    completions: str | Path | CompletionStore | None,
) -> AbstractContextManager[CompletionStore | None]:
    """The store, closed at the end if it was opened here."""
    if not isinstance(completions, str | Path):
        return nullcontext(completions)
    from tokensieve.completions.store import CompletionStore

    return CompletionStore(Path(completions))


def ask_through(backend: Backend | None, kept: CompletionStore | None) -> Ask:
    """The back end behind its store."""

    def ask(
        conversations: Sequence[Messages], decoding: Decoding, num: int, tick: Callable[[], None]
    ) -> Iterator[list[Completion]]:
        from tokensieve.completions.complete import complete

        assert backend is not None
        assert kept is not None

        def note(number: int, completion: Completion) -> bool:
            tick()
            return True

        return complete(backend, kept, conversations, decoding, num_samples=num, check=note)

    return ask


def read_mean_losses(tokenised: Artefact[TokenisedCorpus], scored: Artefact[TokenScores]) -> list[float]:
    """Mean NLL in nats of the response tokens of each row; NaN for a row without any."""
    import numpy as np

    tokens, scores = tokenised.get().rows, scored.get().rows
    found = []
    for span, nll in zip(tokens["is_response"], scores["nll"], strict=True):
        kept = np.asarray(nll, dtype=np.float64)[np.asarray(span, dtype=bool)]
        found.append(float(kept.mean()) if len(kept) else math.nan)
    return found
