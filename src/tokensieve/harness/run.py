"""The run of lm-evaluation-harness on a loaded model, and the fences around it."""

from __future__ import annotations

import copy
import io
import logging
import random
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokensieve.errors import DataError
from tokensieve.harness.find import Found, index_tasks, load_tasks, require_harness
from tokensieve.harness.results import collect_results
from tokensieve.model import first_line
from tokensieve.records import EvalResult

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def evaluate_with_harness(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    num_items: int | None,
    num_fewshot: int | None,
    batch_size: int,
    include_path: Path | None = None,
    seed: int = 0,
    max_length: int | None = None,
    chat_template: bool = False,
) -> list[EvalResult]:
    """Evaluate `model` on tasks of lm-evaluation-harness, through the harness's own API.

    Its protocol is kept: the first `num_items` items of each leaf task, greedy decoding where a task does not say
    otherwise, contexts too long cut on the left. Log-probabilities are taken in float32. The model's mode, the
    tokenizer and the global random states are as before afterwards.

    Args:
        model: a causal LM or a PEFT model on it.
        tokenizer: its tokenizer.
        tasks: names of tasks, groups and tags.
        num_items: items a leaf task at most; None: all.
        num_fewshot: examples in a prompt; None: each task's own number. A task that fixes 0 keeps it.
        batch_size: rows at once, >= 1.
        include_path: a folder of further task declarations (YAML). They may name Python functions, which then run in
            this process, so it must be one that you trust.
        seed: of the choice of examples, and of tasks that sample.
        max_length: limit in tokens; None: the model's own.
        chat_template: whether prompts are put into the tokenizer's chat template.

    Returns:
        One result a task or scored group, in the order asked; see `collect_results`.

    Raises:
        ConfigError: the harness is not installed, or a task is unknown, does not load, or needs what we do not give.
        DataError: a task without items, or with items that the harness cannot put to this model.
        ValueError: `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    require_harness()
    with _fenced(seed) as truncations:
        from lm_eval.models.huggingface import HFLM

        from tokensieve.generate import evaluating
        from tokensieve.length_limits import length_limit

        manager = index_tasks(tasks, include_path)
        found = load_tasks(manager, tasks)
        for entry in found:
            _set_examples(entry, num_fewshot, seed)
        limit = min((n for n in (max_length, length_limit(model)) if n is not None), default=None)
        with evaluating(model):
            wrapped = HFLM(
                pretrained=model,
                tokenizer=copy.deepcopy(tokenizer),  # it may get a padding token, and its padding side changes
                batch_size=batch_size,
                max_length=limit,
                softmax_dtype="float32",
            )
            raw = _evaluate(wrapped, found, num_items=num_items, chat_template=chat_template)
    if truncations.num:
        logger.warning("%d requests were longer than %s tokens and lost their beginnings", truncations.num, limit)
    decoding = {"num_items": num_items, "seed": seed, "max_length": limit, "chat_template": chat_template}
    return [result for entry in found for result in collect_results(entry, raw, decoding)]


def _evaluate(wrapped: Any, found: Sequence[Found], *, num_items: int | None, chat_template: bool) -> Mapping[str, Any]:
    import lm_eval

    tasks = {leaf: task for entry in found for leaf, task in entry.tasks.items()}
    groups = {entry.name: entry.group for entry in found if entry.group is not None}
    try:
        raw: Mapping[str, Any] = lm_eval.evaluate(
            lm=wrapped,
            task_dict={"tasks": tasks, "groups": groups},
            limit=num_items,
            bootstrap_iters=0,  # the intervals are ours
            log_samples=True,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
        )
    except (AssertionError, LookupError, TypeError, ValueError) as error:
        # An option of no token or one beyond the model's limit, more examples than there are: all end in one of these.
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"tasks {', '.join(entry.name for entry in found)}",
            "must run in lm-evaluation-harness",
            received=f"{type(error).__name__}: {first_line(error) or where.line}",
            remedy="check the items, eval.num_fewshot, and the length of prompts and answers against the model's limit",
        ) from error
    return raw


def _set_examples(found: Found, num_fewshot: int | None, seed: int) -> None:
    """Give the tasks their number of examples by the harness's rules, and the seed that chooses them."""
    for leaf, task in found.tasks.items():
        own = task.get_config("num_fewshot")
        if num_fewshot is None or own == 0:
            if num_fewshot:
                logger.warning("%s fixes 0 examples in its declaration; num_fewshot=%d is not used", leaf, num_fewshot)
            task.set_config(key="num_fewshot", value=own or 0)
        else:
            task.set_config(key="num_fewshot", value=num_fewshot)
        task.set_fewshot_seed(seed=seed)


class _Truncations(logging.Filter):
    """Counts the harness's messages about contexts that it cut, one a request, and drops them with the others."""

    num = 0

    def filter(self, record: logging.LogRecord) -> bool:
        self.num += "exceeds model's maximum length" in record.getMessage()
        return record.levelno >= logging.ERROR


@contextmanager
def _fenced(seed: int) -> Iterator[_Truncations]:
    """Let the harness seed the global generators and talk, and undo it."""
    import torch

    states = random.getstate(), np.random.get_state()
    root, talker = logging.getLogger("lm_eval"), logging.getLogger("lm_eval.models.huggingface")
    level, truncations = root.level, _Truncations()
    root.setLevel(logging.ERROR)
    talker.setLevel(logging.WARNING)
    talker.addFilter(truncations)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng())
            stack.enter_context(warnings.catch_warnings(action="ignore"))
            if not sys.stderr.isatty():
                stack.enter_context(redirect_stderr(io.StringIO()))  # its progress bars know no other way
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield truncations
    finally:
        talker.removeFilter(truncations)
        talker.setLevel(logging.NOTSET)
        root.setLevel(level)
        random.setstate(states[0])
        np.random.set_state(states[1])
