"""Whether two models say the same: their logits on a few conversations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

# Texts of several kinds, so that no layer of a trained adapter stays idle.
CONVERSATIONS: Final[tuple[tuple[str, str], ...]] = (
    ("What is 17 + 25?", "17 + 25 = 42. The answer is 42."),
    (
        "Write a Python function that returns the largest of three numbers.",
        "def largest(a, b, c):\n    return max(a, b, c)",
    ),
    (
        "Which planet is the largest of the solar system?\nA. Mars\nB. Jupiter\nC. Venus",
        "Jupiter is the largest planet. Answer: B",
    ),
    ("List the names of all customers from Lisbon.", "SELECT name FROM customers WHERE city = 'Lisbon';"),
    ("Explain in one sentence why the sky is blue.", "Air scatters short wavelengths of sunlight more than long ones."),
)

# Largest `Agreement.relative` that counts as rounding. An adapter on the lab model, of four layers, costs 1e-6, 1.4e-3
# and 1e-2 (float16 keeps 11 bits of a weight, bfloat16 8); the rest is room for deeper models.
TOLERANCE: Final = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two models on P positions.

    Attributes:
        absolute: largest difference of two logits.
        relative: root mean square of the differences over that of the first model's logits, each position's mean taken
            off, which no probability depends on.
        num_positions: P.
        same_top: positions at which both would choose the same token.
    """

    absolute: float
    relative: float
    num_positions: int
    same_top: int


def compute_logits(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None = None
) -> list[torch.Tensor]:
    """Logits of each conversation, float32 on the CPU, [T, V]; cut to `max_length` tokens."""
    import torch

    device = next(model.parameters()).device
    found = []
    with torch.inference_mode():
        for question, answer in CONVERSATIONS:
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            ids: Any = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
            batch = torch.tensor([ids[:max_length]], device=device)
            found.append(model(input_ids=batch, attention_mask=torch.ones_like(batch)).logits[0].float().cpu())
    return found


def compare_logits(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> Agreement:
    """How far `other` is from `one`, each [T, V] a conversation; a logit that is no number is infinitely far."""
    absolute = squares = of_one = 0.0
    same = 0
    for before, after in zip(one, other, strict=True):
        difference = after - before
        largest = float(difference.abs().max())
        absolute = max(absolute, largest if math.isfinite(largest) else math.inf)
        squares += float((difference - difference.mean(-1, keepdim=True)).double().square().sum())
        of_one += float((before - before.mean(-1, keepdim=True)).double().square().sum())
        same += int((before.argmax(-1) == after.argmax(-1)).sum())
    relative = math.sqrt(squares / of_one) if of_one > 0 and math.isfinite(squares) else math.inf
    return Agreement(absolute, 0.0 if absolute == 0 else relative, sum(len(entry) for entry in one), same)
