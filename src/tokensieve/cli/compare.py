"""The verb compare."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.cli.values import names
from tokensieve.errors import ConfigError

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[Any]

_EXAMPLES = """examples:
  tokensieve compare outputs/runs/a outputs/runs/b        two runs, item by item
  tokensieve compare base outputs/runs/a                  what a run gained on its base
  tokensieve compare unmasked stm=2.5 stm=1.5             arms of the latest sweep, all their seeds
  tokensieve compare --baseline runs/u1 runs/u2 runs/u3 --against runs/m1 runs/m2 runs/m3
"""


def add_compare(verbs: Verbs) -> None:
    """`compare RUN RUN [RUN ...]`, or `compare --baseline RUN... --against RUN...`."""
    compare = verbs.add_parser(
        "compare",
        help="paired tests of runs or arms on the same items",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compare.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="run folders, or arms of a sweep as its report names them, or base; the first is the reference",
    )
    compare.add_argument("--baseline", nargs="+", metavar="RUN", help="seeds of the reference arm")
    compare.add_argument("--against", nargs="+", metavar="RUN", help="seeds of the other arm")
    compare.add_argument("--sweep", type=Path, help="where names are looked up (default: the latest sweep)")
    compare.add_argument("--output-dir", type=Path, default=Path("outputs"), help="where sweeps are (default: outputs)")
    compare.add_argument("--tasks", type=names, help="comma-separated tasks (default: all common ones)")
    compare.add_argument("--all-pairs", action="store_true", help="every two arms, not only each against the first")
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write the numbers there as well")
    compare.set_defaults(verb=_compare)


def _compare(options: argparse.Namespace) -> None:
    from rich.console import Console

    from tokensieve.compare import compare, find_arm, group_runs, print_comparisons, write_csv
    from tokensieve.sweep.manifest import latest_sweep

    def find_sweep() -> Path:
        return options.sweep or latest_sweep(options.output_dir / "sweeps")

    grouped = options.baseline or options.against
    if grouped and (options.runs or not (options.baseline and options.against)):
        raise ConfigError(
            "compare",
            "takes either runs, or both --baseline and --against",
            received="runs beside them" if options.runs else "one of them",
            remedy="see tokensieve compare --help",
        )
    if grouped:
        arms = [group_runs(options.baseline, find_sweep), group_runs(options.against, find_sweep)]
    else:
        arms = [find_arm(name, find_sweep) for name in options.runs]
    rows, notes = compare(arms, tasks=options.tasks, all_pairs=options.all_pairs)
    if options.csv is not None:  # first: a reader that closes the pipe (`| head`) must not cost it
        write_csv(rows, options.csv)
    print_comparisons(rows, notes, Console())
