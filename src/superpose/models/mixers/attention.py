"""Softmax attention: many heads or grouped queries, causal or bidirectional, rotary positions or none."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from superpose.errors import InputError, choose
from superpose.models.context import Context, State
from superpose.models.mixers.base import Mixer, divide, like, register

ROPE_BASE = 10_000.0
# On a CPU, scores by batched matrix products are 1.4-4 times faster than PyTorch's fused kernel up to about here.
SHORT = 48


@register("attention")
class Attention(Mixer):
    """Softmax attention ``softmax(Q K^T / sqrt(head))V`` with one projection in and one out.

    Args:
        width: channels of the residual stream.
        heads: query heads (default 4).
        kv_heads: heads of keys and values, a divisor of ``heads`` (default: as many).
        positions: ``"rope"`` turns queries and keys by their position (base 10000, halves as in Llama), ``"none"``.
        bias: whether the projections have biases (default True, as GPT-2).

    Raises:
        InputError: heads that do not divide the width, ``kv_heads`` that do not divide ``heads``, an odd head
            dimension with rotary positions.
    """

    bidirectional = True
    reads_apart = True
    residual_outputs = ("out",)

    def __init__(
        self,
        width: int,
        heads: int = 4,
        kv_heads: int | None = None,
        positions: str = "none",
        bias: bool = True,
    ):
        super().__init__(width)
        choose("positions", positions, ("none", "rope"))
        self.heads = heads
        self.head_dim = divide("heads", width, heads)
        self.kv_heads = heads if kv_heads is None else kv_heads
        self.groups = divide("kv_heads", heads, self.kv_heads)
        self.rope = positions == "rope"
        if self.rope and self.head_dim % 2:
            raise InputError(f"positions is 'rope' with {self.head_dim} channels per head; allowed: an even number")
        self.qkv = nn.Linear(width, (heads + 2 * self.kv_heads) * self.head_dim, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def initial_state(self, batch: int) -> State:
        """Return an empty cache: keys and values ``[batch, past, kv_heads, head]``, and which of them are real."""
        device, dtype = like(self)
        empty = torch.zeros(batch, 0, self.kv_heads, self.head_dim, device=device, dtype=dtype)
        real = torch.zeros(batch, 0, dtype=torch.bool, device=device)
        return {"k": empty, "v": empty.clone(), "real": real}

    def forward(
        self,
        x: Float[Tensor, "batch pos width"],
        ctx: Context,
        state: State | None = None,
        reads: Int[Tensor, " reads"] | None = None,
    ) -> tuple[Float[Tensor, "batch read width"], State | None]:
        """Attend within ``x``, and to the cached keys where a state is given; without one, only at ``reads`` if given.

        Raises:
            InputError: ``reads`` beside a state.
        """
        batch, length, width = x.shape
        if reads is not None and (state is not None or ctx.want_state):
            raise InputError("reads is given together with a state; allowed: one of them")
        q, k, v = self._project(x, reads)
        if self.rope:
            q, k = self._turn(q, k, ctx, state, reads)
        keep: State | None = None
        if state is not None or ctx.want_state:
            past = self.initial_state(batch) if state is None else state
            k, v = torch.cat((past["k"], k), 1), torch.cat((past["v"], v), 1)
            fresh = ctx.padding
            if fresh is None:
                fresh = torch.ones(batch, length, dtype=torch.bool, device=x.device)
            keep = {"k": k, "v": v, "real": torch.cat((past["real"], fresh), 1)}
        if self.groups > 1:
            k, v = (t.repeat_interleave(self.groups, dim=2) for t in (k, v))
        real = keep["real"] if state is not None and keep is not None else ctx.padding
        # The full causal triangle has a faster kernel than the same mask written out.
        triangle = ctx.causal and state is None and real is None and reads is None
        mask = None if triangle else visible(length, k.shape[1], ctx.causal, real, x.device, reads)
        mixed = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask, causal=triangle)
        return self.out(mixed.transpose(1, 2).reshape(batch, -1, width)), keep

    def _project(self, x: Tensor, reads: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        if reads is None:
            q, k, v = self.qkv(x).unflatten(-1, (sum(sizes), self.head_dim)).split(sizes, dim=2)
            return q, k, v
        weights = self.qkv.weight.tensor_split([self.width])
        biases = (None, None) if self.qkv.bias is None else self.qkv.bias.tensor_split([self.width])
        q = F.linear(x[:, reads], weights[0], biases[0]).unflatten(-1, (self.heads, self.head_dim))
        k, v = F.linear(x, weights[1], biases[1]).unflatten(-1, (2, self.kv_heads, self.head_dim)).unbind(2)
        return q, k, v

    def _turn(
        self, q: Tensor, k: Tensor, ctx: Context, state: State | None, reads: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if ctx.positions is not None:
            places = ctx.positions
        elif state is None and ctx.padding is None:
            places = torch.arange(k.shape[1], device=k.device)[None]
        else:
            real = ctx.padding if ctx.padding is not None else torch.ones_like(k[:, :, 0, 0], dtype=torch.bool)
            seen = 0 if state is None else state["real"].sum(1, keepdim=True)
            places = (seen + real.cumsum(1) - 1).clamp(min=0)
        channel = torch.arange(0, self.head_dim, 2, device=q.device, dtype=torch.float32)
        angle = places[..., None].float() * ROPE_BASE ** (-channel / self.head_dim)
        # Angles need float32; the rotation itself keeps the activations' dtype.
        cos, sin = (f(torch.cat((angle, angle), -1))[:, :, None].to(q.dtype) for f in (torch.cos, torch.sin))
        own = (cos, sin) if reads is None else (cos[:, reads], sin[:, reads])
        return _rotate(q, *own), _rotate(k, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), -1) * sin


def visible(
    queries: int,
    keys: int,
    causal: bool,
    real: Bool[Tensor, "batch keys"] | None,
    device: torch.device,
    reads: Int[Tensor, " reads"] | None = None,
) -> Bool[Tensor, "#batch reads keys"] | None:
    """Return which keys each query sees (the queries are the last ones of the keys), or None for all of them.

    ``reads`` picks queries among them.

    Every query sees itself, padding too, so that no row of scores is empty.
    """
    if real is None and (not causal or queries == 1):
        return None
    place = torch.arange(keys, device=device)
    own = place[keys - queries :, None]
    own = own if reads is None else own[reads]
    mask = (place <= own)[None] if causal else torch.ones(1, len(own), keys, dtype=torch.bool, device=device)
    return mask if real is None else (mask & real[:, None]) | (place == own)[None]


def attend(
    q: Float[Tensor, "batch heads queries head"],
    k: Float[Tensor, "batch heads keys head"],
    v: Float[Tensor, "batch heads keys head"],
    mask: Bool[Tensor, "#batch queries keys"] | None,
    causal: bool,
) -> Float[Tensor, "batch heads queries head"]:
    """Softmax attention by whichever exact implementation is fastest.

    Args:
        q, k, v: queries, keys and values.
        mask: True where a query sees a key; None: everything, or the triangle if ``causal``.
        causal: whether to apply the causal triangle (as many queries as keys, ``mask`` None).
    """
    short = q.device.type == "cpu" and k.shape[2] <= SHORT
    # The fused CPU kernel has no batching rule: under vmap it would run model by model and warn.
    if not short and not torch._C._functorch.is_batchedtensor(q):  # pyright: ignore[reportAttributeAccessIssue]
        expanded = None if mask is None else mask[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=expanded, is_causal=causal)
    scores = q @ (k.mT * q.shape[-1] ** -0.5)
    if causal:
        # Adding minus infinity is the same to the bit as filling it in, and a tenth of the time.
        scores += scores.new_full(scores.shape[-2:], -torch.inf).triu(1)
    elif mask is not None and len(mask) == 1:
        scores += scores.new_zeros(scores.shape[-2:]).masked_fill(~mask[0], -torch.inf)
    elif mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return scores.softmax(-1) @ v
