"""The back end that is a model in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from tokensieve.completions.records import Completion, Decoding, Messages
from tokensieve.errors import DataError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

# Raised whenever a change of the decoding loop can change a text: stored completions of older ones are then not used.
_VERSION: Final = 1


class LocalBackend:
    """A causal language model with its tokenizer's chat template, in batches.

    Args:
        load: gives the model and its tokenizer; called at the first request, and not before.
        identity: JSON values that decide what the model computes (checkpoint, adapter, dtype, template).
        batch_size: rows decoded at once, >= 1.
        max_length: limit of prompt and completion together, in tokens; None: the model's own limit, if it has one.
        with_statistics: whether completions carry `mean_nll` and `mean_entropy`.
    """

    def __init__(
        self,
        load: Callable[[], tuple[nn.Module, PreTrainedTokenizerBase]],
        identity: Mapping[str, Any],
        batch_size: int,
        max_length: int | None = None,
        *,
        with_statistics: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        self._load = load
        self._loaded: tuple[nn.Module, PreTrainedTokenizerBase] | None = None
        self._identity = dict(identity)
        self._batch_size = batch_size
        self._max_length = max_length
        self._with_statistics = with_statistics

    def identity(self) -> Mapping[str, Any]:
        """The model's identity and what else decides a text; not the batch size."""
        return {
            "backend": "local",
            "version": _VERSION,
            "model": self._identity,
            "max_length": self._max_length,
            "with_statistics": self._with_statistics,
        }

    def complete(
        self, requests: Sequence[tuple[Messages, int]], decoding: Decoding
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (number of the request, completion), a batch at a time.

        Raises:
            DataError: a conversation that the chat template refuses.
        """
        if not requests:
            return
        from tokensieve.generate import generate_completions

        if self._loaded is None:
            self._loaded = self._load()
        model, tokenizer = self._loaded
        yield from generate_completions(
            model,
            tokenizer,
            [_encode_request(tokenizer, messages, number) for number, (messages, _) in enumerate(requests)],
            decoding,
            samples=[sample for _, sample in requests],
            with_statistics=self._with_statistics,
            batch_size=self._batch_size,
            max_length=self._max_length,
        )

    def release(self) -> None:
        """Let the model go; the next request loads it again."""
        self._loaded = None


def _encode_request(tokenizer: PreTrainedTokenizerBase, messages: Messages, number: int) -> list[int]:
    from tokensieve.generate import encode_conversation

    try:
        return encode_conversation(tokenizer, messages)
    except DataError as error:
        raise DataError(f"request {number}", error.rule, received=error.received, remedy=error.remedy) from None
