from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import MARKED_TEMPLATE, PLAIN_TEMPLATE, save_tiny, tiny_tokenizer

from tokensieve.chat_spans import TrainOn, encode_chats
from tokensieve.dataset import define_corpus
from tokensieve.errors import AlignmentError, ConfigError, DataError
from tokensieve.length_limits import max_length
from tokensieve.model import load_tokenizer
from tokensieve.sources import LocalSource
from tokensieve.store import Store
from tokensieve.template_day import with_own_template
from tokensieve.tokenise import define_tokens

CHAT = [{"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": "The answer is 5."}]
LONG = [*CHAT, {"role": "user", "content": "And 3 + 3?"}, {"role": "assistant", "content": "It is 6."}]


def encode(template: str, chat: list[dict[str, str]]) -> tuple[Any, list[int], list[bool]]:
    tokenizer = tiny_tokenizer(template)
    ids, mask = next(encode_chats(tokenizer, [chat], ["x"]))
    return tokenizer, ids, mask


@pytest.mark.parametrize("template", [MARKED_TEMPLATE, PLAIN_TEMPLATE], ids=["marked", "plain"])
@pytest.mark.parametrize(("chat", "response"), [(CHAT, "The answer is 5."), (LONG, "It is 6.")])
def test_mask_covers_the_last_turn_and_its_end_token(template: str, chat: list[dict[str, str]], response: str) -> None:
    tokenizer, ids, mask = encode(template, chat)
    kept = [token for token, inside in zip(ids, mask, strict=True) if inside]
    assert tokenizer.decode(kept) == f"{response}</s>"
    assert not mask[0]


def test_prompt_tokens_are_what_generation_starts_from() -> None:
    tokenizer, ids, mask = encode(PLAIN_TEMPLATE, CHAT)
    prompt = tokenizer.apply_chat_template(CHAT[:-1], add_generation_prompt=True, return_dict=False)
    assert ids[: mask.index(True)] == prompt


HEADER_IN_MARKS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<s>assistant:{{ m.content }}</s>"
    "{% endgeneration %}{% else %}<s>user {{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


@pytest.mark.parametrize("train_on", ["last", "all"])
def test_a_header_inside_the_marks_is_not_trained(train_on: TrainOn) -> None:
    tokenizer = tiny_tokenizer(HEADER_IN_MARKS)
    ids, mask = next(encode_chats(tokenizer, [LONG], ["x"], train_on))
    kept = tokenizer.decode([token for token, inside in zip(ids, mask, strict=True) if inside])
    assert kept == ("It is 6.</s>" if train_on == "last" else "The answer is 5.</s>It is 6.</s>")


@pytest.mark.parametrize("template", [MARKED_TEMPLATE, PLAIN_TEMPLATE], ids=["marked", "plain"])
def test_a_turn_that_answers_nothing_is_not_trained(template: str) -> None:
    tokenizer = tiny_tokenizer(template)
    greeted = [{"role": "assistant", "content": "Hello."}, *CHAT]
    ids, mask = next(encode_chats(tokenizer, [greeted], ["x"], "all"))
    kept = [token for token, inside in zip(ids, mask, strict=True) if inside]
    assert tokenizer.decode(kept) == "The answer is 5.</s>"


def test_a_template_that_prints_the_day_prints_the_same_on_all(tmp_path: Path) -> None:
    dated = "Today: {{ strftime_now('%d %b %Y') }}; " + PLAIN_TEMPLATE
    save_tiny(tmp_path, template=dated)
    tokenizer = load_tokenizer(str(tmp_path), None)
    text = str(tokenizer.apply_chat_template(CHAT, tokenize=False))
    assert text.startswith("Today: 26 Jul 2024; ")
    assert next(encode_chats(tokenizer, [CHAT], ["x"]))[0] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert with_own_template(tokenizer).chat_template == dated
    assert str(tokenizer.apply_chat_template(CHAT, tokenize=False)) == text


