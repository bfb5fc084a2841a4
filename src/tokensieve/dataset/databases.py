"""The SQLite file that a row is about: where it lies, and the tables in it."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from glob import escape, glob
from pathlib import Path
from typing import Any, Final

from tokensieve.dataset.templates import RowTemplate
from tokensieve.errors import ConfigError, DataError
from tokensieve.sources.readers import Row

_KEY: Final = "dataset.databases"
_JINJA: Final = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
_TABLES: Final = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND type IN ('table', 'view') ORDER BY rowid"


@dataclass(slots=True)
class DatabaseFiles:
    """The databases below a folder, found by a row's columns.

    Attributes:
        folder: where `pattern` starts; None: the pattern must be absolute.
        pattern: a Jinja template over the row's columns that gives a path; `*` and `**` in it (not in the columns)
            stand for any name and any folders.

    Raises:
        ConfigError: no such folder, or a pattern that does not compile.
    """

    folder: Path | None
    pattern: str
    _template: RowTemplate = field(init=False)
    _schemas: dict[Path, str] = field(init=False, default_factory=dict)
    _found: dict[str, Path] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._template = RowTemplate(_KEY, self.pattern)
        if self.folder is None and not Path(self.pattern).is_absolute():
            remedy = "set dataset.path to a local copy, or dataset.databases to an absolute path"
            raise ConfigError(_KEY, "starts at the folder of dataset.path", received=self.pattern, remedy=remedy)

    def identity(self) -> dict[str, Any]:
        """For stamps: the pattern and the place, size and time of all files that any row could mean."""
        files = [Path(name) for name in sorted(self._glob(_JINJA.sub("*", self.pattern)))]
        stats = [(file, file.stat()) for file in files]
        return {"pattern": self.pattern, "files": [[str(file), stat.st_size, stat.st_mtime_ns] for file, stat in stats]}

    def attach(self, row: Row, where: str) -> Row:
        """`row` with `database_file`, an absolute path, and `schema`, the CREATE statements unless it has its own.

        Raises:
            DataError: no such file, more than one, or none that SQLite can read.
        """
        file = self._find(row, where)
        try:
            schema = row.get("schema") or self._read_schema(file)
        except (sqlite3.Error, OSError) as error:
            remedy = "unpack the databases again"
            raise DataError(where, f"{file} must be an SQLite database", received=str(error), remedy=remedy) from error
        return {**row, "database_file": str(file), "schema": schema}

    def _find(self, row: Row, where: str) -> Path:
        literal = {name: escape(value) if isinstance(value, str) else value for name, value in row.items()}
        wanted = self._template.render(literal, where)
        if wanted not in self._found:
            files = [] if ".." in Path(wanted).parts else self._glob(wanted)
            if len(files) != 1:
                raise DataError(
                    where,
                    f"{_KEY} must lead to one file; {wanted} below {self.folder} leads to {len(files)}",
                    remedy="unpack the databases beside the rows, or correct dataset.databases",
                )
            self._found[wanted] = Path(files[0]).absolute()
        return self._found[wanted]

    def _glob(self, pattern: str) -> list[str]:
        start = "" if self.folder is None else escape(str(self.folder))
        return glob(str(Path(start) / pattern), recursive=True)

    def _read_schema(self, file: Path) -> str:
        from tokensieve.graders.isolated.compare_on_file import open_read_only  # the graders bring numpy

        if file not in self._schemas:
            with closing(open_read_only(file)) as connection:
                rows = connection.execute(_TABLES).fetchall()
            text = ";\n".join(str(statement).strip() for (statement,) in rows)
            self._schemas[file] = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return self._schemas[file]
