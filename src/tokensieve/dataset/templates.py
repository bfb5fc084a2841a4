"""Jinja over the columns of a row: the prompt, the response, and what the grader reads.

Beside Jinja's own filters there are four:

* `letter`: a number from 0 -> A, B, C ...; a text of digits counts as a number
* `lettered(labels)`: a list of options -> lines "A. option", with the row's own labels where they are given
* `from_json`: a JSON text in a cell -> its value
* `boxed`: the content of the last LaTeX `\\boxed{...}` of a text
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from tokensieve.errors import ConfigError, DataError
from tokensieve.sources.readers import Row

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

_BOXED: Final = ("\\boxed{", "\\fbox{")


def letter(number: object) -> str:
    """The label of option `number`, counted from 0, below 26.

    >>> letter(2), letter("0")
    ('C', 'A')
    """
    place = int(str(number))
    if not 0 <= place < 26:
        raise ValueError(f"option {place} has no letter")
    return chr(ord("A") + place)


def lettered(options: Sequence[object], labels: Sequence[object] | None = None) -> str:
    """One line an option, its label first.

    >>> lettered(["red", "blue"], ["1", "2"])
    '1. red\\n2. blue'
    """
    names = [letter(place) for place in range(len(options))] if labels is None else labels
    return "\n".join(f"{name}. {option}" for name, option in zip(names, options, strict=True))


def boxed(text: str) -> str:
    r"""The content of the last \boxed{...}, braces balanced.

    >>> boxed(r"so $\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    """
    mark = max(_BOXED, key=text.rfind)
    start = text.rfind(mark)
    if start < 0 or text.rfind("\\boxed ") > start:
        _, found, rest = text.rpartition("\\boxed ")  # a few published solutions write \boxed 5
        if not found:
            raise ValueError(r"no \boxed{...} in the text")
        return rest.split("$")[0].strip()
    depth, begin = 1, start + len(mark)
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0) if text[at - 1] != "\\" else 0
        if depth == 0:
            return text[begin:at]
    raise ValueError(r"\boxed{ is never closed")


@cache
def _environment() -> SandboxedEnvironment:
    """Sandboxed: a template may come with somebody else's config. A null is refused, or it would read "None"."""
    from jinja2 import StrictUndefined, UndefinedError
    from jinja2.sandbox import SandboxedEnvironment

    def finalize(value: Any) -> Any:
        if value is None:
            raise UndefinedError("a column of the template is null")
        return value

    environment = SandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=finalize
    )
    environment.filters |= {"letter": letter, "lettered": lettered, "from_json": json.loads, "boxed": boxed}
    return environment


class RowTemplate:
    """A compiled template; `key` names it in messages.

    Raises:
        ConfigError: it does not compile.
    """

    def __init__(self, key: str, text: str) -> None:
        self.key = key
        self._template = _compile(key, text, _environment().from_string)

    def render(self, row: Row, where: str) -> str:
        """The text for `row`. Raises DataError when the row lacks a column, or a filter cannot read it."""
        return str(_evaluate(self._template.render, row, where, self.key))


class RowExpression:
    """A Jinja expression in double braces whose value, of any type, is taken as it is; `key` names it in messages.

    >>> RowExpression("reference.answer", "{{ options | length }}").evaluate({"options": [1, 2]}, "row 1")
    2
    """

    def __init__(self, key: str, text: str) -> None:
        self.key = key
        inner = text.strip().removeprefix("{{").removesuffix("}}")
        self._evaluate = _compile(
            key, inner, lambda source: _environment().compile_expression(source, undefined_to_none=False)
        )

    def evaluate(self, row: Row, where: str) -> Any:
        """The value for `row`. Raises DataError when the row lacks a column, a filter cannot read it, or it is null."""

        def checked(row: Row) -> Any:
            from jinja2 import Undefined, UndefinedError

            value = self._evaluate(row)
            if value is None or isinstance(value, Undefined):
                raise UndefinedError("the value is null or not there")
            return value

        return _evaluate(checked, row, where, self.key)


def _compile(key: str, text: str, compiler: Any) -> Any:
    from jinja2 import TemplateError

    try:
        return compiler(text)
    except TemplateError as error:
        remedy = "see the Jinja documentation; quote the template in YAML"
        raise ConfigError(key, "must be a Jinja template", received=f"{text!r}: {error}", remedy=remedy) from None


def _evaluate(function: Any, row: Row, where: str, key: str) -> Any:
    from jinja2 import TemplateError

    try:
        return function(row)
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            where,
            f"{key} must fit the row's columns {sorted(row)}",
            received=str(error),
            remedy="correct the row, or the templates of the dataset option",
        ) from None
