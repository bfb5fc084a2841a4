"""Which code made a run: git commit and package versions."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    "tokensieve",
    "torch",
    "transformers",
    "peft",
    "lightning",
    "datasets",
    "hydra-core",
    "bitsandbytes",
    "mlflow",
)


def git_commit(folder: Path | None = None) -> str | None:
    """Hash of HEAD of the repository that holds `folder` (default: this package), `-dirty` appended when tracked
    files differ from it; None outside a repository, without git, or before the first commit.
    """
    where = folder or Path(__file__).resolve().parent
    try:
        commit = _git(where, "rev-parse", "--verify", "HEAD")
        # An installed copy may lie inside somebody else's repository (its .venv): that commit says nothing.
        if folder is None and not _git(where, "ls-files", "--", "__init__.py", str(Path(__file__).resolve())):
            return None
        dirty = _git(where, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if dirty else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True, errors="replace"
    )
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that can change a result.

    >>> "python" in package_versions()
    True
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
