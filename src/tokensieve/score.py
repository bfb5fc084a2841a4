"""Stage 5: the negative log-likelihood of every response token under a frozen model. Done once, whatever is swept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokensieve.errors import AlignmentError, ConfigError, DataError
from tokensieve.installed import version
from tokensieve.records import Stamp, TokenisedCorpus, TokenScores
from tokensieve.store import Artefact, Store, file_checksum

if TYPE_CHECKING:
    from torch import nn

VERSION = 1
DATA_FILE = "data.arrow"
# Padded tokens of one scoring pass. A GPU wants many: hidden states of a 4096-wide model then take 128 MiB in float32.
# A CPU gains nothing by more than fit into its caches, and rows of fewer lengths stand together in smaller passes.
BATCH_TOKENS = 8192
CPU_BATCH_TOKENS = 1024
# Of the longest row of a pass: shorter ones wait for the next, so that a small corpus is not mostly padding.
LEAST_LENGTH_FRACTION = 0.8


def define_scores(
    store: Store,
    tokens: Artefact[TokenisedCorpus],
    *,
    scorer: Mapping[str, Any],
    load_scorer: Callable[[], nn.Module],
) -> Artefact[TokenScores]:
    """NLL of the response tokens of `tokens` under the model that `load_scorer` returns, not yet computed.

    `scorer` identifies that model (checkpoint, adapter, dtype, quantisation) in the stamp.
    """
    libraries = {name: version(name) for name in ("torch", "transformers", "peft")}
    stamp = Stamp("scores", {"version": VERSION, "tokens": tokens.digest, "scorer": dict(scorer), **libraries})

    def build(folder: Path) -> None:
        corpus = tokens.get()
        nll_by_row = compute_nll(load_scorer(), corpus)
        rows = ({"id": name, "nll": nll} for name, nll in zip(corpus.rows["id"], nll_by_row, strict=True))
        _write(folder / DATA_FILE, rows)

    return Artefact(stamp, store, build, partial(_open, stamp=stamp))


def define_imported_scores(store: Store, tokens: Artefact[TokenisedCorpus], path: str) -> Artefact[TokenScores]:
    """Scores read from a Parquet, Arrow or JSONL file with `input_ids` and `nll` (nats) or `ppl` a row.

    Rows pair with the corpus by the column `id`, with or without `<split>/`, when the file has one that the corpus
    knows, else by order; either way the token ids must be equal. The value at position 0 has no meaning and is ignored.

    Raises:
        ConfigError: no such file. When the artefact is built: AlignmentError for another tokenisation, DataError for
        missing columns or perplexities below 1.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError("stm.scores_path", "must be an existing file", received=path, remedy="check the path")
    stamp = Stamp("scores", {"version": VERSION, "tokens": tokens.digest, "imported": file_checksum(file)})

    def build(folder: Path) -> None:
        _write(folder / DATA_FILE, _align(tokens.get(), _read_imported(file), file))

    return Artefact(stamp, store, build, partial(_open, stamp=stamp))


def _open(folder: Path, *, stamp: Stamp) -> TokenScores:
    from datasets import Dataset

    return TokenScores(Dataset.from_file(str(folder / DATA_FILE)), stamp)


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    from datasets import Features, List, Value
    from datasets.arrow_writer import ArrowWriter

    features = Features({"id": Value("string"), "nll": List(Value("float32"))})
    with ArrowWriter(features=features, path=str(path)) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()


