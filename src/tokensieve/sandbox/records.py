"""What goes into the sandbox and what comes out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a job ended. Only `PASSED` means that every test ran to its end and held."""

    PASSED = "passed"
    FAILED = "failed"  # a test's assertion is false, or a query's rows differ
    ERROR = "error"  # it raised, left early, died, or does not compile
    TIMEOUT = "timeout"
    MEMORY = "memory"
    INVALID = "invalid"  # the reference itself does not work: not the candidate's fault


@dataclass(frozen=True, slots=True)
class Program:
    """A candidate's Python source, and the tests that it never sees.

    `setup` runs after the source and before the tests, on the tests' side: it may use the candidate's names.
    """

    source: str
    tests: tuple[str, ...]
    setup: str = ""

    kind = "python"

    def payload(self) -> bytes:
        """What only the judge reads."""
        return json.dumps({"source": self.source, "tests": self.tests, "setup": self.setup}).encode()


@dataclass(frozen=True, slots=True)
class Query:
    """A candidate's SQL query, the script that makes its in-memory database, and the query it must agree with."""

    query: str
    database: str
    gold: str

    kind = "sql"

    def payload(self) -> bytes:
        """What only the judge reads."""
        return json.dumps({"query": self.query, "database": self.database, "gold": self.gold}).encode()


@dataclass(frozen=True, slots=True)
class Verdict:
    """`seconds` is wall-clock time inside the sandbox; `reason` is one line for a person."""

    outcome: Outcome
    reason: str
    seconds: float

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.PASSED
