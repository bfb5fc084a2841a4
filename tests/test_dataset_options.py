"""Each dataset option reads a small file in its published layout; the rows are made up here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tokensieve.cli import compose
from tokensieve.corpora import define_split, open_source
from tokensieve.errors import ConfigError
from tokensieve.records import Corpus
from tokensieve.store import Store

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("TOKENSIEVE_DATA", ROOT / "data"))
CHOICE = ["A", "B", "C", "D"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def load(option: str, path: Path, store: Path, split: str = "train", *changes: str) -> Corpus:
    held = [] if changes or split != "train" else ["dataset.val_fraction=0", "dataset.test_fraction=0"]
    dataset = compose([f"dataset={option}", f"dataset.path={path}", *held, *changes]).dataset
    return define_split(dataset, Store(store), open_source(dataset), split).get()


ROWS: dict[str, tuple[dict[str, Any], str, str, dict[str, Any]]] = {
    "mbpp": (
        {
            "task_id": 700, "text": "Add two numbers.", "code": "def add(a, b):\r\n    return a + b\r\n",
            "test_list": ["assert add(1, 2) == 3"], "test_setup_code": "", "challenge_test_list": [],
        },
        "Solve this problem with one Python code block.\n\nAdd two numbers.\n\nYour code must pass these tests:\nassert add(1, 2) == 3",
        "```python\ndef add(a, b):\n    return a + b\n```",
        {"tests": ["assert add(1, 2) == 3"], "setup": ""},
    ),
    "math": (
        {"problem": "Halve $1$.", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{\frac{1}{2}}$."},
        "Solve this problem step by step. Put the final answer in \\boxed{}.\n\nHalve $1$.",
        r"It is $\boxed{\frac{1}{2}}$.",
        {"answer": r"\frac{1}{2}"},
    ),
    "gsm8k": (
        {"question": "Two boxes of 600 pens?", "answer": "2*600 = <<2*600=1200>>1200 pens.\n#### 1,200"},
        'Solve this problem step by step. End with a line "#### number".\n\nTwo boxes of 600 pens?',
        "2*600 = 1200 pens.\n#### 1,200",
        {"answer": "1,200"},
    ),
    "arc_challenge": (
        {"id": "T_1", "question": "Which melts?", "choices": {"text": ["ice", "sand", "salt"], "label": ["1", "2", "3"]}, "answerKey": "1"},
        "Answer with the label of the right option.\n\nWhich melts?\n1. ice\n2. sand\n3. salt",
        "Answer: 1",
        {"answer": "1", "labels": ["1", "2", "3"]},
    ),
    "mmlu": (
        {"question": "2 + 2?", "subject": "arithmetic", "choices": ["3", "4", "5", "6"], "answer": 1},
        "Answer with the letter of the right option.\n\n2 + 2?\nA. 3\nB. 4\nC. 5\nD. 6",
        "Answer: B",
        {"answer": "B", "labels": CHOICE},
    ),
    "hellaswag": (
        {"ind": 4, "activity_label": "Baking", "ctx": "He opens the oven and", "endings": ["sings.", "bakes.", "swims.", "flies."], "label": "1"},
        "Which ending is the right one? Answer with its letter.\n\nBaking: He opens the oven and\nA. sings.\nB. bakes.\nC. swims.\nD. flies.",
        "Answer: B",
        {"answer": "B", "labels": CHOICE},
    ),
    "drop": (
        {"section_id": "s", "query_id": "q-1", "passage": "They won 3 and lost 2.", "question": "How many games?", "answers_spans": {"spans": ["5", "5"], "types": ["number", "number"]}},
        "Read the passage and answer the question in a few words. Separate several answers with a semicolon.\n\nThey won 3 and lost 2.\n\nQuestion: How many games?",
        "Answer: 5",
        {"answers": ["5", "5"]},
    ),
    "pubmedqa": (
        {"pubid": 12, "question": "Does it help?", "context": {"contexts": ["We tried.", "It did."], "labels": ["M", "R"], "meshes": []}, "long_answer": "It helps.", "final_decision": "yes"},
        "We tried.\nIt did.\n\nDoes it help?\nA. yes\nB. no\nC. maybe\nAnswer with the letter of the right option.",
        "It helps.\nAnswer: A",
        {"answer": "A", "labels": ["A", "B", "C"]},
    ),
    "truthfulqa_mc": (
        {"question": "Is it?", "mc1_targets": {"choices": ["Yes.", "No.", "maybe"], "labels": [1, 0, 0]}, "mc2_targets": {"choices": ["x"], "labels": [1]}},
        "Which answer is true? Answer with its letter.\n\nIs it?\nA. No.\nB. Yes.\nC. maybe",
        "Answer: B",
        {"answer": "B", "labels": ["A", "B", "C"]},
    ),
    "winogrande": (
        {"sentence": "The cup broke the plate because _ was hard.", "option1": "cup", "option2": "plate", "answer": "1"},
        "Which option fills the blank? Answer with its letter.\n\nThe cup broke the plate because _ was hard.\nA. cup\nB. plate",
        "Answer: A",
        {"answer": "A", "labels": ["A", "B"]},
    ),
    "humaneval": (
        {
            "task_id": "HumanEval/900", "prompt": "import math\n\ndef half(n):\n    \"\"\" Half of n. \"\"\"\n",
            "canonical_solution": "    return math.floor(n / 2)\n", "entry_point": "half",
            "test": "def check(candidate):\n    assert candidate(5) == math.floor(2.5)\n",
        },
        'Complete this function. Answer with one Python code block that holds all of it, with what it imports.\n\n```python\nimport math\n\ndef half(n):\n    """ Half of n. """\n```',
        '```python\nimport math\n\ndef half(n):\n    """ Half of n. """\n    return math.floor(n / 2)\n```',
        {"tests": ["def check(candidate):\n    assert candidate(5) == math.floor(2.5)\n\n\ncheck(half)"], "setup": "import math\n\n"},
    ),
    "alpaca": (
        {"instruction": "Add.", "input": "2 3", "output": "5", "text": "Below is an instruction ..."},
        "Add.\n\n2 3", "5", {},
    ),
    "open_platypus": (
        {"input": "", "output": "It is 4.", "instruction": "2 + 2?", "data_source": "made-up"},
        "2 + 2?", "It is 4.", {},
    ),
    "lamini_docs": (
        {"question": "How to install?", "answer": "With pip.", "input_ids": [1], "attention_mask": [1], "labels": [1]},
        "How to install?", "With pip.", {"answer": "With pip."},
    ),
    "5g_mobile": ({"instruction": "What is a gNB?", "output": "A base station."}, "What is a gNB?", "A base station.", {"answer": "A base station."}),
    "bgp": ({"question": "What is an AS?", "answer": "A routing domain."}, "What is an AS?", "A routing domain.", {"answer": "A routing domain."}),
}  # fmt: skip


@pytest.mark.parametrize("option", ROWS)
def test_option_reads_its_published_layout(option: str, tmp_path: Path) -> None:
    row, prompt, response, reference = ROWS[option]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row]))
    example = load(option, path, tmp_path / "cache").rows[0]
    assert example["messages"] == [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    assert json.loads(example["reference"]) == reference


def test_dolphin_s_instruction_is_the_system_prompt(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Think first.", "input": "1 + 1?", "output": "2"},
        {"instruction": "", "input": "2 + 2?", "output": "4"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = load("dolphin", path, tmp_path / "cache").rows["messages"]
    assert [turn["role"] for turn in first] == ["system", "user", "assistant"]
    assert first[0]["content"] == "Think first."
    assert second == [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]


def test_airoboros_and_guanaco_keep_every_turn_and_train_all(tmp_path: Path) -> None:
    shared = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello."},
        {"from": "human", "value": "Bye"},
        {"from": "gpt", "value": "So long."},
    ]
    (tmp_path / "a.json").write_text(json.dumps([{"id": "1", "conversations": shared}]))
    text = "### Human: Hi### not a mark\n### Assistant: Hello.\n### Human: Bye\n### Assistant: So long.\n### Human: One more?"
    (tmp_path / "g.jsonl").write_text(json.dumps({"text": text}) + "\n")
    turns = load("airoboros", tmp_path / "a.json", tmp_path / "cache").rows[0]["messages"]
    assert turns[0] == {"role": "system", "content": "Be brief."}
    guanaco = load("oasst_guanaco", tmp_path / "g.jsonl", tmp_path / "cache").rows[0]
    assert [turn["content"] for turn in guanaco["messages"]] == ["Hi### not a mark", "Hello.", "Bye", "So long."]
    assert json.loads(guanaco["provenance"][0])["dropped_last_turns"] == 1  # nobody answers the last question
    for option in ("airoboros", "oasst_guanaco"):
        assert compose([f"dataset={option}"]).dataset.train_on == "all"


def test_fpb_reads_the_folder_by_its_published_names(tmp_path: Path) -> None:
    cell = '"[""negative"", ""neutral"", ""positive""]"'
    for name, answer in (("labeled", "C"), ("noisy30", "A"), ("test", "B")):
        (tmp_path / f"{name}.csv").write_text(
            f'question,gt,options,answer\n"Judge this:\nSales rose , it said .",x,{cell},{answer}\n'
        )
    train = load("fpb", tmp_path, tmp_path / "cache", "train", "dataset.val_fraction=0").rows[0]
    assert train["messages"][0]["content"] == (
        "Judge this:\nSales rose , it said .\nA. negative\nB. neutral\nC. positive\nAnswer with the letter of the right option."
    )
    assert json.loads(train["reference"]) == {"answer": "C", "labels": ["A", "B", "C"]}
    test = load("fpb", tmp_path, tmp_path / "cache", "test")
    assert test.rows[0]["messages"][1]["content"] == "Answer: B"
    noisy = load("fpb", tmp_path, tmp_path / "cache", "train", "dataset.splits.train=noisy30", "dataset.val_fraction=0")  # fmt: skip
    assert noisy.rows[0]["messages"][1]["content"] == "Answer: A"


def test_local_and_messages_need_a_path_and_read_it(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    for option in ("local", "messages"):
        assert load(option, tmp_path / "chat.jsonl", tmp_path / "cache").rows[0]["messages"] == chat
        with pytest.raises(ConfigError, match="needs a source"):
            compose([f"dataset={option}"])


HUB = ["winogrande", "mbpp", "math", "gsm8k", "arc_challenge", "mmlu", "hellaswag", "drop", "pubmedqa", "alpaca", "dolphin", "airoboros",
       "open_platypus", "oasst_guanaco", "lamini_docs"]  # fmt: skip


@pytest.mark.parametrize("option", HUB)
def test_hub_options_know_their_splits_without_the_network(option: str) -> None:
    dataset = compose([f"dataset={option}"]).dataset
    source = open_source(dataset)
    assert source.has_split("train")
    assert source.identity("train")["hub_id"] == dataset.hub_id
    if option != "lamini_docs":  # its commit is not known here
        assert dataset.revision is not None
        assert len(dataset.revision) == 40
        int(dataset.revision, 16)


SHARED = [  # rows of train and validation together, rows of test
    ("mbpp", "mbpp/mbpp.jsonl", 374 + 90, 500),
    ("gsm8k", "gsm8k", 7473, 1319),
    ("arc_challenge", "arc_challenge", 1119 + 299, 1172),
    ("fpb", "fpb", 1585, 303),
]


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(("option", "path", "learnt", "tested"), SHARED, ids=[option for option, *_ in SHARED])
def test_option_reads_the_real_files(option: str, path: str, learnt: int, tested: int, tmp_path: Path) -> None:
    from tokensieve.graders import grade_texts

    grader = {"mbpp": None, "gsm8k": "number"}.get(option, "choice")
    sizes = {}
    for split in ("train", "validation", "test"):
        rows = load(option, DATA / path, tmp_path / "cache", split, "dataset.val_fraction=0.1").rows
        sizes[split] = len(rows)
        if grader is not None:  # the reference answers must be right by their own grader
            answers = [turns[-1]["content"] for turns in rows["messages"]]
            grades = grade_texts(grader, answers, [json.loads(text) for text in rows["reference"]])
            assert all(grade.score == 1.0 for grade in grades)
    assert (sizes["train"] + sizes["validation"], sizes["test"]) == (learnt, tested)
