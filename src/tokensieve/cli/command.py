"""The command line: its verbs, and how faults are told."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from tokensieve.cli import compare, evaluate, models, prepare, reproduce, results, storage
from tokensieve.errors import TokensieveError
from tokensieve.interruption import terminate_as_interrupt

_VERBS = (
    results.add_report,
    results.add_inspect,
    results.add_mask,
    prepare.add_prepare,
    evaluate.add_evaluate,
    compare.add_compare,
    models.add_chat,
    models.add_export,
    reproduce.add_reproduce,
    storage.add_cache,
    storage.add_sync,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, or 1 after a fault of input, told in one line on stderr."""
    options = _read(_parser(), arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for library in ("httpx", "httpx2"):  # a line a request to the hub
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        with terminate_as_interrupt():
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


def _read(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options and overrides in any order; argparse alone takes the overrides before the first option or none."""
    options, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(options, "overrides") or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokensieve",
        description="`tokensieve <verb>`: what one does around training. Training itself is `python train.py`.",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    verbs = parser.add_subparsers(required=True, metavar="verb")
    for add in _VERBS:
        add(verbs)
    return parser
