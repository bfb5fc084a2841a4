"""The loop around a conversation: lines in, answers out, commands between."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from typing import IO

from tokensieve.chat.conversation import Conversation, Ending
from tokensieve.completions.records import Decoding
from tokensieve.errors import DataError
from tokensieve.trained_model import TrainedModel

HELP = """/adapter on|off   answer with the adapter or as the base alone
/system TEXT      set the system turn; without text, remove it
/reset            forget the turns so far
/quit             leave (or Ctrl-D)
//...             a message that begins with a slash
Ctrl-C stops an answer."""
_PROMPT = "> "
_DIRECTIONS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSAID = {
    "end": "",
    "limit": "(cut at --max-new-tokens)",
    "context": "(cut: the model can read no more; /reset makes room)",
    "interrupted": "(stopped)",
}


def open_conversation(trained: TrainedModel, decoding: Decoding, *, system: str = "") -> Conversation:
    """Load the model, its adapter on where it has one.

    Raises:
        ConfigError: it cannot be loaded, or its tokenizer has no chat template.
    """
    from tokensieve.length_limits import length_limit
    from tokensieve.model import load_tokenizer
    from tokensieve.resident import ResidentModel

    config = trained.config.model
    tokenizer = load_tokenizer(config.path, config.revision, config.chat_template)
    resident = ResidentModel(trained.config)
    model = resident.base() if trained.weights is None else resident.trained(trained.weights)
    limits = [limit for limit in (config.max_length, length_limit(model)) if limit is not None]
    return Conversation(
        model,
        tokenizer,
        decoding,
        max_length=min(limits, default=None),
        adapter_on=True if trained.is_adapter else None,
        system=system,
    )


def talk(conversation: Conversation, *, lines: IO[str], answers: IO[str], notes: IO[str]) -> None:
    """Answer line by line until the input ends or `/quit`. A line is a turn; empty lines are passed over.

    Args:
        conversation: where it begins.
        lines: what the user writes. A terminal is prompted and edited (arrow keys); anything else is read as it is.
        answers: gets the answers and nothing else, a line end after each.
        notes: gets what is said about the conversation.

    Raises:
        KeyboardInterrupt: Ctrl-C where `lines` is no terminal and no answer was being given.
    """
    is_terminal = lines.isatty()
    for line in _read(lines, notes) if is_terminal else lines:
        # Bytes that are not UTF-8 arrive as surrogates, which no tokenizer takes.
        text = line.strip().encode("utf-8", "replace").decode()
        if text in ("/quit", "/exit"):
            break
        if text.startswith("/") and not text.startswith("//"):
            print(obey(conversation, text), file=notes, flush=True)
        elif text:
            _answer(conversation, text.removeprefix("/") if text.startswith("//") else text, answers, notes)


def obey(conversation: Conversation, line: str) -> str:
    """Carry out a command and return what to say about it."""
    command, _, rest = line.partition(" ")
    rest = rest.strip()
    if command == "/help":
        return HELP
    if command == "/reset":
        conversation.reset()
        return "(the conversation begins anew)"
    if command == "/system":
        conversation.system = rest
        return "(system turn set)" if rest else "(no system turn)"
    if command == "/adapter":
        if conversation.adapter_on is None:
            return "(there is no adapter to switch: a base alone, or all weights were trained)"
        if rest not in ("on", "off", ""):
            return f"(/adapter takes on or off, not {rest!r})"
        if rest:
            conversation.adapter_on = rest == "on"
        return f"(adapter {'on' if conversation.adapter_on else 'off'})"
    return f"(no command {command}; /help lists them)"


def _answer(conversation: Conversation, text: str, answers: IO[str], notes: IO[str]) -> None:
    is_shown = answers.isatty()

    def show(piece: str) -> None:
        answers.write(_without_controls(piece) if is_shown else piece)
        answers.flush()

    ending: Ending | None = None
    try:
        ending = conversation.answer(text, show)
    except DataError as error:
        print(f"error: {error}", file=notes, flush=True)
    finally:
        if ending is not None:
            answers.write("\n")
            answers.flush()
    if ending is not None and _UNSAID[ending]:
        print(_UNSAID[ending], file=notes, flush=True)


def _without_controls(text: str) -> str:
    """A model must not be able to steer the user's terminal; blanks and joiners of all scripts stay."""
    return "".join(
        character
        for character in text
        if character in "\n\t"
        or (unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") and character not in _DIRECTIONS)
    )


def _read(lines: IO[str], notes: IO[str]) -> Iterator[str]:
    """Lines typed at a prompt, with editing and history; Ctrl-C gives a new prompt."""
    if lines is sys.stdin:
        import readline  # noqa: F401  # gives input() its editing
    while True:
        try:
            if lines is sys.stdin:
                yield input(_PROMPT)
            else:
                notes.write(_PROMPT)
                notes.flush()
                line = lines.readline()
                if not line:
                    return
                yield line
        except EOFError:
            print(file=notes)
            return
        except KeyboardInterrupt:
            print("\n(/quit or Ctrl-D leaves)", file=notes)
