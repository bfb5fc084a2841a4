r"""Find what a text states as its mathematical answer: a box, an announcement, the last formula or number."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Final

from tokensieve.graders.qualifiers import find_qualifiers

_BOX: Final = re.compile(r"\\f?boxed\s*(\{|(?=[\w\\-]))")
_ANNOUNCED: Final = re.compile(
    r"\banswers?\b[*_]*\s*(?:[:：=]|\b(?:is|are|was|would be|must be)\b\s*:?)[*_\s]*", re.IGNORECASE
)
# Delimiters of LaTeX formulas; an escaped dollar is money.
_FORMULA: Final = re.compile(
    r"\$\$(.{1,2000}?)\$\$|(?<!\\)\$((?:\\.|[^$\\\n]){1,2000})\$|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]",
    re.DOTALL,
)
_JOINER: Final = re.compile(r"[\s$.,;]*(?:,|;|\band\b|\bor\b|\\text\{\s*(?:and|or)\s*\})[\s$]*", re.IGNORECASE)
_SENTENCE_END: Final = re.compile(r"\n|[.!?](?=\s|\Z)|\bI hope\b")
_NUMBER: Final = re.compile(r"(?<![\w.])-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:\s?/\s?\d+)?(?:\s?\\?%)?")
_UNBRACED: Final = re.compile(r"\\[a-zA-Z]+|-?\w+")
_BRACE: Final = re.compile(r"(?<!\\)[{}]")
_ASKED: Final = re.compile(r"[^.!?\n]{0,100}\?")  # "What is $2+2$?" states nothing
_REFUSED: Final = re.compile(r"\s*(?:is|are|was)\s+(?:not\b|wrong\b|incorrect\b)|\s*(?:isn't|cannot)\b", re.IGNORECASE)
_DENIED: Final = re.compile(r"\bnot\b|n't\b|\bcannot\b|\bnever\b", re.IGNORECASE)
_DENIED_NEXT: Final = re.compile(r"(?:\bnot|n't|\bcannot be|\bnever)\s*\Z", re.IGNORECASE)
_OPEN_END: Final = re.compile(r"\s*or (?:more|less|fewer|greater|higher|lower)\b", re.IGNORECASE)
_ABOUT: Final = re.compile(r"\A(?:approximately|about|roughly|exactly|equal to|simply|just)\s+", re.IGNORECASE)
_MINUS: Final = re.compile(r"(?:\bnegative|\A\s*minus)\s+(?=\.?\d)", re.IGNORECASE)
_ASIDE: Final = re.compile(r"\s*\(\s*not\b[^()]*\)\s*\Z", re.IGNORECASE)
_MAX_TEXT: Final = 100_000  # characters from the end that are read
_MAX_ANSWER: Final = 2_000


def find_answer(text: str) -> str | None:
    r"""Return the answer's LaTeX or words; None when the text states none.

    Read are, in this order: the last \boxed{} (several joined by commas or "and" are one answer), what follows the
    last "answer is" or "Answer:" up to the end of the sentence, the last formula between dollars that is not in a
    question, the last number.

    >>> find_answer(r"We get \boxed{3} and \boxed{4}."), find_answer("The final answer is 12 apples. I hope so.")
    ('3,4', '12\\text{ apples}')
    """
    text = text[-_MAX_TEXT:]
    boxes = list(_boxes(text))
    if boxes:
        return _join(text, boxes)
    announced = [match.end() for match in _ANNOUNCED.finditer(text)]
    for start in reversed(announced):
        tail = text[start : start + _MAX_ANSWER]
        formulas = list(_formulas(tail.partition("\n\n")[0]))
        sentence = _cut_sentence(tail)
        if formulas and formulas[0][0] <= len(sentence):
            before = tail[: formulas[0][0]]
            if _DENIED.search(before):
                continue
            return _qualify(before, _join(tail, formulas, first=True), tail[formulas[0][1] :])
        if sentence.strip():
            return read_words(sentence)
    formulas = [piece for piece in _formulas(text) if _is_stated(text, piece)]
    if formulas:
        return _join(text, formulas)
    if _BOX.search(text):  # empty, or cut off
        return None
    numbers = [match[0] for match in _NUMBER.finditer(text) if any(symbol.isdigit() for symbol in match[0])]
    if len(text) <= 60 and "\n" not in text.strip() and text.strip():
        return read_words(_cut_sentence(text.strip()))
    return numbers[-1].replace("%", "\\%").replace("\\\\", "\\") if numbers else None


def read_words(text: str) -> str:
    r"""Write plain text as LaTeX: names of functions and constants, percent signs, and other words as \text{}.

    >>> read_words("x = 2 sqrt(3)"), read_words("50 percent"), read_words("3 or -3")
    ('x = 2 \\sqrt{3}', '50\\%', '3 , -3')
    """
    text = _ASIDE.sub("", text.strip().strip("*_`\"'").strip().rstrip(".,;:").strip())
    text = _MINUS.sub("-", _ABOUT.sub("", text))
    if "\\" in text.replace("\\%", "").replace("\\$", ""):
        return text
    text = re.sub(r"(?<!\\)%|\s*\bper ?cent\b", r"\\%", text)
    text = re.sub(r"\bsqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = re.sub(r"\b(?:and|or)\b(?!\s+(?:more|less|fewer|greater|higher|lower)\b)", ",", text)
    text = re.sub(r"(?<!\\)\b(pi|infinity|sin|cos|tan|ln|log|exp)\b", _function, text)
    return re.sub(r"(?<![\\{A-Za-z])\s*[A-Za-z]{2,}(?:[ -]+[A-Za-z]{2,})*", _words, text)


def _qualify(before: str, formula: str, behind: str) -> str:
    """The formula with the words around it that bound it: "at least $5$", "$5$ or more"."""
    open_end = _OPEN_END.match(behind)
    words = find_qualifiers(before) + ([open_end[0].strip()] if open_end is not None else [])
    return "".join(f"\\text{{{word} }}" for word in words) + formula


def _function(match: re.Match[str]) -> str:
    return "\\infty" if match[1] == "infinity" else f"\\{match[1]}"


def _words(match: re.Match[str]) -> str:
    return f"\\text{{{match[0]}}}"


def _boxes(text: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and content of each box, with balanced braces; one that is cut off by the end is left out."""
    closing = _match_braces(text)
    for match in _BOX.finditer(text):
        if match[1]:
            start, end = match.end(), closing.get(match.end() - 1, 0)
            if text[start:end].strip():
                yield match.start(), end + 1, text[start:end].strip()
        elif (content := _UNBRACED.match(text, match.end())) is not None:
            yield match.start(), content.end(), content[0]


