"""The store of completions: what is put is found, by any process, and damage is said clearly."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tokensieve.completions.records import Completion, Decoding
from tokensieve.completions.store import CompletionStore, completion_key
from tokensieve.errors import CacheError

GREEDY = Decoding(max_new_tokens=8)
SAMPLED = Decoding(max_new_tokens=8, temperature=0.7, seed=1)
ASKED = [{"role": "user", "content": "hi"}]


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_what_is_put_is_found_as_it_was(tmp_path: Path) -> None:
    given = {
        key(0): Completion(text="plain", is_complete=True, mean_nll=0.1 + 0.2, mean_entropy=1e-300),
        key(1): Completion(text="", is_complete=False),
        key(2): Completion(text="nul \x00 in it, \U0001f600 é \u2028 \r\n", is_complete=True, mean_nll=0.0),
        key(3): Completion(text="x" * 3_000_000, is_complete=True),
        key(4): Completion(text="123", is_complete=True),
    }
    with CompletionStore(tmp_path / "new" / "c.sqlite") as store:
        for name, completion in given.items():
            assert store.put(name, completion) == completion
        assert store.find(given) == given
    with CompletionStore(tmp_path / "new" / "c.sqlite") as store:
        assert store.find([*given, key(9)]) == given
        assert store.find([]) == {}
        assert len(store) == 5


def test_the_first_of_two_for_one_key_stays(tmp_path: Path) -> None:
    first, second = Completion(text="a", is_complete=True), Completion(text="b", is_complete=True)
    with CompletionStore(tmp_path / "c") as one, CompletionStore(tmp_path / "c") as two:
        assert one.put(key(1), first) == first
        assert two.put(key(1), second) == first
        assert one.find([key(1)]) == {key(1): first}


def test_many_keys_at_once(tmp_path: Path) -> None:
    with CompletionStore(tmp_path / "c") as store:
        for number in range(0, 1700, 2):
            store.put(key(number), Completion(text=str(number), is_complete=True))
        found = store.find(key(number) for number in range(1700))
    assert len(found) == 850
    assert found[key(1698)].text == "1698"


def test_not_a_number_is_none(tmp_path: Path) -> None:
    with CompletionStore(tmp_path / "c") as store:
        store.put(key(1), Completion(text="a", is_complete=True, mean_nll=math.nan))
        assert store.find([key(1)])[key(1)].mean_nll is None


def test_the_key_has_all_that_decides_a_completion_and_nothing_else() -> None:
    def sampled(**changes: object) -> Decoding:
        return Decoding(**({"max_new_tokens": 8, "temperature": 0.7, "seed": 1} | changes))  # type: ignore[arg-type]

    base = completion_key({"m": 1}, ASKED, SAMPLED, 0)
    different = [
        completion_key({"m": 2}, ASKED, SAMPLED, 0),
        completion_key({"m": 1}, [{"role": "user", "content": "hi "}], SAMPLED, 0),
        completion_key({"m": 1}, [{"role": "system", "content": "hi"}], SAMPLED, 0),
        completion_key({"m": 1}, [*ASKED, *ASKED], SAMPLED, 0),
        completion_key({"m": 1}, ASKED, SAMPLED, 1),
        *(
            completion_key({"m": 1}, ASKED, sampled(**change), 0)  # type: ignore[arg-type]
            for change in ({"max_new_tokens": 9}, {"temperature": 0.8}, {"top_p": 0.9}, {"stop": ("x",)}, {"seed": 2})
        ),
        completion_key({"m": 1}, ASKED, GREEDY, 0),
    ]
    assert len({base, *different}) == 12
    assert completion_key({"m": 1}, [{"content": "hi", "role": "user"}], sampled(), 0) == base
    assert completion_key({}, ASKED, sampled(temperature=1), 0) == completion_key({}, ASKED, sampled(temperature=1.0), 0)  # fmt: skip
    assert len(base) == 32


def test_greedy_reads_no_seed_no_nucleus_and_no_sample_number() -> None:
    plain = completion_key({}, ASKED, GREEDY, 0)
    assert completion_key({}, ASKED, Decoding(max_new_tokens=8, seed=5, top_p=0.5), 3) == plain


def test_the_key_stays_what_it_was() -> None:
    """A changed digest would make every stored completion be paid for again."""
    found = completion_key({"m": 1}, [{"role": "user", "content": "hé"}], SAMPLED, 2).hex()
    assert found == "358d88570ddb307066c1f49b74e201d36e52ed9101501ca47bcd5c672f0c9f58"


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be read as one" * 9, b"SQLite format 3\x00" + b"\x07" * 4000])  # fmt: skip
def test_a_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.sqlite"
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"c\.sqlite: must be an intact store.*move the file away"):
        CompletionStore(path)
    assert path.read_bytes() == content


def test_a_damaged_page(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    with CompletionStore(path) as store:
        for number in range(2000):
            store.put(key(number), Completion(text="x" * 50, is_complete=True))
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 20] = b"\xff" * (4096 * 17)
    path.write_bytes(content)
    with pytest.raises(CacheError, match="intact"), CompletionStore(path) as store:
        store.find(key(number) for number in range(2000))


def test_another_database_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE runs (id)")
    connection.close()
    with pytest.raises(CacheError, match="format 1"):
        CompletionStore(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("runs",)]
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(CacheError, match="received 'format 7'"):
        CompletionStore(path)


def test_a_locked_database(tmp_path: Path) -> None:
    with CompletionStore(tmp_path / "c", lock_seconds=0.05) as store:
        other = sqlite3.connect(tmp_path / "c", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CacheError, match=r"free to write.*end the process"):
            store.put(key(1), Completion(text="a", is_complete=True))
        other.execute("ROLLBACK")
        other.close()
        store.put(key(1), Completion(text="a", is_complete=True))
        assert len(store) == 1


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "c.sqlite", tmp_path):
        with pytest.raises(CacheError, match="writable"):
            CompletionStore(path)


WRITER = """
import sys
from pathlib import Path
from tokensieve.completions import Completion
from tokensieve.completions.store import CompletionStore
first = int(sys.argv[2])
with CompletionStore(Path(sys.argv[1])) as store:
    for number in range(first, first + 300):
        store.put(number.to_bytes(32, "big"), Completion(text=str(number), is_complete=True))
"""


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"
    jobs = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(first)]) for first in (0, 150, 300)]
    assert [job.wait(120) for job in jobs] == [0, 0, 0]
    with CompletionStore(path) as store:
        found = store.find(key(number) for number in range(600))
    assert {int.from_bytes(name, "big"): completion.text for name, completion in found.items()} == {
        number: str(number) for number in range(600)
    }


def test_the_store_and_the_records_load_nothing_heavy() -> None:
    program = (
        "import sys, tokensieve.completions, tokensieve.completions.store, tokensieve.completions.complete,"
        " tokensieve.completions.endpoint, tokensieve.completions.local;"
        "print(sorted({'torch', 'transformers', 'httpx2', 'anyio', 'tenacity'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
