"""Attention without softmax: prefix sums of key-value products, whose state does not grow."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from superpose.errors import InputError, choose
from superpose.models.context import Context, State, zero_padding
from superpose.models.mixers.base import Mixer, divide, like, register

# Within a chunk the triangle of scores is formed, between chunks only the sums pass: linear time in the length.
CHUNK = 64


@register("linear-attention")
class LinearAttention(Mixer):
    """Linear attention ``out_t = sum_{s <= t} <f(q_t), f(k_s)> v_s`` with a choice of feature map and normaliser.

    Args:
        width: channels of the residual stream.
        heads: heads (default 4).
        feature: feature map f of queries and keys: ``"identity"`` (the in-context-learning theory papers), or
            ``"elu"``, elu(x) + 1 (arXiv 2006.16236).
        normalise: ``"positions"`` divides by the number of visible tokens (default), ``"weights"`` by the sum of the
            weights (needs positive features), ``"none"`` leaves the plain sum.
        bias: whether the projections have biases (default True).

    Raises:
        InputError: heads that do not divide the width, an unknown choice, ``"weights"`` with features of both signs.
    """

    bidirectional = True
    residual_outputs = ("out",)

    def __init__(
        self,
        width: int,
        heads: int = 4,
        feature: str = "identity",
        normalise: str = "positions",
        bias: bool = True,
    ):
        super().__init__(width)
        self.heads = heads
        self.head_dim = divide("heads", width, heads)
        choose("feature", feature, ("identity", "elu"))
        choose("normalise", normalise, ("none", "positions", "weights"))
        if normalise == "weights" and feature == "identity":
            raise InputError(
                "normalise is 'weights' with feature 'identity'; allowed: feature 'elu' (positive weights)"
            )
        self.feature, self.normalise = feature, normalise
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def initial_state(self, batch: int) -> State:
        """Return empty sums: ``kv`` of ``[batch, heads, head, head]``, ``k`` of ``[.., head]``, ``count`` of tokens."""
        device, dtype = like(self)
        dtype = torch.promote_types(dtype, torch.float32)
        zeros = torch.zeros(batch, self.heads, self.head_dim, self.head_dim, device=device, dtype=dtype)
        return {"kv": zeros, "k": zeros[..., 0].clone(), "count": zeros[:, 0, 0, 0].clone()}

    def forward(
        self, x: Float[Tensor, "batch pos width"], ctx: Context, state: State | None = None
    ) -> tuple[Float[Tensor, "batch pos width"], State | None]:
        """Sum over the visible tokens of ``x``, and over those behind ``state``."""
        batch, length, width = x.shape
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        if self.feature == "elu":
            q, k = (torch.nn.functional.elu(t) + 1 for t in (q, k))
        k = zero_padding(k, ctx.padding)
        # Sums over long sequences lose digits in half precision.
        precise = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (t.transpose(1, 2).to(precise) for t in (q, k, v))
        before = self.initial_state(batch) if state is None else state
        real = torch.ones_like(k[:, 0, :, 0]) if ctx.padding is None else ctx.padding.to(precise)
        if ctx.causal:
            mixed, kv, keys = self._causal(q, k, v, before["kv"], before["k"])
            seen = before["count"][:, None] + real.cumsum(1)
        else:
            kv, keys = before["kv"] + k.mT @ v, before["k"] + k.sum(2)
            total = (q * keys[:, :, None]).sum(-1, keepdim=True) if self.normalise == "weights" else 1.0
            mixed = q @ kv / total
            seen = (before["count"] + real.sum(1))[:, None].expand(batch, length)
        if self.normalise == "positions":
            mixed = mixed / seen.clamp(min=1)[:, None, :, None]
        keep: State | None = None
        if state is not None or ctx.want_state:
            keep = {"kv": kv, "k": keys, "count": before["count"] + real.sum(1)}
        return self.out(mixed.to(x.dtype).transpose(1, 2).reshape(batch, length, width)), keep

    def _causal(self, q: Tensor, k: Tensor, v: Tensor, kv: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pieces = []
        for qc, kc, vc in zip(*(t.split(CHUNK, dim=2) for t in (q, k, v)), strict=True):
            weights = (qc @ kc.mT).tril()
            mixed = weights @ vc + qc @ kv
            if self.normalise == "weights":
                total = weights.sum(-1, keepdim=True) + qc @ keys[..., None]
                # Zero only where nothing but left padding is visible; the sum above is zero there too.
                mixed = mixed / torch.where(total == 0, 1.0, total)
            pieces.append(mixed)
            kv, keys = kv + kc.mT @ vc, keys + kc.sum(2)
        return torch.cat(pieces, 2), kv, keys
