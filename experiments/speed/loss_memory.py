"""Peak memory of one loss with its backward pass, in its own process: python loss_memory.py ours|full [--rows 8]."""

from __future__ import annotations

import argparse
import json
import resource
import threading
import time

import psutil
import torch
import torch.nn.functional as F

from tokensieve.head import OutputHead
from tokensieve.loss import weighted_nll_sum

TOKENS, WIDTH, VOCABULARY, PROMPT_SHARE = 512, 256, 32_000, 0.6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("ours", "full"))
    parser.add_argument("--rows", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (options.rows, TOKENS))
    weights = torch.ones(options.rows, TOKENS)
    weights[:, : int(PROMPT_SHARE * TOKENS)] = 0
    hidden = torch.randn(options.rows, TOKENS, WIDTH, requires_grad=True)
    head = torch.randn(VOCABULARY, WIDTH) * 0.05  # frozen, as under LoRA
    F.linear(hidden.detach()[0, :8], head)  # the matrix library's own buffers are not the loss's
    process = psutil.Process()
    before, peak, running = process.memory_info().rss, [0], [True]

    def watch() -> None:
        while running[0]:
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if options.kind == "ours":
        loss = weighted_nll_sum(hidden, OutputHead(head, None), ids, weights) / weights.sum()
    else:
        logits = F.linear(hidden, head)[:, :-1]
        labels = torch.where(weights[:, 1:] > 0, ids[:, 1:], -100)
        loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), labels.reshape(-1))
    loss.backward()
    running[0] = False
    watcher.join()
    highest = max(peak[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    print(json.dumps({"before_bytes": before, "peak_bytes": highest, "loss": float(loss.detach())}))


if __name__ == "__main__":
    main()
