"""Stage 6, beside the mask: token weights that are known before training, from cached scores."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokensieve.records import Stamp, TokenMask, TokenScores, TokenWeights
from tokensieve.store import Artefact, Store

VERSION = 1
DATA_FILE = "data.arrow"
STATS_FILE = "stats.json"
_LEAST_TEMPERATURE = 1e-8

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FrozenRule:
    """A rule and the values it reads. Fields that a rule ignores do not enter its stamp.

    flow (arXiv 2502.02797, equation 5): exp(-loss / tau) with tau the median loss, of each sequence (its mean NLL over
    kept tokens) or, `level` token, of each token; under the frozen scorer. The minimiser of sum(w * loss) + tau *
    sum(w * ln w) over weights that sum to 1: they are scaled to mean 1 over the corpus' kept tokens, so that the
    loss' Z stays the number of trained tokens.

    rho: 1 for the `fraction` of the corpus' kept tokens with the highest (`keep` low: the lowest) excess loss, the
    frozen scorer's NLL minus the reference's (Token Cleaning, arXiv 2502.01968, fixed-model cleaning), else 0; ties
    at the border are kept. Z counts the selected tokens.
    """

    name: str
    level: str = "sequence"
    fraction: float = 0.6
    keep: str = "high"

    def identity(self) -> dict[str, Any]:
        used = {"flow": ("level",), "rho": ("fraction", "keep")}[self.name]
        return {"rule": self.name} | {key: getattr(self, key) for key in used}


def weigh_flow(losses: FloatArray, counts: FloatArray) -> FloatArray:
    """exp(-loss / median loss), scaled to mean 1 where each loss stands for `counts` tokens.

    >>> weigh_flow(np.array([0.0, 1.0, 5.0]), np.array([1.0, 1.0, 1.0])).round(3).tolist()
    [2.182, 0.803, 0.015]
    """
    tau = max(float(np.median(losses)), _LEAST_TEMPERATURE)
    weights = np.exp(-(losses - losses.min()) / tau)  # a common factor, which the scale takes out again
    return np.asarray(weights * (counts.sum() / (weights * counts).sum()), dtype=np.float64)


def define_frozen_weights(
    store: Store,
    mask: Artefact[TokenMask],
    rule: FrozenRule,
    scores: Artefact[TokenScores],
    reference: Artefact[TokenScores] | None = None,
) -> Artefact[TokenWeights]:
    """Weights of the tokens that `mask` keeps, not yet computed. `reference` is rho's second set of scores."""
    inputs: dict[str, Any] = {"version": VERSION, "mask": mask.digest, "scores": scores.digest} | rule.identity()
    if reference is not None:
        inputs["reference"] = reference.digest
    stamp = Stamp("weights", inputs)

    def build(folder: Path) -> None:
        rows = partial(_kept_losses, mask, scores, reference if rule.name == "rho" else None)
        stats = _write(folder / DATA_FILE, _weigh(rule, rows))
        (folder / STATS_FILE).write_text(json.dumps(stats))

    return Artefact(stamp, store, build, partial(_open, stamp=stamp))


def content_digest(weights: Artefact[TokenWeights]) -> str:
    """Digest of the weights themselves, whatever made them."""
    if not weights.is_cached:  # reading a cached one needs no library: a dry run asks for it
        weights.get()
    return str(json.loads((weights.store.folder(weights.stamp) / STATS_FILE).read_text())["content"])


def _open(folder: Path, *, stamp: Stamp) -> TokenWeights:
    from datasets import Dataset

    stats = json.loads((folder / STATS_FILE).read_text())
    return TokenWeights(Dataset.from_file(str(folder / DATA_FILE)), stats["num_trained"], stats["mean"], stamp)


# For each example: its id, the kept positions [T], and the loss of each of them.
_Rows = Callable[[], Iterator[tuple[str, npt.NDArray[np.bool_], FloatArray]]]


def _kept_losses(
    mask: Artefact[TokenMask], scores: Artefact[TokenScores], reference: Artefact[TokenScores] | None
) -> Iterator[tuple[str, npt.NDArray[np.bool_], FloatArray]]:
    others = reference.get().rows if reference is not None else None
    for number, (masked, scored) in enumerate(zip(mask.get().rows, scores.get().rows, strict=True)):
        keep = np.asarray(masked["keep"], dtype=bool)
        losses = np.asarray(scored["nll"], dtype=np.float32)[keep].astype(np.float64)
        if others is not None:
            losses = losses - np.asarray(others[number]["nll"], dtype=np.float32)[keep]
        yield masked["id"], keep, losses


def _weigh(rule: FrozenRule, rows: _Rows) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    if rule.name == "flow" and rule.level == "sequence":
        trained = [(losses.mean(), len(losses)) for _, _, losses in rows() if len(losses)]
        means, counts = (np.array(column, dtype=np.float64) for column in zip(*trained, strict=True))
        found = iter(weigh_flow(means, counts))
        for name, keep, losses in rows():
            yield name, _spread(keep, np.full(len(losses), next(found) if len(losses) else 0.0))
        return
    values = np.concatenate([losses for _, _, losses in rows()])
    weights = weigh_flow(values, np.ones(len(values))) if rule.name == "flow" else select_excess(values, rule)
    start = 0
    for name, keep, losses in rows():
        yield name, _spread(keep, weights[start : start + len(losses)])
        start += len(losses)


def select_excess(excess: FloatArray, rule: FrozenRule) -> FloatArray:
    """1.0 for the share of values that `rule` keeps, ties at the border included; at least one.

    >>> select_excess(np.array([1.0, 3.0, 2.0, 0.0]), FrozenRule("rho", fraction=0.5)).tolist()
    [0.0, 1.0, 1.0, 0.0]
    """
    ordered = -excess if rule.keep == "high" else excess
    rank = max(1, round(rule.fraction * len(ordered)))
    return np.asarray(ordered <= np.partition(ordered, rank - 1)[rank - 1], dtype=np.float64)


def _spread(keep: npt.NDArray[np.bool_], weights: FloatArray) -> npt.NDArray[np.float32]:
    row = np.zeros(len(keep), dtype=np.float32)
    row[keep] = weights
    return row


def _write(path: Path, weight_by_row: Iterator[tuple[str, npt.NDArray[np.float32]]]) -> dict[str, Any]:
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    num_trained, positive, total = 0, 0, 0.0
    content = hashlib.blake2b(digest_size=16)
    features = Features({"id": Value("string"), "weight": List(Value("float32"))})
    with ArrowWriter(features=features, path=str(path)) as writer:
        for name, weight in weight_by_row:
            writer.write({"id": name, "weight": weight})
            content.update(f"{name}:{len(weight)}:".encode() + weight.tobytes())
            num_trained += bool((weight > 0).any())
            positive += int((weight > 0).sum())
            total += float(weight.sum(dtype=np.float64))
        writer.finalize()
    mean = total / positive if positive else math.nan
    return {"num_trained": num_trained, "mean": mean, "content": content.hexdigest()}
