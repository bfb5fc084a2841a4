"""The hardware's limit: the matrix products that a piece of work cannot do without, and nothing else.

They run through the same library, in the same dtype, shapes and threads as the work, in turn with it. What they leave
out (norms, softmax, activations, memory traffic, Python) is the work's distance from the limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tokensieve.loss import CHUNK_ELEMENTS

# batch, rows, inner, columns: `batch` products of [rows, inner] and [inner, columns]
Shape = tuple[int, int, int, int]


class Products:
    """Call it to run all of them once. `flops`: their number of floating-point operations."""

    def __init__(self, shapes: Counter[Shape], dtype: str, device: str = "cpu") -> None:
        import torch

        options: Any = {"dtype": getattr(torch, dtype), "device": device}
        self._todo: list[tuple[Any, Any, Any, int]] = []
        for (batch, rows, inner, columns), count in shapes.items():
            left, right = torch.randn(batch, rows, inner, **options), torch.randn(batch, columns, inner, **options)
            out = torch.empty(batch, rows, columns, **options)
            self._todo.append((left, right.transpose(1, 2), out, count))
        self.flops = sum(2 * batch * rows * inner * columns * n for (batch, rows, inner, columns), n in shapes.items())

    def __call__(self) -> None:
        import torch

        with torch.inference_mode():
            for left, right, out, count in self._todo:
                for _ in range(count):
                    if len(left) == 1:
                        torch.mm(left[0], right[0], out=out[0])
                    else:
                        torch.bmm(left, right, out=out)


def forward_shapes(config: Any, lengths: Sequence[int], num_predicted: int, *, tokens_at_once: int) -> Counter[Shape]:
    """A pass over rows of these lengths, without padding, with logits at `num_predicted` positions only."""
    shapes: Counter[Shape] = Counter()
    for tokens in _split(sum(lengths), tokens_at_once):
        for inner, columns in _linear(config):
            shapes[1, tokens, inner, columns] += config.num_hidden_layers
    shapes += _attention(config, lengths, 1)
    shapes += _head(config, num_predicted, 1)
    return shapes


def training_shapes(config: Any, lengths: Sequence[int], num_predicted: int, rank: int) -> Counter[Shape]:
    """A step of LoRA on every linear layer: forward, and gradients of what is trained and of what leads there."""
    tokens, layers = sum(lengths), config.num_hidden_layers
    shapes: Counter[Shape] = Counter()
    for number, (inner, columns) in enumerate(_linear(config)):
        into_first = number < 3  # the first layer's q, k and v: nothing trainable lies below them
        shapes[1, tokens, inner, columns] += layers
        shapes[1, tokens, columns, inner] += layers - into_first
        shapes[1, tokens, inner, rank] += layers  # forward through A, then B
        shapes[1, tokens, rank, columns] += layers
        shapes[1, tokens, columns, rank] += layers  # gradients: of A's output, of B and A, of the input
        shapes[1, columns, tokens, rank] += layers
        shapes[1, rank, tokens, inner] += layers
        shapes[1, tokens, rank, inner] += layers - into_first
    shapes += _attention(config, lengths, 3)
    shapes += _head(config, num_predicted, 2)
    return shapes


def _linear(config: Any) -> list[tuple[int, int]]:
    """Inputs and outputs of a layer's q, k, v, o, gate, up and down."""
    width, inner = config.hidden_size, config.intermediate_size
    keys = config.num_key_value_heads * width // config.num_attention_heads
    return [
        (width, width),
        (width, keys),
        (width, keys),
        (width, width),
        (width, inner),
        (width, inner),
        (inner, width),
    ]


def _attention(config: Any, lengths: Iterable[int], times: int) -> Counter[Shape]:
    """Queries by keys, and weights by values, of the causal half: `times` each."""
    heads, depth = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    shapes: Counter[Shape] = Counter()
    for length in lengths:
        shapes[heads, (length + 1) // 2, depth, length] += times * config.num_hidden_layers
        shapes[heads, (length + 1) // 2, length, depth] += times * config.num_hidden_layers
    return shapes


def _head(config: Any, num_predicted: int, times: int) -> Counter[Shape]:
    shapes: Counter[Shape] = Counter()
    for rows in _split(num_predicted, max(1, CHUNK_ELEMENTS // config.vocab_size)):
        shapes[1, rows, config.hidden_size, config.vocab_size] += 1
        if times > 1:  # the gradient of the hidden states; the head itself is frozen
            shapes[1, rows, config.vocab_size, config.hidden_size] += times - 1
    return shapes


def _split(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]
