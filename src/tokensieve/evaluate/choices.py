"""Choice tasks without generation: the answer is the likeliest continuation of the chat prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tokensieve.errors import DataError
from tokensieve.evaluate.inquiry import Answers, Inquiry, OptionRequest
from tokensieve.evaluate.questions import Questions
from tokensieve.generate import explaining_template
from tokensieve.graders.choice import read_labels
from tokensieve.graders.grade import locate, read_reference
from tokensieve.log_likelihood import Continuation, pick_choice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The form in which the choice datasets of conf/dataset end their responses.
_FORM: Final = "Answer: {}"
_PROBE: Final = _FORM.format("A")  # words that no template has of its own


class _Item(NamedTuple):
    """`answer` is the right one's number. `has_texts`: the continuations are the options' texts, not their labels."""

    continuations: list[str]
    answer: int
    has_texts: bool


def ask_options(tokenizer: PreTrainedTokenizerBase, questions: Questions) -> Inquiry:
    """Every option of N items; the answer is the one of the greatest sum, the first of equals.

    An option's continuation is `Answer: ` and its label, as the responses of these datasets end; where the reference
    has `options`, one text a label, it is the text, and `decoding["outcomes"]` has the accuracy of the choice by
    log-probability per character as well. Tokens are those that prompt and continuation have together: what the
    prompt's trailing white space becomes counts for the continuation, as in lm-evaluation-harness. An output is the
    chosen continuation.

    Raises:
        RowError: a reference whose answer is none of its labels, or whose options do not match them.
        DataError: a continuation that adds no token to its prompt.
    """
    items = []
    for at, reference in enumerate(questions.references):
        with locate(at):
            items.append(_read_item(reference))
    requests: list[OptionRequest] = []
    too_long = []
    for at, (messages, item) in enumerate(zip(questions.conversations, items, strict=True)):
        with locate(at):
            pairs = encode_options(tokenizer, messages, item.continuations)
        limit = questions.max_length
        too_long.append(limit is not None and any(len(context) + len(option) > limit for context, option in pairs))
        requests += [] if too_long[-1] else [OptionRequest(*pair) for pair in pairs]
    return Inquiry(questions, requests, lambda found: _choose(items, too_long, found))


def _choose(items: Sequence[_Item], too_long: list[bool], found: Sequence[Continuation]) -> Answers:
    remaining = iter(found)
    scores, outputs, by_character = [], [], []
    for item, long in zip(items, too_long, strict=True):
        likelihoods = [] if long else list(islice(remaining, len(item.continuations)))
        chosen = None if long else pick_choice(likelihoods)
        scores.append(float(chosen == item.answer))
        outputs.append("" if chosen is None else item.continuations[chosen])
        if item.has_texts:
            normalised = None if long else pick_choice(likelihoods, "per_character", item.continuations)
            by_character.append(normalised == item.answer)
    decoding: dict[str, Any] = {
        "method": "log_likelihood",
        "continuation": "option text" if by_character else _FORM.format("label"),
        "normalisation": "sum",
    }
    if by_character:
        decoding["outcomes"] = {"accuracy_per_character": sum(by_character) / len(by_character)}
    return Answers(scores, outputs, too_long, decoding)


def encode_options(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], continuations: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """Token ids of a chat prompt and of each text that may follow it; special tokens are those of the template alone.

    What the template puts before an assistant's words (a blank, an empty thought) stands there too.

    Raises:
        DataError: a continuation that adds no token.
    """
    begin = _render_prompt(tokenizer, messages)
    context = tokenizer.encode(begin.rstrip(), add_special_tokens=False)
    pairs = []
    for continuation in continuations:
        whole = tokenizer.encode(begin + continuation, add_special_tokens=False)
        if not continuation.strip() or len(whole) <= len(context):
            raise DataError(
                "reference.options", "no option may be empty", received=continuation, remedy="correct the row"
            )
        pairs.append((context, whole[len(context) :]))
    return pairs


def _render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> str:
    """The conversation up to where the words of the assistant's next turn stand, found by rendering one that it has."""
    turns = [dict(message) for message in messages]
    answer = {"role": "assistant", "content": _PROBE}
    with explaining_template(turns):
        prompt = str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        answered = str(tokenizer.apply_chat_template([*turns, answer], tokenize=False))
    place = answered.find(_PROBE, len(prompt)) if answered.startswith(prompt) else -1
    return answered[:place] if place >= 0 else prompt


def _read_item(reference: Mapping[str, Any]) -> _Item:
    labels = read_labels(reference)
    answer = str(read_reference(reference, "answer", (str, int)))
    if answer not in labels:
        raise DataError(
            "reference.answer", f"must be one of {', '.join(labels)}", received=answer, remedy="correct the row"
        )
    options = reference.get("options")
    if options is None:
        return _Item([_FORM.format(label) for label in labels], labels.index(answer), has_texts=False)
    if not isinstance(options, list) or len(options) != len(labels):
        raise DataError(
            "reference.options", f"must be a list of {len(labels)} texts", received=options, remedy="correct the row"
        )
    return _Item([str(option) for option in options], labels.index(answer), has_texts=True)
