"""Verbs about what lies on disk: cache, sync."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokensieve.errors import ConfigError

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[Any]

_CACHE_EXAMPLES = """examples:
  tokensieve cache list --kind fit
  tokensieve cache size
  tokensieve cache prune --unreferenced --dry-run        what no run's record leads to
  tokensieve cache prune --older-than 30d --kind score   both must hold

Prune needs a criterion; several must all hold. What a running job has open is never removed, nor what it builds.
Whatever is pruned is built again when a run needs it. Completions (completions.db) are listed and never pruned.
"""
_SYNC_EXAMPLES = """examples:
  tokensieve sync                                          every run and sweep below outputs
  tokensieve sync outputs/sweeps/2026-01-02_03-04-05 --dry-run
  tokensieve sync --uri http://host:5000                   into another store than the runs' own
"""


def add_cache(verbs: Verbs) -> None:
    """`cache list|size|prune`."""
    cache = verbs.add_parser(
        "cache",
        help="list, size and prune what runs share",
        epilog=_CACHE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = cache.add_subparsers(required=True, metavar="list|size|prune")
    for name, action, about in (
        ("list", _list, "every entry: kind, digest, size, age, runs"),
        ("size", _size, "entries and bytes by kind"),
        ("prune", _prune, "remove entries"),
    ):
        verb = actions.add_parser(name, help=about)
        verb.add_argument("--output-dir", type=Path, default=Path("outputs"), help="where cache is (default: outputs)")
        verb.add_argument("--kind", action="append", default=[], help="only this kind (score, fit, ...); repeatable")
        verb.set_defaults(verb=action)
        if name == "prune":
            verb.add_argument("--older-than", type=_age, metavar="AGE", help="not used for 12h, 30d, 8w")
            verb.add_argument("--unreferenced", action="store_true", help="no run's record leads to it")
            verb.add_argument("--dry-run", action="store_true", help="say what would go")


def add_sync(verbs: Verbs) -> None:
    """`sync [FOLDER ...]`."""
    sync = verbs.add_parser(
        "sync",
        help="send local records to MLflow that it does not have",
        epilog=_SYNC_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sync.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="runs, sweeps or output folders")
    sync.add_argument("--output-dir", type=Path, default=Path("outputs"), help="without FOLDER (default: outputs)")
    sync.add_argument("--uri", help="tracking URI (default: each run's own, else the output folder's mlflow.db)")
    sync.add_argument("--experiment", help="default: each run's own")
    sync.add_argument("--dry-run", action="store_true", help="say what would be sent")
    sync.set_defaults(verb=_sync)


def _list(options: argparse.Namespace) -> None:
    from tokensieve.inventory import list_entries, read_references
    from tokensieve.plain_table import align_lines

    entries = _of_kind(list_entries(options.output_dir), options.kind)
    references = read_references(options.output_dir)
    rows = [
        [entry.kind, entry.digest[:12] or "-", _bytes(entry.num_bytes), _days(entry.idle_seconds),
         str(len(references.get(entry.digest, ()))), entry.state]
        for entry in entries
    ]  # fmt: skip
    header = ["kind", "digest", "size", "not used for", "runs", "state"]
    print("\n".join(align_lines([header, *rows], num_left=2)))


def _size(options: argparse.Namespace) -> None:
    from tokensieve.inventory import list_entries
    from tokensieve.plain_table import align_lines

    entries = _of_kind(list_entries(options.output_dir), options.kind)
    kinds = sorted({entry.kind for entry in entries})
    rows = [
        [kind, str(sum(entry.kind == kind for entry in entries)),
         _bytes(sum(entry.num_bytes for entry in entries if entry.kind == kind))]
        for kind in kinds
    ]  # fmt: skip
    rows.append(["total", str(len(entries)), _bytes(sum(entry.num_bytes for entry in entries))])
    print("\n".join(align_lines([["kind", "entries", "size"], *rows])))


def _prune(options: argparse.Namespace) -> None:
    from tokensieve.inventory import prune

    if options.older_than is None and not options.unreferenced and not options.kind:
        raise ConfigError(
            "tokensieve cache prune",
            "needs a criterion",
            remedy="add --older-than 30d, --unreferenced or --kind KIND, and --dry-run to see what would go",
        )
    done = prune(
        options.output_dir,
        idle_seconds=options.older_than,
        unreferenced=options.unreferenced,
        kinds=options.kind,
        dry_run=options.dry_run,
    )
    word = "would remove" if options.dry_run else "removed"
    for entry in done.removed:
        print(f"{word} {entry.kind}/{entry.digest[:12]} ({_bytes(entry.num_bytes)})")
    for entry in done.in_use:
        print(f"in use, left alone: {entry.kind}/{entry.digest[:12]}")
    print(f"{word} {len(done.removed)} entries, {_bytes(sum(entry.num_bytes for entry in done.removed))}")


def _sync(options: argparse.Namespace) -> None:
    from tokensieve.sync import Destination, sync

    folders = options.folders or [options.output_dir]
    destination = Destination(options.output_dir, options.uri, options.experiment)
    done = sync(folders, destination, lambda line: print(line, flush=True), dry_run=options.dry_run)
    word = "would be sent" if options.dry_run else "sent"
    running = f", {len(done.running)} still running" if done.running else ""
    print(f"{len(done.sent)} runs {word}, {done.complete} were there already{running}")


def _of_kind(entries: list[Any], kinds: list[str]) -> list[Any]:
    return [entry for entry in entries if not kinds or entry.kind in kinds]


def _age(text: str) -> float:
    """Seconds of `90s`, `15m`, `12h`, `30d`, `8w`."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
    try:
        seconds = float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is no age: write 12h, 30d or 8w") from None
    if not seconds >= 0 or seconds == float("inf"):
        raise argparse.ArgumentTypeError("an age is 0 or more")
    return seconds


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _days(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} d"