def compute_nll(model: nn.Module, corpus: TokenisedCorpus) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Per row float32 [T]: `-log p(x_t | x_<t)` in nats at response positions, NaN elsewhere (prompts are not scored).

    Rows are sorted by length and padded on the right, so that a value does not depend on its neighbours; the output
    head is applied to response positions only, with float32 logits.

    Raises:
        DataError: a row of more tokens than the model has positions for.
    """
    import torch
    from tqdm import tqdm

    from tokensieve.head import split_head, widen
    from tokensieve.length_limits import check_lengths
    from tokensieve.loss import token_nll
    from tokensieve.micro_batches import pad

    check_lengths(model, corpus)
    decoder, head = split_head(model)
    head, device = widen(head), head.weight.device
    budget = CPU_BATCH_TOKENS if device.type == "cpu" else BATCH_TOKENS
    lengths = np.array([len(ids) for ids in corpus.rows["input_ids"]])
    results: list[Any] = [None] * len(corpus)
    with torch.inference_mode(), tqdm(total=int(lengths.sum()), desc="score", unit="tok", disable=None, delay=2) as bar:
        for batch in _length_batches(lengths, budget):
            rows = corpus.rows[batch.tolist()]
            input_ids, attention_mask = (part.to(device) for part in pad(rows["input_ids"], 0))
            response = pad(rows["is_response"], 0)[0].bool().to(device)
            hidden = decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
            nll = torch.full(input_ids.shape, torch.nan, dtype=torch.float32, device=device)
            predicted = response[:, 1:].nonzero(as_tuple=True)
            nll[:, 1:][predicted] = token_nll(hidden[:, :-1][predicted], head, input_ids[:, 1:][predicted])
            values = nll.cpu().numpy()
            for slot, row in enumerate(batch):
                results[row] = values[slot, : lengths[row]].copy()
            bar.update(int(lengths[batch].sum()))
    return results


def _length_batches(lengths: np.ndarray[Any, Any], budget: int) -> Iterator[np.ndarray[Any, Any]]:
    """Row numbers in batches of `budget` padded tokens at most (or one row), longest first: memory peaks early."""
    order = np.argsort(-lengths, kind="stable")
    falling = -lengths[order]
    start = 0
    while start < len(order):
        width = max(1, -int(falling[start]))
        long_enough = int(np.searchsorted(falling, -LEAST_LENGTH_FRACTION * width, side="right"))
        stop = max(start + 1, min(start + budget // width, long_enough))
        yield order[start:stop]
        start = stop


def _read_imported(file: Path) -> list[dict[str, Any]]:
    from datasets import Dataset

    if file.suffix == ".parquet":
        import pyarrow.parquet

        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
    elif file.suffix == ".arrow":
        rows = Dataset.from_file(str(file)).to_list()
    elif file.suffix == ".jsonl":
        from tokensieve.sources import read_rows

        rows = [dict(row) for _, row in read_rows(file)]
    else:
        raise ConfigError(
            "stm.scores_path", "must end in .parquet, .arrow or .jsonl", received=str(file), remedy="convert the file"
        )
    for number, row in enumerate(rows, start=1):
        if "input_ids" not in row or not ("nll" in row or "ppl" in row):
            raise DataError(
                f"{file}:{number}",
                "needs the columns input_ids and nll (nats) or ppl",
                received=f"columns {sorted(row)}",
                remedy="rename the columns",
            )
    return rows


def _align(tokens: TokenisedCorpus, imported: list[dict[str, Any]], file: Path) -> Iterator[dict[str, Any]]:
    remedy = (
        "score the same texts with the same tokenizer and chat template, or let tokensieve score (stm.scores_path=null)"
    )
    have_ids = sum("id" in row for row in imported)
    if 0 < have_ids < len(imported):
        raise AlignmentError(str(file), "must give an id to all rows, or to none", received=have_ids, remedy=remedy)
    by_id = {str(row["id"]): row for row in imported} if have_ids else None
    if by_id is not None and not any(_find_row(by_id, name) for name in tokens.rows["id"]):
        by_id = None  # ids of the file's own, where the corpus numbers its rows: paired by order
    if by_id is None and len(imported) != len(tokens):
        raise AlignmentError(
            str(file), f"must hold {len(tokens)} rows, as the corpus does", received=len(imported), remedy=remedy
        )
    for number, row in enumerate(tokens.rows):
        found = imported[number] if by_id is None else _find_row(by_id, row["id"])
        where = f"{file}, example {row['id']}"
        if found is None:
            raise AlignmentError(where, "must be in the file", received="no row of this id", remedy=remedy)
        if list(found["input_ids"]) != list(row["input_ids"]):
            raise AlignmentError(
                where,
                "must have the corpus' token ids",
                received=_first_difference(found["input_ids"], row["input_ids"]),
                remedy=remedy,
            )
        yield {"id": row["id"], "nll": _imported_nll(found, row["is_response"], where)}


def _find_row(by_id: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The row of an example `name`, `<split>/<id>` of this project's own making, or the id alone."""
    return by_id.get(name) or by_id.get(name.partition("/")[2])


def _imported_nll(row: Mapping[str, Any], is_response: list[bool], where: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    column = "nll" if "nll" in row else "ppl"
    values = np.asarray(row[column], dtype=np.float64)
    response = np.asarray(is_response)
    if len(values) != len(response):
        raise AlignmentError(
            where,
            f"{column} must have one value a token ({len(response)})",
            received=len(values),
            remedy="export it again",
        )
    lowest = 1.0 if column == "ppl" else 0.0
    bad = response & ~(values >= lowest - 1e-3)  # NaN fails too; rounding may put a sure token slightly below
    if bad.any():
        raise DataError(
            where,
            f"{column} must be at least {lowest:g}",
            received=float(values[bad][0]),
            remedy="export perplexities (1/p) or NLLs in nats",
        )
    nll = values if column == "nll" else np.log(np.maximum(values, lowest), where=response, out=np.zeros_like(values))
    return np.where(response, nll, np.nan).astype(np.float32)


def _first_difference(found: list[int], expected: list[int]) -> str:
    position = next(
        (t for t, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
    )
    return f"{len(found)} ids that differ from the corpus' {len(expected)} at position {position}"
