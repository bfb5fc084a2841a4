"""The Markdown tables of results.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from synthetic import VOCABULARIES

Result = Mapping[str, Any]


def render(results: Mapping[str, Result], *, every_vocabulary: bool = False) -> str:
    """All tables of what there is; targets are stated for a vocabulary of 32k, which alone is shown by default."""
    parts = []
    memory = {row["size"]: row for row in results.get("training_memory", {}).get("rows", ())}
    grids = (("scoring_grid", _scoring), ("training_grid", _training)) if every_vocabulary else ()
    for name, draw in (("scoring", _scoring), ("training", _training), *grids):
        if name in results:
            rows = [row for row in results[name]["rows"] if every_vocabulary or row["vocabulary"] == VOCABULARIES[-1]]
            parts.append(draw(rows or results[name]["rows"], memory))
    others = [line for name, draw in OTHERS.items() if name in results for line in draw(results[name])]
    if others:
        parts.append(_table(("work", "at least", "measured", ""), others))
    return "\n\n".join(parts)


# name of a grid -> what it is of, its peers with the wanted ratio, the wanted share of the limit
GRIDS: dict[str, tuple[str, dict[str, tuple[str, float]], float]] = {
    "scoring": ("scoring", {"per_example": ("per-example", 1.5), "padded_full": ("padded full logits", 2.5)}, 0.8),
    "training": ("a training step", {"peft_loop": ("PEFT loop", 1.6), "trl": ("TRL", 2.5)}, 0.75),
}


def render_brief(results: Mapping[str, Result]) -> str:
    """A line a benchmark, each measured value behind what it should be; grids at a vocabulary of 32k in float32."""
    lines = [
        (f"{work}, {' / '.join(row['size'] for row in rows)}", "; ".join(_against(rows, peers, least)))
        for name, (work, peers, least) in GRIDS.items()
        if (rows := [row for row in results.get(name, {}).get("rows", ()) if _is_main(row)])
    ]
    if rows := results.get("training_memory", {}).get("rows", ()):
        shares = [row.get("ours_share_of", {}).get("peft_loop") for row in rows]
        found = ["void" if share is None else _mark(f"{share:.0%}", share <= 0.6) for share in shares]
        lines.append(
            (f"memory of a step, {' / '.join(row['size'] for row in rows)}", f"PEFT loop (60%): {' / '.join(found)}")
        )
    for name, (title, endings) in BRIEF.items():
        found = [
            f"{endings[ending]} ({wanted}): {_mark(text.partition(' [')[0], verdict == 'reached')}"
            for work, wanted, text, verdict in (OTHERS[name](results[name]) if name in results else ())
            for ending in endings
            if work.endswith(ending)
        ]
        lines += [(title, "; ".join(found))] if found else []
    return _table(("work", "against (at least): measured"), lines)


def _against(rows: Sequence[Result], peers: Mapping[str, tuple[str, float]], least: float) -> Iterator[str]:
    for peer, (label, wanted) in peers.items():
        ratios = _beside(rows, lambda row, peer=peer: row["ratios"][peer]["median"], wanted, "{:.1f}x")
        yield f"{label} ({wanted:g}x): {ratios}"
    shares = _beside(rows, lambda row: row["share_of_limit"]["median"], least, "{:.0%}")
    yield f"matrix products ({least:.0%}): {shares}"


def _is_main(row: Result) -> bool:
    return row["vocabulary"] == VOCABULARIES[-1] and row["dtype"] == "float32"


def _beside(rows: Sequence[Result], read: Callable[[Result], float], wanted: float, form: str) -> str:
    return " / ".join("void" if "void" in row else _mark(form.format(read(row)), read(row) >= wanted) for row in rows)


def _scoring(rows: Sequence[Result], memory: Mapping[str, Result]) -> str:
    head = (
        "scoring",
        "per-example full logits (1.5x)",
        "padded full logits (2.5x)",
        "of the matrix-product limit (80 %)",
    )
    return _table(
        head,
        [
            _case(row, lambda row: (_ratio(row, "per_example", 1.5), _ratio(row, "padded_full", 2.5), _share(row, 0.8)))
            for row in rows
        ],
    )


def _training(rows: Sequence[Result], memory: Mapping[str, Result]) -> str:
    head = (
        "training step",
        "PEFT loop (1.6x)",
        "TRL's SFTTrainer (2.5x)",
        "of the limit (75 %)",
        "added memory, of the PEFT loop's (60 %)",
    )

    def cells(row: Result) -> tuple[str, ...]:
        found = memory.get(row["size"], {})
        same = row["dtype"] == "float32" and row["vocabulary"] == found.get("vocabulary") and "ours_share_of" in found
        share = found["ours_share_of"]["peft_loop"] if same else None
        return (
            _ratio(row, "peft_loop", 1.6),
            _ratio(row, "trl", 2.5),
            _share(row, 0.75),
            "" if share is None else _mark(f"{100 * share:.0f} %", share <= 0.6),
        )

    return _table(head, [_case(row, cells) for row in rows])


def _case(row: Result, cells: Callable[[Result], tuple[str, ...]]) -> tuple[str, ...]:
    name = f"{row['size']}, V {row['vocabulary'] // 1000}k, {row['dtype']}"
    return (name, row["void"]) if "void" in row else (name, *cells(row))


def _startup(result: Result) -> list[tuple[str, ...]]:
    row = result["rows"][0]
    step = row["first_step_over_imports"]
    return [
        ("`--help`", "0.6 s", *_seconds(row["help"], 0.6)),
        (
            "first training step after start, over the imports alone",
            "1.1x",
            f"{step['median']:.2f}x [{step['low']:.2f}, {step['high']:.2f}] ({row['first_step']['median']:.1f} s)",
            _verdict(step["median"] <= 1.1),
        ),
        ("a job inside a sweep, everything cached", "1 s", *_seconds(row["job"], 1.0)),
    ]


def _tracking(result: Result) -> list[tuple[str, ...]]:
    row = result["rows"][0]
    if "void" in row:
        return [("tracking", "1 %", row["void"], "")]
    share = row["share_of_step"]
    text = f"{100 * share['median']:.2f} % [{100 * share['low']:.2f}, {100 * share['high']:.2f}]"
    return [("tracking, of a 10 ms step", "at most 1 %", text, _verdict(share["median"] <= 0.01))]


def _sweep(result: Result) -> list[tuple[str, ...]]:
    names = {
        "processes": ("one process a run", 5.0),
        "hydra_basic": ("Hydra basic", 2.5),
        "hydra_joblib": ("Hydra joblib, 2 workers", 1.5),
    }
    lines = []
    for row in result["rows"]:
        if "void" in row:
            lines.append((f"sweep, {row['steps']} steps", "", row["void"], ""))
            continue
        for name, (label, wanted) in names.items():
            ratio, ours = row["ratios"][name], row["seconds"]["ours_2" if name == "hydra_joblib" else "ours"]
            text = f"{_interval(ratio)} ({ours['median']:.0f} s against {row['seconds'][name]['median']:.0f} s)"
            judged = (f"{wanted}x", text, _verdict(ratio["median"] >= wanted)) if row["runs"] == 16 else ("", text, "")
            lines.append((f"{row['runs']}-run sweep of {row['steps']} steps against {label}", *judged))
    return lines


def _generation(result: Result) -> list[tuple[str, ...]]:
    lines = []
    for name, ratio in result["ratios"].items():
        wanted = result["wanted"].get(name)
        judged = ("", "") if wanted is None else (f"{wanted:g}x", _verdict(ratio["median"] >= wanted))
        label = f"evaluation of {result['items']} items against {name.replace('_', ' ')}"
        lines.append((label, judged[0], _interval(ratio), judged[1]))
    return lines


def _padding(result: Result) -> list[tuple[str, ...]]:
    lines = []
    for name, way in result["ways"].items():
        low, high = way["spread"]
        if (low, high) != (1.0, 1.0):  # that one is what the others are measured against
            text = f"{way['times_as_fast']:.2f}x [{low:.2f}, {high:.2f}]"
            verdict = _verdict(way["times_as_fast"] >= result["wanted"])
            lines.append((f"training on log-normal lengths, {name}", f"{result['wanted']:g}x", text, verdict))
    return lines


OTHERS: dict[str, Callable[[Result], list[tuple[str, ...]]]] = {
    "padding": _padding,
    "generation": _generation,
    "sweep": _sweep,
    "sweep_steps": _sweep,
    "startup": _startup,
    "tracking": _tracking,
}


# Of those, a line each: the work, and how the names of its targets end -> what stands for them.
BRIEF: dict[str, tuple[str, dict[str, str]]] = {
    "padding": (
        "training on log-normal lengths, against padded random batches",
        {"lengths, padding-free, grouped": "padding-free, grouped", "lengths, padded, grouped": "grouped"},
    ),
    "generation": ("evaluation, against `generate`", {"batch 1": "batch 1", "batch 16": "batch 16"}),
    "sweep": (
        "16-run sweep of 60 steps",
        {"process a run": "one process a run", "basic": "Hydra basic", "2 workers": "joblib, 2 workers"},
    ),
    "startup": (
        "start",
        {"`--help`": "`--help`", "imports alone": "first step over imports", "everything cached": "a job of a sweep"},
    ),
    "tracking": ("tracking", {"10 ms step": "of a 10 ms step"}),
}


def _ratio(row: Result, name: str, wanted: float) -> str:
    return _mark(_interval(row["ratios"][name]), row["ratios"][name]["median"] >= wanted)


def _share(row: Result, wanted: float) -> str:
    share = row["share_of_limit"]
    return _mark(
        f"{100 * share['median']:.0f} % [{100 * share['low']:.0f}, {100 * share['high']:.0f}]",
        share["median"] >= wanted,
    )


def _interval(ratio: Result) -> str:
    spread = f" [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio.get("repeats", 2) > 1 else ""
    return f"{ratio['median']:.2f}x{spread}"


def _seconds(found: Result, most: float) -> tuple[str, str]:
    return f"{found['median']:.2f} s [{found['low']:.2f}, {found['high']:.2f}]", _verdict(found["median"] <= most)


def _mark(text: str, reached: bool) -> str:
    return f"**{text}**" if reached else text


def _verdict(reached: bool) -> str:
    return "reached" if reached else "not reached"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
