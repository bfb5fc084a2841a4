"""Several examples in one row without padding: how a family keeps them apart, and the hidden states of such a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch.nn.utils.rnn import pad_sequence

from tokensieve.errors import ConfigError
from tokensieve.head import split_head
from tokensieve.micro_batches import split_examples
from tokensieve.records import Batch

if TYPE_CHECKING:
    from torch import nn

# varlen: the flash kernels' own. by_example: a call of scaled dot product attention an example. block_diagonal: one
# call for all, under a mask.
Packing = Literal["varlen", "by_example", "block_diagonal"]

# Kinds of layers whose window, if any, reaches the attention function as an argument.
_KNOWN_LAYERS: Final = frozenset({"full_attention", "sliding_attention"})
# Of the norm of an example's hidden states: what rounding changes. A token of another example changes far more.
_PROBE_TOLERANCE: Final = {torch.float32: 1e-3, torch.float64: 1e-3}
_PROBE_TOLERANCE_HALF: Final = 0.1
_PROBE_LENGTHS: Final = (7, 4, 5)
_WRITTEN_OUT: Final = 4  # times that attention of several kernels takes longer than its operations say


def choose_packing(model: nn.Module, *, can_run: bool = True) -> Packing:
    """The cheapest way in which `model` computes the examples of one row as if each were alone; prepares it for that.

    Each way is tried on a few tokens before it is chosen; but flash kernels are not where the weights wait in main
    memory (`can_run=False`): then the family's word is taken that it uses them.

    Raises:
        ConfigError: none keeps them apart, as where a layer carries a state along the row (Mamba), or biases attention
            by the place in the row (ALiBi).
    """
    causal: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    config = causal.config.get_text_config(decoder=True)
    attention = config._attn_implementation
    if not getattr(config, "alibi", False):
        for packing in _candidates(causal, config, attention):
            taken_on_trust = packing == "varlen" and not can_run
            if causal._supports_flash_attn if taken_on_trust else _keeps_apart(causal, packing):
                return packing
            if packing == "by_example":
                causal.set_attn_implementation(attention)
    raise ConfigError(
        "trainer.padding_free",
        "needs a family whose layers can keep the examples of one row apart",
        received=f"{type(causal).__name__} with {attention} attention",
        remedy="set trainer.padding_free=false; trainer.group_by_length and trainer.batch_tokens pad little",
    )


def _candidates(causal: Any, config: Any, attention: str) -> tuple[Packing, ...]:
    """Ways to try, cheapest first."""
    if "flash" in attention:
        return ("varlen",)
    layers = set(getattr(config, "layer_types", None) or ())
    passes_windows = causal._supports_flash_attn and layers <= _KNOWN_LAYERS
    if attention == "sdpa" and passes_windows and causal._can_set_attn_implementation():
        return ("by_example", "block_diagonal")
    return ("block_diagonal",)


def compute_hidden(decoder: nn.Module, batch: Batch, packing: Packing | None) -> torch.Tensor:
    """Hidden states [B, T, D] of a micro-batch; `packing` is what `choose_packing` returned for its model."""
    if batch.lengths is None:
        return run_padded(decoder, batch.input_ids, batch.attention_mask)
    assert packing is not None, "a row of several examples needs a way to keep them apart"
    config: Any = decoder.config
    if packing == "block_diagonal" and not mask_pays(
        batch.lengths, config.hidden_size, written_out=config._attn_implementation == "eager"
    ):
        return _unpack(decoder, batch)
    return run_packed(decoder, batch.input_ids, batch.lengths, packing)


def run_packed(decoder: nn.Module, input_ids: torch.Tensor, lengths: Sequence[int], packing: Packing) -> torch.Tensor:
    """Hidden states [1, T, D] of one row `input_ids` [1, T] that holds examples of these lengths."""
    device = input_ids.device
    positions = torch.cat([torch.arange(length) for length in lengths])[None].to(device)
    options: dict[str, Any] = {"position_ids": positions}
    if packing == "block_diagonal":
        options["attention_mask"] = _make_masks(decoder, positions)
    elif packing == "by_example":
        _attend_by_example(decoder)
        # A mask of four dimensions is taken as it is, so that none is made.
        options["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
        options["example_lengths"] = tuple(lengths)
    else:
        ends = torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32)
        options |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
        options |= {"max_length_q": max(lengths), "max_length_k": max(lengths)}
    return _run(decoder, input_ids, **options)


def _attend_by_example(decoder: Any) -> None:
    """Let `decoder`, which may be a reference beside the model that was prepared, attend so; other rows stay alike."""
    from tokensieve.attention_by_example import BY_EXAMPLE

    if decoder.config._attn_implementation != BY_EXAMPLE:
        decoder.set_attn_implementation(BY_EXAMPLE)


def _make_masks(decoder: Any, positions: torch.Tensor) -> Any:
    """What transformers makes of positions [1, T] that start again: a mask [1, 1, T, T], or one of each kind of layer.

    Not every family makes it itself from its positions.
    """
    from transformers.masking_utils import create_masks_for_generate

    embeddings = decoder.get_input_embeddings().weight
    embedded = torch.empty(*positions.shape, 0, dtype=embeddings.dtype, device=positions.device)  # read for its shape
    masks = create_masks_for_generate(decoder.config, embedded, None, None, position_ids=positions)
    return next(iter(masks.values())) if isinstance(masks, dict) and len(masks) == 1 else masks


def mask_pays(lengths: Sequence[int], width: int, *, written_out: bool) -> bool:
    """Whether one row under a block-diagonal mask costs less than padded rows, in a model of this hidden size.

    A token costs a layer about `24 width ** 2` operations, and `4 width` more for each token of its row: fused kernels
    take as long as that says (measured on CPU, hidden sizes 128 and 512), written-out attention four times as long.
    """
    total, longest, share = sum(lengths), max(lengths), _WRITTEN_OUT if written_out else 1
    return total * (6 * width + share * total) <= len(lengths) * longest * (6 * width + share * longest)


def run_padded(decoder: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Hidden states [B, T, D] of padded rows."""
    return _run(decoder, input_ids, attention_mask=attention_mask)


def _unpack(decoder: nn.Module, batch: Batch) -> torch.Tensor:
    """The hidden states of one row of examples, by padded rows."""
    assert batch.lengths is not None
    ids, mask = (
        pad_sequence(split_examples(values, batch.lengths), batch_first=True)
        for values in (batch.input_ids, batch.attention_mask)
    )
    return run_padded(decoder, ids, mask)[mask.bool()][None]


def _run(decoder: nn.Module, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
    hidden: torch.Tensor = decoder(input_ids=input_ids, use_cache=False, **options).last_hidden_state
    return hidden


@torch.no_grad()
def _keeps_apart(causal: Any, packing: Packing) -> bool:
    """Whether each of a few short examples in one row gets the hidden states that it gets alone."""
    decoder, head = split_head(causal)
    device = head.weight.device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(head.weight), (1, sum(_PROBE_LENGTHS)), generator=generator).to(device)
    was_training = causal.training
    causal.eval()
    try:
        together = split_examples(run_packed(decoder, ids, _PROBE_LENGTHS, packing), _PROBE_LENGTHS)
        alone = [_run(decoder, part[None])[0] for part in split_examples(ids, _PROBE_LENGTHS)]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False  # of other arguments or shapes than these
    finally:
        causal.train(was_training)
    limit = _PROBE_TOLERANCE.get(together[0].dtype, _PROBE_TOLERANCE_HALF)
    return all(
        float((one.float() - other.float()).norm()) <= limit * float(other.float().norm())
        for one, other in zip(together, alone, strict=True)
    )
