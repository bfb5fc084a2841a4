"""Pre-train the lab's base model: next-token prediction on responses, one pass, two threads, bit-reproducible."""

from __future__ import annotations

import itertools
import math
import random
import sys
import time
from collections.abc import Iterator
from typing import Final

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tokensieve.lab.corpus import stream_turns

SEED: Final = 0
THREADS: Final = 2  # part of the result: another number of threads sums in another order
NUM_STEPS: Final = 4500
BATCH_ROWS: Final = 64
POOL_BATCHES: Final = 128
MUON_LR: Final = 0.02
ADAMW_LR: Final = 4e-3
WARMUP_STEPS: Final = 100
IGNORED: Final = -100


def pretrain(tokenizer: Tokenizer, config: LlamaConfig, *, num_steps: int = NUM_STEPS) -> LlamaForCausalLM:
    """Return a base model trained from scratch; the same machine gives the same bits.

    Muon on the matrices of the blocks, AdamW on the rest, cosine to 2 % of the peak, clip 1.0, float32 throughout.
    """
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    model = LlamaForCausalLM(config)
    model.train()
    optimisers = _make_optimisers(model)
    started = time.monotonic()
    batches = itertools.islice(_stream_batches(tokenizer), num_steps)
    for step, (ids_BT, labels_BT) in enumerate(batches):
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak_lr"] * _schedule(step, num_steps)
        hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state[:, :-1]
        is_label_BT = labels_BT[:, 1:] != IGNORED
        logits_KV = model.lm_head(hidden_BTD[is_label_BT])
        loss = functional.cross_entropy(logits_KV, labels_BT[:, 1:][is_label_BT])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        if sys.stdout.isatty() or step % 250 == 0:
            rate = (step + 1) / (time.monotonic() - started)
            end = "\r" if sys.stdout.isatty() else "\n"
            print(f"step {step + 1}/{num_steps}  nll {loss.item():.4f}  {rate:.1f} steps/s", end=end, flush=True)
    model.eval()
    return model


def _make_optimisers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Return Muon for the block matrices and AdamW for embeddings and norms; each group remembers its peak rate."""
    blocks = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "layers" not in name]
    muon = torch.optim.Muon(blocks, lr=MUON_LR, momentum=0.95, weight_decay=0.02)
    adamw = torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.95), weight_decay=0.0)
    for optimiser in (muon, adamw):
        for group in optimiser.param_groups:
            group["peak_lr"] = group["lr"]
    return [muon, adamw]


def _schedule(step: int, num_steps: int) -> float:
    """Return the share of the peak rate at a step: linear warm-up, then cosine to 0.02."""
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / num_steps)))


def _stream_batches(tokenizer: Tokenizer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield right-padded ids and labels [B, T]; rows of a batch have similar lengths, so little is padding."""
    rng = random.Random(SEED)
    turns = stream_turns(SEED)
    vocabulary = tokenizer.get_vocab()
    special = ("<|begin|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>")
    bos, user, assistant, end, pad = (vocabulary[name] for name in special)
    while True:
        pool = list(itertools.islice(turns, BATCH_ROWS * POOL_BATCHES))
        questions = tokenizer.encode_batch([question for question, _ in pool])
        responses = tokenizer.encode_batch([response for _, response in pool])
        examples = [
            ([bos, user, *question.ids, end, assistant], [*response.ids, end])
            for question, response in zip(questions, responses, strict=True)
        ]
        examples.sort(key=lambda example: len(example[0]) + len(example[1]))
        starts = list(range(0, len(examples), BATCH_ROWS))
        rng.shuffle(starts)
        for start in starts:
            batch = examples[start : start + BATCH_ROWS]
            width = max(len(prompt) + len(response) for prompt, response in batch)
            ids_BT = torch.full((len(batch), width), pad)
            labels_BT = torch.full((len(batch), width), IGNORED)
            for row, (prompt, response) in enumerate(batch):
                stop = len(prompt) + len(response)
                ids_BT[row, :stop] = torch.tensor(prompt + response)
                labels_BT[row, len(prompt) : stop] = torch.tensor(response)
            yield ids_BT, labels_BT
