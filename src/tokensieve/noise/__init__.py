"""Errors put into responses on purpose: which rows, which error, and a ledger that lets their detection be scored.

For one seed the rows of a smaller ratio are among those of a larger one, and a row's corruption is the same at every
ratio. Only the content of the last assistant turn changes, and the row's provenance gains one ledger entry.
"""

from __future__ import annotations

import json
import logging
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokensieve.errors import ConfigError
from tokensieve.noise.ledger import DetectionScore, LedgerEntry, read_ledger, score_detection
from tokensieve.records import Corpus, Stamp
from tokensieve.store import Artefact, Store

if TYPE_CHECKING:
    from tokensieve.noise.plan import Plan

__all__ = [
    "KINDS",
    "DetectionScore",
    "LedgerEntry",
    "NoiseStats",
    "define_noise",
    "fitting_kind",
    "read_ledger",
    "read_noise_stats",
    "score_detection",
]

VERSION = 1
DATA_FILE = "data.arrow"
STATS_FILE = "noise.json"
FROM_FILE: Final = "from_file"
KINDS: Final = ("label_flip", "answer_swap", "wrong_number", "wrong_code", "typo", "truncate", "repeat")
_FITTING: Final[Mapping[str, str]] = {"choice": "label_flip", "number": "wrong_number", "code": "wrong_code"}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NoiseStats:
    """What a build did: `num_changed` of `num_rows`; `num_skipped` were drawn, but no error could be put into them."""

    kind: str
    num_rows: int
    num_changed: int
    num_skipped: int


def fitting_kind(grader: str | None) -> str:
    """The kind whose errors a task's grader can see; another example's response where no kind is made for it.

    >>> fitting_kind("choice"), fitting_kind(None)
    ('label_flip', 'answer_swap')
    """
    return _FITTING.get(grader or "", "answer_swap")


def define_noise(
    store: Store,
    corpus: Artefact[Corpus],
    *,
    kind: str,
    ratio: float,
    seed: int,
    rate: float = 0.1,
    code_seconds: float = 5.0,
    noisy: Artefact[Corpus] | None = None,
) -> Artefact[Corpus]:
    """`corpus` with errors in the responses of `round(ratio * N)` rows, not yet built; `corpus` itself where none.

    Args:
        store: the cache.
        corpus: the clean examples.
        kind: "none", one of `KINDS`, or "from_file".
        ratio: share of all rows, in [0, 1]; halves round to even. Not read by from_file.
        seed: chooses rows and errors, by row id.
        rate: share of a response's words that typo touches, in (0, 1]; at least one word changes.
        code_seconds: wall-clock limit of one program that wrong_code tries.
        noisy: the twin of `corpus` that from_file reads: the same rows with other responses.

    Raises:
        ConfigError: an unknown kind, a ratio or rate outside its range, from_file without a twin.
        DataError: when built: fewer rows than asked can take this kind; a row of another layout; a twin that is none.
    """
    _check(kind, ratio, rate, noisy)
    if kind == "none" or (kind != FROM_FILE and ratio == 0):
        return corpus
    inputs: dict[str, Any] = {"version": VERSION, "corpus": corpus.digest, "kind": kind}
    if noisy is not None:
        inputs["noisy"] = noisy.digest
    else:
        inputs |= {"ratio": float(ratio), "seed": seed}
    if kind == "typo":
        inputs["rate"] = float(rate)
    if kind == "wrong_code":  # what a program does, and how its text parses, are up to the interpreter
        inputs |= {"code_seconds": float(code_seconds), "python": platform.python_version_tuple()[:2]}
    stamp = Stamp("noise", inputs)

    def build(folder: Path) -> None:
        from tokensieve.noise.plan import write_noisy

        plan = _make_plan(corpus, kind, ratio, seed, rate, code_seconds, noisy)
        rows = corpus.get().rows
        stats = NoiseStats(kind, len(rows), int(plan.changed.sum()), plan.num_skipped)
        write_noisy(folder / DATA_FILE, rows, plan, kind)
        (folder / STATS_FILE).write_text(json.dumps(asdict(stats)), encoding="utf-8")
        log.info("noise %s changed %d of %d rows; skipped %d", kind, stats.num_changed, len(rows), stats.num_skipped)

    return Artefact(stamp, store, build, partial(_open, stamp=stamp))


def read_noise_stats(noisy: Artefact[Corpus]) -> NoiseStats | None:
    """What the noise stage did to make `noisy`, which is built first; None for a corpus without noise."""
    if noisy.stamp.stage != "noise":
        return None
    noisy.get()
    text = (noisy.store.folder(noisy.stamp) / STATS_FILE).read_text(encoding="utf-8")
    return NoiseStats(**json.loads(text))


def _check(kind: str, ratio: float, rate: float, noisy: Artefact[Corpus] | None) -> None:
    known = ("none", *KINDS, FROM_FILE)
    if kind not in known:
        raise ConfigError("noise.name", "must be a known kind", received=kind, remedy=f"one of {', '.join(known)}")
    if not (0 <= ratio <= 1 and math.isfinite(ratio)):
        raise ConfigError("noise.ratio", "must be in [0, 1]", received=ratio, remedy="0.3 changes 30 % of the rows")
    if not 0 < rate <= 1:
        raise ConfigError("noise.rate", "must be in (0, 1]", received=rate, remedy="0.1 touches a tenth of the words")
    if (kind == FROM_FILE) != (noisy is not None):
        raise ConfigError(
            "noise.path",
            "from_file, and only from_file, reads a noisy file",
            received=kind,
            remedy="set noise=from_file and noise.path together",
        )


def _make_plan(
    corpus: Artefact[Corpus],
    kind: str,
    ratio: float,
    seed: int,
    rate: float,
    code_seconds: float,
    noisy: Artefact[Corpus] | None,
) -> Plan:
    """Decide which rows change, and how; the libraries this needs are loaded only here."""
    rows = corpus.get().rows
    if noisy is not None:
        from tokensieve.noise.twin import plan_twin

        return plan_twin(rows, noisy.get().rows)
    if kind == "answer_swap":
        from tokensieve.noise.swap import plan_swap

        return plan_swap(rows, ratio, seed)
    if kind == "wrong_code":
        from tokensieve.noise.wrong_code import plan_wrong_code

        return plan_wrong_code(rows, ratio, seed, code_seconds)
    from tokensieve.noise.final_answer import LabelFlip, WrongNumber
    from tokensieve.noise.plan import RowNoise, plan_row_by_row
    from tokensieve.noise.wording import Repeat, Truncate, Typo

    row_noises: tuple[RowNoise, ...] = (LabelFlip(), WrongNumber(), Typo(rate), Truncate(), Repeat())
    noise = next(found for found in row_noises if found.kind == kind)
    return plan_row_by_row(rows, noise, ratio, seed)


def _open(folder: Path, *, stamp: Stamp) -> Corpus:
    from datasets import Dataset

    return Corpus(Dataset.from_file(str(folder / DATA_FILE)), stamp)
