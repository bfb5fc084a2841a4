"""The harness's tasks by name, with a clear line for what cannot be had."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tokensieve.errors import ConfigError, DataError
from tokensieve.model import first_line


class Found(NamedTuple):
    """What one requested name stands for.

    `group` is the harness's Group when the name is one that has a score of its own (mmlu); `tasks` are its leaf tasks
    by their names, one for a plain task.
    """

    name: str
    group: Any
    tasks: dict[str, Any]


def require_harness() -> None:
    """Raise a ConfigError when lm-evaluation-harness is not installed."""
    if find_spec("lm_eval") is None:
        raise ConfigError("eval=lm_eval", "needs the package lm-eval", remedy="pip install -e '.[eval]'")


def index_tasks(names: Sequence[str], include_path: Path | None) -> Any:
    """The harness's TaskManager that knows all `names`; called before a model loads, it tells of errors early.

    The harness's own tasks, some 14,000 files, are read only when `include_path` does not have all that is asked.

    Raises:
        ConfigError: no such folder, no names, a name twice, or a name that nobody has, with those most like it.
    """
    if include_path is not None and not include_path.is_dir():
        raise ConfigError(
            "eval.include_path", "must be an existing folder", received=str(include_path), remedy="check the path"
        )
    if not names:
        raise ConfigError("eval.tasks", "must name at least one task", remedy="for instance eval.tasks=[arc_challenge]")
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise ConfigError("eval.tasks", "must name each task once", received=twice, remedy="remove the second")
    folder = str(include_path.resolve()) if include_path is not None else None
    manager = _read_index(folder, False) if folder is not None else None
    if manager is None or not all(name in manager.task_index for name in names):
        manager = _read_index(folder, True)
    for name in names:
        if name not in manager.task_index:
            close = get_close_matches(name, manager.all_tasks, n=5, cutoff=0.5)
            raise ConfigError(
                "eval.tasks",
                "must name tasks or groups of lm-evaluation-harness",
                received=name,
                remedy=f"did you mean {', '.join(close)}" if close else "see `lm-eval ls tasks` for all names",
            )
    return manager


@cache
def _read_index(folder: str | None, include_defaults: bool) -> Any:
    """Kept for the process: the base and the trained model are asked the same."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=include_defaults)


def load_tasks(manager: Any, names: Sequence[str]) -> list[Found]:
    """The tasks that each name stands for, with their data.

    Raises:
        ConfigError: a task whose data or code does not load, that asks for media, that would run programs which the
            model wrote outside the sandbox, or that two names stand for.
        DataError: a task without items.
    """
    found = [_load_tasks(manager, name) for name in names]
    owners: dict[str, str] = {}
    for entry in found:
        for leaf in entry.tasks:
            if leaf in owners:
                raise ConfigError(
                    "eval.tasks",
                    f"must name each task once, but {owners[leaf]} and {entry.name} both have {leaf}",
                    remedy="remove one of them",
                )
            owners[leaf] = entry.name
    return found


def _load_tasks(manager: Any, name: str) -> Found:
    entry = manager.task_index[name]
    _refuse_programs(name, bool((entry.cfg or {}).get("unsafe_code", False)))
    try:
        loaded = manager.load([name])
    except Exception as error:  # whatever a task's own code and its data loader raise
        raise ConfigError(
            "eval.tasks",
            f"{name} must load in lm-evaluation-harness",
            received=f"{type(error).__name__}: {first_line(error)}",
            remedy="check its declaration and its data: columns, files, the network, HF_TOKEN, HF_HUB_OFFLINE",
        ) from error
    for leaf, task in loaded["tasks"].items():
        _refuse_programs(leaf, bool(getattr(task, "UNSAFE_CODE", False)))
        if getattr(task, "MULTIMODAL", False):
            raise ConfigError("eval.tasks", "must be tasks of text alone", received=leaf, remedy="leave it out")
        if len(task.eval_docs) == 0:
            raise DataError(f"task {leaf}", "needs at least one item", remedy="check the data that it names")
    group = loaded.get("groups", {}).get(name)
    return Found(name, group if group is not None and group.has_aggregation else None, dict(loaded["tasks"]))


def _refuse_programs(name: str, is_unsafe: bool) -> None:
    if is_unsafe:
        raise ConfigError(
            "eval.tasks",
            "must not be a task that runs the model's programs outside the sandbox",
            received=name,
            remedy="use tokensieve's own mbpp or humaneval, which run them inside it",
        )
