"""A conversation with one model: its turns, the system text, the adapter on or off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from tokensieve.completions.records import Decoding
from tokensieve.errors import DataError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

Ending = Literal["end", "limit", "context", "interrupted"]


@dataclass(slots=True)
class Conversation:
    """Turns between a user and a model.

    Attributes:
        model: a causal LM or a PEFT model on it.
        tokenizer: with a chat template.
        decoding: how answers are drawn; temperature 0 is greedy.
        max_length: tokens of the whole conversation; None: the model states no limit.
        adapter_on: whether the adapter speaks; None: there is none that could be switched.
        system: text of the system turn; empty: there is none.
        messages: the turns so far, without the system's.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    decoding: Decoding
    max_length: int | None
    adapter_on: bool | None = None
    system: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)
    _num_asked: int = 0

    def reset(self) -> None:
        """Forget the turns; the system text stays."""
        self.messages.clear()

    def answer(self, text: str, on_text: Callable[[str], object]) -> Ending:
        """Ask `text`, pass the answer on as it comes, and say why it ended.

        KeyboardInterrupt ends the answer: what was said stays in the conversation. When nothing was said, or an
        exception leaves, the question is taken back.

        Raises:
            DataError: no room is left for an answer, or the chat template refuses the conversation.
        """
        from tokensieve.chat.stream import AnswerStream

        ids = self._encode([*self.messages, {"role": "user", "content": text}])
        room = self.decoding.max_new_tokens
        if self.max_length is not None:
            room = min(room, self.max_length - len(ids))
        if room < 1:
            raise DataError(
                "conversation",
                f"must leave room for an answer in the {self.max_length} tokens that the model can read",
                received=f"{len(ids)} tokens",
                remedy="/reset forgets the turns so far" if self.messages else "write a shorter message",
            )
        stream = AnswerStream(self.tokenizer, on_text)
        self._num_asked += 1
        ending: Ending
        try:
            with self._speaking(), _random_numbers(self.decoding.seed + self._num_asked):
                last = self._generate(ids, room, stream)
            ending = "end" if last else "limit" if room == self.decoding.max_new_tokens else "context"
        except KeyboardInterrupt:
            stream.end()
            ending = "interrupted"
        if stream.text or ending == "end":
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": stream.text}]
        return ending

    def _encode(self, messages: list[dict[str, str]]) -> list[int]:
        from tokensieve.generate import encode_conversation

        system = [{"role": "system", "content": self.system}] if self.system else []
        try:
            return encode_conversation(self.tokenizer, [*system, *messages])
        except DataError as error:
            remedy = "/system without text removes the system turn" if system else "/reset forgets the turns so far"
            raise DataError(error.subject, error.rule, received=error.received, remedy=remedy) from error

    def _generate(self, ids: list[int], room: int, stream: Any) -> bool:
        """Whether the model ended the answer itself."""
        import torch

        from tokensieve.generate import end_token_ids

        ends = end_token_ids(self.model, self.tokenizer)
        sampled = self.decoding.temperature > 0
        choice: dict[str, Any] = {"temperature": None, "top_p": None}
        if sampled:
            choice = {"temperature": self.decoding.temperature, "top_p": self.decoding.top_p}
        prompt = torch.tensor([ids], device=next(self.model.parameters()).device)
        model: Any = self.model
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            streamer=stream,
            max_new_tokens=room,
            do_sample=sampled,
            **_PLAIN_DECODING,
            eos_token_id=sorted(ends) or None,
            pad_token_id=self.tokenizer.pad_token_id,
            use_cache=True,
            **choice,
        )
        return int(out[0, -1]) in ends

    def _speaking(self) -> Any:
        model: Any = self.model
        return model.disable_adapter() if self.adapter_on is False else nullcontext()


# As evaluations decode: what a checkpoint's own generation config says otherwise is not applied.
_PLAIN_DECODING: Final[Mapping[str, Any]] = {
    "top_k": None,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
    "num_beams": 1,
    "penalty_alpha": None,
}


@contextmanager
def _random_numbers(seed: int) -> Iterator[None]:
    """Answers of one conversation can be drawn again, and nobody else's random numbers move."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
