"""The verb evaluate."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.cli.models import add_model_options, read_model_options
from tokensieve.cli.suite import OVERRIDE, SuiteChoice, define_suite, open_subject
from tokensieve.cli.values import count, names
from tokensieve.errors import ConfigError

if TYPE_CHECKING:
    from tokensieve.evaluations import Subject

    Verbs = argparse._SubParsersAction[Any]

log = logging.getLogger(__name__)
_GROUPS = ("eval", "dataset", "output_dir")
_EXAMPLES = """examples:
  tokensieve evaluate outputs/runs/a --suite lab                     a run's model, all tasks of a suite
  tokensieve evaluate --model lab --suite lab --tasks lab_sql        a base model, one task
  tokensieve evaluate --adapter my-adapter --suite open_llm --num-items 100 --output scores.json
  tokensieve evaluate --model M --suite target dataset=gsm8k eval.num_fewshot=5
  tokensieve evaluate outputs/runs/a --suite lab --perplexity        how surprising it finds the right responses
  tokensieve evaluate outputs/runs/a --suite lm_eval --tasks hellaswag,mmlu
"""


def add_evaluate(verbs: Verbs) -> None:
    """`evaluate [RUN | --model M [--adapter A]] --suite S [OVERRIDE ...]`."""
    evaluate = verbs.add_parser(
        "evaluate",
        help="scores of a model on a suite, trained here or elsewhere",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(evaluate)
    evaluate.add_argument("--suite", required=True, help="an option of conf/eval (lab, target, open_llm, lm_eval, ...)")
    evaluate.add_argument("--tasks", type=names, metavar="A,B", help="of the suite, these alone (default: all)")
    evaluate.add_argument("--num-items", type=count, metavar="N", help="items a task (default: the suite's)")
    evaluate.add_argument("--output", type=Path, metavar="FILE.json", help="write results and scores of items there")
    evaluate.add_argument(
        "--perplexity", action="store_true", help="instead of scores: of the sets' held-out responses"
    )
    evaluate.add_argument("overrides", nargs="*", help="Hydra overrides of eval, dataset and output_dir")
    evaluate.set_defaults(verb=_evaluate)
    # A run in front of the options and overrides behind them: argparse gives that only when it is asked to.
    evaluate.__dict__["parse_known_args"] = partial(_parse_intermixed, evaluate)


def _parse_intermixed(
    parser: argparse.ArgumentParser, arguments: Sequence[str], namespace: argparse.Namespace | None = None
) -> tuple[argparse.Namespace, list[str]]:
    ours = parser.__dict__.pop("parse_known_args")  # argparse's own comes back by itself
    try:
        return parser.parse_known_intermixed_args(arguments, namespace)
    finally:
        parser.__dict__["parse_known_args"] = ours


def _evaluate(options: argparse.Namespace) -> None:
    _sort_positionals(options)
    if options.output is not None:
        _check_output(options.output)
    choice = SuiteChoice(
        suite=options.suite, tasks=options.tasks, num_items=options.num_items, overrides=options.overrides
    )
    subject = open_subject(read_model_options(options), choice)
    if options.perplexity:
        _show_perplexities(subject, choice, options)
    else:
        _show_scores(subject, choice, options)


def _show_scores(subject: Subject, choice: SuiteChoice, options: argparse.Namespace) -> None:
    from rich.console import Console

    from tokensieve.evaluations.show import print_scores, write_results

    evaluations = define_suite(subject, choice)
    results = []
    for name, evaluation in evaluations.items():
        results.append(evaluation.get())
        log.info("%s: %s", name, "evaluated" if evaluation.built_here else "found in the cache")
    if options.output is not None:  # first: a reader that closes the pipe (`| head`) must not cost it
        stamps = {name: evaluation.digest for name, evaluation in evaluations.items()}
        write_results(options.output, subject, results, suite=options.suite, stamps=stamps)
    print_scores(results, Console())


def _show_perplexities(subject: Subject, choice: SuiteChoice, options: argparse.Namespace) -> None:
    """Of the responses of each test split: the suite's sets, and the run's own or the one that is named."""
    from rich.console import Console

    from tokensieve.corpora import define_held_out
    from tokensieve.evaluations.perplexity import measure_perplexity
    from tokensieve.evaluations.show import print_perplexities, write_results

    config = subject.config
    own = {config.dataset.name: config.dataset} if options.run is not None or choice.names_dataset else {}
    sets = own | config.eval.datasets
    wanted = list(options.tasks or sets)
    unknown = [name for name in wanted if name not in sets]
    if unknown or not wanted:
        remedy = f"choose from {', '.join(sets)}" if sets else "choose another suite, or add dataset=..."
        raise ConfigError("--tasks", "must name sets of the suite", received=unknown or None, remedy=remedy)
    corpora = {name: define_held_out(sets[name], subject.store, config.eval.num_items) for name in wanted}
    results = []
    for name, corpus in corpora.items():
        results.append(measure_perplexity(subject, name, corpus, sets[name].train_on))
        log.info("%s: %s", name, "found in the cache" if results[-1].was_cached else "scored")
    if options.output is not None:
        stamps = {name: corpus.digest for name, corpus in corpora.items()}
        write_results(options.output, subject, results, suite=options.suite, stamps=stamps)
    print_perplexities(results, Console())


def _sort_positionals(options: argparse.Namespace) -> None:
    """A first positional that is an override is no run."""
    if options.run is not None and "=" in str(options.run) and not options.run.is_dir():
        options.overrides, options.run = [str(options.run), *options.overrides], None
    for text in options.overrides:
        match = OVERRIDE.match(text)
        if match is None or match["key"] not in _GROUPS:
            raise ConfigError(
                "evaluate",
                f"takes overrides of {', '.join(_GROUPS)} alone",
                received=text,
                remedy="name the model with --model, --adapter and their like",
            )


def _check_output(path: Path) -> None:
    """Refuse before hours of work what could not be written after them."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError("--output", "must be a file in an existing folder", received=str(path), remedy="make it")
