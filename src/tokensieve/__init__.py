"""tokensieve: robust supervised fine-tuning of language models as a sweep.

From Python: `load_sweep`, `score_tokens`, `select_tokens`, `evaluate`. Importing the package loads none of them.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokensieve.api import evaluate, load_sweep, score_tokens, select_tokens

    __version__: str

__all__ = ["__version__", "evaluate", "load_sweep", "score_tokens", "select_tokens"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _find_version()
    if name in __all__:
        from tokensieve import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _find_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tokensieve")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"


class _Package(ModuleType):
    """`evaluate` is also the name of a stage: Python sets a submodule on its package, which would hide the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
