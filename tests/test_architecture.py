"""The structure that CONTRIBUTING.md draws, checked: layers, rooms of libraries, names, sizes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tokensieve"
MODULES = sorted(path for path in SOURCE.rglob("*.py"))

# A module imports only from lower layers, or from its own package.
LAYERS = [
    {"records", "errors", "installed", "prompt_wordings"},
    {"store", "write_faults", "lab", "interruption", "plain_table"},
    {
        "completions",
        "log_likelihood",
        "retrieval",
        "model",
        "adapter",
        "head",
        "loss",
        "collectives",
        "memory",
        "micro_batches",
        "packing",
        "attention_by_example",
        "compilation",
        "gradient_scale",
        "optimisers",
        "weight_change",
        "generate",
        "kv_cache",
        "length_limits",
        "template_day",
        "graders",
        "sandbox",
        "statistics",
        "sources",
        "chat_spans",
        "tasks",
        "token_rules",
        "token_weights",
        "token_classes",
        "regulariser",
        "objective",
    },
    {"dataset", "noise", "variant", "tokenise", "score", "mask", "frozen_weights", "loader", "evaluate", "harness"},
    {"config", "pruning", "module", "trainer", "tracking", "run_folder", "inventory", "run_metrics"},
    {"resident", "corpora", "trained_model"},
    {"responses", "weighting"},
    {"stages"},
    {"fit", "trainable", "ranks", "evaluations", "trial_values", "inspection", "report", "export", "chat", "prepare"},
    {"compare"},
    {"pipeline", "sweep", "search", "sync", "reproduce", "cli", "api", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
STAGES = LAYERS[3]
ROOMS = {
    "hydra": {"config", "sweep", "search", "cli"},
    "omegaconf": {"config", "sweep", "search", "cli"},
    "lightning": {"module", "trainer", "sweep"},
    "mlflow": {"tracking", "report"},
    "peft": {"adapter"},
    "bitsandbytes": {"optimisers"},
    "lm_eval": {"harness"},
    "submitit": {"sweep"},
    "ray": {"sweep"},
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "handler"}


def unit(path: Path) -> str:
    """The module or package directly below tokensieve."""
    relative = path.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def test_every_module_has_a_layer() -> None:
    assert {unit(path) for path in MODULES} - {"__init__"} == set(LEVEL)


@pytest.mark.parametrize(
    "path", [path for path in MODULES if unit(path) != "__init__"], ids=lambda path: str(path.relative_to(SOURCE))
)
def test_module_imports_only_from_below_and_libraries_stay_in_their_rooms(path: Path) -> None:
    own = unit(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "tokensieve" and len(parts) > 1 and parts[1] in LEVEL and parts[1] != own:
            assert LEVEL[parts[1]] <= LEVEL[own], f"{own} imports {parts[1]} from a higher layer"
            assert not (own in STAGES and parts[1] in STAGES and {own, parts[1]} != {"score", "loader"}), (
                f"stage {own} imports stage {parts[1]}"
            )
        if parts[0] in ROOMS:
            assert own in ROOMS[parts[0]], f"{own} imports {parts[0]}"


def test_names_say_what_a_module_does() -> None:
    names = {part for path in MODULES for part in path.relative_to(SOURCE).with_suffix("").parts}
    assert not names & VAGUE


def test_train_py_stays_short() -> None:
    assert len((ROOT / "train.py").read_text().splitlines()) <= 40


def test_readme_stays_within_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_table_for_contributors_is_the_one_that_is_checked() -> None:
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    shown = {row[0]: set(row[1].replace("\\", "").split(", ")) for row in rows if row[0][0].isdecimal()}
    expected = {", ".join(map(str, levels)): set() for levels in ([0], [1], [2], [3], [4], [5], [6, 7], [8], [9], [10])}
    for levels, names in expected.items():
        names.update(*(LAYERS[int(level)] for level in levels.split(", ")))
    assert shown == expected
