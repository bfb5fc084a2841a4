"""Ask a back end for what the store lacks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any, Final

from tqdm import tqdm

from tokensieve.completions.records import Backend, Completion, Decoding, Messages
from tokensieve.completions.store import CompletionStore, completion_key
from tokensieve.errors import CacheError, DataError

_COMPLETIONS_AT_ONCE: Final = 2048  # what is held in memory, and what one call of the back end is given

Check = Callable[[int, Completion], bool]
"""Whether a completion of the conversation of this number is accepted."""


def complete(
    backend: Backend,
    store: CompletionStore,
    conversations: Iterable[Messages],
    decoding: Decoding,
    *,
    num_samples: int = 1,
    progress: str | None = None,
    check: Check | None = None,
) -> Iterator[list[Completion]]:
    """Yield, in order, the `num_samples` completions of each conversation.

    Taken from the store where it has them; the rest is asked for, in groups of about 2048 completions, and every
    answer is committed to the store as it arrives. A run that is killed and started again asks only for what it lacks.
    A conversation that appears twice, and the samples of greedy decoding, are asked for once. Memory does not grow
    with the number of conversations.

    Args:
        backend: the model.
        store: where completions are kept.
        conversations: any number of them, read lazily; a list or other sized one gives the bar its end.
        decoding: how completions are drawn.
        num_samples: completions a conversation, >= 1.
        progress: label of a progress bar with time left; None: no bar.
        check: called once a completion, as it arrives; the share that it accepts is shown on the bar.

    Raises:
        ValueError: `num_samples` below 1.
        DataError: a conversation that is not valid Unicode.
        TokensieveError: what the back end or the store raises; what had arrived by then is in the store.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; got {num_samples}")
    return _complete_all(backend, store, conversations, decoding, num_samples, progress, check)


def _complete_all(
    backend: Backend,
    store: CompletionStore,
    conversations: Iterable[Messages],
    decoding: Decoding,
    num_samples: int,
    progress: str | None,
    check: Check | None,
) -> Iterator[list[Completion]]:
    identity = dict(backend.identity())
    remaining = iter(conversations)
    total = len(conversations) * num_samples if isinstance(conversations, Sized) else None
    start = 0
    with _Bar(progress, total, check) as bar:
        while group := list(islice(remaining, max(1, _COMPLETIONS_AT_ONCE // num_samples))):
            for number, messages in enumerate(group, start):
                _require_unicode(messages, number)
            keys = [
                [completion_key(identity, messages, decoding, sample) for sample in range(num_samples)]
                for messages in group
            ]
            known = _answer_group(backend, store, group, keys, decoding, start, bar)
            for own in keys:
                yield [known[key] for key in own]
            start += len(group)


def _answer_group(
    backend: Backend,
    store: CompletionStore,
    group: Sequence[Messages],
    keys: Sequence[Sequence[bytes]],
    decoding: Decoding,
    start: int,
    bar: _Bar,
) -> dict[bytes, Completion]:
    """All completions of a group, by key; those that the store lacks are asked for and stored."""
    wanted: dict[bytes, list[int]] = {}  # the conversations, by number, that a completion answers
    requests: dict[bytes, tuple[Messages, int]] = {}
    for number, (messages, own) in enumerate(zip(group, keys, strict=True)):
        for sample, key in enumerate(own):
            wanted.setdefault(key, []).append(start + number)
            requests.setdefault(key, (messages, sample))
    known = store.find(requests)
    for key, completion in known.items():
        bar.count(wanted[key], completion, is_new=False)
    missing = [key for key in requests if key not in known]
    if missing:

        def keep(number: int, completion: Completion) -> None:
            key = missing[number]
            known[key] = store.put(key, completion)
            bar.count(wanted[key], known[key], is_new=True)

        answers = backend.complete([requests[key] for key in missing], decoding)
        _receive(answers, keep, lambda number, completion: store.put(missing[number], completion))
    if len(known) < len(requests):
        raise RuntimeError(f"the back end left {len(requests) - len(known)} of {len(missing)} requests unanswered")
    return known


def _receive(
    answers: Iterator[tuple[int, Completion]],
    keep: Callable[[int, Completion], object],
    save: Callable[[int, Completion], object],
) -> None:
    """Keep each answer as it comes. Whatever ends this early (Ctrl-C, a failing check), what has arrived is saved."""
    latest = None
    try:
        for latest in answers:
            keep(*latest)
    except CacheError:
        raise  # nothing can be saved
    except BaseException as error:
        if latest is not None:
            save(*latest)  # the interruption may have come before it was
        if isinstance(answers, Generator):
            _save_rest(answers, error, save)
        raise
    finally:
        if isinstance(answers, Generator):
            answers.close()


def _save_rest(
    answers: Generator[tuple[int, Completion], None, None],
    error: BaseException,
    save: Callable[[int, Completion], object],
) -> None:
    """Tell the back end to stop, and save what it still hands over."""
    try:
        latest = answers.throw(error)
        while True:
            save(*latest)
            latest = next(answers)
    except StopIteration:
        return
    except BaseException as raised:
        if raised is not error:
            raise


class _Bar:
    """Progress over completions: how many are there, the share accepted, and the time left by those asked for now."""

    def __init__(self, label: str | None, total: int | None, check: Check | None) -> None:
        # smoothing=0: the rate is that of the whole run; answers come in bursts.
        disable = None if label else True
        self._bar: tqdm[Any] = tqdm(desc=label, total=total, disable=disable, delay=2, smoothing=0, unit="completion")
        self._check = check
        self._num_seen = self._num_accepted = 0

    def count(self, numbers: Sequence[int], completion: Completion, *, is_new: bool) -> None:
        """Count a completion once for each conversation (by number) and sample that it answers."""
        if self._check is not None:
            self._num_accepted += sum(self._check(number, completion) for number in numbers)
            self._num_seen += len(numbers)
            self._bar.set_postfix_str(f"{self._num_accepted / self._num_seen:.0%} accepted", refresh=False)
        if not is_new and not self._bar.disable:
            self._bar.initial += len(numbers)  # what was found took no time, and says nothing about the time left
        self._bar.update(len(numbers))

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def _require_unicode(messages: Messages, number: int) -> None:
    for turn, message in enumerate(messages):
        for key, value in message.items():
            try:
                f"{key}{value}".encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"conversation {number}, turn {turn}, {key}",
                    "must be valid Unicode text",
                    received=str(error),
                    remedy="the row was decoded wrongly: correct or remove it",
                ) from None