@pytest.mark.parametrize(
    "content", ["naïve café ☕ 数学", "  spaced  ", "line\nline\n\n\tcode", "</s> inside", "x" * 2000]
)
def test_odd_text_keeps_ids_and_mask_in_step(content: str) -> None:
    tokenizer, ids, mask = encode(MARKED_TEMPLATE, [CHAT[0], {"role": "assistant", "content": content}])
    assert len(ids) == len(mask)
    kept = [token for token, inside in zip(ids, mask, strict=True) if inside]
    assert kept[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(kept).startswith(content.split("<")[0][:20])


def test_template_that_rewrites_the_prompt_is_refused() -> None:
    template = (
        "{% if add_generation_prompt %}PROMPT{% else %}{% for m in messages %}{{ m.content }}{% endfor %}{% endif %}"
    )
    with pytest.raises(AlignmentError, match="prefix of the whole chat"):
        encode(template, CHAT)


def test_tokenizer_without_chat_template(tmp_path: Path) -> None:
    save_tiny(tmp_path, template=None)
    with pytest.raises(ConfigError, match=r"chat template.*model\.chat_template"):
        load_tokenizer(str(tmp_path), None)
    file = tmp_path / "chat.jinja"
    file.write_text(PLAIN_TEMPLATE)
    assert load_tokenizer(str(tmp_path), None, str(file)).chat_template == PLAIN_TEMPLATE


def test_too_long_example_names_its_row_itself_and_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    long = [CHAT[0], {"role": "assistant", "content": "5 " * 600}]
    file.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in (CHAT, long)))
    corpus = define_corpus(
        Store(tmp_path / "cache"),
        LocalSource(file, None, {}),
        "train",
        task=None,
        prompt=None,
        response=None,
        system_prompt=None,
        reference={},
        id_field=None,
        limit=None,
        val_fraction=0.0,
        test_fraction=0.0,
        seed=0,
    )
    options = {"model_path": "lab", "revision": None, "chat_template": None}
    assert len(define_tokens(corpus.store, corpus, **options, length_limit=None).get()) == 2
    with pytest.raises(DataError, match=r"chat\.jsonl:2 \(example train/1\): must have at most 100 tokens"):
        define_tokens(corpus.store, corpus, **options, length_limit=100).get()


MULTI = [{"role": "system", "content": "Be brief."}, *LONG]
NO_END = "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:\n{% endif %}"


def pieces(tokenizer: Any, ids: list[int], mask: list[bool]) -> list[str]:
    """The decoded runs of trained tokens."""
    runs: list[list[int]] = []
    for place, (token, inside) in enumerate(zip(ids, mask, strict=True)):
        if inside and (place == 0 or not mask[place - 1]):
            runs.append([])
        if inside:
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("template", [MARKED_TEMPLATE, PLAIN_TEMPLATE], ids=["marked", "plain"])
def test_all_assistant_turns_are_trained_with_their_end_tokens(template: str) -> None:
    tokenizer = tiny_tokenizer(template)
    ids, mask = next(encode_chats(tokenizer, [MULTI], ["x"], "all"))
    last_ids, last_mask = next(encode_chats(tokenizer, [MULTI], ["x"], "last"))
    assert ids == last_ids  # one tokenisation, whatever is trained
    assert pieces(tokenizer, ids, mask) == ["The answer is 5.</s>", "It is 6.</s>"]
    assert pieces(tokenizer, ids, last_mask) == ["It is 6.</s>"]


def test_a_turn_without_an_end_token_ends_with_its_content() -> None:
    tokenizer = tiny_tokenizer(NO_END)
    ids, mask = next(encode_chats(tokenizer, [LONG], ["x"], "all"))
    first, second = pieces(tokenizer, ids, mask)
    assert first.strip() == "The answer is 5."
    assert second.strip() == "It is 6."


def test_equal_answers_are_told_apart() -> None:
    chat = [*CHAT, CHAT[0], CHAT[1], CHAT[0], CHAT[1]]
    tokenizer = tiny_tokenizer(PLAIN_TEMPLATE)
    ids, mask = next(encode_chats(tokenizer, [chat], ["x"], "all"))
    assert pieces(tokenizer, ids, mask) == ["The answer is 5.</s>"] * 3


def test_a_single_turn_is_the_same_under_both() -> None:
    tokenizer = tiny_tokenizer(PLAIN_TEMPLATE)
    assert list(encode_chats(tokenizer, [CHAT], ["x"], "all")) == list(encode_chats(tokenizer, [CHAT], ["x"]))


def test_plain_text_is_trained_whole_but_for_its_first_token() -> None:
    tokenizer = tiny_tokenizer(PLAIN_TEMPLATE)
    text = [{"role": "assistant", "content": "Once upon a time."}]
    both = list(encode_chats(tokenizer, [text, CHAT], ["x", "y"]))
    ids, mask = both[0]
    assert mask == [False] + [True] * (len(ids) - 1)
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Once upon a time."
    assert both[1] == next(encode_chats(tokenizer, [CHAT], ["y"]))


def test_a_template_that_refuses_the_turns_names_the_example() -> None:
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + PLAIN_TEMPLATE
    )
    with pytest.raises(AlignmentError, match=r"example x.*no system turn.*model\.chat_template"):
        next(encode_chats(tiny_tokenizer(template), [MULTI], ["x"], "all"))


@pytest.mark.parametrize("part", [{}, {"text_config": {"max_position_embeddings": 55}}])
def test_a_length_limit_needs_no_code_of_the_checkpoint(part: dict[str, Any], tmp_path: Path) -> None:
    config = {"model_type": "odd", "auto_map": {"AutoConfig": "own.Config"}, "max_position_embeddings": 77, **part}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "own.py").write_text("raise SystemExit('must not run')", encoding="utf-8")
    assert max_length(str(tmp_path), None) == (55 if part else 77)
