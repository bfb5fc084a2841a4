"""What can be known of a run before it trains: its mask, and how surprising the base finds what the mask keeps."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tokensieve.report.load import Run, Sweep

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger(__name__)
DATA_FILE = "data.arrow"
MAX_EXAMPLES = 20_000  # of a corpus that are read, from its start
_ROWS_AT_ONCE = 2_000

# Name -> title. A one-hot target's KL from the base is its NLL: what is known of the new task's KL before training.
# 1 - p is half the L1 norm of the loss gradient in the logits.
PREDICTORS: Final[Mapping[str, str]] = {
    "masked_fraction": "masked share of tokens",
    "masked_nll_fraction": "masked share of the NLL",
    "kept_nll": "KL from the base, nats a kept token",
    "kept_nll_per_response": "KL from the base, nats a response token",
    "kept_surprise": "mean 1 - p of kept tokens",
    "sentence_perplexity": "mean sentence perplexity of kept tokens",
}


@dataclass(frozen=True, slots=True)
class Foreknowledge:
    """`values`: name of a predictor -> its value for the run; NaN where the cache no longer holds the scores."""

    run: Run
    values: Mapping[str, float]


def measure_predictors(sweep: Sweep) -> list[Foreknowledge]:
    """The predictors of every finished run with a mask, each training once, whatever names it has.

    Masked shares stand in a run's result. The others are taken from the cached scores and mask, of the first 20,000
    examples; runs without a token rule borrow the scores of a run on the same tokens.
    """
    runs = {run.job_id: run for run in sweep.runs if run.result is not None and run.result.mask is not None}
    scores: dict[str, str] = {}
    for run in runs.values():
        stamps = run.result.stamps if run.result else {}
        if "score" in stamps and "tokenise" in stamps:
            scores.setdefault(stamps["tokenise"], stamps["score"])
    known: dict[tuple[str | None, str | None], dict[str, float]] = {}
    found = []
    for run in runs.values():
        assert run.result is not None
        stamps = run.result.stamps
        key = stamps.get("score") or scores.get(stamps.get("tokenise", "")), stamps.get("mask")
        if key not in known:
            known[key] = _measure_kept(run, sweep, *key)
        found.append(Foreknowledge(run, _of_result(run) | known[key]))
    return found


def _of_result(run: Run) -> dict[str, float]:
    assert run.result is not None
    assert run.result.mask is not None
    stats = run.result.mask
    masked = 1.0 - stats.kept_fraction
    # Nothing is masked, and nothing needed a score: the share is 0, not unknown.
    carried = 0.0 if stats.kept_tokens == stats.response_tokens else stats.masked_nll_fraction
    return {"masked_fraction": masked, "masked_nll_fraction": carried}


def _measure_kept(run: Run, sweep: Sweep, scores: str | None, mask: str | None) -> dict[str, float]:
    names = ("kept_nll", "kept_nll_per_response", "kept_surprise", "sentence_perplexity")
    files = _find_cached(run, sweep, scores, mask)
    if files is None:
        return dict.fromkeys(names, math.nan)
    kept = response = examples = 0
    nll = surprise = perplexity = 0.0
    try:
        for values, lengths, keep in _read_rows(*files):
            kept_values = np.where(keep, values, 0.0)
            starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
            sums, counts = np.add.reduceat(kept_values, starts), np.add.reduceat(keep.astype(np.int64), starts)
            kept, response = kept + int(keep.sum()), response + int((~np.isnan(values)).sum())
            nll += float(kept_values.sum())
            surprise += float(-np.expm1(-kept_values[keep]).sum())
            means = sums[counts > 0] / counts[counts > 0]
            perplexity += float(np.exp(np.minimum(means, 700.0)).sum())
            examples += int((counts > 0).sum())
    except (OSError, ValueError, KeyError) as error:  # arrow's own errors are ValueErrors or OSErrors
        log.warning("predictors of %s: its cached scores cannot be read (%s)", run.name, error)
        return dict.fromkeys(names, math.nan)
    if kept == 0:
        return dict.fromkeys(names, math.nan)
    return dict(zip(names, (nll / kept, nll / response, surprise / kept, perplexity / examples), strict=True))


def _find_cached(run: Run, sweep: Sweep, scores: str | None, mask: str | None) -> tuple[Path, Path] | None:
    """The files of both artefacts: in the output folder that the run names, or in the one that the sweep lies in."""
    if scores is None or mask is None:
        return None
    config: Mapping[str, Any] = run.result.config if run.result else {}
    folder = sweep.folder.absolute()
    for outputs in (Path(str(config.get("output_dir") or "outputs")), *folder.parents[1:2]):
        files = outputs / "cache" / "scores" / scores / DATA_FILE, outputs / "cache" / "mask" / mask / DATA_FILE
        if all(file.is_file() for file in files):
            return files
    return None


def _read_rows(
    scores: Path, mask: Path
) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """NLLs (NaN outside responses), tokens an example, and kept positions, some examples at a time."""
    with _open(scores) as scored, _open(mask) as masked:
        if scored.num_rows != masked.num_rows:
            raise ValueError(f"{scored.num_rows} rows of scores, {masked.num_rows} of the mask")
        for start in range(0, min(scored.num_rows, MAX_EXAMPLES), _ROWS_AT_ONCE):
            size = min(_ROWS_AT_ONCE, MAX_EXAMPLES - start)
            nll = scored.column("nll").slice(start, size).combine_chunks()
            keep = masked.column("keep").slice(start, size).combine_chunks()
            lengths = np.asarray(nll.value_lengths(), dtype=np.int64)
            if not np.array_equal(lengths, np.asarray(keep.value_lengths(), dtype=np.int64)):
                raise ValueError("scores and mask of other tokens")
            values = np.asarray(nll.flatten(), dtype=np.float64)
            yield values, lengths, np.asarray(keep.flatten().to_numpy(zero_copy_only=False), dtype=bool)


@contextmanager
def _open(path: Path) -> Iterator[pyarrow.Table]:
    """The table of an Arrow stream, mapped into memory."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as mapped:
        yield pa.ipc.open_stream(mapped).read_all()
