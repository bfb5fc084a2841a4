"""Files, folders and the hub as rows: every format, every compression, and what is wrong with damaged ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tokensieve.errors import ConfigError, DataError
from tokensieve.sources import HubSource, LocalSource
from tokensieve.sources.readers import FILE_SUFFIXES, read_rows
from tokensieve.sources.readers.streams import CHUNK_BYTES

ROWS = [{"q": f"naïve {n} 数学 ☕\nline", "a": f'say "{n}", or', "n": n} for n in range(2500)]


def save(path: Path, suffix: str, rows: list[dict[str, Any]] = ROWS) -> None:
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".json":
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    elif suffix == ".csv":
        import pandas as pd

        pd.DataFrame(rows).to_csv(path, index=False)
    elif suffix == ".parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=1000)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pa.Table.from_pylist(rows).schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows), max_chunksize=2000)


def pack(data: bytes, ending: str) -> bytes:
    half = len(data) // 2  # two frames: what `cat a.gz b.gz` gives
    parts = (data[:half], data[half:])
    if ending == ".gz":
        return b"".join(map(gzip.compress, parts))
    return b"".join(pa.compress(part, codec="zstd", asbytes=True) for part in parts) if ending else data


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("suffix", FILE_SUFFIXES)
def test_every_format_and_compression_gives_the_same_rows(tmp_path: Path, suffix: str, ending: str) -> None:
    plain = tmp_path / f"plain{suffix}"
    save(plain, suffix)
    path = tmp_path / f"rows{suffix}{ending}"
    path.write_bytes(pack(plain.read_bytes(), ending))
    rows = [{**row, "n": int(row["n"])} for _, row in read_rows(path)]
    assert rows == ROWS


def test_arrow_file_format_is_read_too(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS[:5])
    with pa.OSFile(str(tmp_path / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert list(read_rows(tmp_path / "rows.arrow")) == list(enumerate(ROWS[:5], start=1))


def test_json_file_with_one_object_a_line_and_byte_order_marks(tmp_path: Path) -> None:
    (tmp_path / "lines.json").write_text('{"q": 1}\n\n{"q": 2}\n', encoding="utf-8-sig")
    assert list(read_rows(tmp_path / "lines.json")) == [(1, {"q": 1}), (3, {"q": 2})]
    (tmp_path / "list.json").write_text(' [{"q": 1}]\n', encoding="utf-8-sig")
    assert list(read_rows(tmp_path / "list.json")) == [(1, {"q": 1})]
    (tmp_path / "rows.csv").write_text("q,a\n1,2\n\n", encoding="utf-8-sig")
    assert list(read_rows(tmp_path / "rows.csv")) == [(2, {"q": "1", "a": "2"})]


@pytest.mark.parametrize("shift", range(-6, 7))
def test_json_list_whose_items_end_at_the_window_s_edge(tmp_path: Path, shift: int) -> None:
    rows = [{"x": "y" * (CHUNK_BYTES - 12 + shift)}, {"x": [1, {"z": 2.5}]}, {"x": "e" * 3 * CHUNK_BYTES}, {}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    assert [row for _, row in read_rows(path)] == rows


@pytest.mark.parametrize("text", ["[]", " [ ] \n"])
def test_empty_json_list_has_no_rows(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    assert list(read_rows(tmp_path / "rows.json")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1}', "rows.json:1.*the text ends"),
        ('[{"a": 1},', "rows.json:2"),
        ('[{"a": 1} {"a": 2}]', "'{' behind the item"),
        ('[{"a": 1}] x', "'x' behind the list"),
        ('[{"a": }]', "rows.json:1"),
        ("hello", "starts with 'hello'"),
        ("[1, 2]", "rows.json:1.*int"),
        ("[12", "rows.json:1"),
        ("[" * 5000, "recursion"),
    ],
)
def test_damaged_json_list_says_where(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError, match=f"(?s){said}.*Remedy"):
        list(read_rows(tmp_path / "rows.json"))


def test_other_encodings_and_ragged_csv_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("q,a\né,b\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"rows\.csv:\d.*UTF-8"):
        list(read_rows(path))
    path.write_text("q,a\n1,2\n1\n1,2,3\n3,4\n")
    with pytest.raises(DataError, match=r"rows\.csv:3: must have 2 cells.*received 1"):
        list(read_rows(path))
    bad: list[DataError] = []
    assert [row["q"] for _, row in read_rows(path, bad.append)] == ["1", "3"]
    assert [error.subject for error in bad] == [f"{path}:3", f"{path}:4"]
    path.write_text("q,q\n1,2\n")
    with pytest.raises(DataError, match="must be unique"):
        list(read_rows(path))


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def garble(data: bytes) -> bytes:
    return b"not what it says"


@pytest.mark.parametrize("damage", [cut, garble])
@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst", "rows.parquet", "rows.arrow", "rows.parquet.zst"])
def test_damaged_binary_files_name_themselves(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    suffix, ending = Path(name).suffixes[0], "".join(Path(name).suffixes[1:])
    save(tmp_path / "plain", suffix)
    (tmp_path / name).write_bytes(damage(pack((tmp_path / "plain").read_bytes(), ending)))
    with pytest.raises(DataError, match=name):
        list(read_rows(tmp_path / name))


def saved_to_disk(folder: Path, *splits: str) -> Path:
    from datasets import Dataset, DatasetDict

    table = Dataset.from_list([{"q": str(n), "n": n} for n in range(10)])
    if splits:
        DatasetDict({split: table.select(range(place + 1)) for place, split in enumerate(splits)}).save_to_disk(folder)
    else:
        table.save_to_disk(folder, num_shards=3)
    return folder


def test_arrow_folder_of_one_table(tmp_path: Path) -> None:
    source = LocalSource(saved_to_disk(tmp_path / "saved"), "n", {"train": [0, 6], "test": [7, 9]})
    assert [row["n"] for _, row in source.rows("train")] == list(range(7))
    assert [row["n"] for _, row in source.rows("test")] == [7, 8, 9]
    assert (source.has_split("test"), source.has_split("validation")) == (True, False)
    assert source.identity("train") != source.identity("test")


def test_arrow_folder_of_splits_under_their_published_names(tmp_path: Path) -> None:
    folder = saved_to_disk(tmp_path / "saved", "train", "dev", "extra")
    source = LocalSource(folder, None, {})
    assert [source.has_split(split) for split in ("train", "validation", "test")] == [True, True, False]
    renamed = LocalSource(folder, None, {}, {"validation": None, "test": "extra"})
    assert [renamed.has_split(split) for split in ("train", "validation", "test")] == [True, False, True]
    assert len(list(renamed.rows("test"))) == 3


def test_arrow_folder_that_lost_a_file(tmp_path: Path) -> None:
    folder = saved_to_disk(tmp_path / "saved")
    next(iter(folder.glob("*.arrow"))).unlink()
    with pytest.raises(DataError, match=r"saved: must hold its Arrow files"):
        LocalSource(folder, None, {})
    (folder / "state.json").write_text("{}")
    with pytest.raises(DataError, match="must list the Arrow files"):
        LocalSource(folder, None, {})


def test_shards_in_order_and_two_files_for_one_split(tmp_path: Path) -> None:
    for number in (1, 0):
        save(tmp_path / f"train-0000{number}-of-00002.parquet", ".parquet", [{"q": number}])
    save(tmp_path / "val.jsonl", ".jsonl", [{"q": 5}])
    source = LocalSource(tmp_path, None, {})
    assert [row["q"] for _, row in source.rows("train")] == [0, 1]
    assert source.has_split("validation")
    save(tmp_path / "train.csv", ".csv", [{"q": 1}])
    with pytest.raises(ConfigError, match=r"one file for train.*train\.csv"):
        LocalSource(tmp_path, None, {})


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"),
        ("train-00000-of-00001.jsonl", "train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"),
        ("train-00000-of-00001.jsonl", "train-00000-of-00001.csv"),
    ],
)
def test_a_set_of_shards_that_is_not_whole(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        save(tmp_path / name, Path(name).suffix, [{"q": 1}])
    with pytest.raises(DataError, match=r"train-\*-of-\*: must be one whole set"):
        LocalSource(tmp_path, None, {})


def test_shards_with_a_hash_or_counted_from_one(tmp_path: Path) -> None:
    for number in (0, 1):
        save(tmp_path / f"train-0000{number}-of-00002-0a1b2c.jsonl", ".jsonl", [{"q": number}])
        save(tmp_path / f"test-{number + 1}-of-2.jsonl", ".jsonl", [{"q": number}])
    source = LocalSource(tmp_path, None, {})
    for split in ("train", "test"):
        assert [row["q"] for _, row in source.rows(split)] == [0, 1]


def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    file.write_text('prompt,completion\np1,"one\np2,two\np3,three\n')
    with pytest.raises(DataError, match=r"train\.csv:\d+: must be CSV.*quote that is not closed"):
        list(LocalSource(file, None, {}).rows("train"))


def test_a_name_taken_by_one_split_is_not_another_s(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        save(tmp_path / f"{name}.jsonl", ".jsonl", [{"q": name}])
    source = LocalSource(tmp_path, None, {}, {"test": "validation"})
    assert [source.has_split(split) for split in ("train", "validation", "test")] == [True, False, True]


def test_compressed_and_plain_copies_have_identities_of_their_own(tmp_path: Path) -> None:
    save(tmp_path / "a.jsonl", ".jsonl", ROWS[:3])
    save(tmp_path / "b.jsonl", ".jsonl", ROWS[:3])
    save(tmp_path / "c.jsonl", ".jsonl", ROWS[:4])
    first, second, third = (LocalSource(tmp_path / f"{name}.jsonl", None, {}).identity("train") for name in "abc")
    assert first == second != third


class FakeHub:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: Callable[[], Iterator[Any]]) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.rows = rows
        monkeypatch.setattr("datasets.load_dataset", self.load)

    def load(self, *names: Any, **options: Any) -> Iterator[Any]:
        self.calls.append((*names, options))
        return self.rows()


def test_hub_rows_are_streamed_at_the_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(monkeypatch, lambda: iter([{"q": 1}, {"q": 2}]))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    source = HubSource("owner/name", "main", "a" * 40, {"train": "train", "test": "validation"})
    assert list(source.rows("test")) == [
        ("owner/name/validation:1", {"q": 1}),
        ("owner/name/validation:2", {"q": 2}),
    ]
    assert hub.calls == [("owner/name", "main", {"split": "validation", "revision": "a" * 40, "streaming": True})]
    assert [source.has_split(split) for split in ("train", "validation", "test")] == [True, False, True]
    assert source.identity("train")["revision"] == "a" * 40


def test_hub_faults_are_one_line_also_in_the_middle(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Iterator[Any]:
        yield {"q": 1}
        raise RuntimeError("connection lost\nand more")

    FakeHub(monkeypatch, broken)
    rows = HubSource("owner/name", None, None, {"train": "train"}).rows("train")
    assert next(rows)[1] == {"q": 1}
    with pytest.raises(DataError, match=r"owner/name: must load.*connection lost'.*dataset\.path"):
        next(rows)
    assert "revision is null" in caplog.text
