"""Suites: which tasks they ask, how, and what is said where their data is missing; BIRD's databases; few-shot prompts."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tokensieve.cli import compose
from tokensieve.config import RunConfig
from tokensieve.corpora import define_evaluation_sets, define_items, define_split, find_tasks, open_source
from tokensieve.errors import ConfigError, DataError
from tokensieve.graders import grade_texts
from tokensieve.records import Corpus
from tokensieve.store import Store

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ask(config: RunConfig, name: str, cache: Path) -> Corpus:
    return define_items(config, Store(cache), name).get()


SUITES = {
    "paper_stm": ["mbpp", "math", "gsm8k", "arc_challenge", "bird"],
    "paper_robustft": ["mmlu", "arc_challenge", "pubmedqa", "drop", "fpb"],
    "open_llm": ["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc", "winogrande", "gsm8k"],
    "lab": ["lab_code", "lab_math", "lab_choice", "lab_sql"],
}


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_asks_its_tasks_after_the_target(suite: str) -> None:
    config = compose([f"eval={suite}", "dataset=lab_code"])
    others = [name for name in SUITES[suite] if name != "lab_code"]
    assert find_tasks(config, open_source(config.dataset)) == ["lab_code", *others]
    assert all(dataset.task == name for name, dataset in config.eval.datasets.items())


def test_the_leaderboards_numbers_of_examples() -> None:
    config = compose(["eval=open_llm"])
    numbers = {name: dataset.num_fewshot for name, dataset in config.eval.datasets.items()}
    wanted = {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc": 0, "winogrande": 5, "gsm8k": 5}
    assert numbers == wanted
    assert config.eval.mode == "log_likelihood"


@pytest.mark.parametrize(("suite", "name"), [("paper_stm", "bird"), ("paper_robustft", "fpb")])
def test_missing_data_of_a_suite_names_its_key_and_the_way_around(suite: str, name: str, tmp_path: Path) -> None:
    missing = f"eval.datasets.{name}.path={tmp_path / 'nowhere'}"
    config = compose([f"eval={suite}", missing])
    with pytest.raises(ConfigError, match=rf"^eval\.datasets\.{name}\.path: .*leave {name} out, with eval\.tasks"):
        define_items(config, Store(tmp_path), name)
    without = compose([f"eval={suite}", missing, "eval.tasks=[arc_challenge]"])
    assert find_tasks(without, open_source(without.dataset)) == ["lab_code", "arc_challenge"]


# BIRD


def make_bird(folder: Path, name: str = "shop", databases: str = "dev_databases") -> Path:
    write(
        folder / "dev.json", [{"db_id": name, "question": "How many?", "evidence": "", "SQL": "SELECT COUNT(*) FROM t"}]
    )
    write(folder / "train.json", [{"db_id": "old", "question": "Which?", "evidence": "all", "SQL": "SELECT a FROM u"}])
    for group, database, table in ((databases, name, "t"), ("train_databases", "old", "u")):
        file = folder / group / database / f"{database}.sqlite"
        file.parent.mkdir(parents=True)
        with closing(sqlite3.connect(file)) as connection:
            connection.execute(f"CREATE TABLE {table} (a INTEGER PRIMARY KEY AUTOINCREMENT, ß TEXT)")
            connection.execute(f"INSERT INTO {table} (ß) VALUES ('x')")
            connection.commit()
    return folder


def bird(folder: Path, cache: Path, split: str = "test", **changes: Any) -> Corpus:
    overrides = [f"dataset.{key}={value}" for key, value in changes.items()]
    dataset = compose(["dataset=bird", f"dataset.path={folder}", "dataset.val_fraction=0", *overrides]).dataset
    return define_split(dataset, Store(cache), open_source(dataset), split).get()


def test_bird_shows_the_tables_and_grades_on_the_file(tmp_path: Path) -> None:
    make_bird(tmp_path / "bird")
    item = bird(tmp_path / "bird", tmp_path / "cache").rows[0]
    question, answer = (turn["content"] for turn in item["messages"])
    assert question == (
        "Write one SQLite query that answers the question.\n\n"
        "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, ß TEXT);\n"
        "CREATE TABLE sqlite_sequence(name,seq)\n\nQuestion: How many?"
    )
    reference = json.loads(item["reference"])
    assert reference["database_file"] == str(tmp_path / "bird/dev_databases/shop/shop.sqlite")
    texts = [answer, "```sql\nSELECT 2\n```", "SELECT 1"]
    assert [grade.score for grade in grade_texts("sql", texts, [reference] * 3)] == [1.0, 0.0, 1.0]
    trained = bird(tmp_path / "bird", tmp_path / "cache", "train").rows[0]["messages"][0]["content"]
    assert "CREATE TABLE u" in trained
    assert "Hint: all\nQuestion: Which?" in trained


def test_a_database_that_changes_makes_the_items_anew(tmp_path: Path) -> None:
    folder = make_bird(tmp_path / "bird")
    before = bird(folder, tmp_path / "cache")
    with closing(sqlite3.connect(folder / "dev_databases/shop/shop.sqlite")) as connection:
        connection.execute("CREATE TABLE more (b)")
        connection.commit()
    after = bird(folder, tmp_path / "cache")
    assert "CREATE TABLE more (b)" in after.rows[0]["messages"][0]["content"]
    assert after.stamp.digest != before.stamp.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "dev_databases/shop/shop.sqlite").unlink(), "leads to 0"),
        (
            lambda folder: (folder / "dev_databases/shop/shop.sqlite").write_bytes(b"git-lfs pointer" * 99),
            "must be an SQLite",
        ),
        (lambda folder: (folder / "dev_databases").rename(folder / "databases"), "leads to 0"),
        (
            lambda folder: write(folder / "dev.json", [{"db_id": "../shop/shop", "question": "?", "SQL": "SELECT 1"}]),
            "leads to 0",
        ),
        (lambda folder: write(folder / "dev.json", [{"db_id": "*", "question": "?", "SQL": "SELECT 1"}]), "leads to 0"),
    ],
    ids=["gone", "damaged", "elsewhere", "outside", "pattern in the row"],
)
def test_a_database_that_is_not_there_names_the_row(change: Any, said: str, tmp_path: Path) -> None:
    folder = make_bird(tmp_path / "bird")
    change(folder)
    with pytest.raises(DataError, match=rf"dev\.json:1.*{said}"):
        bird(folder, tmp_path / "cache")


def test_two_databases_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = make_bird(tmp_path / "bird", databases="a_databases")
    make_bird(tmp_path / "again", databases="b_databases")
    (tmp_path / "again" / "b_databases").rename(folder / "b_databases")
    with pytest.raises(DataError, match="leads to 2"):
        bird(folder, tmp_path / "cache")


def test_databases_need_a_place_to_start(tmp_path: Path) -> None:
    dataset = compose(["dataset=gsm8k", "dataset.databases='x/{{ question }}.sqlite'"]).dataset
    with pytest.raises(ConfigError, match=r"dataset\.databases: starts at the folder of dataset\.path"):
        define_split(dataset, Store(tmp_path), open_source(dataset), "train")


# Spider: rows with a parsed query beside the text, all databases in one folder


def test_spider_reads_its_published_layout_and_grades_on_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "spider"
    parsed = {"select": [False, [[3, [0, [0, 0, False], None]]]], "orderBy": [], "limit": None}
    rows = {
        "train_spider": ("old", "Which?", "SELECT a FROM u"),
        "dev": ("shop", "How many, per name?", "SELECT ß, count(*) FROM t GROUP BY ß "),
    }
    for split, (name, question, query) in rows.items():
        row = {"db_id": name, "question": question, "query": query, "query_toks": query.split(), "sql": parsed}
        (folder / "database" / name).mkdir(parents=True)
        (folder / f"{split}.json").write_text(json.dumps([row, row], indent=1))
        with closing(sqlite3.connect(folder / "database" / name / f"{name}.sqlite")) as connection:
            connection.execute(f"CREATE TABLE {'u' if name == 'old' else 't'} (a INTEGER, ß TEXT)")
            connection.commit()
    (folder / "tables.json").write_text("[]")  # published beside them, and not read
    dataset = compose(["dataset=spider", f"dataset.path={folder}", "dataset.val_fraction=0"]).dataset
    item = define_split(dataset, Store(tmp_path / "cache"), open_source(dataset), "test").get().rows[0]
    question, answer = (turn["content"] for turn in item["messages"])
    assert question == (
        "Write one SQLite query that answers the question.\n\nCREATE TABLE t (a INTEGER, ß TEXT)\n\n"
        "Question: How many, per name?"
    )
    reference = json.loads(item["reference"])
    assert reference["database_file"] == str(folder / "database/shop/shop.sqlite")
    texts = [answer, "SELECT ß, a FROM t", "```sql\nSELECT 1\n```"]
    assert [grade.score for grade in grade_texts("sql", texts, [reference] * 3)] == [1.0, 1.0, 0.0]
    trained = define_split(dataset, Store(tmp_path / "cache"), open_source(dataset), "train").get()
    assert len(trained) == 2
    assert "CREATE TABLE u" in trained.rows[0]["messages"][0]["content"]


# HumanEval: its published tests reach the judge, and what they need with them


def test_humanevals_solution_passes_and_a_stub_does_not(tmp_path: Path) -> None:
    row = {
        "task_id": "HumanEval/950",
        "prompt": (
            "from typing import List\n\n\ndef twist(text: str):\n    return text[::-1]\n\n\n"
            'def untwist(text: str) -> str:\n    """ Takes what twist gave; def untwist( stands here too. """\n'
        ),
        "canonical_solution": "    return twist(text)\n",
        "test": "METADATA = {}\n\n\ndef check(candidate):\n    for text in ('ab', ''):\n        assert candidate(twist(text)) == text\n",
        "entry_point": "untwist",
    }
    write(tmp_path / "data" / "test.jsonl", [row])
    dataset = compose(["dataset=humaneval", f"dataset.path={tmp_path / 'data'}"]).dataset
    item = define_split(dataset, Store(tmp_path / "cache"), open_source(dataset), "test").get().rows[0]
    reference, stub = json.loads(item["reference"]), f"```python\n{row['prompt']}    return 'ab'\n```"
    grades = grade_texts("code", [item["messages"][1]["content"], stub], [reference] * 2)
    assert [grade.score for grade in grades] == [1.0, 0.0]


# Few-shot


def choices(number: int, subject: str = "x", first: int = 0) -> list[dict[str, Any]]:
    return [
        {"question": f"Is {n} even?", "choices": ["yes", "no", "-", "?"], "answer": n % 2, "subject": subject}
        for n in range(first, first + number)
    ]


@pytest.fixture
def mmlu(tmp_path: Path) -> Path:
    folder = tmp_path / "mmlu"
    write(folder / "auxiliary_train.jsonl", choices(40))
    write(folder / "dev.jsonl", [*choices(6, "plants", 100), *choices(5, "stars", 200)])
    write(folder / "test.jsonl", [*choices(3, "plants", 100), *choices(3, "stars", 300)])
    return folder


def test_examples_stand_before_the_question_and_are_of_its_subject(mmlu: Path, tmp_path: Path) -> None:
    config = compose(["eval=open_llm", f"eval.datasets.mmlu.path={mmlu}", "eval.num_items=null"])
    rows = ask(config, "mmlu", tmp_path / "cache").rows
    assert len(rows) == 6
    for row in rows:
        turns = row["messages"]
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * 6
        numbers = [int(turn["content"].split("Is ")[1].split()[0]) for turn in turns[::2]]
        assert len(set(numbers)) == 6  # distinct, and never the question itself, which plants has among its examples
        plants = numbers[-1] < 200
        assert all((100 <= number < 106) == plants for number in numbers[:-1])
        assert json.loads(row["reference"])["subject"] == ("plants" if plants else "stars")
        assert all(turn["content"] == f"Answer: {'AB'[n % 2]}" for n, turn in zip(numbers, turns[1::2], strict=True))
        assert len(json.loads(row["provenance"][-1])["examples"]) == 5
    assert rows["id"] == ask(compose(["eval=open_llm", f"eval.datasets.mmlu.path={mmlu}", "eval.datasets.mmlu.num_fewshot=0"]), "mmlu", tmp_path / "cache").rows["id"]  # fmt: skip


def test_a_target_has_the_examples_of_its_suite(mmlu: Path, tmp_path: Path) -> None:
    """The run's own mmlu names neither a subject nor the published split of solved questions: the suite's does."""
    base = ["dataset=mmlu", f"dataset.path={mmlu}", "eval=open_llm", "eval.num_items=null"]
    rows = ask(compose([*base, "dataset.limit=6"]), "mmlu", tmp_path / "cache").rows
    for row in rows:
        numbers = [int(turn["content"].split("Is ")[1].split()[0]) for turn in row["messages"][::2]]
        assert len(numbers) == 6
        assert all((100 <= number < 106) == (numbers[-1] < 200) for number in numbers[:-1])
    assert rows["messages"] == ask(compose(base), "mmlu", tmp_path / "cache").rows["messages"]  # of less training data


def test_examples_are_decided_by_seed_and_item(mmlu: Path, tmp_path: Path) -> None:
    def examples(*overrides: str) -> list[list[str]]:
        config = compose(["eval=open_llm", f"eval.datasets.mmlu.path={mmlu}", "eval.datasets.mmlu.fewshot_split=train",
                          "eval.datasets.mmlu.fewshot_group=null", *overrides])  # fmt: skip
        rows = ask(config, "mmlu", tmp_path / "cache").rows
        return [json.loads(entries[-1])["examples"] for entries in rows["provenance"]]

    assert examples() == examples("output_dir=/elsewhere")
    assert examples() != examples("eval.seed=1")
    assert examples("eval.num_items=2") == examples()[:2]
    assert len({tuple(names) for names in examples()}) > 1
    assert [len(names) for names in examples("eval.num_fewshot=2")] == [2] * 6


def test_too_few_examples_and_a_missing_group_are_told(mmlu: Path, tmp_path: Path) -> None:
    def build(*overrides: str) -> None:
        ask(compose(["eval=open_llm", f"eval.datasets.mmlu.path={mmlu}", *overrides]), "mmlu", tmp_path / "cache")

    with pytest.raises(
        DataError, match=r'test/0: needs 6 examples that ask something else, with subject "plants"; rec.* 5'
    ):
        build("eval.num_fewshot=6")
    with pytest.raises(DataError, match=r"its reference must hold 'topic'"):
        build("eval.datasets.mmlu.fewshot_group=topic")


def test_a_set_without_a_split_to_draw_from_says_so(tmp_path: Path) -> None:
    config = compose(["eval=open_llm", "eval.num_fewshot=3"])
    with pytest.raises(ConfigError, match=r"eval\.datasets\.truthfulqa_mc\.num_fewshot: needs a train split"):
        define_items(config, Store(tmp_path), "truthfulqa_mc")


def test_the_target_takes_the_suites_number_unless_it_has_its_own(tmp_path: Path) -> None:
    rows = [{"question": f"{n} + {n}?", "answer": f"#### {2 * n}"} for n in range(60)]
    path = write(tmp_path / "sums.jsonl", rows)

    def turns(*overrides: str) -> int:
        config = compose(["eval=open_llm", "dataset=gsm8k", f"dataset.path={path}", *overrides])
        return len(ask(config, "gsm8k", tmp_path / "cache").rows[0]["messages"])

    assert turns() == 12
    assert turns("dataset.num_fewshot=1") == 4
    assert turns("eval.num_fewshot=0") == 2
    assert turns("eval=lab") == 2


def test_examples_do_not_depend_on_how_much_is_trained_and_keep_the_system_turn(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", [{"question": f"{n} + {n}?", "answer": f"#### {2 * n}"} for n in range(60)])
    base = ["dataset=gsm8k", f"dataset.path={path}", "dataset.system_prompt=Be brief.", "dataset.num_fewshot=2"]
    store = Store(tmp_path / "cache")
    one = define_items(compose(base), store, "gsm8k")
    assert define_items(compose([*base, "dataset.num_train=3"]), store, "gsm8k").digest == one.digest
    roles = [turn["role"] for turn in one.get().rows[0]["messages"]]
    assert roles == ["system", *["user", "assistant"] * 3]


def test_training_examples_are_compared_with_the_questions_not_with_their_examples(tmp_path: Path) -> None:
    config = compose(["eval=lab", "eval.num_fewshot=2", "dataset=lab_code"])
    sets = define_evaluation_sets(config, Store(tmp_path), open_source(config.dataset))
    assert {artefact.stamp.stage for artefact in sets.values()} == {"dataset"}
    assert define_items(config, Store(tmp_path), "lab_math").stamp.stage == "few_shot"