def _match_braces(text: str) -> dict[int, int]:
    """Where the brace that opens at a place closes."""
    opened: list[int] = []
    closing = {}
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            closing[opened.pop()] = brace.start()
    return closing


def _formulas(text: str) -> Iterator[tuple[int, int, str]]:
    for match in _FORMULA.finditer(text):
        content = next(group for group in match.groups() if group is not None).strip()
        if content:
            yield match.start(), match.end(), content


def _is_stated(text: str, formula: tuple[int, int, str]) -> bool:
    """Not part of a question, not "not $5$", not "$5$ is wrong"."""
    start, end, _ = formula
    before = text[max(0, start - 12) : start]
    return not (_ASKED.match(text, end) or _REFUSED.match(text, end) or _DENIED_NEXT.search(before))


def _join(text: str, pieces: list[tuple[int, int, str]], *, first: bool = False) -> str:
    """Return the last piece (or the first) with those that commas, "and" or "or" join to it."""
    groups = [[pieces[0]]]
    for before, piece in itertools.pairwise(pieces):
        if _JOINER.fullmatch(text[before[1] : piece[0]]):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return ",".join(content for _, _, content in groups[0 if first else -1])


def _cut_sentence(text: str) -> str:
    found = _SENTENCE_END.search(text)
    return text[: found.start()] if found else text
