"""Verbs that show what a run or a sweep did: report, inspect, mask."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.cli.overrides import compose
from tokensieve.cli.values import numbers
from tokensieve.errors import ConfigError
from tokensieve.trained_model import read_run_config

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[Any]


def add_report(verbs: Verbs) -> None:
    """`report [FOLDER]`."""
    report = verbs.add_parser("report", help="table, CSV, Markdown and HTML page of a sweep or a run")
    report.add_argument("folder", nargs="?", type=Path, help="a sweep or run folder (default: the latest sweep)")
    report.add_argument("--output-dir", type=Path, default=Path("outputs"), help="where sweeps are (default: outputs)")
    report.set_defaults(verb=_report)


def add_inspect(verbs: Verbs) -> None:
    """`inspect RUN`."""
    inspect = verbs.add_parser("inspect", help="HTML page of a run's tokens, coloured by perplexity, kept or masked")
    inspect.add_argument("folder", type=Path, help="a run folder (outputs/runs/... or a sweep's jobs/...)")
    inspect.add_argument("--output", type=Path, help="page to write, or a folder for it (default: the run's)")
    inspect.set_defaults(verb=_inspect)


def add_mask(verbs: Verbs) -> None:
    """`mask [OVERRIDE ...]`."""
    mask = verbs.add_parser(
        "mask",
        help="how many tokens a rule keeps, for one or several thresholds, without training",
        epilog="example: tokensieve mask stm=naive dataset=lab_code --thresholds 1.5,2.5,4",
    )
    mask.add_argument("overrides", nargs="*", help="Hydra overrides, as for train.py")
    mask.add_argument("--thresholds", type=numbers, help="comma-separated perplexities (default: stm.threshold)")
    mask.set_defaults(verb=_mask)


def _report(options: argparse.Namespace) -> None:
    from tokensieve.report import write_report
    from tokensieve.sweep.manifest import latest_sweep

    paths = write_report(options.folder or latest_sweep(options.output_dir / "sweeps"))
    print(f"\npage: {paths.page}\ntable: {paths.csv}", file=sys.stderr)


def _inspect(options: argparse.Namespace) -> None:
    from tokensieve.inspection import PAGE_FILE, define_page
    from tokensieve.pipeline import open_store
    from tokensieve.run_folder import link_file
    from tokensieve.stages import define_stages

    config = read_run_config(options.folder)
    place = options.output or options.folder
    page = place / PAGE_FILE if place.is_dir() else place
    link_file(define_page(define_stages(config, open_store(config))).get(), page)
    print(page)


def _mask(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from tokensieve.config import StmConfig
    from tokensieve.config.tokens import READ_THRESHOLD
    from tokensieve.pipeline import open_store
    from tokensieve.stages import define_stages

    config = compose(options.overrides)
    table = Table("arm", "examples", "dropped", "response tokens", "kept", "masked %", "NLL masked %", "end kept %")
    if options.thresholds and config.stm.rule not in READ_THRESHOLD:
        raise ConfigError(
            "--thresholds",
            "is for rules that have one",
            received=f"stm.rule={config.stm.rule}",
            remedy=f"choose one of {', '.join(READ_THRESHOLD)}, or leave it out",
        )
    for threshold in options.thresholds or [config.stm.threshold]:
        config.stm.threshold = threshold
        StmConfig.__post_init__(config.stm)
        stats = define_stages(config, open_store(config)).mask.get().stats
        table.add_row(
            config.arm,
            f"{stats.num_examples:,}",
            f"{stats.dropped_examples:,}",
            f"{stats.response_tokens:,}",
            f"{stats.kept_tokens:,}",
            f"{100 * (1 - stats.kept_fraction):.2f}",
            f"{100 * stats.masked_nll_fraction:.1f}",
            f"{100 * stats.end_kept_fraction:.1f}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
