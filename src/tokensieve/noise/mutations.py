"""Small wrong edits of Python programs: one operator, constant, bound, name or return value; the layout stays.

Edits replace a piece of the source text, not the tree, so that a wrong program looks like the right one.
"""

from __future__ import annotations

import ast
import random
import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Final, NamedTuple

_COMPARE: Final[Mapping[type[ast.cmpop], tuple[str, str]]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
}
_ARITHMETIC: Final[Mapping[type[ast.operator], tuple[str, str]]] = {
    ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: (r"\*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
    ast.Pow: (r"\*\*", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: (r"\|", "&"),
    ast.BitXor: (r"\^", "&"),
}
_RIVALS: Final[Mapping[str, str]] = {"min": "max", "max": "min", "any": "all", "all": "any"}
_INTEGER: Final = re.compile(rb"\d+")


class _Edit(NamedTuple):
    """Replace bytes `start` to `end` of the source."""

    start: int
    end: int
    text: str


def draw_mutants(source: str, rng: random.Random, limit: int) -> list[str]:
    """At most `limit` programs one edit away from `source` that parse and mean something else, in random order.

    Edits that look like slips come first; the last places are kept for functions that return nothing, the blunt edit
    that nearly always tells. None where the source does not parse.

    >>> draw_mutants("def f(a, b):\\n    return a + b", random.Random(0), 5)
    ['def f(a, b):\\n    return a - b', 'def f(a, b):\\n    return None']
    """
    try:
        tree = _parse(source)
        if tree is None:
            return []
        text, meaning = _Text(source), ast.dump(tree)
        edits = [[edit for node in _walk(tree) for edit in find(node, text)] for find in (_blunders, _slips)]
    except RecursionError:  # an expression thousands of levels deep parses, but cannot be walked
        return []
    blunt, slips = (_draw(found, text, meaning, rng, limit) for found in edits)
    return [*slips[: max(limit - min(len(blunt), 1), 0)], *blunt][:limit]


def _draw(edits: list[_Edit], text: _Text, meaning: str, rng: random.Random, limit: int) -> list[str]:
    """Up to `limit` distinct programs; parsed only as far as needed, since a long program has thousands of edits."""
    rng.shuffle(edits)
    found: dict[str, None] = {}
    for edit in edits:
        if len(found) == limit:
            break
        mutant = text.apply(edit)
        parsed = _parse(mutant)
        if parsed is not None and ast.dump(parsed) != meaning:
            found[mutant] = None
    return list(found)


class _Text:
    """A program's bytes; the tree counts lines and bytes."""

    def __init__(self, source: str) -> None:
        self.bytes = source.encode()
        self.starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def start(self, node: ast.expr) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr) -> int:
        assert node.end_lineno is not None  # set by `ast.parse`
        assert node.end_col_offset is not None
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr) -> str:
        return self.bytes[self.start(node) : self.end(node)].decode()

    def replace(self, node: ast.expr, text: str) -> _Edit:
        return _Edit(self.start(node), self.end(node), text)

    def between(self, left: ast.expr, right: ast.expr, pattern: str, text: str) -> Iterator[_Edit]:
        """Replace the operator between two operands; nothing where a comment stands there too."""
        start = self.end(left)
        gap = self.bytes[start : self.start(right)]
        match = re.fullmatch(rb"([\s()\\]*)(" + pattern.encode() + rb")([\s()\\]*)", gap)
        if match:
            yield _Edit(start + match.start(2), start + match.end(2), text)

    def apply(self, edit: _Edit) -> str:
        return (self.bytes[: edit.start] + edit.text.encode() + self.bytes[edit.end :]).decode()


def _parse(source: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes, `is` with a literal: not ours to report
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node in the order of the text; the insides of f-strings, whose positions are not exact, are left out."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.JoinedStr):
            yield from _walk(child)


def _slips(node: ast.AST, text: _Text) -> Iterator[_Edit]:
    match node:
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            for before, operator, after in zip([left, *comparators], ops, comparators, strict=False):
                yield from text.between(before, after, *_COMPARE[type(operator)])
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC and not _is_text(left):
            yield from text.between(left, right, *_ARITHMETIC[type(op)])
        case ast.AugAssign(target=target, op=op, value=value) if type(op) in _ARITHMETIC:
            pattern, rival = _ARITHMETIC[type(op)]
            yield from text.between(target, value, f"{pattern}=", f"{rival}=")
        case ast.BoolOp(op=op, values=values):
            pattern, rival = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
            for before, after in pairwise(values):
                yield from text.between(before, after, pattern, rival)
        case ast.Constant(value=bool(value)):
            yield text.replace(node, str(not value))
        case ast.Constant(value=int(value)) if _INTEGER.fullmatch(text.of(node).encode()):
            yield text.replace(node, str(value + 1))
            yield text.replace(node, str(value - 1))
        case ast.Slice(lower=lower, upper=upper):
            for bound in (lower, upper):
                if bound is not None and not isinstance(bound, ast.Constant):
                    yield from _off_by_one(bound, text)
        case ast.Call(func=ast.Name(id="range"), args=[*_, ast.expr() as bound]) if not isinstance(bound, ast.Constant):
            yield from _off_by_one(bound, text)
        case ast.Name(id=name, ctx=ast.Load()) if name in _RIVALS:
            yield text.replace(node, _RIVALS[name])
        case ast.Return(value=(ast.Compare() | ast.BoolOp()) as value):
            yield text.replace(value, f"not ({text.of(value)})")
        case _:
            pass


def _blunders(node: ast.AST, text: _Text) -> Iterator[_Edit]:
    if isinstance(node, ast.Return) and node.value is not None:
        yield text.replace(node.value, "None")


def _off_by_one(bound: ast.expr, text: _Text) -> Iterator[_Edit]:
    inner = text.of(bound)
    if isinstance(bound, (ast.IfExp, ast.Compare, ast.BoolOp, ast.Lambda)):
        inner = f"({inner})"
    yield text.replace(bound, f"{inner} + 1")
    yield text.replace(bound, f"{inner} - 1")


def _is_text(node: ast.expr) -> bool:
    """Whether `%` or `*` after this node formats or repeats a text."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)))
