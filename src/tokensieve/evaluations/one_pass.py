"""The answers to several tasks from one pass of the model over all of their items.

Which tasks a pass is over is written down before it begins, and its parts are kept as they are done, before anything is
graded. So a pass that was killed, or whose grades were, goes on after its last whole part with the same rows side by
side as if nothing had happened, and says the same to the last bit. Rounding alone lets a text depend on its neighbours
(`tokensieve.generate`); jobs of other suites that begin at the same moment may ask a base for the same answers twice.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokensieve.evaluations.subject import Subject
from tokensieve.records import Corpus, EvalResult, Stamp
from tokensieve.store import Artefact
from tokensieve.tasks import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tokensieve.evaluate import Inquiry, Reply, Request

VERSION: Final = 2
_FILE: Final = "replies.json"
_ROWS_OF_A_PART: Final = 1024  # what a kill costs at most; some places of a batch are empty at the end of each
log = logging.getLogger(__name__)


@dataclass
class OnePass:
    """What `subject` answers to `items`, by task.

    Attributes:
        results: of each task, which its graded answers become; a pass leaves out those that are there already.
    """

    subject: Subject
    items: Mapping[str, Artefact[Corpus]]
    results: dict[str, Artefact[EvalResult]] = field(default_factory=dict)
    _inquiries: dict[str, Inquiry] = field(default_factory=dict)
    _replies: dict[str, list[Reply]] = field(default_factory=dict)

    def answer(self) -> None:
        """Make the pass over the tasks that lack their results, or find it.

        Raises:
            DataError: no items of a task, or one that the chat template refuses.
        """
        missing = sorted(name for name, result in self.results.items() if not result.is_cached)
        if not missing or self._replies.keys() >= set(missing):
            return
        stamp = Stamp("answer", {"version": VERSION, "tasks of": sorted(one.digest for one in self.results.values())})
        plan = Artefact(stamp, self.subject.store, partial(_write, missing), _read)
        planned: list[str] = plan.get()
        pruned_since = [name for name in missing if name not in planned]
        if len(pruned_since) < len(missing):
            self._replies |= self._answer(planned)
        if pruned_since:
            self._replies |= self._answer(pruned_since)

    def grade(self, name: str) -> EvalResult:
        """The result of the task `name`, after a pass where there was none yet.

        Raises:
            DataError: no items of a task, or an item without a usable reference.
        """
        from tokensieve.evaluate import grade_replies

        self.answer()
        return grade_replies(self._ask(name), self._replies[name])

    def _answer(self, names: Sequence[str]) -> dict[str, list[Reply]]:
        """The replies to all requests of the tasks `names`."""
        from tokensieve.evaluate import order_requests

        start = time.perf_counter()
        requests = [request for name in names for request in self._ask(name).requests]
        order = order_requests(requests)
        parts = [order[first : first + _ROWS_OF_A_PART] for first in range(0, len(order), _ROWS_OF_A_PART)]
        what = names[0] if len(names) == 1 else f"{len(names)} tasks"
        asked = {"version": VERSION, "results": [self.results[name].digest for name in names]}
        kept = [  # all at hand until the last is there, so that none is pruned meanwhile
            Artefact(
                Stamp("answer", asked | {"part": number}),
                self.subject.store,
                partial(self._build, [requests[at] for at in part], f"evaluate {what}, {number + 1} of {len(parts)}"),
                _read,
            )
            for number, part in enumerate(parts)
        ]
        found = [_parse(reply) for part in kept for reply in part.get()]
        log.info("%d answers for %s (%.1f s)", len(requests), ", ".join(names), time.perf_counter() - start)
        by_request = dict(zip(order, found, strict=True))
        remaining = iter([by_request[at] for at in range(len(requests))])
        return {name: list(islice(remaining, len(self._ask(name).requests))) for name in names}

    def _build(self, requests: Sequence[Request], label: str, folder: Path) -> None:
        from tokensieve.evaluate import put_requests

        replies = put_requests(
            self.subject.load_model(),
            self._tokenizer,
            requests,
            batch_size=self.subject.config.eval.batch_size,
            max_length=self._limit,
            progress=label,
        )
        _write([reply if isinstance(reply, str) else astuple(reply) for reply in replies], folder)

    def _ask(self, name: str) -> Inquiry:
        from tokensieve.evaluate import ask_task

        if name not in self._inquiries:
            config = self.subject.config.eval
            self._inquiries[name] = ask_task(
                self._tokenizer,
                self.items[name].get(),
                TASKS[name],
                max_new_tokens=config.max_new_tokens,
                max_length=self._limit,
                code_seconds=config.code_seconds,
                mode=config.mode,
                samples_per_item=config.samples_per_item,
                temperature=config.temperature,
                top_p=config.top_p,
                seed=config.seed,
            )
        return self._inquiries[name]

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self.subject.load_tokenizer()

    @cached_property
    def _limit(self) -> int | None:
        return self.subject.find_limit()


def _write(values: Sequence[Any], folder: Path) -> None:
    (folder / _FILE).write_text(json.dumps(values), encoding="utf-8")


def _read(folder: Path) -> list[Any]:
    found: list[Any] = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    return found


def _parse(value: Any) -> Reply:
    """A text is written as such, a `Continuation` as the list of its values."""
    from tokensieve.log_likelihood import Continuation

    return value if isinstance(value, str) else Continuation(*value)
