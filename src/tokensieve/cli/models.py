"""Verbs that load a trained model: chat, export."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.cli.values import count
from tokensieve.errors import ConfigError
from tokensieve.trained_model import TrainedModel, choose_model

if TYPE_CHECKING:
    from tokensieve.export import Export
    from tokensieve.export.verification import Agreement

    Verbs = argparse._SubParsersAction[Any]


def add_chat(verbs: Verbs) -> None:
    """`chat [RUN]`."""
    chat = verbs.add_parser("chat", help="talk to a model, its adapter on or off; also one line a turn through a pipe")
    add_model_options(chat)
    chat.add_argument("--system", default="", metavar="TEXT", help="the system turn")
    chat.add_argument("--temperature", type=_temperature, default=0.0, help="0 (the default) is greedy, as evaluated")
    chat.add_argument("--top-p", type=_share, default=1.0, help="nucleus mass in (0, 1] (default: 1)")
    chat.add_argument("--max-new-tokens", type=count, default=512, help="longest answer (default: 512)")
    chat.add_argument("--seed", type=int, default=0, help="of sampling (default: 0)")
    chat.set_defaults(verb=_chat)


def add_export(verbs: Verbs) -> None:
    """`export RUN --output DIR`."""
    export = verbs.add_parser("export", help="merge an adapter into its base, check the result, write or push it")
    add_model_options(export)
    export.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    export.add_argument("--force", action="store_true", help="replace the model that lies in DIR")
    export.add_argument("--push", metavar="OWNER/NAME", help="upload to the hub, as a private repository (HF_TOKEN)")
    export.add_argument("--public", action="store_true", help="with --push: for everybody to see")
    export.set_defaults(verb=_export)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name a model: a run, or a model with or without an adapter."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="a finished run's folder")
    parser.add_argument("--model", help="lab, a folder or a hub id (default: the adapter's own base, else lab)")
    parser.add_argument("--revision", help="commit of a hub id")
    parser.add_argument("--adapter", type=Path, help="an adapter folder, instead of RUN")
    parser.add_argument("--chat-template", type=Path, metavar="FILE", help="Jinja file, where the tokenizer has none")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that ships with the checkpoint")


def read_model_options(options: argparse.Namespace) -> TrainedModel:
    """The model that they name."""
    return choose_model(
        options.run,
        model=options.model,
        adapter=options.adapter,
        revision=options.revision,
        chat_template=options.chat_template,
        dtype=options.dtype,
        accelerator=options.accelerator,
        trust_remote_code=options.trust_remote_code,
    )


def _chat(options: argparse.Namespace) -> None:
    from tokensieve.chat import open_conversation, talk
    from tokensieve.completions.records import Decoding

    trained = read_model_options(options)
    decoding = Decoding(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        seed=options.seed,
    )
    conversation = open_conversation(trained, decoding, system=options.system)
    if sys.stdin.isatty():
        print(f"{trained.label}; /help lists the commands", file=sys.stderr)
    else:
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # a text stream where it is piped
    talk(conversation, lines=sys.stdin, answers=sys.stdout, notes=sys.stderr)


def _export(options: argparse.Namespace) -> None:
    from tokensieve.export import export_model, open_repository

    if options.public and not options.push:
        raise ConfigError("--public", "is for what is published", remedy="add --push OWNER/NAME, or leave it out")
    trained = read_model_options(options)
    repository = open_repository(options.push, public=options.public) if options.push else None
    export = export_model(trained, options.output, dtype=options.dtype, force=options.force)
    print("\n".join(_describe(export)))
    if repository is not None:
        print(f"pushed: {repository.push(export.folder)}")


def _describe(export: Export) -> list[str]:
    from tokensieve.export.verification import TOLERANCE

    lines = [f"written: {export.folder} ({export.dtype})"]
    if export.merge is None or export.effect is None:
        return [*lines, "full fine-tuning: the weights are copies, byte for byte; nothing was merged"]
    merge, effect, gap = export.merge, export.effect, export.quantisation
    lines += [
        f"merged against unmerged logits: {_agreement(merge)} (relative tolerance {TOLERANCE[export.dtype]:g})",
        f"the base alone against unmerged logits, what the adapter does: {_agreement(effect)}",
    ]
    if gap is not None:
        lines.append(
            f"trained on a 4-bit base, merged into the base's {export.dtype} weights: not bit for bit the model that "
            f"was evaluated. Against that one: {_agreement(gap)}"
        )
    return lines


def _agreement(found: Agreement) -> str:
    return (
        f"largest difference {found.absolute:.3g}, relative {found.relative:.3g}, same first choice at "
        f"{found.same_top} of {found.num_positions} positions"
    )


def _temperature(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must be 0 or above")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return value
