"""The verb reproduce."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.cli.overrides import compose
from tokensieve.errors import ConfigError

if TYPE_CHECKING:
    from tokensieve.reproduce import Experiment

    Verbs = argparse._SubParsersAction[Any]

_EXAMPLES = """examples:
  tokensieve reproduce --list
  tokensieve reproduce t13_thresholds                              the packaged lab, minutes
  tokensieve reproduce t13_thresholds trainer=ddp --scale paper    the real models
  tokensieve reproduce t01_sentence_perplexity --data scores.parquet   from the released perplexities, seconds
"""


def add_reproduce(verbs: Verbs) -> None:
    """`reproduce NAME [OVERRIDE ...]`."""
    verb = verbs.add_parser(
        "reproduce",
        help="run a table of the papers and set our numbers beside the printed ones",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("name", nargs="?", metavar="NAME", help="a folder of experiments/")
    verb.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="Hydra overrides for every run of the table")
    verb.add_argument("--scale", choices=("lab", "paper"), default="lab", help="which models (default: lab)")
    verb.add_argument("--list", action="store_true", help="all tables")
    verb.add_argument("--data", type=Path, metavar="FILE", help="the authors' perplexities, instead of a model")
    verb.add_argument("--dry-run", action="store_true", help="print the commands, after a check of every arm")
    verb.add_argument("--no-run", action="store_true", help="judge the runs that are there")
    verb.add_argument("--record", action="store_true", help="write the lab's numbers into the table's folder (lab.md)")
    verb.add_argument("--fill-errors", action="store_true", help="write computed columns of expected.csv again")
    verb.add_argument("--output-dir", type=Path, default=Path("outputs"), help="of runs and tables (default: outputs)")
    verb.set_defaults(verb=_reproduce)


def _reproduce(options: argparse.Namespace) -> None:
    from tokensieve.reproduce import find_experiment, list_experiments, reproduce

    if options.list:
        _print_list(list_experiments())
        return
    if options.name is None:
        raise ConfigError("reproduce", "needs the name of a table", remedy="tokensieve reproduce --list shows all")
    experiment = find_experiment(options.name)
    _refuse_folder(options.overrides)
    if options.fill_errors:
        _fill_errors(experiment)
    elif options.dry_run:
        _print_commands(experiment, options)
    else:
        reproduce(
            experiment,
            compose,
            scale="paper" if options.data is not None else options.scale,
            extra=options.overrides,
            data=options.data,
            output_dir=options.output_dir,
            run=not options.no_run,
            record=options.record,
        )


def _refuse_folder(overrides: list[str]) -> None:
    from tokensieve.sweep.compose import key_of

    for override in overrides:
        if key_of(override) == "output_dir":
            folder = override.partition("=")[2]
            raise ConfigError(
                "output_dir", "is an option of this command", received=override, remedy=f"--output-dir {folder}"
            )


def _print_list(experiments: list[Experiment]) -> None:
    width = max((len(entry.id) for entry in experiments), default=0)
    for entry in experiments:
        print(f"{entry.id:<{width}}  {entry.paper.removeprefix('arXiv ')}  {entry.title}")


def _print_commands(experiment: Experiment, options: argparse.Namespace) -> None:
    from tokensieve.reproduce.arms import compose_arms, list_seeds
    from tokensieve.sweep.compose import key_of

    setup = experiment.setup(options.scale)
    arms = compose_arms(experiment, setup, compose, options.overrides)
    seeds = " ".join(list_seeds(setup, options.overrides))
    others = [override for override in options.overrides if key_of(override) != "seed"]
    for command in setup.first:
        print(f"for seed in {seeds}; do {' '.join([command, *others])}; done")
    print("\n".join(" ".join([command, *options.overrides]) for command in setup.commands))
    print(f"{len(arms)} of {len(experiment.places())} printed arms")
    for arm, reason in experiment.cannot.items():
        print(f"cannot be run: {arm}: {reason}")


def _fill_errors(experiment: Experiment) -> None:
    from tokensieve.reproduce.expected import complete, format_expected
    from tokensieve.reproduce.experiment import EXPECTED
    from tokensieve.run_folder import write_atomically

    path = experiment.folder / EXPECTED
    write_atomically(path, format_expected(complete(experiment.expected)))
    print(path)
