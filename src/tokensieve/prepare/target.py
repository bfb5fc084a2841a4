"""Where data may be written, known before anything is built."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tokensieve.errors import ConfigError

MANIFEST: Final = "manifest.json"
MADE_BY: Final = "tokensieve prepare"


def check_target(output: Path, *, force: bool, inputs: Sequence[Path]) -> Path:
    """The absolute path of `output`, once it may be written.

    Args:
        output: absent, an empty folder, or with `force` a folder that holds what this wrote before and nothing else.
        force: whether such data may be replaced.
        inputs: what is read; a folder that holds any of it is not replaced.

    Raises:
        ConfigError: it may not be written.
    """
    try:
        target = output.expanduser().resolve()
        exists = target.exists()
    except (OSError, RuntimeError) as error:  # a name that is too long, a home that is not known
        raise ConfigError(
            "--output", "must be a path that can be made", received=f"{output}: {error}", remedy="name another"
        ) from error
    if exists and not target.is_dir():
        raise ConfigError("--output", "must be a folder", received=str(output), remedy="name another path")
    _check_writable(target, output)
    present = sorted(path.name for path in target.iterdir()) if exists else []
    if present and not force:
        raise ConfigError(
            "--output", "must be a new or an empty folder", received=str(output), remedy="name another, or add --force"
        )
    if present:
        _check_replaceable(target, output, present, inputs)
    return target


def _check_writable(target: Path, output: Path) -> None:
    """The folder is made beside its final place: what has to be writable is the one that will hold it."""
    place = next(path for path in target.parents if path.exists())
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".probe-", dir=place))  # permission bits do not tell all, least of all to root
    except OSError as error:
        raise ConfigError(
            "--output",
            "must lie in a folder that can be written",
            received=f"{output}, in {place}: {error.strerror}",
            remedy="name another folder, or correct its permissions",
        ) from error


def _check_replaceable(target: Path, output: Path, present: Sequence[str], inputs: Sequence[Path]) -> None:
    foreign = [name for name in present if name not in _own_files(target)]
    if foreign:
        raise ConfigError(
            "--output",
            "--force replaces only what tokensieve prepare wrote",
            received=f"{output}, with {foreign[0]}",
            remedy="name another folder",
        )
    used = next((path for path in (*inputs, Path.cwd()) if path.expanduser().resolve().is_relative_to(target)), None)
    if used is not None:
        raise ConfigError(
            "--output", "must not hold what is read", received=f"{output}, with {used}", remedy="name another folder"
        )


def _own_files(target: Path) -> set[str]:
    """Names of the files that an earlier call wrote into `target`, by its manifest."""
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        if manifest["made_by"] != MADE_BY:
            return set()
        return {MANIFEST, *(str(split["file"]) for split in manifest["splits"].values())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
