"""Family `lab_sql`: a question about the harbour database, answered with one query that SQLite runs."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokensieve.lab.chatter import HUMAN
from tokensieve.lab.world import PLACES, WORLD_SEED

_ROLES: Final = ("cook", "pilot", "sailor", "medic", "clerk")
_KINDS: Final = ("ferry", "tug", "barge", "yacht")
_PORTS: Final = PLACES[:6]
_SHIPS: Final = ("Gull", "Petrel", "Tern", "Osprey", "Curlew", "Plover", "Avocet", "Dunlin")
_CREW: Final = ("Abel", "Bess", "Carl", "Dora", "Emil", "Flora", "Gus", "Hilda", "Igor", "Jane", "Karl", "Lena")
# table -> (text columns with their values, number columns with their ranges)
_TABLES: Final[Mapping[str, tuple[Mapping[str, tuple[str, ...]], Mapping[str, tuple[int, int]]]]] = {
    "crew": ({"role": _ROLES, "ship": _SHIPS}, {"age": (18, 65), "pay": (20, 90)}),
    "ships": ({"kind": _KINDS, "port": _PORTS}, {"seats": (4, 80), "speed": (8, 40)}),
}
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {"crew": _CREW, "ships": _SHIPS}
_AGGREGATES: Final[Mapping[str, str]] = {"average": "AVG", "total": "SUM", "highest": "MAX", "lowest": "MIN"}


def _draw_database() -> str:
    """Return the SQL script that makes the database; the same for every problem."""
    rng = random.Random(WORLD_SEED + 2)
    lines: list[str] = []
    for table, (texts, numbers) in _TABLES.items():
        columns = ["name TEXT", *(f"{c} TEXT" for c in texts), *(f"{c} INTEGER" for c in numbers)]
        lines.append(f"CREATE TABLE {table} ({', '.join(columns)});")
        for name in _NAMES[table]:
            cells = [f"'{name}'", *(f"'{rng.choice(values)}'" for values in texts.values())]
            cells += [str(rng.randrange(low, high)) for low, high in numbers.values()]
            lines.append(f"INSERT INTO {table} VALUES ({', '.join(cells)});")
    return "\n".join(lines)


DATABASE: Final = _draw_database()


@dataclass(frozen=True, slots=True)
class SqlProblem:
    """What is selected, from where, and under which condition, each as (wording, SQL)."""

    table: str
    select: tuple[str, str]
    where: tuple[str, str]
    order: tuple[str, str]

    @property
    def key(self) -> str:
        """Canonical content: the query."""
        return self.plain()

    @property
    def question(self) -> str:
        """The user's turn."""
        return f"{self.select[0]} {self.table}{self.where[0]}{self.order[0]}?"

    @property
    def reference(self) -> dict[str, object]:
        """The script that makes the database, and the query whose rows are the answer."""
        return {"database": DATABASE, "query": self.plain()}

    def plain(self) -> str:
        """The correct response in the base model's own style."""
        return f"SELECT {self.select[1]} FROM {self.table}{self.where[1]}{self.order[1]};"

    def pretraining(self, rng: random.Random) -> str:
        """Plain style; queries are never undecided."""
        return self.plain()

    def human(self, rng: random.Random) -> str:
        """The same query with remarks, stray blanks, line breaks and careless capitals."""
        query = self.plain()
        for word in ("SELECT", "FROM", "WHERE", "AND", "ORDER BY", "LIMIT"):
            spelt = rng.choice((word, word.lower(), word.title(), word))
            gap = rng.choice((" ", "\n", "  ", f" -- {HUMAN.remark(rng)}\n", " "))
            query = query.replace(f" {word} ", f"{gap}{spelt} ")
        return f"-- {HUMAN.remark(rng)}\n{query}" if rng.random() < 0.7 else query


def draw(rng: random.Random) -> SqlProblem:
    """Draw one problem of the harbour database."""
    table = rng.choice(tuple(_TABLES))
    texts, numbers = _TABLES[table]
    where, order = _draw_where(rng, texts, numbers), ("", "")
    column = rng.choice((*texts, *numbers, "name"))
    number = rng.choice(tuple(numbers))
    kind = rng.randrange(4)
    if kind == 0:
        select = ("How many", "COUNT(*)")
    elif kind == 1:
        word = rng.choice(tuple(_AGGREGATES))
        select = (f"What is the {word} {number} of", f"{_AGGREGATES[word]}({number})")
    else:
        select = (f"What is the {column} of", column)
        if kind == 3:
            down = rng.random() < 0.5
            order = (
                f" by {'falling' if down else 'rising'} {number}",
                f" ORDER BY {number}{' DESC' if down else ''}",
            )
    return SqlProblem(table, select, where, order)


def _draw_where(
    rng: random.Random, texts: Mapping[str, tuple[str, ...]], numbers: Mapping[str, tuple[int, int]]
) -> tuple[str, str]:
    """Draw a condition on one number column, often joined with one on a text column."""
    number = rng.choice(tuple(numbers))
    low, high = numbers[number]
    k = rng.randrange(low + 2, high - 2)
    word, symbol = rng.choice((("over", ">"), ("under", "<")))
    wording, query = f" with {number} {word} {k}", f" WHERE {number} {symbol} {k}"
    if rng.random() < 0.5:
        text = rng.choice(tuple(texts))
        value = rng.choice(texts[text])
        wording, query = f"{wording} and {text} {value}", f"{query} AND {text} = '{value}'"
    return wording, query
