"""The verb prepare."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.cli.overrides import compose

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[Any]

_ABOUT = """The data of a run, after noise, variant and mask, as files for other trainers: train and validation,
one row for each example that trains a token, with its id and its provenance, and a manifest.json.

formats:
  messages           messages: [{role, content}]
  sharegpt           conversations: [{from: system|human|gpt, value}]
  alpaca             instruction, input (empty), output
  prompt_completion  prompt, completion
  tokens             input_ids and labels, -100 where a token is masked or no response (labels are not shifted);
                     num_prompt_tokens where the response reaches the end

Only tokens carries the mask: a token may hold half a character, or part of the chat template, so that the mask has
no exact place in the texts. alpaca and prompt_completion hold one user turn and its response; a row with more, or with
a system turn, is an error.
"""
_EXAMPLES = """examples:
  tokensieve prepare dataset=lab_code stm=none --format alpaca --output prepared/code
  tokensieve prepare dataset=lab_math noise=typo stm=naive --format tokens --file-format parquet --output prepared/math
read back:
  python train.py dataset=local dataset.path=prepared/code dataset.test_fraction=0          a text format
  python train.py dataset=pretokenised dataset.path=prepared/math stm=none                  tokens, without their mask
"""


def add_prepare(verbs: Verbs) -> None:
    """`prepare [OVERRIDE ...] --output DIR --format FORMAT`."""
    prepare = verbs.add_parser(
        "prepare",
        help="write a run's training data, or its tokens and mask, for other trainers",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prepare.add_argument("overrides", nargs="*", help="Hydra overrides, as for train.py")
    prepare.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    prepare.add_argument(
        "--format",
        required=True,
        choices=("messages", "sharegpt", "alpaca", "prompt_completion", "tokens"),
        help="what a row holds",
    )
    prepare.add_argument("--file-format", choices=("jsonl", "parquet"), default="jsonl", help="default: jsonl")
    prepare.add_argument("--force", action="store_true", help="replace what an earlier prepare wrote into DIR")
    prepare.set_defaults(verb=_prepare)


def _prepare(options: argparse.Namespace) -> None:
    from rich.console import Console

    from tokensieve.pipeline import open_store
    from tokensieve.prepare import prepare_data, print_summary
    from tokensieve.stages import define_stages

    config = compose(options.overrides)
    stages = define_stages(config, open_store(config))
    if config.dry_run:
        for stage, artefact in stages.training_data().items():
            print(f"{stage:<8}  {artefact.stamp}  {'cached' if artefact.is_cached else 'to build'}")
        return
    prepared = prepare_data(
        stages,
        options.output,
        format_name=options.format,
        file_format=options.file_format,
        force=options.force,
    )
    print_summary(prepared, Console())
