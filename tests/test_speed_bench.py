"""The benchmarks' own arithmetic: no time is asserted."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

SPEED = Path(__file__).parents[1] / "experiments" / "speed"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(SPEED))
    return importlib.import_module


def test_ratios_are_taken_repeat_by_repeat(load: Callable[[str], ModuleType]) -> None:
    row = load("timing").compare({"ours": [1.0, 2.0, 4.0], "peer": [3.0, 4.0, 20.0], "products": [0.5, 1.0, 1.0]})
    assert row["ratios"] == {"peer": {"median": 3.0, "low": 2.0, "high": 5.0, "repeats": 3}}
    assert row["share_of_limit"]["median"] == 0.5
    assert row["seconds"]["ours"]["median"] == 2.0


@pytest.mark.parametrize("difference", [0.2, float("nan")])
def test_unequal_results_have_no_ratio(difference: float, load: Callable[[str], ModuleType]) -> None:
    timing = load("timing")
    with pytest.raises(timing.VoidRatio, match="void"):
        timing.check_equal("curves", difference, 0.1)
    assert timing.check_equal("curves", 0.1, 0.1)["difference"] == 0.1


def test_subjects_take_turns(load: Callable[[str], ModuleType]) -> None:
    order: list[str] = []
    seconds = load("timing").interleave({name: lambda name=name: order.append(name) for name in "ab"}, 2)
    assert "".join(order) == "ab" + "ab" + "ba"  # one unmeasured round; then another begins each
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}


def test_loops_take_turns_and_their_errors_come_out(load: Callable[[str], ModuleType]) -> None:
    relay = load("relay")
    order: list[str] = []

    def loop(name: str) -> Callable[[Callable[[], None]], None]:
        def run(pause: Callable[[], None]) -> None:
            for _ in range(3):
                order.append(name)
                pause()

        return run

    turns = relay.Relay({"a": loop("a"), "b": loop("b")}, 1)
    turns.run(2)
    assert "".join(order) == "ababab"
    assert len(turns.seconds["a"]) == 2

    def broken(pause: Callable[[], None]) -> None:
        raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        relay.Relay({"a": broken}, 1).run(1)


def test_limit_counts_the_products_of_a_small_model(load: Callable[[str], ModuleType]) -> None:
    products = load("products")
    config = SimpleNamespace(
        hidden_size=4,
        intermediate_size=6,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=10,
    )
    linear, attention = 4 * 4 * 4 + 3 * 4 * 6, 2 * 2 * (4 * 2 * 8 + 4 * 8 * 2)  # a token; 8 tokens, half of the square
    shapes = products.forward_shapes(config, [8], 3, tokens_at_once=100)
    assert count(shapes) == 2 * 8 * linear + attention + 3 * 4 * 10
    trained = products.training_shapes(config, [8], 3, rank=1)
    ranks = 4 * (4 + 4) + 3 * (4 + 6)  # inputs and outputs of a layer's linear maps
    first = 8 * 3 * 4 * 4 + 8 * 3 * 4  # gradients of the input of the first layer's q, k and v, base and adapter
    assert count(trained) == 2 * 2 * 8 * linear + 2 * 3 * 8 * ranks - first + 3 * attention + 2 * 3 * 4 * 10
    small = products.Products(Counter({(2, 3, 4, 5): 2}), "float32")
    small()
    assert small.flops == 2 * 2 * 2 * 3 * 4 * 5


def count(shapes: Counter[tuple[int, int, int, int]]) -> int:
    return sum(batch * rows * inner * columns * times for (batch, rows, inner, columns), times in shapes.items())


def test_rows_are_the_same_at_every_draw_and_mask_only_responses(load: Callable[[str], ModuleType]) -> None:
    synthetic = load("synthetic")
    rows = synthetic.draw_rows(20, 1000)
    assert rows == synthetic.draw_rows(20, 1000)
    for row in rows:
        assert 32 <= len(row.ids) <= 512
        assert abs(sum(row.is_response) / len(row.ids) - 0.4) < 0.02
        assert all(response or not kept for response, kept in zip(row.is_response, row.keep, strict=True))
        assert row.keep[-1]


def test_table_marks_what_is_reached_and_shows_void_ratios(load: Callable[[str], ModuleType]) -> None:
    def found(median: float) -> dict[str, float]:
        return {"median": median, "low": median, "high": median, "repeats": 7}

    case = {"size": "1M", "vocabulary": 32_000, "dtype": "float32"}
    row = case | {"ratios": {"per_example": found(1.6), "padded_full": found(2.0)}, "share_of_limit": found(0.5)}
    text = load("table").render({"scoring": {"rows": [row, case | {"void": "they differ"}]}})
    lines = text.splitlines()
    assert lines[2] == "| 1M, V 32k, float32 | **1.60x [1.60, 1.60]** | 2.00x [2.00, 2.00] | 50 % [50, 50] |"
    assert lines[3] == "| 1M, V 32k, float32 | they differ |  |  |"
    brief = load("table").render_brief({"scoring": {"rows": [row, case | {"void": "they differ"}]}}).splitlines()
    expected = (
        "per-example (1.5x): **1.6x** / void; padded full logits (2.5x): 2.0x / void; matrix products (80%): 50% / void"
    )
    assert brief[2:] == [f"| scoring, 1M / 1M | {expected} |"]
