"""Programs are graded by running their reference tests in the sandbox."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tokensieve.errors import DataError
from tokensieve.graders.grade import Grade, References, locate, read_reference
from tokensieve.sandbox import Program, Verdict, run_jobs

# The opening fence with its indentation and language, the body, and the closing fence or the end of a cut-off text.
_FENCE: Final = re.compile(r"^([ \t]*)(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^[ \t]*\2|\Z)", re.DOTALL | re.MULTILINE)


def extract_block(text: str) -> str:
    """Return the first fenced block that holds something, without its fences; the whole text when there is none.

    A block in a list loses its indentation, as in CommonMark: up to that of its opening fence in each line.

    >>> extract_block("Sure:\\n```python\\nx = 1\\n```\\nDone.")
    'x = 1\\n'
    """
    text = text.replace("\r\n", "\n")
    blocks = (
        re.sub(rf"^[ \t]{{0,{len(match[1])}}}", "", match[3], flags=re.MULTILINE) for match in _FENCE.finditer(text)
    )
    return next((block for block in blocks if block.strip()), text)


def extract_program(text: str) -> str | None:
    """Return the program of a text as its syntax tree reads, whatever its comments and blanks; None without one.

    A program that does not parse is given as it stands.

    >>> extract_program("```python\\nx=1 # one\\n```") == extract_program("x = 1")
    True
    """
    block = extract_block(text).strip()
    try:
        with warnings.catch_warnings():  # of odd escapes in the text
            warnings.simplefilter("ignore")
            return ast.unparse(ast.parse(block)).strip() or None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return block or None


def grade_programs(
    texts: Sequence[str], references: References, *, seconds: float, progress: str | None
) -> list[Grade]:
    """Run `reference["tests"]` (Python statements, each a test) against the program in each text.

    Also read: `setup`, statements that run before the tests; `test_list` and `test_setup_code`, the names of MBPP's
    file, stand for `tests` and `setup`.

    Raises:
        DataError: a reference without tests, which every program would pass.
    """
    jobs = []
    for at, (text, reference) in enumerate(zip(texts, references, strict=True)):
        with locate(at):
            tests = _read_tests(reference)
            setup = str(reference.get("setup") or reference.get("test_setup_code") or "")
        jobs.append(Program(extract_block(text), tests, setup))
    return [grade_verdict(verdict) for verdict in run_jobs(jobs, seconds=seconds, progress=progress)]


def grade_verdict(verdict: Verdict) -> Grade:
    """Score 1 for a pass, else 0 with the outcome."""
    return Grade(float(verdict.passed), verdict.reason if verdict.passed else f"{verdict.outcome}: {verdict.reason}")


def _read_tests(reference: Mapping[str, Any]) -> tuple[str, ...]:
    key = "tests" if "tests" in reference else "test_list"
    tests = tuple(map(str, read_reference(reference, key, (list, tuple))))
    if not tests:
        raise DataError("reference.tests", "must hold at least one test", received=tests, remedy="leave the row out")
    return tests
