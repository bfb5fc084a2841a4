"""Versions of installed packages, for stamps."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def version(package: str) -> str:
    """The installed version; read once, because a sweep of a thousand jobs asks thousands of times.

    Raises:
        importlib.metadata.PackageNotFoundError: it is not installed.
    """
    return importlib.metadata.version(package)
