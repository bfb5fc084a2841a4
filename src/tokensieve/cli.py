"""`tokensieve <verb>`: what one does around training. Training itself is `python train.py`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tokensieve.config import RunConfig
from tokensieve.errors import ConfigError, TokensieveError

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, or 1 after a fault of input, told in one line on stderr."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options.verb(options)
    except TokensieveError as error:
        if getattr(options, "debug", False):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe left, as `| head` does
        sys.stderr.close()
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tokensieve", description=__doc__)
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    verbs = parser.add_subparsers(required=True, metavar="verb")

    report = verbs.add_parser("report", help="table, CSV, Markdown and HTML page of a sweep or a run")
    report.add_argument("folder", nargs="?", type=Path, help="a sweep or run folder (default: the latest sweep)")
    report.add_argument("--output-dir", type=Path, default=Path("outputs"), help="where sweeps are (default: outputs)")
    report.set_defaults(verb=_report)

    inspect = verbs.add_parser("inspect", help="HTML page of a run's tokens, coloured by perplexity, kept or masked")
    inspect.add_argument("folder", type=Path, help="a run folder (outputs/runs/... or a sweep's jobs/...)")
    inspect.add_argument("--output", type=Path, help="page to write (default: tokens.html in the run folder)")
    inspect.set_defaults(verb=_inspect)

    mask = verbs.add_parser(
        "mask",
        help="how many tokens a rule keeps, for one or several thresholds, without training",
        epilog="example: tokensieve mask stm=naive dataset=lab_code --thresholds 1.5,2.5,4",
    )
    mask.add_argument("overrides", nargs="*", help="Hydra overrides, as for train.py")
    mask.add_argument("--thresholds", type=_numbers, help="comma-separated perplexities (default: stm.threshold)")
    mask.set_defaults(verb=_mask)
    return parser


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _report(options: argparse.Namespace) -> None:
    from tokensieve.report import write_report
    from tokensieve.sweep.manifest import latest_sweep

    paths = write_report(options.folder or latest_sweep(options.output_dir / "sweeps"))
    print(f"\npage: {paths.page}\ntable: {paths.csv}", file=sys.stderr)


def _inspect(options: argparse.Namespace) -> None:
    from tokensieve.inspection import write_inspection
    from tokensieve.pipeline import open_store
    from tokensieve.stages import define_stages

    page = options.output or options.folder / "tokens.html"
    config = read_run_config(options.folder)
    write_inspection(define_stages(config, open_store(config)), page)
    print(page)


def read_run_config(folder: Path) -> RunConfig:
    """The resolved config of a run folder.

    Raises:
        ConfigError: not a run folder.
    """
    from tokensieve.config import from_yaml

    file = folder / "config.yaml"
    if not file.is_file():
        raise ConfigError(
            "folder",
            "must be a run folder, with config.yaml",
            received=str(folder),
            remedy="give a folder below outputs/runs or a sweep's jobs",
        )
    return from_yaml(file.read_text(encoding="utf-8"))


def _mask(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from tokensieve.config import StmConfig
    from tokensieve.pipeline import open_store
    from tokensieve.stages import define_stages

    config = compose(options.overrides)
    table = Table("arm", "examples", "dropped", "response tokens", "kept", "masked %", "NLL masked %", "end kept %")
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


def compose(overrides: Sequence[str]) -> RunConfig:
    """The run that `python train.py` with these overrides would do, from the conf folder here or of the checkout.

    Raises:
        ConfigError: a fault in an override, or no conf folder.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from tokensieve.config import register_schema
    from tokensieve.sweep.compose import read_config
    from tokensieve.sweep.explain import explain

    candidates = [Path.cwd() / "conf", Path(__file__).resolve().parents[2] / "conf"]
    folder = next((path for path in candidates if (path / "config.yaml").is_file()), None)
    if folder is None:
        raise ConfigError(
            "conf",
            "the folder of config options must be here",
            received=str(candidates[0]),
            remedy="run from the root of the checkout",
        )
    register_schema()
    try:
        with initialize_config_dir(str(folder)):
            return read_config(hydra_compose("config", list(overrides)))
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from error


if __name__ == "__main__":
    sys.exit(main())
