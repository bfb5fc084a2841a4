"""Scoring a corpus against per-example and padded full-logit scoring, every size, vocabulary and dtype.

    python experiments/speed/scoring.py [--every] [--quick] [--out FILE]

`per_example`: one forward pass a row, logits of all its tokens, as the STM paper's code scores. `padded_full`: batches
of 8 in the rows' order, padded, logits of all positions. Both are given the model's own forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from products import Products, forward_shapes
from synthetic import build_model, draw_rows, list_cases, make_corpus
from timing import LIMIT, OURS, VoidRatio, check_equal, compare, interleave, pin, read_options, write_result

NUM_ROWS = {"1M": 24, "10M": 12, "30M": 8}
BATCH_ROWS = 8
TOLERANCE = 1e-3  # nats, in float32
# In bfloat16 two right answers part by more than any fixed tolerance allows, the more the deeper the model: what counts
# is how far each is from the same weights in float32.
SHARE_OF_PEERS_ERROR = 1.25


def score_one_by_one(model: Any, rows: list[Any]) -> list[Any]:
    """NLL [response tokens] of each row, from logits [1, T, V]."""
    import torch
    import torch.nn.functional as F

    found = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row.ids])
            logits = model(input_ids=ids, use_cache=False).logits.float()
            nll = F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")
            found.append(nll[torch.tensor(row.is_response)[1:]])
    return found


def score_padded(model: Any, rows: list[Any]) -> list[Any]:
    """The same from logits [8, T, V]."""
    import torch
    import torch.nn.functional as F

    from tokensieve.micro_batches import pad

    found: list[Any] = []
    with torch.inference_mode():
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            ids, attention_mask = pad([row.ids for row in batch], 0)
            logits = model(input_ids=ids, attention_mask=attention_mask, use_cache=False).logits.float()
            nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            nll = nll.view(len(batch), -1)
            found += [
                nll[slot, : len(row.ids) - 1][torch.tensor(row.is_response)[1:]] for slot, row in enumerate(batch)
            ]
    return found


def _farthest(found: list[Any], other: list[Any]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(found, other, strict=True))


def _rms(found: list[Any], other: list[Any]) -> float:
    import torch

    return float((torch.cat(found) - torch.cat(other)).square().mean().sqrt())


def measure(size: str, vocabulary: int, dtype: str, repeats: int) -> dict[str, Any]:
    """One case: seconds, ratios, the share of the limit, and how far the three scorers are apart."""
    import torch

    from tokensieve.score import compute_nll

    rows, model = draw_rows(NUM_ROWS[size], vocabulary), build_model(size, vocabulary, dtype)
    corpus = make_corpus(rows)
    lengths = [len(row.ids) for row in rows]
    products = Products(
        forward_shapes(model.config, lengths, sum(sum(row.is_response) for row in rows), tokens_at_once=8192), dtype
    )
    subjects: dict[str, Callable[[], object]] = {
        OURS: lambda: compute_nll(model, corpus),
        "per_example": lambda: score_one_by_one(model, rows),
        "padded_full": lambda: score_padded(model, rows),
        LIMIT: products,
    }
    ours = [
        torch.from_numpy(nll[torch.tensor(row.is_response).numpy()])
        for nll, row in zip(compute_nll(model, corpus), rows, strict=True)
    ]
    peers = {"per_example": score_one_by_one(model, rows), "padded_full": score_padded(model, rows)}
    if dtype == "float32":
        checks = [
            check_equal(f"NLL of ours and {name}", _farthest(ours, found), TOLERANCE) for name, found in peers.items()
        ]
    else:
        exact = score_one_by_one(copy.deepcopy(model).float(), rows)
        checks = [
            check_equal(
                f"NLL of ours and of float32 (RMS; against {name})",
                _rms(ours, exact),
                SHARE_OF_PEERS_ERROR * _rms(found, exact),
            )
            for name, found in peers.items()
        ]
    row = compare(interleave(subjects, repeats))
    return row | {
        "tokens": sum(lengths),
        "limit_gflops": products.flops / row["seconds"][LIMIT]["median"] / 1e9,
        "checks": checks,
    }


def main() -> None:
    options = read_options(__doc__, more=lambda parser: parser.add_argument("--every", action="store_true"))
    pin(options.threads)
    cases = list_cases(every=options.every)
    rows = []
    for size, vocabulary, dtype in cases[:2] if options.quick else cases:
        case = {"size": size, "vocabulary": vocabulary, "dtype": dtype}
        try:
            rows.append(case | measure(size, vocabulary, dtype, options.repeats))
        except VoidRatio as error:
            rows.append(case | {"void": str(error)})
    write_result({"work": "scoring", "threads": options.threads, "rows": rows}, options.out)


if __name__ == "__main__":
    main()
