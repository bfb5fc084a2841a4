"""Token ids of a chat and which of them are trained: the assistant's turns with their end tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tokensieve.errors import AlignmentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TrainOn = Literal["all", "last"]
Chat = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class _Span:
    """One assistant turn in the rendered text, in characters.

    Its content lies in [start, content_end); its end token, if it has one, starts in [content_end, bound).
    """

    start: int
    content_end: int
    bound: int


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat], names: Sequence[str], train_on: TrainOn = "last"
) -> Iterator[tuple[list[int], list[bool]]]:
    """For each chat its token ids [T] and the mask [T] of its trained turns, end tokens included.

    The whole chat is rendered and tokenised once. Templates with generation markers tell the assistant's turns
    themselves; under others the chat is rendered up to each trained turn too, and the whole must start with that text.
    A chat of one assistant turn alone is plain text: it is not rendered but tokenised between the tokenizer's own
    start and end tokens, and all of it but the first token is trained.

    Raises:
        AlignmentError: neither way gives the turns' spans, or a span holds no token.
    """
    texts: list[str] = []
    spans: list[list[_Span] | None] = []
    for chat, name in zip(chats, names, strict=True):
        text, found = (chat[0]["content"], None) if len(chat) == 1 else _render(tokenizer, chat, name, train_on)
        texts.append(text)
        spans.append(found)
    encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
    added = tokenizer.added_tokens_decoder
    end_ids = {*tokenizer.all_special_ids, *(token_id for token_id, token in added.items() if token.special)}
    for index, name in enumerate(names):
        ids, found = encoded["input_ids"][index], spans[index]
        if found is None:
            ids = _encode_text(tokenizer, texts[index])
            mask = [place > 0 for place in range(len(ids))]
        else:
            mask = _mask(ids, encoded["offset_mapping"][index], found, end_ids, name)
        if not any(mask):
            raise _no_token(name)
        yield ids, mask


def _encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Plain text between the tokens that the tokenizer puts around a text, and its end token."""
    ids: list[int] = tokenizer(text, return_attention_mask=False)["input_ids"]
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def _mask(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Sequence[_Span], end_ids: set[int], name: str
) -> list[bool]:
    mask = [False] * len(ids)
    first = 1  # nothing predicts the first token
    for span in spans:
        while first < len(ids) and offsets[first][0] < span.start:
            first += 1
        # The end token is the first special one behind the content; what the template prints behind it is not
        # trained. Without one the turn ends with its content, and the last turn with the chat.
        last = first - 1
        for place in range(first, len(ids)):
            begin = offsets[place][0]
            if begin >= span.bound:
                break
            if begin < span.content_end or span is spans[-1]:
                last = place
            if begin >= span.content_end and ids[place] in end_ids:
                last = place
                break
        if last < first:
            raise _no_token(name)
        mask[first : last + 1] = [True] * (last + 1 - first)
        first = last + 1
    return mask


def _no_token(name: str) -> AlignmentError:
    return AlignmentError(
        f"example {name}",
        "each trained response must have at least one token",
        received="none",
        remedy="check the chat template of the model",
    )


def _render(tokenizer: PreTrainedTokenizerBase, chat: Chat, name: str, train_on: TrainOn) -> tuple[str, list[_Span]]:
    """The chat's text and the spans of its trained turns, in order."""
    from transformers.utils.chat_template_utils import render_jinja_template

    render: Any = render_jinja_template  # its annotation lets no special token pass
    template = str(tokenizer.get_chat_template())
    marked = "{% generation" in template or "{%- generation" in template
    with _name_refusal(name):
        texts, generated = render(
            [list(chat)], chat_template=template, return_assistant_tokens_mask=marked, **tokenizer.special_tokens_map
        )
    text: str = texts[0]
    answers = [place for place, turn in enumerate(chat) if turn["role"] == "assistant"]
    trained = [place for place in answers if place > 0] if train_on == "all" else answers[-1:]  # the first asks nothing
    marks = generated[0] if marked else []
    if marks and (train_on == "last" or len(marks) == len(answers)):
        # A template may mark what generation starts from, too: the turn's header, an empty thought.
        prompts = [_prompt_end(tokenizer, chat[:place], text) for place in trained]
        starts = [max(int(begin), end) for (begin, _), end in zip(marks[-len(trained) :], prompts, strict=True)]
    else:
        starts = [_prefix_length(tokenizer, chat[:place], text, name) for place in trained]
    spans = []
    for place, start, after in zip(trained, starts, [*starts[1:], len(text)], strict=True):
        bound = after if place == len(chat) - 1 else _turn_end(tokenizer, chat[: place + 1], text, after)
        content = chat[place]["content"].strip()
        found = text.find(content, start, bound)
        spans.append(_Span(start, found + len(content) if found >= 0 else start, bound))
    return text, spans


def _prompt(tokenizer: PreTrainedTokenizerBase, turns: Chat) -> str:
    """What generation of the turn behind `turns` would start from."""
    return str(tokenizer.apply_chat_template(_plain(turns), tokenize=False, add_generation_prompt=True))


def _prompt_end(tokenizer: PreTrainedTokenizerBase, turns: Chat, text: str) -> int:
    """Where the assistant's next turn starts in `text`; 0 where the prompt does not tell."""
    from jinja2 import TemplateError

    try:
        prompt = _prompt(tokenizer, turns)
    except TemplateError:
        return 0
    return len(prompt) if text.startswith(prompt) else 0


def _prefix_length(tokenizer: PreTrainedTokenizerBase, turns: Chat, text: str, name: str) -> int:
    """Where the assistant's next turn starts: behind what generation would start from."""
    with _name_refusal(name):
        prompt = _prompt(tokenizer, turns)
    if not text.startswith(prompt):
        raise AlignmentError(
            f"example {name}",
            "the chat template must render the prompt as a prefix of the whole chat",
            received=f"prompt ending in {prompt[-40:]!r}",
            remedy="set model.chat_template to a template with {% generation %} markers, or dataset.train_on=last",
        )
    return len(prompt)


def _turn_end(tokenizer: PreTrainedTokenizerBase, turns: Chat, text: str, after: int) -> int:
    """Where an assistant turn inside the chat ends, end token included; `after` where the template hides it."""
    upto = str(tokenizer.apply_chat_template(_plain(turns), tokenize=False))
    return min(len(upto), after) if text.startswith(upto) else after


def _plain(turns: Chat) -> list[dict[str, str]]:
    return [dict(turn) for turn in turns]


@contextmanager
def _name_refusal(name: str) -> Iterator[None]:
    """A template that raises (turns that do not alternate, a system turn it does not know) names the example."""
    from jinja2 import TemplateError

    try:
        yield
    except TemplateError as error:
        raise AlignmentError(
            f"example {name}",
            "the chat template must take the example's turns",
            received=str(error),
            remedy="correct the turns, or set model.chat_template to a template that takes them",
        ) from error
