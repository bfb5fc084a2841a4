"""What kind of text a token is: its part of speech, as far as that can be told without a model.

Code goes through Pygments' lexer, which knows keywords from names. Prose is split by rule: taggers need a model that
would have to be downloaded, and the closed classes (articles, pronouns, prepositions, conjunctions, auxiliaries) are
short lists, so that a word is a function word or a content word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

from tokensieve.errors import ConfigError

if TYPE_CHECKING:
    from pygments.lexer import Lexer

END: Final = "end token"
SPACE: Final = "whitespace"
PROSE: Final = "text"
OTHER: Final = "other"

_WORDS: Final = """
    a an the this that these those each every either neither some any no all both half such what which whose
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves who whom someone anyone everyone nobody something anything
    everything nothing one ones
    about above across after against along among around as at before behind below beneath beside besides between beyond
    by despite down during except for from in inside into like near of off on onto out outside over past per since
    through throughout till to toward towards under until up upon via with within without
    and but or nor so yet if because although though unless while whereas whether than when where how why then else
    am is are was were be been being have has had having do does did doing can could shall should will would may might
    must ought not cannot
"""
FUNCTION_WORDS: Final = frozenset(_WORDS.split())
_PROSE_PARTS: Final = re.compile(
    r"(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*)|(?P<number>\d+(?:[.,]\d+)*)|(?P<space>\s+)|(?P<punctuation>[^\w\s]|_)"
)
# Pygments' token types, from the most special to the general.
_CODE_CLASSES: Final = (
    ("Comment", "comment"), ("Keyword", "keyword"), ("Operator", "operator"), ("Punctuation", "punctuation"),
    ("Literal.Number", "number"), ("Literal.String", "string"), ("Literal", "literal"), ("Name", "name"),
    ("Text", "name"),
)  # fmt: skip


def classify_pieces(pieces: Sequence[str], language: str = PROSE) -> list[str]:
    """The class of each piece of one response: that of its first visible character.

    Args:
        pieces: decoded tokens of a response in order; the last one is its end token.
        language: `text`, or a language that Pygments knows (python, sql, ...).

    Returns:
        As many classes. Text: function word, content word, number, punctuation, whitespace, other. Code: keyword, name,
        operator, number, string, comment, punctuation, literal, whitespace, other. The last piece: end token.

    Raises:
        ConfigError: no such language.

    >>> classify_pieces(["The", " cat", " sat", " on", " 2", " ma", "ts", ".", "\\n", "<end>"])  # doctest: +ELLIPSIS
    ['function word', 'content word', 'content word', 'function word', 'number', 'content word', ..., 'end token']
    >>> classify_pieces(["def", " f", "(x", "):", "\\n ", " return", " 1", "<end>"], "python")[:4]
    ['keyword', 'name', 'punctuation', 'punctuation']
    """
    if not pieces:
        return []
    body = pieces[:-1]
    text = "".join(body)
    labels = [OTHER] * len(text)
    for start, end, label in _spans(text, language):
        labels[start:end] = [label] * (end - start)
    found, place = [], 0
    for piece in body:
        visible = len(piece) - len(piece.lstrip())
        found.append((labels[place + visible] if visible < len(piece) else SPACE) if piece else OTHER)
        place += len(piece)
    return [*found, END]


def _spans(text: str, language: str) -> Iterator[tuple[int, int, str]]:
    if language == PROSE:
        for part in _PROSE_PARTS.finditer(text):
            kind, word = str(part.lastgroup), part[0].lower().replace("’", "'")
            label = SPACE if kind == "space" else kind
            if kind == "word":
                is_function = word.partition("'")[0] in FUNCTION_WORDS or word.endswith("n't")
                label = "function word" if is_function else "content word"
            yield part.start(), part.end(), label
        return
    for start, kind, value in _lexer(language).get_tokens_unprocessed(text):
        name = str(kind).removeprefix("Token.")
        label = next((label for prefix, label in _CODE_CLASSES if name.startswith(prefix)), OTHER)
        yield start, start + len(value), label


@cache
def _lexer(language: str) -> Lexer:
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language)
    except ClassNotFound:
        raise ConfigError(
            "language",
            "must be text, or a language that Pygments knows",
            received=language,
            remedy="use text, python, sql, java, javascript, c, bash; `pygmentize -L lexers` lists them all",
        ) from None
