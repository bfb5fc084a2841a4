"""The ledger of rows that do not fit: an error at once, or skipped, written down and counted."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, TextIO

from tokensieve.errors import DataError

LEDGER_FILE: Final = "bad_rows.jsonl"
MAX_BAD_FRACTION: Final = 0.05


class BadRows:
    """What is done with bad rows while one split is read. A context manager: it owns the ledger's file.

    Attributes:
        num_read: rows of the source, of every split, bad ones not among them.
        num_fitting: rows of the split that became examples.
        num_unreadable: rows that the reader refused (no JSON object, missing cells); their split is not known.
        num_unfit: rows of the split that the layout or the templates refused.
    """

    def __init__(self, folder: Path, policy: Literal["error", "skip"]) -> None:
        self.policy = policy
        self.num_read = self.num_fitting = self.num_unreadable = self.num_unfit = 0
        self._path = folder / LEDGER_FILE
        self._stream: TextIO | None = None

    def __enter__(self) -> BadRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()

    @property
    def num_bad(self) -> int:
        return self.num_unreadable + self.num_unfit

    def refuse_unreadable(self, error: DataError) -> None:
        """Take a row that the reader refused. Raises `error` unless rows are skipped."""
        self.num_unreadable += 1
        self._record(error)

    def refuse_unfit(self, error: DataError) -> None:
        """Take a row of the split that is no example. Raises `error` unless rows are skipped."""
        self.num_unfit += 1
        self._record(error)

    def _record(self, error: DataError) -> None:
        if self.policy == "error":
            raise error
        if self._stream is None:
            self._stream = self._path.open("w", encoding="utf-8", errors="backslashreplace")
        file, _, row = error.subject.rpartition(":")
        entry = {"file": file, "row": int(row) if row.isdigit() else row, "reason": str(error)}
        self._stream.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def check_share(self, what: str) -> None:
        """Refuse a source of which more than 5 % is bad, among the rows read or among those of the split.

        Raises:
            DataError: with the counts, and the first entry of the ledger.
        """
        for bad, good in ((self.num_unreadable, self.num_read), (self.num_unfit, self.num_fitting)):
            if bad > MAX_BAD_FRACTION * (bad + good):
                assert self._stream is not None
                self._stream.flush()
                with self._path.open(encoding="utf-8") as ledger:
                    first = json.loads(ledger.readline())
                raise DataError(
                    what,
                    f"at most {MAX_BAD_FRACTION:.0%} of its rows may be bad with dataset.on_bad_row=skip",
                    received=f"{bad} bad rows of {bad + good}",
                    remedy=f"correct the data or its mapping; the first: {first['reason'].rstrip('.')}",
                )
