from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from generating import generate
from tiny_checkpoint import PLAIN_TEMPLATE, save_tiny
from tiny_model import make_llama, make_tokenizer
from trained_run import make_run

from tokensieve.chat import open_conversation, talk
from tokensieve.chat.conversation import Conversation
from tokensieve.chat.session import _without_controls
from tokensieve.chat.stream import AnswerStream
from tokensieve.cli import main
from tokensieve.completions.records import Decoding
from tokensieve.errors import DataError
from tokensieve.generate import encode_conversation
from tokensieve.trained_model import choose_model

GREEDY = Decoding(max_new_tokens=12)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", tiny_folder)


def byte_conversation(**options: Any) -> Conversation:
    model: Any = make_llama(**options.pop("model", {}))
    values = {"decoding": GREEDY, "max_length": 128} | options
    return Conversation(model, make_tokenizer(), **values)


def said(conversation: Conversation, text: str) -> tuple[str, str]:
    pieces: list[str] = []
    ending = conversation.answer(text, pieces.append)
    return "".join(pieces), ending


def test_a_checkpoint_s_own_penalties_do_not_count() -> None:
    plain, penalised = byte_conversation(), byte_conversation()
    own: Any = penalised.model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size, own.min_p, own.top_k = 1.3, 2, 0.2, 5
    assert said(penalised, "What is 2 + 3?") == said(plain, "What is 2 + 3?")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("5\u202fkm\u00a0\u3000x", "5\u202fkm\u00a0\u3000x"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("a\tb\nc", "a\tb\nc"),
        ("a\x1b[31mb\x07\r\x9b2Jc\u202ed\u2066e", "a[31mb2Jcde"),
    ],
)
def test_text_of_all_scripts_is_shown_and_nothing_steers_the_terminal(text: str, shown: str) -> None:
    assert _without_controls(text) == shown


def test_the_stream_says_what_generation_says() -> None:
    conversation = byte_conversation()
    turns = [{"role": "user", "content": "What is 2 + 3?"}]
    whole = generate(
        conversation.model,
        conversation.tokenizer,
        [encode_conversation(conversation.tokenizer, turns)],
        max_new_tokens=12,
        batch_size=1,
    )
    text, ending = said(conversation, "What is 2 + 3?")
    assert text == whole[0] != ""
    assert ending == "limit"
    assert conversation.messages == [*turns, {"role": "assistant", "content": text}]


@pytest.mark.parametrize("text", ["plain words", "naïve — 日本語 👩‍🔬 end", "👩‍🔬", " leading", "line\nline\n", ""])
def test_a_character_of_several_tokens_is_never_told_by_halves(text: str) -> None:
    tokenizer, pieces = make_tokenizer(), []
    stream = AnswerStream(tokenizer, pieces.append)
    stream.put(torch.tensor([[1, 2, 3]]))  # the prompt
    tokens = tokenizer(text)["input_ids"]
    assert len(tokens) == len(text.encode())
    for token in tokens:
        stream.put(torch.tensor([token]))
    stream.put(torch.tensor([tokenizer.eos_token_id]))
    stream.end()
    assert "".join(pieces) == stream.text == text
    assert pieces == list(text)


def test_a_half_character_at_the_end_is_told_as_such() -> None:
    stream = AnswerStream(make_tokenizer(), lambda piece: None)
    stream.put(torch.tensor([[1]]))
    for token in make_tokenizer()("ab日")["input_ids"][:-1]:
        stream.put(torch.tensor([token]))
    assert stream.text == "ab"
    stream.end()
    stream.end()
    assert stream.text == "ab\N{REPLACEMENT CHARACTER}"


def test_the_adapter_is_switched_and_off_is_the_base(run: Path, tiny_folder: Path) -> None:
    with_adapter = open_conversation(choose_model(run), GREEDY)
    base = open_conversation(choose_model(model=str(tiny_folder)), GREEDY)
    assert with_adapter.adapter_on is True
    assert base.adapter_on is None
    tuned, plain = said(with_adapter, "hello")[0], said(base, "hello")[0]
    assert tuned != plain
    for state, expected in (("off", plain), ("on", tuned)):
        with_adapter.reset()
        notes = io.StringIO()
        talk(with_adapter, lines=io.StringIO(f"/adapter {state}\n"), answers=io.StringIO(), notes=notes)
        assert notes.getvalue() == f"(adapter {state})\n"
        assert said(with_adapter, "hello")[0] == expected


def test_turns_are_remembered_until_reset() -> None:
    conversation = byte_conversation()
    first = said(conversation, "hi")
    later = said(conversation, "hi")
    assert len(conversation.messages) == 4
    conversation.reset()
    assert said(conversation, "hi") == first
    assert later[0] != first[0]


def test_a_full_context_is_told_and_reset_helps() -> None:
    conversation = byte_conversation(max_length=60)
    text, ending = said(conversation, "x" * 20)  # "<user>" + 20 + end + "<assistant>" = 38 tokens
    assert ending == "limit"
    assert len(conversation.messages) == 2
    with pytest.raises(DataError, match=r"60 tokens that the model can read.*/reset"):
        said(conversation, "x" * 20)
    assert len(conversation.messages) == 2
    conversation.reset()
    assert said(conversation, "x" * 20) == (text, ending)
    conversation.reset()
    assert said(conversation, "x" * 35)[1] == "context"  # 53 tokens: 7 are left of the 12 wanted
    conversation.reset()
    with pytest.raises(DataError, match="shorter message"):
        said(conversation, "x" * 100)
    assert conversation.messages == []


