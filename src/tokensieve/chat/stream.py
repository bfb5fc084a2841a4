"""Text of an answer while it is generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from transformers.generation.streamers import BaseStreamer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class AnswerStream(BaseStreamer):
    """Passes text on token by token, holding back only a character of which bytes are still to come.

    Each piece is what two or three tokens decode to more than all but the last of them, because a token's text depends
    on the one before it (a word's space); so the cost of a token does not grow with the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], object]) -> None:
        self._tokenizer = tokenizer
        self._on_text = on_text
        self._tokens: list[int] = []
        self._start = self._told = 0  # tokens before `_told` are passed on; decoding begins at `_start`
        self._is_prompt = True
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """All that was passed on."""
        return "".join(self._pieces)

    @property
    def num_tokens(self) -> int:
        """Generated so far, special ones included."""
        return len(self._tokens)

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt [1, T] first, which is not passed on, then each new token [1]."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._tokens += value.flatten().tolist()
        self._pass_on(is_last=False)

    def end(self) -> None:
        """Pass on what was held back. Further calls do nothing."""
        self._pass_on(is_last=True)

    def _pass_on(self, *, is_last: bool) -> None:
        known, text = self._decode(self._start, self._told), self._decode(self._start, len(self._tokens))
        if len(text) <= len(known) or (text.endswith(_HALF_CHARACTER) and not is_last):
            return
        piece = text[len(known) :]
        self._start, self._told = self._told, len(self._tokens)
        self._pieces.append(piece)
        self._on_text(piece)

    def _decode(self, start: int, end: int) -> str:
        tokens = self._tokens[start:end]
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
