"""Attention over a Lexico cache without reconstructing it: ``q K_hat^T = (q D_k) codes_k^T``; values likewise."""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from superpose.inference.lexico_store import LexicoStore
from superpose.models.kv_cache import attention_shape, register_attention, use_attention

FACTORED = "superpose_lexico"
"""The name under which `transformers` knows the factored attention function."""

_MARK = "_superpose_far"


def mark(keys: Tensor, store: LexicoStore, first: int) -> Tensor:
    """Attach the coded part to the exact keys on their way from the cache's layer to the attention function.

    `transformers` gives an attention function no cache, only what `Cache.update` returned: the tensor object itself.
    What enters the codes between the two is not seen: this pass still uses those tokens exactly.
    """
    marked = keys.view_as(keys)
    setattr(marked, _MARK, (store.snapshot(), first))
    return marked


def factored_attention(
    query: Float[Tensor, "batch query_heads queries dim"],
    keys: Float[Tensor, "batch kv_heads exact dim"],
    values: Float[Tensor, "batch kv_heads exact dim"],
    store: LexicoStore,
    first: int = 0,
    mask: Bool[Tensor, "batch 1 queries pos"] | None = None,
    scaling: float | None = None,
) -> Float[Tensor, "batch query_heads queries dim"]:
    """Attend to coded and exact tokens with one softmax, at ``O(atoms dim + tokens sparsity)`` per query.

    Args:
        query: queries; a group of query heads shares each key-value head.
        keys: exact keys: the ``first`` first tokens, then those after the coded ones.
        values: exact values, likewise.
        store: the coded tokens, in between.
        first: exact tokens that stand before the coded ones.
        mask: True where a query may attend; default: everywhere.
        scaling: of the scores, default ``dim ** -0.5``.
    """
    batch, query_heads, queries, dim = query.shape
    heads = keys.shape[1]
    grouped = query.reshape(batch, heads, -1, dim)
    key_atoms, value_atoms = store.keys.table()[:, None], store.values.table()[:, None]
    table = key_atoms @ grouped.float().transpose(2, 3)
    far = store.keys.codes.pick(table).to(query.dtype)
    near = grouped @ keys.transpose(2, 3)
    scores = torch.cat([near[..., :first], far, near[..., first:]], dim=-1).float()
    scores = scores * (dim**-0.5 if scaling is None else scaling)
    if mask is not None:
        shaped = scores.view(batch, heads, -1, queries, scores.shape[-1])
        shaped = shaped.masked_fill(~mask[:, :, None], torch.finfo(torch.float32).min)
        scores = shaped.view(scores.shape)
    weights = scores.softmax(-1)
    end = first + store.tokens
    bins = store.values.codes.pour(weights[..., first:end], value_atoms.shape[2])
    exact = torch.cat([weights[..., :first], weights[..., end:]], dim=-1).to(values.dtype)
    output = (bins @ value_atoms).to(query.dtype) + exact @ values
    return output.view(batch, query_heads, queries, dim)


def _forward(layer: int, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    coded = getattr(keys, _MARK, None)
    if coded is not None:
        return factored_attention(query, keys, values, *coded, mask=mask, scaling=scaling)
    return functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=scaling, enable_gqa=query.shape[1] != keys.shape[1]
    )


register_attention(FACTORED, _forward)


@contextmanager
def use_factored_attention(model: PreTrainedModel) -> Generator[None]:
    """Let a model attend to a `LexicoCache` through its codes while the context lasts; other caches work as before.

    ``with use_factored_attention(model): model.generate(..., past_key_values=LexicoCache(model, dictionaries))``

    It pays for long contexts (more tokens than atoms) and few queries at a time; passes over many queries
    reconstruct as before. In float32 it equals attention over the reconstructed keys and values up to rounding.

    Raises:
        InputError: the model has layers that are not full attention, or cannot change its attention function.
    """
    attention_shape(model)
    with use_attention(model, FACTORED):
        yield