def test_an_interrupted_answer_stays_as_far_as_it_came() -> None:
    conversation = byte_conversation()
    whole, _ = said(conversation, "hi")
    conversation.reset()
    pieces: list[str] = []

    def interrupt(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    assert conversation.answer("hi", interrupt) == "interrupted"
    assert whole.startswith("".join(pieces))
    assert conversation.messages[-1] == {"role": "assistant", "content": "".join(pieces)}
    assert said(conversation, "go on")[1] == "limit"


def test_interrupted_before_the_first_word_the_question_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = byte_conversation()

    def interrupt(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(conversation.model, "generate", interrupt)
    assert said(conversation, "hi") == ("", "interrupted")
    assert conversation.messages == []


def test_sampling_can_be_repeated_and_leaves_other_random_numbers_alone() -> None:
    def draw(seed: int) -> str:
        return said(
            byte_conversation(decoding=Decoding(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=seed)), "a"
        )[0]

    before = torch.random.get_rng_state()
    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_template_without_system_turns_is_told() -> None:
    conversation = byte_conversation(system="be kind")
    conversation.tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + PLAIN_TEMPLATE
    )
    with pytest.raises(DataError, match=r"System role not supported.*/system without text"):
        said(conversation, "hi")
    conversation.system = ""
    assert said(conversation, "hi")[1] == "limit"


def chat_through_a_pipe(
    arguments: list[str], lines: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], list[str]]:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    assert main(["chat", *arguments]) == 0
    shown = capsys.readouterr()
    return shown.out.splitlines(), shown.err.splitlines()


def test_through_a_pipe_each_line_is_a_turn(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokensieve.chat.conversation.Conversation.answer", fake_answer)
    answers, notes = chat_through_a_pipe(
        [str(run), "--system", "S"],
        b"one\n\n  \n/system T U\ntwo\r\n//path\n/nonsense\n/adapter maybe\n/adapter off\n\xff\xfe\n/reset\nlast\n/quit\nunread\n",
        capsys,
        monkeypatch,
    )
    assert answers == [
        "S|one|True",
        "T U|two|True",
        "T U|/path|True",
        "T U|??|False",
        "T U|last|False",
    ]
    assert notes == [
        "(system turn set)",
        "(no command /nonsense; /help lists them)",
        "(/adapter takes on or off, not 'maybe')",
        "(adapter off)",
        "(the conversation begins anew)",
    ]


def fake_answer(self: Conversation, text: str, on_text: Any) -> str:
    on_text(f"{self.system}|{text}|{self.adapter_on}")
    return "end"


def test_a_line_without_its_end_is_answered_too(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, notes = chat_through_a_pipe(
        [str(run), "--max-new-tokens", "4"], "What is 2 + 3? 日本".encode(), capsys, monkeypatch
    )
    assert answers
    assert notes in ([], ["(cut at --max-new-tokens)"])


def test_the_packaged_model_answers_by_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, _ = chat_through_a_pipe(["--max-new-tokens", "8"], b"What is 2 + 3?\n", capsys, monkeypatch)
    assert answers
    assert answers[0].strip()


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_prompted_and_not_steered_by_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: Conversation, text: str, on_text: Any) -> str:
        on_text("a\x1b[2J\x9b\u202eb\tc\nd")
        return "interrupted"

    monkeypatch.setattr(Conversation, "answer", answer)
    shown, notes, lines = Screen(), Screen(), Screen("hi\n")
    talk(byte_conversation(), lines=lines, answers=shown, notes=notes)
    assert shown.getvalue() == "a[2Jb\tc\nd\n"
    assert notes.getvalue() == "> (stopped)\n> "


def test_ctrl_c_at_the_prompt_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter([KeyboardInterrupt, "hi", EOFError])

    def read(prompt: str) -> str:
        found = next(typed)
        if isinstance(found, type):
            raise found
        return str(found)

    lines, shown, notes = Screen(), Screen(), Screen()
    monkeypatch.setattr(sys, "stdin", lines)
    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(Conversation, "answer", fake_answer)
    talk(byte_conversation(), lines=lines, answers=shown, notes=notes)
    assert shown.getvalue() == "|hi|None\n"
    assert "Ctrl-D leaves" in notes.getvalue()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "./nowhere"], "model.path"),
        (["/no/such/run"], "run folder"),
        (["--adapter", "/no/such/adapter"], "adapter_config.json"),
        (["--chat-template", "/no/such/file"], "model.chat_template"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", *arguments]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_a_model_without_chat_template_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_tiny(tmp_path / "plain", template=None)
    assert main(["chat", "--model", str(folder)]) == 1
    assert "chat template" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", '"text"', json.dumps({"base_model_name_or_path": 3})])
def test_a_damaged_adapter_is_told(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "adapter_config.json").write_text(damage)
    assert main(["chat", "--adapter", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("option", [["--temperature", "-1"], ["--top-p", "0"], ["--max-new-tokens", "0"]])
def test_options_out_of_range_are_told(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["chat", *option])
    assert stop.value.code == 2
    assert "must be" in capsys.readouterr().err
